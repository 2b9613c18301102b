//! The callers: each makes one call after the other and checks its reply. In the closed loop the
//! next call follows the reply to the last one; in the open loop a [`Schedule`] says when it is due.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bellwire::{CallError, Client};
use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinSet};

use crate::bench::{
    args::Args,
    control::{Control, Phase},
    errors::{Errors, is_final, kind_of},
    latency::Latency,
    schedule::{Schedule, Starts},
    tally::Tally,
    timeline::Timeline,
};

/// The callers of a connection. A server in this process allows as many requests in flight.
pub(crate) const MAX_CALLERS: i64 = 16_384;
/// The digits of the number that a payload begins with.
pub(crate) const STAMP: usize = 16;
/// The caller's own number is above that of its request.
const REQUEST_BITS: u32 = 36;

/// The counts of a caller.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    /// Replies that were the payload sent.
    pub(crate) answered: u64,
    /// Of these replies. In the open loop also of the requests that were due and did not start,
    /// with the time that they had waited.
    pub(crate) latency: Latency,
    pub(crate) timeline: Timeline,
    pub(crate) errors: Errors,
    /// Of the open loop.
    pub(crate) starts: Starts,
    is_waiting: bool,
}

impl Calls {
    /// Adds the counts of another caller that has ended.
    pub(crate) fn merge(&mut self, other: Self) {
        self.answered += other.answered;
        self.latency.merge(&other.latency);
        self.timeline.merge(other.timeline);
        self.errors.merge(other.errors);
        self.errors.add("unanswered", other.is_waiting.into());
        self.starts.merge(&other.starts);
    }

    /// Counts the requests that were due and did not start. Without them the latencies would leave
    /// out the slowest requests.
    pub(crate) fn add_unstarted(&mut self, waits: impl Iterator<Item = Duration>) {
        for wait in waits {
            self.starts.unstarted += 1;
            self.starts.longest_wait = self.starts.longest_wait.max(wait);
            self.latency.record(wait);
        }
    }

    /// A failure counts in the warm-up, too, so that a run that breaks there does not pass.
    fn count(&mut self, outcome: Outcome, time: Duration, is_measured: bool, at: Duration) {
        self.is_waiting = false;
        match outcome {
            Outcome::Answered if is_measured => {
                self.answered += 1;
                self.latency.record(time);
                self.timeline.count(at);
            }
            Outcome::Answered => {}
            Outcome::Wrong => self.errors.add("wrong reply", 1),
            Outcome::Failed { kind, .. } => self.errors.add(kind, 1),
        }
    }
}

enum Outcome {
    Answered,
    Wrong,
    Failed { kind: String, is_final: bool },
}

impl Outcome {
    fn new(reply: Result<Bytes, CallError>, sent: &[u8]) -> Self {
        match reply {
            Ok(payload) if payload == sent => Self::Answered,
            Ok(_) => Self::Wrong,
            Err(error) => Self::Failed { kind: kind_of(&error), is_final: is_final(&error) },
        }
    }

    fn is_final(&self) -> bool {
        matches!(self, Self::Failed { is_final: true, .. })
    }
}

/// Spawns the callers of all `clients`. The counts of each come when it has ended.
pub(crate) fn spawn(
    args: &Args,
    clients: &[Client],
    control: &Arc<Control>,
    schedule: Option<&Arc<Schedule>>,
) -> (JoinSet<()>, mpsc::UnboundedReceiver<Calls>) {
    let (collector, counts) = mpsc::unbounded_channel();
    let mut callers = JoinSet::new();
    for number in 0..clients.len() as u64 * u64::from(args.callers) {
        let caller = Caller {
            client: clients[number as usize % clients.len()].clone(),
            method: args.method.clone(),
            payload: Payload::new(number, args.payload as usize),
            deadline: args.deadline,
            requests: args.share(number),
        };
        let calls = Tally::new(collector.clone());
        match schedule {
            None => callers.spawn(caller.run(control.clone(), calls)),
            Some(schedule) => {
                callers.spawn(caller.keep_to(schedule.clone(), control.clone(), calls))
            }
        };
    }
    (callers, counts)
}

struct Caller {
    client: Client,
    method: String,
    payload: Payload,
    deadline: Option<Duration>,
    requests: Option<u64>,
}

impl Caller {
    /// The clock is read once per call, because the end of one call is the beginning of the next.
    async fn run(mut self, control: Arc<Control>, mut calls: Tally<Calls>) {
        let mut began = Instant::now();
        while self.requests != Some(0) {
            let phase = control.phase();
            if phase == Phase::Over {
                break;
            }
            calls.is_waiting = true;
            let outcome = self.call().await;
            let ended = Instant::now();
            let is_final = outcome.is_final();
            let is_measured = phase == Phase::Measured;
            calls.count(outcome, ended - began, is_measured, control.measured_for(ended));
            if is_final {
                break;
            }
            began = ended;
            self.requests = self.requests.map(|left| left - u64::from(is_measured));
        }
    }

    /// The latency counts from when the request was due, not from when this caller was free for it.
    async fn keep_to(
        mut self,
        schedule: Arc<Schedule>,
        control: Arc<Control>,
        mut calls: Tally<Calls>,
    ) {
        while let Some(turn) = schedule.next().await {
            let started = Instant::now();
            if turn.is_measured {
                calls.starts.count(&schedule, turn.due, started);
            }
            calls.is_waiting = true;
            let outcome = self.call().await;
            let ended = Instant::now();
            let is_final = outcome.is_final();
            if turn.is_measured && matches!(outcome, Outcome::Answered) {
                calls.starts.uncorrected.record(ended - started);
            }
            let latency = ended.saturating_duration_since(turn.due);
            calls.count(outcome, latency, turn.is_measured, control.measured_for(ended));
            if is_final {
                break;
            }
        }
    }

    async fn call(&mut self) -> Outcome {
        self.payload.stamp_next();
        let call = self.client.call(&self.method, &self.payload.bytes);
        let reply = match self.deadline {
            None => call.await,
            Some(deadline) => call.deadline(deadline).await,
        };
        Outcome::new(reply, &self.payload.bytes)
    }
}

/// A payload that no other request of the run has.
struct Payload {
    number: u64,
    bytes: Vec<u8>,
}

impl Payload {
    fn new(caller: u64, size: usize) -> Self {
        Self { number: caller << REQUEST_BITS, bytes: vec![b'x'; size] }
    }

    fn stamp_next(&mut self) {
        self.number += 1;
        write_stamp(self.number, &mut self.bytes);
    }
}

/// Writes `number` in hexadecimal digits over the beginning of `bytes`.
pub(crate) fn write_stamp(number: u64, bytes: &mut [u8]) {
    for (place, digit) in bytes[..STAMP].iter_mut().rev().enumerate() {
        *digit = b"0123456789abcdef"[(number >> (4 * place)) as usize & 15];
    }
}
