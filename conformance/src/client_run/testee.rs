//! A testee: a process that drives the client under test by the lines of TESTEE.md.

use std::{process::Stdio, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, ChildStdout, Command},
    sync::mpsc::UnboundedSender,
    time::timeout,
};

use crate::{
    case::{Case, Level},
    client_run::text::{escape, unescape},
};

/// What a testee can do, by its first line: `testee LEVEL [FEATURE…]`.
#[derive(Clone, Debug)]
pub(crate) struct Abilities {
    level: Level,
    features: Vec<String>,
}

impl Abilities {
    fn parse(line: &str) -> Result<Self, String> {
        let mut words = line.split_whitespace();
        let level = words.by_ref().nth(1);
        let level = Level::ALL.into_iter().find(|one| Some(one.to_string().as_str()) == level);
        match level.filter(|_| line.starts_with("testee ")) {
            Some(level) => Ok(Self { level, features: words.map(str::to_owned).collect() }),
            None => Err(format!(
                "the testee's first line is {line:?}; it has to be `testee LEVEL [FEATURE…]`"
            )),
        }
    }

    /// Why a case cannot be run with this testee.
    pub(crate) fn lacks(&self, case: &Case) -> Option<String> {
        if case.level > self.level {
            return Some(format!("the testee is of level {}", self.level));
        }
        let is_lacking = |needed: &&String| !self.features.contains(needed) && *needed != "hostile";
        let lacking: Vec<_> = case.options.iter().filter(is_lacking).cloned().collect();
        (!lacking.is_empty()).then(|| format!("the testee has no {}", lacking.join(" and no ")))
    }
}

/// A running testee.
pub(crate) struct Testee {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Testee {
    /// Starts it, and waits for its first line.
    pub(crate) async fn start(
        command: &[String],
        patience: Duration,
    ) -> Result<(Self, Abilities), String> {
        let (program, arguments) = command.split_first().ok_or("no command for the testee")?;
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("cannot start the testee {program:?}: {error}"))?;
        let stdin = child.stdin.take();
        let mut stdout = child.stdout.take().map(BufReader::new).ok_or("no stdout")?;
        let mut line = String::new();
        let start = patience.max(START);
        let first = timeout(start, stdout.read_line(&mut line)).await;
        match first {
            Ok(Ok(1..)) => {}
            Ok(_) => return Err("the testee ended before its first line".to_owned()),
            Err(_) => return Err(format!("the testee wrote no first line within {start:?}")),
        }
        let abilities = Abilities::parse(line.trim_end())?;
        Ok((Self { child, stdin, stdout: Some(stdout) }, abilities))
    }

    /// Passes its events on, unescaped, and `None` at their end.
    pub(crate) fn report_to<T: Send + 'static>(
        &mut self,
        events: UnboundedSender<T>,
        wrap: fn(Option<Vec<u8>>) -> T,
    ) {
        let Some(stdout) = self.stdout.take() else { return };
        tokio::spawn(async move {
            let mut lines = stdout.lines();
            while let Ok(Some(line)) = lines.next_line().await {
                if events.send(wrap(Some(unescape(&line)))).is_err() {
                    return;
                }
            }
            // The case may have ended.
            let _ = events.send(wrap(None));
        });
    }

    /// Gives it a command.
    pub(crate) async fn tell(&mut self, command: &[u8], patience: Duration) -> Result<(), String> {
        let stdin = self.stdin.as_mut().ok_or("the testee was told to end")?;
        let line = escape(command) + "\n";
        let written = timeout(patience, async {
            stdin.write_all(line.as_bytes()).await?;
            stdin.flush().await
        });
        match written.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(format!("the testee takes no command: {error}")),
            Err(_) => Err(format!("the testee does not read its commands within {patience:?}")),
        }
    }

    /// Ends its commands, upon which it has to end.
    pub(crate) fn end(&mut self) {
        self.stdin = None;
    }

    pub(crate) async fn kill(mut self) {
        // It may have ended by itself.
        let _ = self.child.kill().await;
    }
}

/// How long a testee may take to start, or longer if the patience is.
const START: Duration = Duration::from_secs(60);
