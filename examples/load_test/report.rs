//! What a run found out, as JSON and for people.

use std::fmt;

use serde::Serialize;

use crate::{args::Args, callers::Calls, errors::Errors, latency::Percentiles, run::Heard};

/// What it took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: Option<f64>,
}

/// What a run found out.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// `None`: in this process, so that its CPU time is in `cpu_seconds` too.
    address: Option<String>,
    method: String,
    connections: u16,
    callers: u16,
    payload: u32,
    workers: usize,
    seconds: f64,
    /// All that ended, each in one way: `answered`, or one of the calls' errors.
    requests: u64,
    answered: u64,
    failed: u64,
    requests_per_second: f64,
    /// From the call to its reply; of those answered.
    latency_us: Option<Percentiles>,
    cpu_seconds: Option<f64>,
    cpu_seconds_per_million: Option<f64>,
    notifications: Option<Notifications>,
    /// Of calls and notifications; the run is a good one if there are none.
    pub(crate) errors: Errors,
}

#[derive(Debug, Serialize)]
struct Notifications {
    subscribers: u16,
    published: u64,
    delivered: u64,
    delivered_per_second: f64,
    gaps: u64,
    missed: u64,
    /// From before it was published to the subscriber's hands.
    latency_us: Option<Percentiles>,
}

impl Report {
    pub(crate) fn new(args: &Args, span: Span, calls: Calls, heard: Option<Heard>) -> Self {
        let Span { seconds, cpu_seconds } = span;
        let Calls { answered, latency, mut errors, .. } = calls;
        let failed = errors.sum();
        let per_million = |cpu| ratio(cpu, answered as f64 / 1e6);
        let notifications = heard.map(|heard| Notifications::new(args, heard, &mut errors));
        Self {
            address: args.addr.clone(),
            method: args.method.clone(),
            connections: args.connections,
            callers: args.callers,
            payload: args.payload,
            workers: args.workers,
            seconds,
            requests: answered + failed,
            answered,
            failed,
            requests_per_second: ratio(answered as f64, seconds).unwrap_or_default(),
            latency_us: latency.percentiles(),
            cpu_seconds,
            cpu_seconds_per_million: cpu_seconds.and_then(per_million),
            notifications,
            errors,
        }
    }
}

impl Notifications {
    /// Adds to `errors` what was neither delivered nor named.
    fn new(args: &Args, heard: Heard, errors: &mut Errors) -> Self {
        let Heard { sent, received, seconds } = heard;
        let due = sent.published * u64::from(args.subscribers);
        errors.add("undelivered", due.saturating_sub(received.delivered + received.missed));
        errors.merge(sent.errors);
        errors.merge(received.errors);
        Self {
            subscribers: args.subscribers,
            published: sent.published,
            delivered: received.delivered,
            delivered_per_second: ratio(received.delivered as f64, seconds).unwrap_or_default(),
            gaps: received.gaps,
            missed: received.missed,
            latency_us: received.latency.percentiles(),
        }
    }
}

fn ratio(value: f64, by: f64) -> Option<f64> {
    (by > 0.0).then(|| value / by)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fmt_setup(f)?;
        self.fmt_calls(f)?;
        if let Some(notifications) = &self.notifications {
            notifications.fmt(f)?;
        }
        if self.errors.is_empty() {
            return writeln!(f, "errors         none");
        }
        self.errors
            .iter()
            .try_for_each(|(kind, count)| writeln!(f, "error          {kind}: {count}"))
    }
}

impl Report {
    fn fmt_setup(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, connections, callers, payload, workers, .. } = self;
        let server = self.address.as_deref().unwrap_or("a server in this process");
        writeln!(
            f,
            "{connections} connections x {callers} callers, {method} of {payload} bytes to {server}, \
             {workers} workers"
        )
    }

    fn fmt_calls(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { answered, failed, seconds, requests_per_second, .. } = self;
        writeln!(f, "requests       {answered} answered, {failed} failed in {seconds:.2} s")?;
        writeln!(f, "throughput     {requests_per_second:.0} requests/s")?;
        if let Some(latency) = self.latency_us {
            writeln!(f, "latency        {latency}")?;
        }
        match self.cpu_seconds_per_million {
            Some(cpu) => writeln!(f, "cpu            {cpu:.2} s per million requests"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Notifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { subscribers, published, delivered, gaps, missed, .. } = self;
        let per_second = self.delivered_per_second;
        writeln!(f, "notifications  {published} published to {subscribers} subscribers")?;
        writeln!(
            f,
            "delivered      {delivered}, {per_second:.0}/s; {missed} missed in {gaps} gaps"
        )?;
        match self.latency_us {
            Some(latency) => writeln!(f, "delay          {latency}"),
            None => Ok(()),
        }
    }
}
