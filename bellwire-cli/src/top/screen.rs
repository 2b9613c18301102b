//! The live screen.

use std::{io::stdout, time::Duration};

use crossterm::event::{Event, EventStream, KeyCode, KeyEventKind, KeyModifiers};
use futures::StreamExt;
use ratatui::{
    DefaultTerminal, Frame,
    layout::{Constraint, Layout, Rect},
    style::{Color, Modifier, Style},
    text::Line,
    widgets::{Block, Paragraph, Row, Table},
};
use tokio::time::{MissedTickBehavior, interval};

use crate::{
    failed::Failed,
    stop::Stop,
    style::is_colourful,
    top::{
        Order, TopArgs,
        data::{Source, View},
        table,
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
        Failed::other(format!("there is no terminal to draw on: {error}"))
            .hint("--once prints the figures as text")
    })?;
    let mut screen = Screen {
        view,
        order: args.sort,
        is_paused: false,
        error: None,
        place,
        is_colourful: is_colourful(&stdout()),
    };
    let shown = tokio::select! {
        shown = screen.show(&mut terminal, source, args.interval) => shown,
        () = stop.next() => Ok(()),
    };
    ratatui::restore();
    shown
}

struct Screen<'a> {
    view: View,
    order: Order,
    is_paused: bool,
    /// Why the figures are old.
    error: Option<String>,
    place: &'a str,
    is_colourful: bool,
}

impl Screen<'_> {
    async fn show(
        &mut self,
        terminal: &mut DefaultTerminal,
        source: &mut Source<'_>,
        every: Duration,
    ) -> Result<(), Failed> {
        let mut events = EventStream::new();
        let mut looks = interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        looks.tick().await;
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
                _ = looks.tick(), if !self.is_paused => self.look(source).await,
            }
        }
    }

    /// A server that is away for a while is shown as such, and the screen stays.
    async fn look(&mut self, source: &mut Source<'_>) {
        match source.look().await {
            Ok(view) => (self.view, self.error) = (view, None),
            Err(failed) => self.error = Some(failed.text().to_owned()),
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
        let parts = [
            Constraint::Length(6),
            Constraint::Fill(3),
            Constraint::Fill(2),
            Constraint::Length(1),
        ];
        let [summary, sessions, topics, keys] = Layout::vertical(parts).areas(frame.area());
        self.draw_summary(frame, summary);
        self.draw_sessions(frame, sessions);
        self.draw_topics(frame, topics);
        let keys_shown = match &self.error {
            Some(error) => Line::styled(error.clone(), self.colour(Color::Red)),
            None => Line::styled("q quit   s sort   p pause", self.dim()),
        };
        frame.render_widget(Paragraph::new(keys_shown), keys);
    }

    fn draw_summary(&self, frame: &mut Frame<'_>, area: Rect) {
        let lines =
            table::summary(&self.view).map(|(name, text)| Line::raw(format!("{name:14} {text}")));
        let pause = if self.is_paused { ", paused" } else { "" };
        let block = Block::bordered().title(format!(" {}{pause} ", self.place));
        frame.render_widget(Paragraph::new(lines.to_vec()).block(block), area);
    }

    fn draw_sessions(&self, frame: &mut Frame<'_>, area: Rect) {
        let rows = self.view.sessions.iter().map(|session| {
            let is_slow = session.slow_ms() >= SLOW.as_millis() as u64;
            let style = if is_slow { self.colour(Color::Yellow) } else { Style::new() };
            Row::new(table::session(session)).style(style)
        });
        let widths = [24, 16, 9, 9, 11, 11, 10, 7].map(Constraint::Length);
        let title = format!(" sessions, by {} ", name_of(self.order));
        let table = Table::new(rows, widths)
            .header(Row::new(table::SESSIONS).style(self.dim()))
            .block(Block::bordered().title(title));
        frame.render_widget(table, area);
    }

    fn draw_topics(&self, frame: &mut Frame<'_>, area: Rect) {
        let title = match self.view.server.lists_topics {
            true => " topics, by rate ",
            false => " topics: the store of this server does not list them ",
        };
        let widths = [40, 10, 12, 11, 12].map(Constraint::Length);
        let table = Table::new(self.view.topics.iter().map(table::topic).map(Row::new), widths)
            .header(Row::new(table::TOPICS).style(self.dim()))
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
