//! The results of a run, as JSON and as text.

use std::fmt;

use serde::Serialize;

use crate::bench::{
    args::Args,
    callers::Calls,
    errors::Errors,
    latency::{Latency, Percentiles},
    run::Heard,
    schedule::Starts,
    timeline::Timeline,
};

/// The parameters of the run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) seconds: f64,
    pub(crate) cpu_seconds: Option<f64>,
}

/// The results of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// `None` if the server is in this process, so that its CPU time is in `cpu_seconds`, too.
    address: Option<String>,
    method: String,
    connections: u16,
    callers: u16,
    payload: u32,
    workers: usize,
    pub(crate) seconds: f64,
    /// All calls that ended, by how they ended: `answered`, or the kind of the error.
    requests: u64,
    answered: u64,
    failed: u64,
    requests_per_second: f64,
    /// From the call to its reply, for answered calls. In the open loop it counts from when the
    /// call was due.
    latency_us: Option<Percentiles>,
    cpu_seconds: Option<f64>,
    cpu_seconds_per_million: Option<f64>,
    /// Only in the open loop.
    rate: Option<Rate>,
    notifications: Option<Notifications>,
    /// Errors of calls and notifications. A good run has none.
    pub(crate) errors: Errors,
    #[serde(skip)]
    pub(crate) plots: Plots,
}

/// The data of the plots.
#[derive(Debug)]
pub(crate) struct Plots {
    pub(crate) timeline: Timeline,
    pub(crate) latency: Latency,
    pub(crate) uncorrected: Latency,
    pub(crate) delay: Latency,
}

/// How well the rate of the open loop was held.
#[derive(Debug, Serialize)]
struct Rate {
    target: u32,
    /// Requests started per second.
    achieved: f64,
    held: bool,
    started: u64,
    /// Started over 10 ms after they were due.
    late: u64,
    /// Due before the end, and not started because no caller was free.
    not_started: u64,
    longest_wait_us: f64,
    /// From the actual start to the reply: what a closed loop would report.
    uncorrected_latency_us: Option<Percentiles>,
}

impl Rate {
    fn new(target: u32, starts: &Starts) -> Self {
        Self {
            target,
            achieved: starts.achieved(target.into()),
            held: starts.is_held(),
            started: starts.started,
            late: starts.late,
            not_started: starts.unstarted,
            longest_wait_us: starts.longest_wait.as_nanos() as f64 / 1_000.0,
            uncorrected_latency_us: starts.uncorrected.percentiles(),
        }
    }

    fn not_held(&self) -> Option<String> {
        let Self { target, achieved, late, not_started, started, longest_wait_us, .. } = self;
        let due = started + not_started;
        let longest = longest_wait_us / 1_000.0;
        (!self.held).then(|| {
            format!(
                "NOT HELD: {target}/s asked for, {achieved:.1}/s achieved; of {due} requests {late} \
                 started over 10 ms late, {not_started} did not start, the longest wait {longest:.1} ms"
            )
        })
    }
}

#[derive(Debug, Serialize)]
struct Notifications {
    subscribers: u16,
    published: u64,
    delivered: u64,
    delivered_per_second: f64,
    gaps: u64,
    missed: u64,
    /// From before the publish to the subscriber's application.
    latency_us: Option<Percentiles>,
}

impl Report {
    pub(crate) fn new(
        args: &Args,
        address: Option<String>,
        span: Span,
        calls: Calls,
        heard: Option<Heard>,
    ) -> Self {
        let Span { seconds, cpu_seconds } = span;
        let Calls { answered, latency, timeline, mut errors, starts, .. } = calls;
        let failed = errors.sum();
        let per_million = |cpu| ratio(cpu, answered as f64 / 1e6);
        let delay = heard.as_ref().map(|heard| heard.received.latency.clone()).unwrap_or_default();
        let notifications = heard.map(|heard| Notifications::new(args, heard, &mut errors));
        Self {
            address,
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
            rate: args.rate.map(|target| Rate::new(target, &starts)),
            notifications,
            errors,
            plots: Plots { timeline, latency, uncorrected: starts.uncorrected, delay },
        }
    }

    pub(crate) fn is_open_loop(&self) -> bool {
        self.rate.is_some()
    }

    pub(crate) fn target_rate(&self) -> Option<f64> {
        self.rate.as_ref().map(|rate| rate.target.into())
    }

    /// A sentence for the reader if the rate of the open loop could not be held.
    pub(crate) fn rate_not_held(&self) -> Option<String> {
        self.rate.as_ref().and_then(Rate::not_held)
    }

    /// The parameters, as rows of a table.
    pub(crate) fn parameters(&self) -> Vec<(String, String)> {
        let server = self.address.as_deref().unwrap_or("in this process");
        let loop_kind = match &self.rate {
            Some(rate) => format!("open, {} requests per second", rate.target),
            None => "closed, each caller waits for its reply".into(),
        };
        rows([
            ("server", server.into()),
            ("method", self.method.clone()),
            ("payload", format!("{} bytes", self.payload)),
            ("connections", self.connections.to_string()),
            ("callers on each", self.callers.to_string()),
            ("loop", loop_kind),
            ("worker threads", self.workers.to_string()),
        ])
    }

    /// The results, as rows of a table.
    pub(crate) fn totals(&self) -> Vec<(String, String)> {
        let mut table = rows([
            ("measured", format!("{:.2} s", self.seconds)),
            ("answered", self.answered.to_string()),
            ("failed", self.failed.to_string()),
            ("answered per second", format!("{:.0}", self.requests_per_second)),
        ]);
        if let Some(cpu) = self.cpu_seconds_per_million {
            table.extend(rows([("CPU per million requests", format!("{cpu:.2} s"))]));
        }
        if let Some(rate) = &self.rate {
            table.extend(rows([
                ("started per second", format!("{:.1}", rate.achieved)),
                ("started over 10 ms late", rate.late.to_string()),
                ("due and not started", rate.not_started.to_string()),
                ("longest wait for a start", format!("{:.1} µs", rate.longest_wait_us)),
            ]));
        }
        if let Some(heard) = &self.notifications {
            table.extend(rows([
                ("notifications published", heard.published.to_string()),
                ("subscribers", heard.subscribers.to_string()),
                ("delivered", heard.delivered.to_string()),
                ("delivered per second", format!("{:.0}", heard.delivered_per_second)),
                ("missed and named", format!("{} in {} gaps", heard.missed, heard.gaps)),
            ]));
        }
        let errors = self.errors.iter();
        table.extend(errors.map(|(kind, count)| (format!("error: {kind}"), count.to_string())));
        table
    }
}

fn rows<const N: usize>(rows: [(&str, String); N]) -> Vec<(String, String)> {
    rows.map(|(name, value)| (name.into(), value)).into()
}

impl Notifications {
    /// Adds to `errors` the messages that were neither delivered nor named in a gap.
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
        if let Some(rate) = &self.rate {
            write!(f, "{rate}")?;
        }
        if let Some(latency) = self.latency_us {
            let from = if self.is_open_loop() { ", from when it was due" } else { "" };
            writeln!(f, "latency        {latency}{from}")?;
        }
        if let Some(uncorrected) = self.rate.as_ref().and_then(|rate| rate.uncorrected_latency_us) {
            writeln!(f, "uncorrected    {uncorrected}, from the actual start")?;
        }
        match self.cpu_seconds_per_million {
            Some(cpu) => writeln!(f, "cpu            {cpu:.2} s per million requests"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, achieved, late, .. } = self;
        match self.not_held() {
            Some(warning) => writeln!(f, "rate           {warning}"),
            None => writeln!(
                f,
                "rate           held: {target}/s asked for, {achieved:.1}/s achieved; {late} requests \
                 started over 10 ms late"
            ),
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
