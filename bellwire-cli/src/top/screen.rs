//! The live screen.

use std::{
    convert::Infallible,
    env,
    io::{IsTerminal, stdout},
    time::{Duration, Instant},
};

use crossterm::event::{Event, EventStream, KeyCode, KeyEventKind, KeyModifiers};
use futures::StreamExt;
use ratatui::{
    DefaultTerminal, Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Block, Paragraph, Row, Table},
};
use tokio::{
    sync::mpsc,
    time::{MissedTickBehavior, interval},
};

use crate::{
    failed::Failed,
    stop::Stop,
    style::is_colourful,
    top::{
        Order, TopArgs,
        data::{Source, View},
        table::{self, Column},
    },
};

/// From this lag on a client is shown as slow.
const SLOW: Duration = Duration::from_secs(1);

/// Shows the figures until the user quits. The terminal is restored at the end, also of a panic.
pub(crate) async fn run(
    source: &mut Source<'_>,
    view: View,
    args: &TopArgs,
    place: &str,
) -> Result<(), Failed> {
    let mut stop = Stop::new().map_err(Failed::other)?;
    let terminal = ratatui::try_init();
    let mut terminal = terminal.map_err(|error| {
        Failed::other(format!("there is no terminal to draw on: {error}")).hint(ONCE)
    })?;
    let mut screen = Screen {
        view,
        order: args.sort,
        is_paused: false,
        error: None,
        place,
        is_colourful: is_colourful(&stdout()),
    };
    let (tell, told) = mpsc::channel(1);
    let shown = tokio::select! {
        shown = screen.show(&mut terminal, told) => shown,
        never = look_again_and_again(source, args.interval, tell) => match never {},
        () = stop.next() => Ok(()),
    };
    ratatui::restore();
    shown
}

/// A screen needs a terminal that can move its cursor.
pub(crate) fn check_terminal() -> Result<(), Failed> {
    let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    let wrong = match (stdout().is_terminal(), is_dumb) {
        (false, _) => "stdout is not a terminal, and there is nothing to draw on",
        (_, true) => "this terminal cannot draw a screen: TERM is dumb",
        _ => return Ok(()),
    };
    Err(Failed::other(wrong).hint(ONCE))
}

const ONCE: &str = "--once prints the figures as text";

/// Looks are apart from the screen, which has to answer keys while the server does not answer.
async fn look_again_and_again(
    source: &mut Source<'_>,
    every: Duration,
    tell: mpsc::Sender<Result<View, Failed>>,
) -> Infallible {
    let mut looks = interval(every);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    looks.tick().await;
    loop {
        looks.tick().await;
        if tell.send(source.look().await).await.is_err() {
            return std::future::pending().await;
        }
    }
}

struct Screen<'a> {
    view: View,
    order: Order,
    is_paused: bool,
    /// Why the figures are old, and since when they are.
    error: Option<(String, Instant)>,
    place: &'a str,
    is_colourful: bool,
}

impl Screen<'_> {
    async fn show(
        &mut self,
        terminal: &mut DefaultTerminal,
        mut told: mpsc::Receiver<Result<View, Failed>>,
    ) -> Result<(), Failed> {
        let mut events = EventStream::new();
        loop {
            self.view.sort(self.order);
            terminal.draw(|frame| self.draw(frame)).map_err(Failed::other)?;
            tokio::select! {
                event = events.next() => match event {
                    Some(Ok(event)) if self.is_end(&event) => return Ok(()),
                    Some(Ok(_)) => {}
                    Some(Err(error)) => return Err(Failed::other(error)),
                    None => return Ok(()),
                },
                Some(seen) = told.recv() => self.take(seen),
            }
        }
    }

    /// A server that is away for a while is shown as such, and the screen stays.
    fn take(&mut self, seen: Result<View, Failed>) {
        match seen {
            Ok(_) if self.is_paused => self.error = None,
            Ok(view) => (self.view, self.error) = (view, None),
            Err(failed) => {
                let since = self.error.take().map_or_else(Instant::now, |(_, since)| since);
                self.error = Some((failed.text().to_owned(), since));
            }
        }
    }

    /// Handles a key. Returns whether it ends the command.
    fn is_end(&mut self, event: &Event) -> bool {
        let Event::Key(key) = event else { return false };
        if key.kind == KeyEventKind::Release {
            return false;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            // In raw mode it is no signal.
            KeyCode::Char('c') if key.modifiers.contains(KeyModifiers::CONTROL) => return true,
            KeyCode::Char('p') => self.is_paused = !self.is_paused,
            KeyCode::Char('s') => {
                self.order = match self.order {
                    Order::Lag => Order::Memory,
                    Order::Memory => Order::InFlight,
                    Order::InFlight => Order::Age,
                    Order::Age => Order::Lag,
                }
            }
            _ => {}
        }
        false
    }

    fn draw(&self, frame: &mut Frame<'_>) {
        let summary = table::lines(&self.view, usize::from(frame.area().width).saturating_sub(2));
        let parts = [
            // Of a low screen the sessions get something, too.
            Constraint::Length((summary.len() as u16 + 2).min(frame.area().height / 2)),
            Constraint::Fill(3),
            Constraint::Fill(2),
            Constraint::Length(1),
        ];
        let [top, sessions, topics, keys] = Layout::vertical(parts).areas(frame.area());
        self.draw_summary(frame, top, summary);
        self.draw_sessions(frame, sessions);
        self.draw_topics(frame, topics);
        frame.render_widget(Paragraph::new(self.last_line()), keys);
    }

    fn last_line(&self) -> Line<'_> {
        match &self.error {
            Some((error, since)) => {
                let old = since.elapsed().as_secs();
                Line::styled(format!("{old} s old: {error}"), self.colour(Color::Red))
            }
            None => Line::styled("q quit   s sort   p pause", self.dim()),
        }
    }

    fn draw_summary(&self, frame: &mut Frame<'_>, area: Rect, lines: Vec<String>) {
        let pause = if self.is_paused { ", paused" } else { "" };
        let block = Block::bordered().title(format!(" {}{pause} ", self.place));
        let lines: Vec<_> = lines.into_iter().map(Line::raw).collect();
        frame.render_widget(Paragraph::new(lines).block(block), area);
    }

    fn draw_sessions(&self, frame: &mut Frame<'_>, area: Rect) {
        let (shown, all) = (self.view.sessions.len() as u64, self.view.server.connections);
        let some = if shown < all { format!(" ({shown} of {all})") } else { String::new() };
        let title = format!(" sessions{some}, by {} ", name_of(self.order));
        let rows = self.view.sessions.iter().map(|session| {
            let is_slow = session.slow_ms() >= SLOW.as_millis() as u64;
            let style = if is_slow { self.colour(Color::Yellow) } else { Style::new() };
            (table::session(session), style)
        });
        self.draw_table(frame, area, title, table::SESSIONS, rows);
    }

    fn draw_topics(&self, frame: &mut Frame<'_>, area: Rect) {
        let title = match self.view.hides_topics() {
            false => " topics, by rate ",
            true => " topics: the store of this server lists none ",
        };
        let rows = self.view.topics.iter().map(|topic| (table::topic(topic), Style::new()));
        self.draw_table(frame, area, title.into(), table::TOPICS, rows);
    }

    /// Draws the columns for which there is room.
    fn draw_table<const N: usize>(
        &self,
        frame: &mut Frame<'_>,
        area: Rect,
        title: String,
        columns: [Column; N],
        rows: impl Iterator<Item = ([String; N], Style)>,
    ) {
        let shown = table::fitting(columns, area.width.saturating_sub(2));
        let of = |cells: [String; N]| shown.iter().map(move |&at| cells[at].clone());
        let heads = columns.map(|column| column.name.to_owned());
        let widths = shown.iter().enumerate().map(|(place, &at)| match place {
            // The name gets what is left.
            0 => Constraint::Min(columns[at].width),
            _ => Constraint::Length(columns[at].width),
        });
        let table = Table::new(rows.map(|(cells, style)| Row::new(of(cells)).style(style)), widths)
            .header(Row::new(of(heads)).style(self.dim()))
            .block(Block::bordered().title(title));
        frame.render_widget(table, area);
    }

    fn colour(&self, colour: Color) -> Style {
        if self.is_colourful { Style::new().fg(colour) } else { Style::new() }
    }

    fn dim(&self) -> Style {
        Style::new().add_modifier(Modifier::DIM)
    }
}

fn name_of(order: Order) -> &'static str {
    match order {
        Order::Lag => "lag",
        Order::Memory => "memory",
        Order::InFlight => "requests in flight",
        Order::Age => "age",
    }
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend};

    use super::*;
    use crate::top::data::{ServerFigures, SessionFigures};

    fn screen() -> Screen<'static> {
        let session = |peer: &str, lag_ms| SessionFigures {
            peer: peer.into(),
            lag_ms,
            ..SessionFigures::default()
        };
        let view = View {
            server: ServerFigures { connections: 3, ..Default::default() },
            sessions: vec![session("127.0.0.1:1", 0), session("127.0.0.1:2\u{1b}[31m", 2_500)],
            ..View::default()
        };
        Screen {
            view,
            order: Order::Lag,
            is_paused: false,
            error: None,
            place: "127.0.0.1:7440 (the default)",
            is_colourful: false,
        }
    }

    fn drawn(screen: &Screen<'_>, width: u16, height: u16) -> String {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn every_size_can_be_drawn() {
        let screen = screen();
        for width in (1..=30).chain([60, 104, 300]) {
            for height in (1..=20).chain([40, 100]) {
                drawn(&screen, width, height);
            }
        }
        let narrow = drawn(&screen, 20, 24);
        assert!(narrow.contains("127.0.0.1:2") && narrow.contains("q quit"), "{narrow}");
        let wide = drawn(&screen, 120, 24);
        assert!(wide.contains("(2 of 3)") && wide.contains("2.5 s"), "{wide}");
        assert!(wide.contains(r"\x1b[31m") && wide.contains("in flight"), "{wide}");
    }

    #[test]
    fn old_figures_are_called_old() {
        let mut screen = screen();
        screen.take(Err(Failed::other("the connection failed")));
        assert!(drawn(&screen, 80, 20).contains("0 s old: the connection failed"));
        screen.take(Ok(View::default()));
        assert!(drawn(&screen, 80, 20).contains("q quit"));
    }

    #[test]
    fn a_pause_keeps_the_figures() {
        let mut screen = screen();
        let key = |letter| Event::Key(KeyCode::Char(letter).into());
        assert!(!screen.is_end(&key('p')));
        screen.take(Ok(View::default()));
        assert_eq!(screen.view.sessions.len(), 2);
        assert!(drawn(&screen, 80, 20).contains(", paused"));
        assert!(!screen.is_end(&key('p')) && screen.is_end(&key('q')));
        screen.take(Ok(View::default()));
        assert_eq!(screen.view.sessions.len(), 0);
    }
}
