//! `bellwire publish`: one message, or one for each line of stdin.

use std::{
    fmt,
    io::{IsTerminal, stderr, stdin},
    process::ExitCode,
    time::Duration,
};

use bellwire::{CallError, Client, ClientConfig, Publish, protocol::Topic};
use clap::Args;
use futures::{FutureExt, StreamExt, stream::FuturesOrdered};
use indicatif::{ProgressBar, ProgressState, ProgressStyle};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    sync::mpsc,
};

use crate::{
    call::DEADLINE,
    duration,
    failed::{EXIT_CODES, Failed},
    payload,
    stop::Stop,
    target::TargetArgs,
};

/// Messages that are published and not confirmed, so that a fast file fills the connection.
const IN_FLIGHT: usize = 64;
/// Lines that were read ahead of them.
const READ_AHEAD: usize = 64;
/// The longest line. A server takes 64 KiB by default.
const MAX_LINE: usize = 1 << 20;

/// Publishes to a topic
///
/// The server has to allow it: by ServerConfig::allow_publish, or by its authorizer.
///
///   bellwire publish news 'it rains'
///   tail -F log.txt | bellwire publish log --lines
#[derive(Args)]
#[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
pub(crate) struct PublishArgs {
    /// The topic
    #[arg(value_parser = parse_topic)]
    topic: String,
    /// The payload; - reads all of stdin, unchanged
    #[arg(conflicts_with = "lines")]
    payload: Option<String>,
    /// Publishes each line of stdin as a message, in order
    #[arg(long)]
    lines: bool,
    /// How long the server may take to accept a message [default: 30s]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    deadline: Option<Duration>,
    /// The request's key: the server publishes it once, however often it is sent
    #[arg(long, conflicts_with = "lines")]
    key: Option<String>,
    /// A message may come twice: sends it again if the connection is lost
    #[arg(long)]
    idempotent: bool,
    #[command(flatten)]
    target: TargetArgs,
}

pub(crate) fn parse_topic(text: &str) -> Result<String, String> {
    Topic::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

pub(crate) async fn run(args: PublishArgs) -> Result<ExitCode, Failed> {
    match (args.lines, args.payload.as_deref()) {
        (true, _) => args.target.leave_stdin_to("the lines")?,
        (false, Some("-")) => args.target.leave_stdin_to("the payload")?,
        _ => {}
    }
    let target = args.target.resolve()?;
    let payload = payload::read(args.payload.clone()).await?;
    let mut stop = Stop::new().map_err(Failed::other)?;
    let client = target.connect(ClientConfig::new()).await?;
    let published = match args.lines {
        true => Lines::new(&client, &args).publish(&mut stop).await,
        false => tokio::select! {
            published = args.request(&client, &payload) => published.map_err(of_publish),
            () = stop.next() => {
                Err(Failed::interrupted("interrupted; the message may have been published"))
            }
        },
    };
    // What the server has accepted is published, whatever becomes of the connection.
    let _ = client.close().await;
    published.map(|()| ExitCode::SUCCESS)
}

impl PublishArgs {
    async fn request(&self, client: &Client, payload: &[u8]) -> Result<(), CallError> {
        let deadline = self.deadline.unwrap_or(DEADLINE);
        let mut publish = client.publish(&self.topic, payload).deadline(deadline);
        if let Some(key) = &self.key {
            publish = publish.key(key);
        }
        if self.idempotent {
            publish = Publish::idempotent(publish);
        }
        publish.await.map(drop)
    }
}

/// Why a message is not published, or may not be.
fn of_publish(error: CallError) -> Failed {
    let is_forbidden = error.code().is_some_and(|code| code.as_str() == "forbidden");
    let before = if error.may_have_run() { "perhaps not published" } else { "not published" };
    let failed = Failed::from(error).within(before);
    match is_forbidden {
        true => failed.hint(
            "the server does not let you publish to this topic: it needs \
             ServerConfig::allow_publish, or an authorizer that allows it",
        ),
        false => failed,
    }
}

/// The messages of `--lines`.
struct Lines<'a> {
    client: &'a Client,
    args: &'a PublishArgs,
    bar: ProgressBar,
    /// The lines that were published before one was not.
    published: u64,
    /// The first line that was not published, and why.
    fault: Option<(u64, Failed)>,
    behind: Behind,
}

/// The lines that were sent behind the first one that failed.
#[derive(Default)]
struct Behind {
    all: u64,
    published: u64,
    /// Their outcome is unknown.
    unsure: u64,
}

impl<'a> Lines<'a> {
    fn new(client: &'a Client, args: &'a PublishArgs) -> Self {
        // A user who types the lines needs no count of them.
        let bar = match stderr().is_terminal() && !stdin().is_terminal() {
            true => ProgressBar::new_spinner().with_style(style()),
            false => ProgressBar::hidden(),
        };
        Self { client, args, bar, published: 0, fault: None, behind: Behind::default() }
    }

    /// Publishes until the end of stdin. The first signal, and a line that fails, end the reading, and
    /// what is in flight is finished. A second signal ends that, too.
    async fn publish(mut self, stop: &mut Stop) -> Result<(), Failed> {
        let mut lines = lines_of_stdin();
        let mut in_flight = FuturesOrdered::new();
        let (client, args) = (self.client, self.args);
        let (mut is_open, mut end) = (true, None);
        while is_open || !in_flight.is_empty() {
            tokio::select! {
                biased;
                () = stop.next() => {
                    if end.is_some() {
                        return Err(self.stopped(in_flight.len()));
                    }
                    (is_open, end) = (false, Some(Failed::interrupted("interrupted")));
                }
                Some(result) = in_flight.next() => is_open &= self.count(result),
                line = lines.recv(), if is_open && in_flight.len() < IN_FLIGHT => match line {
                    // The request is sent at its first poll, so the order is that of the lines.
                    Some(Ok(line)) => in_flight.push_back(send(client, args, line).boxed_local()),
                    Some(Err(failed)) => (is_open, end) = (false, Some(failed)),
                    None => is_open = false,
                },
            }
        }
        self.finish(end)
    }

    /// Counts an outcome. Returns whether to go on.
    fn count(&mut self, result: Result<(), CallError>) -> bool {
        self.bar.inc(result.is_ok().into());
        if self.fault.is_some() {
            self.behind.all += 1;
            match result {
                Ok(()) => self.behind.published += 1,
                Err(error) => self.behind.unsure += u64::from(error.may_have_run()),
            }
            return false;
        }
        match result {
            Ok(()) => self.published += 1,
            Err(error) => self.fault = Some((self.published + 1, of_publish(error))),
        }
        self.fault.is_none()
    }

    /// Says what is published, if not everything is. `end` is why no more was read.
    fn finish(mut self, end: Option<Failed>) -> Result<(), Failed> {
        self.bar.finish_and_clear();
        if let Some((line, failed)) = self.fault.take() {
            let failed = failed.within(format!("line {line}")).behind(self.done());
            return Err(match self.behind.all {
                0 => failed,
                _ => failed.behind(self.behind.said()),
            });
        }
        match end {
            Some(failed) => Err(failed.behind(self.done())),
            None if self.bar.is_hidden() => Ok(()),
            None => {
                let seconds = self.bar.elapsed().as_secs_f64();
                eprintln!("{} lines published in {seconds:.1} s", self.published);
                Ok(())
            }
        }
    }

    /// `more` lines are in flight, and given up.
    fn stopped(&self, more: usize) -> Failed {
        self.bar.finish_and_clear();
        let first = self.published + self.behind.all + u64::from(self.fault.is_some()) + 1;
        let given_up = range(first, first + more as u64 - 1);
        Failed::interrupted(format!("stopped at once; {}, and {given_up} may be", self.done()))
    }

    /// What is published for sure.
    fn done(&self) -> String {
        match self.published {
            0 if self.behind.published > 0 => "no line before it is published".into(),
            0 => "no line is published".into(),
            1 => "line 1 is published".into(),
            last => format!("{} are published", range(1, last)),
        }
    }
}

impl Behind {
    /// What became of them.
    fn said(&self) -> String {
        let Self { all, published, unsure } = self;
        let unsure = match unsure {
            0 => String::new(),
            unsure => format!(", and {unsure} may be"),
        };
        format!("{published} of the next {all} are published{unsure}")
    }
}

fn range(first: u64, last: u64) -> String {
    match first == last {
        true => format!("line {first}"),
        false => format!("lines {first} to {last}"),
    }
}

fn style() -> ProgressStyle {
    let style = ProgressStyle::with_template("{spinner} {pos} published, {rate}, {elapsed}");
    let rate = |state: &ProgressState, text: &mut dyn fmt::Write| {
        // A bar without its rate is no reason to end.
        let _ = write!(text, "{:.0}/s", state.per_sec());
    };
    style.expect("the template is a constant").with_key("rate", rate)
}

async fn send(client: &Client, args: &PublishArgs, line: Vec<u8>) -> Result<(), CallError> {
    args.request(client, &line).await
}

/// The lines of stdin, without their ends.
fn lines_of_stdin() -> mpsc::Receiver<Result<Vec<u8>, Failed>> {
    let (lines, read) = mpsc::channel(READ_AHEAD);
    tokio::spawn(async move {
        let mut stdin = BufReader::new(tokio::io::stdin());
        loop {
            let line = next_line(&mut stdin).await.transpose();
            let Some(line) = line else { return };
            let is_last = line.is_err();
            if lines.send(line).await.is_err() || is_last {
                return;
            }
        }
    });
    read
}

async fn next_line(stdin: &mut BufReader<tokio::io::Stdin>) -> Result<Option<Vec<u8>>, Failed> {
    let mut line = Vec::new();
    loop {
        let read = stdin.fill_buf().await;
        let available =
            read.map_err(|error| Failed::other(format!("cannot read stdin: {error}")))?;
        if available.is_empty() {
            return Ok(Some(line).filter(|line| !line.is_empty()));
        }
        let end = available.iter().position(|&byte| byte == b'\n');
        line.extend_from_slice(&available[..end.unwrap_or(available.len())]);
        let taken = end.map_or(available.len(), |end| end + 1);
        stdin.consume(taken);
        if line.len() > MAX_LINE {
            return Err(Failed::usage("a line on stdin is over 1 MiB, and is not published")
                .hint("a line of the protocol is 64 KiB by default"));
        }
        if end.is_some() {
            line.pop_if(|byte| *byte == b'\r');
            return Ok(Some(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_behind_a_failure_are_counted() {
        let behind = Behind { all: 6, published: 4, unsure: 1 };
        assert_eq!(behind.said(), "4 of the next 6 are published, and 1 may be");
        assert_eq!(Behind { all: 1, ..Behind::default() }.said(), "0 of the next 1 are published");
    }
}
