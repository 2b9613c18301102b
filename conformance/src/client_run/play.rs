//! Plays the script of a case: as the server of the client, and as the user of its testee.

mod storms;
mod waits;

use std::{
    collections::VecDeque,
    net::SocketAddr,
    time::{Duration, Instant},
};

use tokio::{
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout_at,
};

use crate::{
    case::Case,
    client_run::{
        doors::Doors,
        link::{Brought, Link},
        script::{Kind, Step, What, steps},
        text::shown,
        user::User,
        websocket::{Answer, open},
    },
    frame::Frame,
    pattern::{Names, bytes},
    report::Failure,
    wire::{self, Line},
};

/// Something that happened.
pub(crate) enum Happening {
    /// An event of the testee, unescaped; `None` when it has ended.
    Event(Option<Vec<u8>>),
    /// A connection of the client, and the listener that it came to.
    Accepted(TcpStream, &'static str),
    /// A WebSocket is open, and this was read behind its request.
    Opened(TcpStream, Vec<u8>, &'static str),
    /// The rule that a request to open a WebSocket breaks.
    Refused(String),
    /// What the connection of this number brought.
    Brought(usize, Brought),
}

/// A case in progress.
struct Play {
    user: User,
    patience: Duration,
    names: Names,
    happenings: UnboundedReceiver<Happening>,
    sender: UnboundedSender<Happening>,
    events: VecDeque<Vec<u8>>,
    has_testee_ended: bool,
    /// All connections, in the order of their acceptance.
    links: Vec<Link>,
    /// Connections that the script has not accepted yet, and their listeners.
    unclaimed: VecDeque<(usize, &'static str)>,
    /// The names of the connections that it has.
    claimed: Vec<(String, usize)>,
    current: usize,
    mark: Instant,
    /// How WebSockets are answered, if the case is about them.
    answer: Option<Answer>,
    /// The protocol methods that the script itself deals with.
    mentioned: Vec<&'static str>,
    /// The methods that a storm was about: they may be called once more after it.
    stormed: Vec<String>,
    /// What was said, for the report of a failure.
    log: Vec<String>,
    _doors: Doors,
}

/// What the runner answers by itself, unless a case is about it.
const ANSWERED: [&str; 4] = ["/hello", "/renew", "/unsubscribe", "/quit"];
/// One-way methods that a client may send at any time.
const FREE: [&str; 2] = ["/ack", "/more"];

/// Plays a case with its user, as a server at `address`.
///
/// # Errors
/// What was expected, what happened instead, and what was said before.
pub(crate) async fn play(
    case: &Case,
    user: User,
    address: SocketAddr,
    patience: Duration,
) -> Result<(), Failure> {
    let steps = steps(case)?;
    let mut play = Play::new(case, user, address, patience)?;
    let mut played = Ok(());
    let (mut at, mut shown) = (case.file.clone(), None);
    for Step { line, what } in steps {
        at = format!("{}:{line}", case.file);
        shown = case.script.iter().find(|(number, _)| *number == line).map(|(_, step)| step);
        played = play.step(what).await;
        if played.is_err() {
            break;
        }
    }
    if played.is_ok() {
        at += ", behind the last step";
        played = play.finish().await;
    }
    let log = std::mem::take(&mut play.log);
    play.user.end().await;
    played.map_err(|why| Failure::new(at, shown.cloned(), why, log))
}

/// How long a client may take to close.
const CLOSING: Duration = Duration::from_secs(10);

impl Play {
    fn new(
        case: &Case,
        mut user: User,
        address: SocketAddr,
        patience: Duration,
    ) -> Result<Self, String> {
        let (sender, happenings) = unbounded_channel();
        user.report_to(sender.clone(), Happening::Event);
        let doors = Doors::open(address, sender.clone())?;
        let is_mentioned = |word: &&str| {
            case.script.iter().any(|(_, line)| {
                let is_read = ["C", "!storm", "!mind"].iter().any(|mark| line.starts_with(mark));
                is_read && line.split([' ', ';']).any(|part| part == *word)
            })
        };
        let mentioned = ANSWERED.into_iter().filter(is_mentioned).collect();
        Ok(Self {
            user,
            patience,
            names: doors.names(),
            happenings,
            sender,
            events: VecDeque::new(),
            has_testee_ended: false,
            links: Vec::new(),
            unclaimed: VecDeque::new(),
            claimed: Vec::new(),
            current: 0,
            mark: Instant::now(),
            answer: case.option("ws").map(|_| Answer::default()),
            mentioned,
            stormed: Vec::new(),
            log: Vec::new(),
            _doors: doors,
        })
    }

    async fn step(&mut self, what: What) -> Result<(), String> {
        match what {
            What::Tell(command) => self.tell(&command).await,
            What::Report(events) => self.report(events.lines).await,
            What::Write { lines, kind } => self.write(&lines, kind).await,
            What::Read(lines) => self.read(lines.lines).await,
            What::Connect(options) => self.connect(&options).await,
            What::Accept(name) => self.accept(&name).await,
            What::On(name) => self.turn_to(&name),
            What::Hello(attributes) => self.hello(&attributes).await,
            What::Close => {
                self.link()?.close().await;
                Ok(())
            }
            What::Closed => self.closed().await,
            What::Credit { id, items } => self.credit(&id, items).await,
            What::Silence(time) => self.silence(time).await,
            What::Wait(time) => self.wait(time).await,
            What::Mind => Ok(()),
            What::Mark => {
                self.mark = Instant::now();
                Ok(())
            }
            What::After(time) => self.after(time),
            What::Within(time) => self.within(time),
            What::Storm { time, most, line, answer } => {
                self.storm(time, most, &line, &answer).await
            }
            What::DropAll { time, most } => self.drop_all(time, most).await,
            What::Answer(answer) => {
                self.answer = Some(answer);
                Ok(())
            }
            What::Frame { first, is_masked, payload } => {
                let payload = bytes(&payload, &self.names)?;
                self.note(&format!("S: frame {first:02x}"), &payload);
                let patience = self.patience;
                self.link()?.write_frame(&Frame { first, is_masked, payload }, patience).await
            }
            What::Pong(payload) => self.pong(&payload).await,
            What::Ended(code) => self.ended(code).await,
            What::Hold => {
                self.link()?.hold(true);
                Ok(())
            }
            What::ReadOn => {
                self.link()?.hold(false);
                Ok(())
            }
        }
    }

    fn link(&mut self) -> Result<&mut Link, String> {
        self.links.get_mut(self.current).ok_or_else(|| "no connection was accepted".to_owned())
    }

    fn note(&mut self, mark: &str, bytes: &[u8]) {
        self.log.push(format!("{mark} {}", shown(bytes)));
    }

    // What the script says.

    async fn tell(&mut self, command: &str) -> Result<(), String> {
        let command = bytes(command, &self.names)?;
        self.note("T:", &command);
        self.user.tell(&command, self.patience).await
    }

    async fn write(&mut self, lines: &[String], kind: Kind) -> Result<(), String> {
        let mut written = Vec::new();
        for text in lines {
            let line = bytes(text, &self.names)?;
            if kind == Kind::WellFormed {
                wire::parse(&line).map_err(|why| format!("the case is wrong: {text}: {why}"))?;
            }
            self.note("S:", &line);
            written.extend(line);
            if kind != Kind::Part {
                written.push(b'\n');
            }
        }
        let patience = self.patience;
        self.link()?.write(&written, patience).await
    }

    async fn hello(&mut self, attributes: &str) -> Result<(), String> {
        let number = self.links.len();
        let lacks = |key: &str| !attributes.contains(&format!("{key}="));
        let mut line =
            format!("* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b{number:04x}");
        for (key, value) in [("max-line", 65_535), ("in-flight", 1_024), ("lease", 60)] {
            if lacks(key) {
                line += &format!(";{key}={value}");
            }
        }
        self.write(&[line + attributes], Kind::WellFormed).await
    }

    async fn connect(&mut self, options: &str) -> Result<(), String> {
        let address = if self.answer.is_some() { "ws://<address>/bellwire" } else { "<address>" };
        self.tell(&format!("connect{options} {address}")).await?;
        self.accept("first").await?;
        self.hello("").await?;
        self.report(vec!["connected".to_owned()]).await
    }

    fn turn_to(&mut self, name: &str) -> Result<(), String> {
        let found = self.claimed.iter().find(|(claimed, _)| claimed == name);
        self.current = found.ok_or_else(|| format!("no connection is called {name:?}"))?.1;
        Ok(())
    }

    /// Waits for something to happen; whether it did in time.
    async fn happen(&mut self, until: Instant) -> Result<bool, String> {
        let happened = timeout_at(until.into(), self.happenings.recv()).await;
        match happened {
            Err(_) | Ok(None) => return Ok(false),
            Ok(Some(Happening::Event(Some(event)))) => {
                self.note("T>", &event);
                self.events.push_back(event);
            }
            Ok(Some(Happening::Event(None))) => self.has_testee_ended = true,
            Ok(Some(Happening::Accepted(stream, door))) => match self.answer.clone() {
                Some(answer) => {
                    drop(tokio::spawn(handshake(stream, door, answer, self.sender.clone())))
                }
                None => self.admit(door, |number, brought| Link::new(stream, number, brought)),
            },
            Ok(Some(Happening::Opened(stream, unread, door))) => {
                self.admit(door, |number, brought| {
                    Link::websocket(stream, &unread, number, brought)
                });
            }
            Ok(Some(Happening::Refused(why))) => return Err(why),
            Ok(Some(Happening::Brought(_, Brought::Fault(why)))) => return Err(why.to_owned()),
            Ok(Some(Happening::Brought(number, Brought::Frame(part)))) => {
                self.log.push(format!("C: frame {part:?}"));
                self.links[number].take(part, self.patience).await?;
            }
            Ok(Some(Happening::Brought(number, Brought::End))) => {
                self.links[number].has_ended = true;
                self.log.push("the client has closed".to_owned());
            }
            Ok(Some(Happening::Brought(number, Brought::Line(line)))) => {
                self.take(number, &line).await?;
            }
        }
        Ok(true)
    }

    /// Takes a connection over.
    fn admit(
        &mut self,
        door: &'static str,
        link: impl FnOnce(usize, UnboundedSender<(usize, Brought)>) -> Link,
    ) {
        let number = self.links.len();
        let (sender, brought) = (self.sender.clone(), unbounded_channel());
        tokio::spawn(pass_on(brought.1, sender));
        self.links.push(link(number, brought.0));
        self.unclaimed.push_back((number, door));
    }

    /// Judges a line of the client, and answers what no case is about.
    async fn take(&mut self, number: usize, bytes: &[u8]) -> Result<(), String> {
        self.note("C:", bytes);
        let link = &mut self.links[number];
        let line = link
            .judge
            .read(bytes)
            .map_err(|why| format!("{why}; the client wrote `{}`", shown(bytes)))?;
        let word = &line.word[..];
        let is_answered = ANSWERED.contains(&word)
            && (!self.mentioned.contains(&word) || link.judge.is_early_renewal(&line));
        if !is_answered || link.has_closed() || line.is_channel() {
            link.lines.push_back(line);
            return Ok(());
        }
        let answer = link.judge.reply(&line);
        let ends = word == "/quit";
        link.write(format!("{answer}\n").as_bytes(), self.patience).await?;
        if ends {
            link.close().await;
        }
        self.note("S:", answer.as_bytes());
        Ok(())
    }

    /// Ends the testee; nothing may have been left that the script does not expect.
    async fn finish(&mut self) -> Result<(), String> {
        if !self.user.is_testee() {
            return Ok(());
        }
        self.user.end_commands();
        let until = Instant::now() + self.patience;
        while !self.has_testee_ended {
            if !self.happen(until).await? {
                return Err("the testee did not end when its commands did".to_owned());
            }
        }
        if let Some(event) = self.events.iter().find(|event| !is_free(event)) {
            return Err(format!("the testee reported `{}`, beyond the case", shown(event)));
        }
        // A short lease may have to be renewed before the testee has ended.
        let ends = ["/cancel", "/unsubscribe", "/quit", "/renew"];
        for line in self.links.iter().flat_map(|link| &link.lines) {
            let word = &line.word[..];
            let is_stormed = self.stormed.contains(&line.word);
            if !(FREE.contains(&word) || ends.contains(&word) || is_stormed) {
                return Err(format!("the client wrote `{}`, beyond the case", text(line)));
            }
        }
        Ok(())
    }
}

/// Answers the request that comes over a connection.
async fn handshake(
    stream: TcpStream,
    door: &'static str,
    answer: Answer,
    sender: UnboundedSender<Happening>,
) {
    let happening = match open(stream, &answer).await {
        Ok(Some((stream, unread))) => Happening::Opened(stream, unread, door),
        Ok(None) => return,
        Err(why) => Happening::Refused(why),
    };
    // The case may have ended.
    let _ = sender.send(happening);
}

/// Passes on what a connection brings.
async fn pass_on(
    mut brought: UnboundedReceiver<(usize, Brought)>,
    sender: UnboundedSender<Happening>,
) {
    while let Some((number, one)) = brought.recv().await {
        if sender.send(Happening::Brought(number, one)).is_err() {
            return;
        }
    }
}

/// Which of the texts it is.
fn position(
    expected: &[String],
    mut is_it: impl FnMut(&str) -> Result<bool, String>,
) -> Result<Option<usize>, String> {
    for (at, text) in expected.iter().enumerate() {
        if is_it(text)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Events that say no more than that a connection is over.
fn is_free(event: &[u8]) -> bool {
    let text = String::from_utf8_lossy(event);
    text == "disconnected" || text.split(' ').skip(1).take(2).eq(["ended", "lost"])
}

/// A line of the client for a message.
fn text(line: &Line) -> String {
    let attributes: String =
        line.attributes.iter().map(|(key, value)| format!(";{key}={value}")).collect();
    let rest = line.rest.as_ref().map(|rest| format!(" {}", shown(rest)));
    format!("{} {}{attributes}{}", line.mark, line.word, rest.unwrap_or_default())
}
