//! Plays the script of a server case against a server. README.md of this crate says what the lines
//! of a script mean.

use std::{collections::HashMap, net::SocketAddr, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    case::Case,
    pattern::{self, Names},
    server_link::Link,
    server_match::matches,
    server_methods::METHODS,
    server_peer::Peer,
    wire::Line,
};

/// How often something is asked for that does not announce itself.
const PAUSE: Duration = Duration::from_millis(5);

/// A case that is being played.
pub struct Stage<'a> {
    link: &'a mut Link,
    /// The server of the case.
    address: SocketAddr,
    patience: Duration,
    peers: HashMap<String, Peer>,
    current: String,
    /// A line that was read, and is not the one that may come.
    ahead: HashMap<String, Line>,
    names: Names,
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
        address: SocketAddr,
        patience: Duration,
    ) -> Result<Self, String> {
        let (peers, ahead, names) = (HashMap::new(), HashMap::new(), Names::new());
        let (current, mark) = (String::new(), Instant::now());
        let mut stage = Self { link, address, patience, peers, current, ahead, names, mark };
        stage.on("a").await?;
        Ok(stage)
    }

    /// Plays the whole script.
    ///
    /// # Errors
    /// What happened instead, and in which line.
    pub async fn play(&mut self, case: &Case) -> Result<(), String> {
        let mut at = 0;
        while let Some((number, line)) = case.script.get(at) {
            let played = self.step(&case.script[at..]).await;
            at += played.map_err(|why| format!("{}:{number}: {line}\n{why}", case.file))?;
        }
        Ok(())
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

    async fn on(&mut self, name: &str) -> Result<(), String> {
        self.current = name.to_owned();
        if !self.peers.contains_key(name) {
            let peer = Peer::connect(self.address, self.patience).await?;
            self.peers.insert(name.to_owned(), peer);
        }
        Ok(())
    }

    async fn line(&mut self) -> Result<Line, String> {
        match self.ahead.remove(&self.current) {
            Some(line) => Ok(line),
            None => self.peer()?.line().await,
        }
    }

    /// A `C:` and the `C+` behind it, in one write.
    async fn write_run(&mut self, lines: &[(usize, String)]) -> Result<usize, String> {
        let is_more = |(_, line): &&(usize, String)| line.starts_with("C+");
        let count = 1 + lines[1..].iter().take_while(is_more).count();
        let mut bytes = Vec::new();
        for (_, line) in &lines[..count] {
            bytes.extend(pattern::bytes(line.get(3..).unwrap_or_default(), &self.names)?);
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
                self.ahead.insert(self.current.clone(), line);
                Ok(())
            }
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
                for _ in 0..count.parse().map_err(|_| "N is no number")? {
                    self.control("test.publish", rest).await?;
                }
                Ok(())
            }
            "!publish" | "!trim" | "!reset" | "!end" | "!revoke" | "!close" | "!stop"
            | "!finish" => self.control(&word.replace('!', "test."), rest).await.map(drop),
            _ => Err(format!("no directive {word:?}; see the table in README.md")),
        }
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
        let mut payload = self.address.to_string().into_bytes();
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
        loop {
            let got = self.control(method, "").await?;
            if got == expected.as_bytes() {
                return Ok(());
            }
            if begin.elapsed() > self.patience {
                return Err(format!("{method} answers {:?}", String::from_utf8_lossy(&got)));
            }
            sleep(PAUSE).await;
        }
    }

    /// Reads items, each of which is its number, up to LAST; the first may be any.
    async fn told_items(&mut self, arguments: &str) -> Result<(), String> {
        let usage = "usage: ID LAST";
        let (id, last) = arguments.split_once(' ').ok_or(usage)?;
        let last: u64 = last.parse().map_err(|_| usage)?;
        let mut expected = None;
        while expected.is_none_or(|expected| expected <= last) {
            let line = self.line().await?;
            let text = String::from_utf8_lossy(line.rest.as_deref().unwrap_or_default());
            let item = text.parse::<u64>().ok();
            let is_next = item.is_some() && (expected.is_none() || expected == item);
            if line.mark != id || line.word != "more" || !is_next {
                return Err(format!("S15.3: got {}", describe(&line)));
            }
            expected = item.map(|item| item + 1);
        }
        Ok(())
    }

    async fn read_up_to(&mut self, text: &str) -> Result<(), String> {
        loop {
            let got = self.line().await?;
            if matches(text, &got, &mut self.names)? {
                return Ok(());
            }
        }
    }

    /// The rests of the `more` lines under `id`, up to its `ok`.
    async fn more_lines(&mut self, id: &str) -> Result<Vec<String>, String> {
        let mut rests = Vec::new();
        loop {
            let line = self.line().await?;
            let rest = String::from_utf8_lossy(line.rest.as_deref().unwrap_or_default());
            match &line.word[..] {
                "more" if line.mark == id => rests.push(rest.into_owned()),
                "ok" if line.mark == id && line.rest.is_none() => return Ok(rests),
                _ => return Err(format!("got {}", describe(&line))),
            }
        }
    }

    async fn methods(&mut self, id: &str) -> Result<(), String> {
        let lines = self.more_lines(id).await?;
        let names: Vec<_> = lines.iter().filter_map(|line| line.split(' ').next()).collect();
        if !names.is_sorted_by(|one, next| one.as_bytes() < next.as_bytes()) {
            return Err(format!("S12.6: the list is not sorted: {names:?}"));
        }
        match names.contains(&"echo") {
            true => Ok(()),
            false => Err(format!("S12.6: the list lacks echo: {names:?}")),
        }
    }

    async fn pages(&mut self, arguments: &str) -> Result<(), String> {
        let (id, count) = arguments.split_once(' ').ok_or("usage: ID N")?;
        let lines = self.more_lines(id).await?;
        let listed = lines.iter().flat_map(|line| line.split(' ')).count();
        match listed.to_string() == count {
            true => Ok(()),
            false => Err(format!("S13.4: {listed} subscriptions are listed: {lines:?}")),
        }
    }

    /// Reads up to number LAST of a topic; that none is missing is seen by the watch.
    async fn told(&mut self, arguments: &str) -> Result<(), String> {
        let mut words = arguments.split(' ');
        let (topic, last) = (words.next().unwrap_or_default(), words.next());
        let last: u64 = last.and_then(|last| last.parse().ok()).ok_or("usage: TOPIC LAST")?;
        let mut missing: Vec<_> = words.collect();
        loop {
            let line = self.line().await?;
            let text = String::from_utf8_lossy(line.rest.as_deref().unwrap_or_default());
            let words: Vec<_> = text.split(' ').collect();
            let told = match (&line.word[..], &words[..]) {
                ("/gap", [named, _, _, last, reason, ..]) if *named == topic => {
                    missing.retain(|one| one != reason);
                    last
                }
                (word, [seq, ..]) if line.is_channel() && word == topic => seq,
                _ => return Err(format!("got {}", describe(&line))),
            };
            if told.parse::<u64>().is_ok_and(|told| told >= last) {
                break;
            }
        }
        match missing.is_empty() {
            true => Ok(()),
            false => Err(format!("no /gap came with the reason {}", missing.join(" or "))),
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
    crate::server_peer::shown(&bytes)
}
