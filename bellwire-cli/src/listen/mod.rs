//! `bellwire listen`: the messages of topics, as they come.

mod format;
mod resume;

use std::{path::PathBuf, process::ExitCode, time::Duration};

use bellwire::{Client, ClientConfig, Delivery, Subscription, protocol::Position};
use clap::Args;
use futures::{FutureExt, StreamExt, stream::SelectAll};
use tokio::time::{Instant, sleep_until};

use crate::{
    call::DEADLINE,
    duration,
    failed::{self, EXIT_CODES, Exit, Failed},
    payload,
    publish::parse_topic,
    stop::Stop,
    target::TargetArgs,
};
use format::Format;
use resume::Resume;

/// The exit code when the reader of stdout has gone, as of a process that SIGPIPE ended.
const BROKEN_PIPE: u8 = 128 + 13;
/// Messages that may be unacknowledged with `--ack`.
const WINDOW: u64 = 128;
/// Messages that are printed before they are acknowledged and their positions are stored.
const BATCH: usize = 256;

/// Prints the messages of topics as they are published
///
/// It reconnects and resumes by itself. Messages that were lost are named on stderr, as a gap. After
/// Ctrl-C it writes what it has received, and ends.
///
/// In a --format: %t topic, %s number, %e epoch, %p payload, %l its length, %x the payload in hex,
/// %U the Unix time, %r "again" for a redelivered message, %% a percent sign; \n, \t and \\ as in C.
///
///   bellwire listen offers random
///   bellwire listen news -C 1 -W 10         # wait for one message, 10 s at most
///   bellwire listen news --last 5 --format '%p'
///   bellwire listen jobs --ack --resume jobs.position --format json | worker
#[derive(Args)]
#[command(verbatim_doc_comment, after_long_help = EXIT_CODES)]
pub(crate) struct ListenArgs {
    /// The topics
    #[arg(required = true, value_parser = parse_topic)]
    topics: Vec<String>,
    /// Ends after so many messages of all topics together
    #[arg(short = 'C', long, value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Ends after this time; with -C, fails with exit code 8 if messages are missing by then. Without
    /// a connection by then, fails with exit code 6
    #[arg(short = 'W', long = "wait", value_name = "TIME", value_parser = duration::parse)]
    wait: Option<Duration>,
    /// Begins at this position, as printed by --format '%e:%s' or stored by --resume
    #[arg(long, value_name = "EPOCH:SEQ", conflicts_with = "last")]
    from: Option<Position>,
    /// Begins with the newest messages that the topic retains
    #[arg(long, value_name = "COUNT")]
    last: Option<u64>,
    /// How to print a message, or json for a JSON object on each line
    #[arg(long, short, default_value = "%t %s %p", value_parser = Format::parse)]
    format: Format,
    /// Acknowledges each message after it is written. The server waits while 128 are not acknowledged
    #[arg(long)]
    ack: bool,
    /// Stores the position of each topic in this file after its messages are written, and begins there
    /// the next time. After a kill some messages may come again, but none is left out
    #[arg(long, value_name = "FILE")]
    resume: Option<PathBuf>,
    #[command(flatten)]
    target: TargetArgs,
}

pub(crate) async fn run(mut args: ListenArgs) -> Result<ExitCode, Failed> {
    if args.from.is_some() && args.topics.len() > 1 {
        return Err(Failed::usage("--from is the position of one topic, and there are several")
            .hint("listen to each topic by a command of its own, or use --resume"));
    }
    args.target.connect_within(args.wait);
    let target = args.target.resolve()?;
    let resume = args.resume.clone().map(Resume::open).transpose()?;
    let mut stop = Stop::new().map_err(Failed::other)?;
    let deadline = args.wait.map(|wait| Instant::now() + wait);
    let client = tokio::select! {
        client = target.connect(ClientConfig::new()) => client?,
        () = stop.next() => return Ok(ExitCode::SUCCESS),
    };
    let mut listener = Listener { left: args.count, resume, args, printed: 0 };
    let listened = tokio::select! {
        listened = listener.listen(&client) => listened,
        () = stop.next() => Ok(()),
        () = at(deadline) => listener.on_deadline(),
        () = payload::reader_gone() => return Ok(ExitCode::from(BROKEN_PIPE)),
    };
    // Also what a signal has interrupted.
    let stored = listener.settle(None);
    // The messages are printed, whatever becomes of the connection.
    let _ = client.close().await;
    listened.and(stored).map(|()| ExitCode::SUCCESS)
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

struct Listener {
    args: ListenArgs,
    resume: Option<Resume>,
    /// Messages until the end.
    left: Option<u64>,
    printed: u64,
}

impl Listener {
    /// Prints until the count is reached or all subscriptions have ended.
    async fn listen(&mut self, client: &Client) -> Result<(), Failed> {
        let mut subscriptions = SelectAll::new();
        for topic in self.args.topics.clone() {
            let subscription = self.subscribe(client, &topic).await?;
            if let Some(resume) = &mut self.resume {
                // A command that is killed before the first message has missed none, either.
                resume.begin(&topic, subscription.position());
            }
            subscriptions.push(subscription);
        }
        self.settle(None)?;
        let mut end = None;
        while let Some(delivery) = subscriptions.next().await {
            let mut batch = vec![delivery];
            while batch.len() < BATCH
                && let Some(Some(more)) = subscriptions.next().now_or_never()
            {
                batch.push(more);
            }
            let is_over = self.handle(batch, &mut end)?;
            if is_over {
                return Ok(());
            }
        }
        Err(end.unwrap_or_else(|| Failed::new(Exit::Lost, "the subscriptions have ended")))
    }

    async fn subscribe(&self, client: &Client, topic: &str) -> Result<Subscription, Failed> {
        let mut subscribe = client.subscribe(topic).deadline(DEADLINE);
        if self.args.ack {
            subscribe = subscribe.window(WINDOW).redeliver();
        }
        let stored = self.resume.as_ref().and_then(|resume| resume.position(topic));
        subscribe = match (stored.or(self.args.from), self.args.last) {
            (Some(position), _) => subscribe.from(position),
            (None, Some(last)) => subscribe.last(last),
            (None, None) => subscribe,
        };
        subscribe
            .await
            .map_err(|error| Failed::from(error).within(format!("cannot listen to {topic}")))
    }

    /// Prints a batch, then acknowledges and stores. Returns whether the count is reached.
    fn handle(&mut self, batch: Vec<Delivery>, end: &mut Option<Failed>) -> Result<bool, Failed> {
        let (mut written, mut is_over) = (Vec::new(), false);
        for delivery in batch {
            if let Delivery::End { topic, reason, .. } = &delivery {
                let failed = failed::of_end(topic.as_str(), reason);
                self.args.format.print_remark(&delivery);
                *end = Some(failed);
            }
            self.print(&delivery);
            let is_message = matches!(delivery, Delivery::Notification(_));
            written.push(delivery);
            if is_message && self.left == Some(0) {
                is_over = true;
                break;
            }
        }
        self.settle(Some(&written))?;
        Ok(is_over)
    }

    fn print(&mut self, delivery: &Delivery) {
        let Delivery::Notification(notification) = delivery else {
            if !matches!(delivery, Delivery::End { .. }) {
                self.args.format.print_remark(delivery);
            }
            return;
        };
        self.args.format.print(notification);
        self.printed += 1;
        self.left = self.left.map(|left| left.saturating_sub(1));
    }

    /// Flushes stdout. What is written then is acknowledged, and its positions are stored.
    fn settle(&mut self, written: Option<&[Delivery]>) -> Result<(), Failed> {
        payload::flush();
        for delivery in written.unwrap_or_default() {
            if let Delivery::Notification(notification) = delivery {
                notification.ack();
            }
            if let Some(resume) = &mut self.resume {
                resume.advance(delivery);
            }
        }
        self.resume.as_mut().map_or(Ok(()), Resume::store)
    }

    fn on_deadline(&self) -> Result<(), Failed> {
        let Some(left) = self.left else { return Ok(()) };
        let (printed, all) = (self.printed, self.printed + left);
        Err(Failed::new(Exit::Timeout, format!("{printed} of {all} messages came in time"))
            .hint("give it more time with -W, or begin with older messages: --last, --from"))
    }
}
