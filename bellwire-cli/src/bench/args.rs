//! The command line.

use std::{num::NonZero, path::PathBuf, thread::available_parallelism, time::Duration};

use bellwire::protocol::Method;
use clap::value_parser;

use crate::{
    bench::callers::{MAX_CALLERS, STAMP},
    duration,
    failed::Failed,
    target::TargetArgs,
};

/// The longest duration of a run with `--requests` when none is given. So a server that never
/// answers cannot keep it running for ever.
const DURATION_OF_REQUESTS: Duration = Duration::from_secs(3_600);
const DEFAULT_DURATION: Duration = Duration::from_secs(5);
const DEFAULT_WARM_UP: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_secs(86_400);

/// The options of a run.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Connections that make calls; 0, to measure subscribers alone
    #[arg(long, short = 'n', default_value_t = 1, value_parser = value_parser!(u16).range(..=4_096))]
    pub(crate) connections: u16,

    /// Callers on each connection, each with one call in flight; with --rate, the most calls in
    /// flight on each connection
    #[arg(long, short = 'm', default_value_t = 64, value_parser = value_parser!(u16).range(1..=MAX_CALLERS))]
    pub(crate) callers: u16,

    /// Bytes of payload of each call and each notification; they carry a number of 16 digits
    #[arg(long, value_name = "BYTES", default_value_t = 32, value_parser = value_parser!(u32).range(STAMP as i64..=65_000))]
    pub(crate) payload: u32,

    /// How long to measure, as in 30s or 2m [default: 5s; with --requests 1h]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = parse_time)]
    duration: Option<Duration>,

    /// How long to call before measuring [default: 1s; with --requests 0]
    #[arg(long, value_name = "TIME", allow_negative_numbers = true, value_parser = parse_time)]
    warmup: Option<Duration>,

    /// Ends after this many requests of all callers together, if not by then for its duration
    #[arg(long, value_name = "COUNT", value_parser = value_parser!(u64).range(1..))]
    pub(crate) requests: Option<u64>,

    /// Starts so many requests per second of all callers together, whether replies come or not, and
    /// counts each latency from when its request was due. Without it each caller makes its next
    /// request when it has the reply to the last one
    #[arg(long, value_name = "PER_SECOND", value_parser = value_parser!(u32).range(1..=10_000_000))]
    pub(crate) rate: Option<u32>,

    /// Subscribers to one topic, each on a connection of its own
    #[arg(long, value_name = "COUNT", default_value_t = 0, value_parser = value_parser!(u16).range(..=4_096))]
    pub(crate) subscribers: u16,

    /// Notifications published per second, while it is measured
    #[arg(long, value_name = "RATE", default_value_t = 1_000, requires = "subscribers", value_parser = value_parser!(u32).range(1..=1_000_000))]
    pub(crate) publish_rate: u32,

    /// What each call is given before it ends for its deadline, as in 250ms [default: no limit]
    #[arg(long, value_name = "TIME", value_parser = duration::parse)]
    pub(crate) deadline: Option<Duration>,

    /// The method called, which must answer with its payload; the server here has echo,
    /// echo.spawned and echo.blocking
    #[arg(long, value_name = "NAME", default_value = "echo", value_parser = parse_method)]
    pub(crate) method: String,

    /// Worker threads of the runtime [default: one per processor]
    #[arg(long, value_name = "COUNT", default_value_t = default_workers(), hide_default_value = true, value_parser = parse_workers)]
    pub(crate) workers: usize,

    /// Only serves, until Ctrl-C: what --addr of another process connects to
    #[arg(long, value_name = "ADDRESS", conflicts_with_all = ["addr", "context", "json", "rate", "report", "requests", "subscribers"])]
    pub(crate) serve: Option<String>,

    /// Prints one JSON object and nothing else
    #[arg(long)]
    pub(crate) json: bool,

    /// Writes one HTML file with throughput over time and the distribution of the latencies as
    /// plots, and all figures as tables; a file of this name is replaced when the run has ended
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,

    /// The server under test; for subscribers it must allow clients to publish
    #[command(flatten)]
    pub(crate) target: TargetArgs,
}

impl Args {
    /// What no option can say by itself.
    pub(crate) fn check(&self) -> Result<(), Failed> {
        let what = match self {
            Self { connections: 0, subscribers: 0, .. } => {
                "--connections 0 measures nothing without --subscribers"
            }
            Self { connections: 0, requests: Some(_), .. } => "--connections 0 makes no --requests",
            Self { connections: 0, rate: Some(_), .. } => "--connections 0 has no --rate",
            _ => return Ok(()),
        };
        Err(Failed::usage(what))
    }

    pub(crate) fn duration(&self) -> Duration {
        let default = self.requests.map_or(DEFAULT_DURATION, |_| DURATION_OF_REQUESTS);
        self.duration.unwrap_or(default)
    }

    pub(crate) fn warm_up(&self) -> Duration {
        let default = self.requests.map_or(DEFAULT_WARM_UP, |_| Duration::ZERO);
        self.warmup.unwrap_or(default)
    }

    /// The requests of caller `number`, from 0. All have the same share; the first ones may have
    /// one more.
    pub(crate) fn share(&self, number: u64) -> Option<u64> {
        let callers = u64::from(self.connections) * u64::from(self.callers);
        self.requests.map(|requests| requests / callers + u64::from(number < requests % callers))
    }
}

/// A time of at most a day; also none.
fn parse_time(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    match duration::parse(text)? {
        time if time <= LONGEST => Ok(time),
        _ => Err("more than a day".into()),
    }
}

fn parse_method(text: &str) -> Result<String, String> {
    Method::new(text).map(|_| text.to_owned()).map_err(|error| error.to_string())
}

fn parse_workers(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(workers @ 1..=1_024) => Ok(workers),
        _ => Err("not a number from 1 to 1024".into()),
    }
}

fn default_workers() -> usize {
    available_parallelism().map_or(1, NonZero::get)
}
