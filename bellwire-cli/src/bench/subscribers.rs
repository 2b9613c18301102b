//! The subscribers, which check that all missed messages are named, and their publisher.

use std::{
    process,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use bellwire::{CallError, Client, Delivery, Notification, Publisher, Subscription};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};

use crate::bench::{
    args::Args,
    callers::{STAMP, write_stamp},
    errors::{Errors, kind_of, kind_of_publish},
    latency::Latency,
    tally::Tally,
};

/// How often the publisher checks how many messages are due.
const TICK: Duration = Duration::from_millis(1);
/// The most messages published in one tick, so that an unreachable rate does not build a backlog.
const MOST_AT_ONCE: u64 = 1_024;
/// The last notification. The newest message of a log is never part of a gap.
const END: &[u8] = b"end";

/// The counts of a subscriber.
#[derive(Debug, Default)]
pub(crate) struct Received {
    pub(crate) delivered: u64,
    pub(crate) gaps: u64,
    /// The numbers named in gaps.
    pub(crate) missed: u64,
    /// From before `publish` to the subscriber's application.
    pub(crate) latency: Latency,
    pub(crate) errors: Errors,
    is_complete: bool,
}

impl Received {
    /// Adds the counts of another subscriber that has ended.
    pub(crate) fn merge(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.gaps += other.gaps;
        self.missed += other.missed;
        self.latency.merge(&other.latency);
        self.errors.merge(other.errors);
        self.errors.add("subscription without its last notification", (!other.is_complete).into());
    }
}

/// The counts of the publisher.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    pub(crate) published: u64,
    pub(crate) errors: Errors,
    is_waiting: bool,
}

impl Sent {
    /// Adds the counts of the publisher that has ended.
    pub(crate) fn merge(&mut self, other: Self) {
        self.published += other.published;
        self.errors.merge(other.errors);
        self.errors.add("publish unanswered", other.is_waiting.into());
    }
}

/// A topic of this run only, because others may use the same server.
pub(crate) fn topic() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("load_test.{}.{}", process::id(), now.as_nanos())
}

/// Spawns a task for each subscription. It ends after [`END`] and then hands in its counts.
pub(crate) fn spawn(
    subscriptions: Vec<Subscription>,
    clock: Instant,
) -> (JoinSet<()>, mpsc::UnboundedReceiver<Received>) {
    let (collector, counts) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    for subscription in subscriptions {
        let next = subscription.position().next;
        let received = Tally::new(collector.clone());
        tasks.spawn(Subscriber { subscription, clock, next, received }.run());
    }
    (tasks, counts)
}

struct Subscriber {
    subscription: Subscription,
    clock: Instant,
    /// The number that is next, or the first of a gap.
    next: u64,
    received: Tally<Received>,
}

impl Subscriber {
    async fn run(mut self) {
        while let Some(delivery) = self.subscription.next().await {
            match delivery {
                Delivery::Notification(notification) => {
                    self.expect(notification.sequence, notification.sequence);
                    if *notification.payload == *END {
                        self.received.is_complete = true;
                        break;
                    }
                    self.count(&notification);
                }
                Delivery::Gap(gap) => {
                    self.expect(gap.first, gap.last);
                    self.received.gaps += 1;
                    self.received.missed += (gap.last + 1).saturating_sub(gap.first);
                }
                Delivery::Reset { .. } => self.received.errors.add("subscription reset", 1),
                Delivery::End { reason, .. } => {
                    self.received.errors.add(format!("subscription ended {reason}"), 1);
                }
                _ => self.received.errors.add("unknown delivery", 1),
            }
        }
    }

    /// Handles the numbers from `first` to `last` as the next ones.
    fn expect(&mut self, first: u64, last: u64) {
        self.received.errors.add("out of sequence", u64::from(first != self.next));
        self.next = last + 1;
    }

    fn count(&mut self, notification: &Notification) {
        let now = self.clock.elapsed();
        match read_stamp(&notification.payload) {
            Some(published) => {
                self.received.delivered += 1;
                self.received.latency.record(now.saturating_sub(published));
            }
            None => self.received.errors.add("wrong notification", 1),
        }
    }
}

/// How the publisher reaches the topic: directly in the server's process, otherwise as a client.
#[derive(Debug)]
pub(crate) enum Way {
    InProcess(Publisher),
    Remote(Client),
}

impl Way {
    async fn publish(&self, topic: &str, payload: &[u8]) -> Result<(), String> {
        match self {
            Self::InProcess(publisher) => {
                let published = publisher.publish(topic, payload.to_vec()).await;
                published.map(drop).map_err(|error| kind_of_publish(&error).into())
            }
            Self::Remote(client) => {
                let published = client.publish(topic, payload).await;
                published
                    .map(drop)
                    .map_err(|error: CallError| format!("publish {}", kind_of(&error)))
            }
        }
    }
}

/// Spawns the publisher. It ends when it is `stopped`, or at the first error, and then hands in its
/// counts.
pub(crate) fn spawn_publisher(
    args: &Args,
    way: Way,
    topic: String,
    clock: Instant,
    stopped: oneshot::Receiver<()>,
) -> (JoinSet<()>, mpsc::UnboundedReceiver<Sent>) {
    let (collector, counts) = mpsc::unbounded_channel();
    let payload = vec![b'x'; args.payload as usize];
    let source = Source { way, topic, clock, payload, sent: Tally::new(collector) };
    let mut tasks = JoinSet::new();
    tasks.spawn(source.run(args.publish_rate.into(), stopped));
    (tasks, counts)
}

struct Source {
    way: Way,
    topic: String,
    clock: Instant,
    payload: Vec<u8>,
    sent: Tally<Sent>,
}

impl Source {
    /// At least one notification, and then [`END`].
    async fn run(mut self, rate: f64, mut stopped: oneshot::Receiver<()>) {
        self.sent.is_waiting = true;
        let outcome = async {
            self.publish_at(rate, &mut stopped).await?;
            self.way.publish(&self.topic, END).await
        };
        if let Err(kind) = outcome.await {
            self.sent.errors.add(kind, 1);
        }
        self.sent.is_waiting = false;
    }

    async fn publish_at(
        &mut self,
        rate: f64,
        stopped: &mut oneshot::Receiver<()>,
    ) -> Result<(), String> {
        let began = Instant::now();
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let due = (began.elapsed().as_secs_f64() * rate) as u64 + 1;
            for _ in 0..due.saturating_sub(self.sent.published).min(MOST_AT_ONCE) {
                self.publish_stamped().await?;
            }
            tokio::select! {
                biased;
                _ = &mut *stopped => return Ok(()),
                _ = ticks.tick() => {}
            }
        }
    }

    async fn publish_stamped(&mut self) -> Result<(), String> {
        write_stamp(self.clock.elapsed().as_nanos() as u64, &mut self.payload);
        self.way.publish(&self.topic, &self.payload).await?;
        self.sent.published += 1;
        Ok(())
    }
}

/// When the message was published, on the run's clock.
fn read_stamp(payload: &[u8]) -> Option<Duration> {
    let digits = std::str::from_utf8(payload.get(..STAMP)?).ok()?;
    u64::from_str_radix(digits, 16).ok().map(Duration::from_nanos)
}
