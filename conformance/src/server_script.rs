//! Plays the script of a server case against a server. README.md of this crate says what the lines
//! of a script mean.

mod frames;
mod several;

use std::{collections::HashMap, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    address::Address,
    case::Case,
    pattern::{self, Names},
    report::Failure,
    server_link::Link,
    server_match::matches,
    server_methods::METHODS,
    server_peer::{Peer, shown},
    wire::Line,
};

/// How often something is asked for that does not announce itself.
const PAUSE: Duration = Duration::from_millis(5);

/// A case that is being played.
pub struct Stage<'a> {
    link: &'a mut Link,
    /// The server of the case.
    address: Address,
    patience: Duration,
    peers: HashMap<String, Peer>,
    current: String,
    /// A line that was read, and is not the one that may come.
    ahead: HashMap<String, Line>,
    names: Names,
    /// What was said, for the report of a failure.
    log: Vec<String>,
    /// When `!mark` stood, or the script began.
    mark: Instant,
}

/// Whether the script needs the control methods of the server under test.
pub fn needs_control(case: &Case) -> bool {
    const FREE: [&str; 9] =
        ["!on", "!hello", "!eof", "!abort", "!closed", "!silence", "!pause", "!methods", "!within"];
    let word = |line: &String| line.split(' ').next().unwrap_or_default().to_owned();
    let is_free = |word: String| !word.starts_with('!') || FREE.contains(&&word[..]);
    !case.options.is_empty() || !case.script.iter().all(|(_, line)| is_free(word(line)))
}

/// The methods of the kit that the script calls.
pub fn methods_of(case: &Case) -> Vec<&'static str> {
    let called = |name: &&&str| {
        case.script.iter().any(|(_, line)| {
            let word = line.strip_prefix('C').and_then(|line| line.split(' ').nth(2));
            word.and_then(|word| word.split([';', '\\']).next()) == Some(**name)
        })
    };
    METHODS.iter().filter(called).copied().collect()
}

impl<'a> Stage<'a> {
    /// Connects to the server at `address`.
    ///
    /// # Errors
    /// It does not greet as it should.
    pub async fn new(
        link: &'a mut Link,
        address: Address,
        patience: Duration,
    ) -> Result<Self, String> {
        let (peers, ahead) = (HashMap::new(), HashMap::new());
        let names = Names::from([("host".to_owned(), address.socket.to_string())]);
        let (current, log, mark) = (String::new(), Vec::new(), Instant::now());
        let mut stage = Self { link, address, patience, peers, current, ahead, names, log, mark };
        stage.on("a").await?;
        Ok(stage)
    }

    /// Plays the whole script.
    ///
    /// # Errors
    /// What happened instead, in which line, and behind what.
    pub async fn play(&mut self, case: &Case) -> Result<(), Failure> {
        let mut at = 0;
        while let Some((number, line)) = case.script.get(at) {
            match self.step(&case.script[at..]).await {
                Ok(steps) => at += steps,
                Err(why) => {
                    let (at, step) = (format!("{}:{number}", case.file), self.explained(line));
                    return Err(Failure::new(at, Some(step), why, std::mem::take(&mut self.log)));
                }
            }
        }
        Ok(())
    }

    /// A line of the script as a report shows it: with the names that have a value, and a directive
    /// in words.
    fn explained(&self, line: &str) -> String {
        let shown = pattern::filled(line, &self.names);
        match several::meaning(line.split(' ').next().unwrap_or_default()) {
            "" => shown,
            meaning => format!("{shown} ({meaning})"),
        }
    }

    /// Plays the first of `lines`, and those that belong to it; how many.
    async fn step(&mut self, lines: &[(usize, String)]) -> Result<usize, String> {
        let line = &lines[0].1[..];
        // A line without text is an empty line of the client's.
        match line.split_at_checked(3).unwrap_or((line, "")) {
            ("C: ", _) | ("C:", _) => return self.write_run(lines).await,
            ("S~ ", _) => return self.expect_run(lines).await,
            ("C- ", text) => {
                let bytes = pattern::bytes(text, &self.names)?;
                self.note("C-", &bytes);
                self.peer()?.write(&bytes).await?;
            }
            ("S: ", text) => {
                let got = self.line().await?;
                if !matches(text, &got, &mut self.names)? {
                    return Err(format!("got {}", describe(&got)));
                }
            }
            ("S? ", text) => {
                let got = self.line().await?;
                if !matches(text, &got, &mut self.names)? {
                    self.ahead.insert(self.current.clone(), got);
                }
            }
            _ => self.direct(line).await?,
        }
        Ok(1)
    }

    fn peer(&mut self) -> Result<&mut Peer, String> {
        let name = &self.current;
        self.peers.get_mut(name).ok_or_else(|| format!("the connection {name} is over"))
    }

    fn note(&mut self, mark: &str, bytes: &[u8]) {
        self.log.push(format!("{mark} {}", shown(bytes)));
    }

    async fn on(&mut self, name: &str) -> Result<(), String> {
        self.current = name.to_owned();
        self.log.push(format!("connection {name}"));
        if !self.peers.contains_key(name) {
            let peer = Peer::connect(&self.address, self.patience).await?;
            self.log.push(format!("S: {}", describe(&peer.hello)));
            self.peers.insert(name.to_owned(), peer);
        }
        Ok(())
    }

    async fn line(&mut self) -> Result<Line, String> {
        match self.ahead.remove(&self.current) {
            Some(line) => Ok(line),
            None => {
                let line = self.peer()?.line().await?;
                self.log.push(format!("S: {}", describe(&line)));
                Ok(line)
            }
        }
    }

    /// A `C:` and the `C+` behind it, in one write.
    async fn write_run(&mut self, lines: &[(usize, String)]) -> Result<usize, String> {
        let is_more = |(_, line): &&(usize, String)| line.starts_with("C+");
        let count = 1 + lines[1..].iter().take_while(is_more).count();
        let mut bytes = Vec::new();
        for (_, line) in &lines[..count] {
            let line = pattern::bytes(line.get(3..).unwrap_or_default(), &self.names)?;
            self.note("C:", &line);
            bytes.extend(line);
            bytes.push(b'\n');
        }
        self.peer()?.write(&bytes).await?;
        Ok(count)
    }

    /// A run of `S~`, in any order.
    async fn expect_run(&mut self, lines: &[(usize, String)]) -> Result<usize, String> {
        let texts = lines.iter().map_while(|(_, line)| line.strip_prefix("S~ "));
        let mut left: Vec<_> = texts.collect();
        let count = left.len();
        while !left.is_empty() {
            let got = self.line().await.map_err(|why| format!("{why}\nmissing {left:?}"))?;
            let mut found = None;
            for (at, text) in left.iter().enumerate() {
                if found.is_none() && matches(text, &got, &mut self.names)? {
                    found = Some(at);
                }
            }
            let at = found.ok_or_else(|| format!("got {}\nmissing {left:?}", describe(&got)))?;
            left.remove(at);
        }
        Ok(count)
    }

    /// A directive about a connection; any other is passed on.
    async fn direct(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        if ["!eof", "!abort", "!pause"].contains(&word) {
            self.log.push(line.to_owned());
        }
        match word {
            "!on" => self.on(rest).await,
            "!hello" => self.check_hello(rest),
            "!eof" => self.peer()?.half_close().await,
            "!abort" => match self.peers.remove(&self.current) {
                Some(peer) => peer.abort(),
                None => Err("the connection is over".to_owned()),
            },
            "!closed" => self.closed().await,
            "!silence" => {
                let time = millis(rest)?;
                self.peer()?.silence(time).await
            }
            "!pause" => {
                sleep(millis(rest)?).await;
                Ok(())
            }
            "!mark" => {
                self.mark = Instant::now();
                Ok(())
            }
            "!since" => match self.mark.elapsed() {
                passed if passed >= millis(rest)? => Ok(()),
                passed => Err(format!("S18.1: it came after {} ms", passed.as_millis())),
            },
            _ => self.read(word, rest).await,
        }
    }

    /// A directive about lines that come; any other is passed on.
    async fn read(&mut self, word: &str, rest: &str) -> Result<(), String> {
        match word {
            "!told" => self.told(rest).await,
            "!told-items" => self.told_items(rest).await,
            "!until" => {
                let patience = self.patience;
                let read = timeout(patience, self.read_up_to(rest)).await;
                read.map_err(|_| "the line does not come, but others do".to_owned())?
            }
            "!methods" => self.methods(rest).await,
            "!pages" => self.pages(rest).await,
            "!within" => {
                let time = millis(rest)?;
                let line = self.peer()?.line_within(time).await?;
                self.log.push(format!("S: {}", describe(&line)));
                self.ahead.insert(self.current.clone(), line);
                Ok(())
            }
            _ if frames::WORDS.contains(&word) => self.frames(word, rest).await,
            _ => self.command(word, rest).await,
        }
    }

    /// A directive that drives the server.
    async fn command(&mut self, word: &str, rest: &str) -> Result<(), String> {
        match word {
            "!waits" => self.until("test.waits", rest).await,
            "!notes" => self.until("test.notes", rest).await,
            "!repeat" => {
                let (count, rest) = rest.split_once(' ').ok_or("usage: N TOPIC [PAYLOAD]")?;
                self.log.push(format!("control: test.publish {rest}, {count} times"));
                for _ in 0..count.parse().map_err(|_| "N is no number")? {
                    self.control("test.publish", rest).await?;
                }
                Ok(())
            }
            "!publish" | "!trim" | "!reset" | "!end" | "!revoke" | "!close" | "!stop"
            | "!finish" => {
                self.note(&word.replace('!', "control: test."), rest.as_bytes());
                self.control(&word.replace('!', "test."), rest).await.map(drop)
            }
            "!requests" => self.requests(rest).await,
            _ => Err(format!("no directive {word:?}; see the table in README.md")),
        }
    }

    /// Writes N requests whose ids rise from FIRST, in one write.
    async fn requests(&mut self, arguments: &str) -> Result<(), String> {
        let usage = "usage: N FIRST METHOD [PAYLOAD]";
        let (count, rest) = arguments.split_once(' ').ok_or(usage)?;
        let (first, request) = rest.split_once(' ').ok_or(usage)?;
        let count: u64 = count.parse().map_err(|_| usage)?;
        let first: u64 = first.parse().map_err(|_| usage)?;
        self.log.push(format!("C: {first} {request}, and so on, {count} lines"));
        let request = pattern::bytes(request, &self.names)?;
        let line = |id: u64| [format!("{id} ").as_bytes(), &request, b"\n"].concat();
        let lines: Vec<_> = (first..first + count).flat_map(line).collect();
        self.peer()?.write(&lines).await
    }

    async fn closed(&mut self) -> Result<(), String> {
        let ahead = self.ahead.remove(&self.current);
        let next = if ahead.is_some() { ahead } else { self.peer()?.next().await? };
        match next {
            None => {
                self.peers.remove(&self.current);
                Ok(())
            }
            Some(line) => Err(format!("got {}", describe(&line))),
        }
    }

    fn check_hello(&mut self, expected: &str) -> Result<(), String> {
        let hello = self.peer()?.hello.clone();
        for one in expected.split_whitespace() {
            let holds = match (one.strip_prefix('-'), one.split_once('=')) {
                (Some(key), _) => hello.attribute(key).is_none(),
                (None, Some((key, value))) => hello.attribute(key) == Some(value),
                (None, None) => hello.attribute(one).is_some(),
            };
            if !holds {
                return Err(format!("the /hello is {}", describe(&hello)));
            }
        }
        Ok(())
    }

    /// Calls a control method about the server of the case.
    async fn control(&mut self, method: &str, arguments: &str) -> Result<Vec<u8>, String> {
        let mut payload = self.address.socket.to_string().into_bytes();
        if !arguments.is_empty() {
            payload.push(b' ');
            payload.extend(pattern::bytes(arguments, &self.names)?);
        }
        let answered = self.link.call(method, &payload).await?;
        answered.map_err(|why| format!("the server's {method} was answered {why}"))
    }

    /// Asks until the answer is `expected`.
    async fn until(&mut self, method: &str, expected: &str) -> Result<(), String> {
        let begin = Instant::now();
        let expected = pattern::bytes(expected, &self.names)?;
        loop {
            let got = self.control(method, "").await?;
            if got == expected {
                return Ok(());
            }
            if begin.elapsed() > self.patience {
                return Err(format!("{method} answers {}", shown(&got)));
            }
            sleep(PAUSE).await;
        }
    }
}

fn millis(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_millis).map_err(|_| format!("{text:?} is no number"))
}

fn describe(line: &Line) -> String {
    let attributes: Vec<_> =
        line.attributes.iter().map(|(key, value)| format!(";{key}={value}")).collect();
    let mut bytes = format!("{} {}{}", line.mark, line.word, attributes.concat()).into_bytes();
    if let Some(rest) = &line.rest {
        bytes.push(b' ');
        bytes.extend(rest);
    }
    shown(&bytes)
}
