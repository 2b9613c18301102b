//! The figures of a run, and what is wrong.

use std::time::Duration;

use bellwire_testkit::history::{Event, History, Outcome};

use crate::{lives::Kills, log::Entry};

/// The most faults that are printed.
const SHOWN: usize = 10;

/// A run, judged.
pub(crate) struct Report {
    history: History,
    figures: Figures,
    kills: Kills,
    /// How long the clients were without a connection, each time.
    times: Vec<Duration>,
    /// How often the clients sent a request again by themselves.
    resent: u64,
    faults: Vec<String>,
}

/// Events, counted.
#[derive(Debug, Default)]
struct Figures {
    publishing: usize,
    acknowledged: usize,
    failed: usize,
    deliveries: usize,
    losses: usize,
    seen: usize,
    starts: usize,
    /// Calls with keys, and those of them that repeat another.
    with_keys: usize,
    twice: usize,
    ok: usize,
    remote: usize,
    refused: usize,
    not_sent: usize,
    unknown: usize,
}

impl Report {
    /// Judges a log, in addition to what is known to be wrong.
    pub(crate) fn new(
        log: Vec<Entry>,
        kills: Kills,
        times: Vec<Duration>,
        resent: u64,
        mut faults: Vec<String>,
    ) -> Self {
        let (mut history, mut figures) = (History::default(), Figures::default());
        let begun = log.first().map_or(0, |entry| entry.at);
        for Entry { at, process, event } in log {
            figures.count(&event);
            let millis = u64::try_from((at - begun) / 1_000_000).unwrap_or_default();
            history.record(millis, &process, event);
        }
        faults.extend(figures.faults());
        faults.extend(history.check().iter().map(ToString::to_string));
        Self { history, figures, kills, times, resent, faults }
    }

    pub(crate) fn is_good(&self) -> bool {
        self.faults.is_empty()
    }

    /// The log as text.
    pub(crate) fn history(&self) -> String {
        self.history.render()
    }

    pub(crate) fn print(&self) {
        let Figures { publishing, acknowledged, failed, deliveries, seen, .. } = self.figures;
        let Figures { starts, ok, remote, refused, not_sent, unknown, .. } = self.figures;
        let open = publishing.saturating_sub(acknowledged + failed);
        println!("kills       {}", self.kills);
        println!("publishes   {acknowledged} acknowledged, {open} unknown, {failed} failed");
        println!("deliveries  {deliveries}, of them {seen} waited for by their publishers");
        println!(
            "calls       {ok} ok, {unknown} unknown, {remote} remote, {refused} refused, \
             {not_sent} not sent; {starts} handlers started"
        );
        let Figures { with_keys, twice, .. } = self.figures;
        let resent = self.resent;
        println!(
            "keys        {with_keys} calls, {twice} of them by the application again; \
             {resent} requests were sent again by the clients"
        );
        let (mean, most) = (self.mean().as_secs_f64(), self.times.iter().max());
        let most = most.copied().unwrap_or_default().as_secs_f64();
        let back = self.times.len();
        println!("back        {back} times, after {mean:.3} s in the mean, {most:.3} s at most");
        match self.faults.len() {
            0 => println!("wrong       nothing"),
            count => println!("wrong       {count}"),
        }
        for fault in self.faults.iter().take(SHOWN) {
            println!("{fault}");
        }
    }

    fn mean(&self) -> Duration {
        let count = u32::try_from(self.times.len()).unwrap_or(u32::MAX).max(1);
        self.times.iter().sum::<Duration>() / count
    }
}

impl Figures {
    fn count(&mut self, event: &Event) {
        if let Event::Called { call, key: Some(key) } = event {
            self.with_keys += 1;
            self.twice += usize::from(*key != call.to_string());
        }
        let figure = match event {
            Event::Publishing { .. } => &mut self.publishing,
            Event::Published { .. } => &mut self.acknowledged,
            Event::Unpublished { .. } => &mut self.failed,
            Event::Delivered { .. } => &mut self.deliveries,
            Event::Missed { .. } | Event::Reset { .. } => &mut self.losses,
            Event::Seen { .. } => &mut self.seen,
            Event::Started { .. } => &mut self.starts,
            Event::Ended { outcome: Outcome::Ok { .. }, .. } => &mut self.ok,
            Event::Ended { outcome: Outcome::Remote, .. } => &mut self.remote,
            Event::Ended { outcome: Outcome::Refused, .. } => &mut self.refused,
            Event::Ended { outcome: Outcome::NotSent, .. } => &mut self.not_sent,
            Event::Ended { outcome: Outcome::Unknown, .. } => &mut self.unknown,
            _ => return,
        };
        *figure += 1;
    }

    /// What the rules of the history allow, and this run does not.
    fn faults(&self) -> Vec<String> {
        let Self { losses, remote, .. } = self;
        let mut faults = Vec::new();
        if *losses > 0 {
            faults.push(format!("{losses} gaps and resets: epochs and messages have to survive"));
        }
        if *remote > 0 {
            faults.push(format!("{remote} handlers failed"));
        }
        let all = [self.acknowledged, self.deliveries, self.seen, self.ok, self.with_keys];
        if all.contains(&0) {
            faults.push(format!("too little happened: {self:?}"));
        }
        faults
    }
}
