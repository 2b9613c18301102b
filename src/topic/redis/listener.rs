//! The task that listens to the channels of the topics that have readers.
//!
//! Redis keeps nothing for a subscriber of a channel that is away. So the listener compares the
//! ends of the logs with what it heard: when a channel is subscribed to, when it hears of another
//! epoch, and from time to time.
//!
//! **Invariant:** only an answer of Redis gives a log another epoch, and the answers are asked for
//! one after the other. An announcement may be older than such an answer.

use std::{
    collections::{HashMap, HashSet},
    future::poll_fn,
    mem,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use ::redis::{
    Msg,
    aio::{PubSub, PubSubSink, PubSubStream},
};
use futures_core::Stream;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Interval, MissedTickBehavior, interval_at, sleep, timeout},
};

use super::{
    command::{Command, Order},
    config::RedisConfig,
    connection::{Connection, connect_within},
    error::TARGET,
    link::{Link, ended},
    names::Names,
    notice::{Notice, What},
    remote::Remote,
    resets::Resets,
    source::Source,
    writer::pause,
};
use crate::{
    protocol::{Position, Topic, Window},
    sync::Arc,
    topic::{BoxFuture, Unavailable, tail::Tail},
};

/// Topics that one command names at most.
const SOME: usize = 512;

/// Those who wait to know where a topic is.
type Waiting = HashMap<Topic, Vec<oneshot::Sender<Window>>>;

pub(super) struct Listener {
    tail: Arc<Tail<Remote>>,
    source: Arc<Source>,
    config: RedisConfig,
    names: Names,
    orders: mpsc::UnboundedReceiver<Order>,
    waiting: Waiting,
    doubted: HashSet<Topic>,
    left: HashSet<Topic>,
    owed: Owed,
    resets: Resets,
    /// Topics that may be reset now.
    due: HashSet<Topic>,
}

/// Ends of logs that Redis has reported, and that the announcements have not reached.
#[derive(Default)]
struct Owed {
    old: HashMap<Topic, Position>,
    new: HashMap<Topic, Position>,
}

/// One connection for channels.
struct Session {
    sink: PubSubSink,
    stream: PubSubStream,
    subscribed: HashSet<Topic>,
    round: Option<Round>,
    checks: Interval,
}

/// A question to Redis where topics are.
struct Round {
    topics: Vec<Topic>,
    /// Those whose channels are subscribed to before.
    fresh: HashSet<Topic>,
    /// Those that may be reset.
    due: HashSet<Topic>,
    waiting: Waiting,
    answer: BoxFuture<Result<Vec<Window>, Unavailable>>,
}

enum Event {
    Heard(Msg),
    Ordered(Order),
    Answered(Result<Vec<Window>, Unavailable>),
    Reset(Topic),
    Check,
    /// The connection or the store has ended.
    Ended,
}

impl Listener {
    pub(super) fn new(
        tail: Arc<Tail<Remote>>,
        source: Arc<Source>,
        config: RedisConfig,
        orders: mpsc::UnboundedReceiver<Order>,
    ) -> Self {
        Self {
            tail,
            source,
            names: Names::new(&config.prefix),
            resets: Resets::new(config.reset_every, config.random.clone()),
            due: HashSet::new(),
            config,
            orders,
            waiting: Waiting::new(),
            doubted: HashSet::new(),
            left: HashSet::new(),
            owed: Owed::default(),
        }
    }

    /// Listens until the store is closed.
    pub(super) async fn run(self) {
        let link = self.tail.archive.link.clone();
        let mut closed = pin!(link.closed());
        let mut listening = pin!(self.listen());
        poll_fn(|cx| match closed.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(()),
            Poll::Pending => listening.as_mut().poll(cx),
        })
        .await;
    }

    async fn listen(mut self) {
        let mut attempt = 0;
        loop {
            let within = connect_within(&self.config);
            let connecting = timeout(within, subscriber(&self.source, within));
            match connecting.await {
                Ok(Ok(pubsub)) => {
                    attempt = 0;
                    self.serve(pubsub).await;
                    tracing::warn!(target: TARGET, "the connection for channels is lost");
                    // That for commands may be lost, too.
                    let _ = self.tail.archive.link.send(Command::Check);
                }
                Ok(Err(why)) => tracing::debug!(target: TARGET, why, "no channels"),
                Err(_) => tracing::debug!(target: TARGET, "no channels in time"),
            }
            sleep(pause(attempt, &self.config.random)).await;
            attempt += 1;
        }
    }

    /// Uses a connection until it is lost.
    async fn serve(&mut self, pubsub: PubSub) {
        let (sink, stream) = pubsub.split();
        let checks = self.checks();
        let mut session = Session { sink, stream, subscribed: HashSet::new(), round: None, checks };
        self.doubted.extend(self.tail.followed());
        loop {
            if session.round.is_none() {
                session.round = self.round(&mut session);
            }
            let is_fine = match poll_fn(|cx| self.poll_event(&mut session, cx)).await {
                Event::Heard(message) => self.hear(&message),
                Event::Ordered(order) => self.note(order),
                Event::Answered(answer) => self.take(&mut session, answer),
                Event::Reset(topic) => self.may_reset(topic),
                Event::Check => self.check(),
                Event::Ended => false,
            };
            if !is_fine {
                return self.give_up(session);
            }
        }
    }

    /// The first check comes at a random time, so that not all servers ask at once.
    fn checks(&self) -> Interval {
        let every = self.config.check_every;
        let millis = u64::try_from(every.as_millis()).unwrap_or(u64::MAX).max(1);
        let first = Duration::from_millis(self.config.random.next_u64() % millis);
        let mut checks = interval_at(tokio::time::Instant::now() + first, every);
        checks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        checks
    }

    fn poll_event(&mut self, session: &mut Session, cx: &mut Context<'_>) -> Poll<Event> {
        if let Some(round) = &mut session.round
            && let Poll::Ready(answer) = round.answer.as_mut().poll(cx)
        {
            return Poll::Ready(Event::Answered(answer));
        }
        if let Poll::Ready(order) = self.orders.poll_recv(cx) {
            return Poll::Ready(order.map_or(Event::Ended, Event::Ordered));
        }
        if let Poll::Ready(message) = Pin::new(&mut session.stream).poll_next(cx) {
            return Poll::Ready(message.map_or(Event::Ended, Event::Heard));
        }
        if let Poll::Ready(topic) = self.resets.poll_next(cx) {
            return Poll::Ready(Event::Reset(topic));
        }
        session.checks.poll_tick(cx).map(|_| Event::Check)
    }

    /// Takes what a channel announces.
    fn hear(&mut self, message: &Msg) -> bool {
        let Some(topic) = self.names.topic(message.get_channel_name()) else { return true };
        let Some(kept) = self.tail.find(&topic) else { return true };
        let Some(notice) = Notice::parse(message.get_payload_bytes()) else { return true };
        if kept.end().epoch != notice.at.epoch {
            if !self.resets.contains(&topic) {
                self.doubted.insert(topic);
            }
            return true;
        }
        match notice.what {
            What::Messages { .. } => {
                for (at, key, payload) in notice.messages() {
                    self.tail.push_at(&kept, at, key, payload);
                }
                self.tail.trim_followed(&kept, notice.first);
            }
            What::Closed => self.tail.finish(&kept, notice.at),
        }
        true
    }

    fn may_reset(&mut self, topic: Topic) -> bool {
        self.due.insert(topic);
        true
    }

    fn note(&mut self, order: Order) -> bool {
        match order {
            Order::Sync(topic, waiting) => self.waiting.entry(topic).or_default().push(waiting),
            Order::Doubt(topic) => _ = self.doubted.insert(topic),
            Order::Left(topic) => _ = self.left.insert(topic),
        }
        true
    }

    /// Asks Redis for all that is to be known; `None` if that is nothing.
    fn round(&mut self, session: &mut Session) -> Option<Round> {
        let left = mem::take(&mut self.left).into_iter();
        let left: Vec<_> = left
            .filter(|topic| self.tail.find(topic).is_none() && session.subscribed.remove(topic))
            .collect();
        let waiting = mem::take(&mut self.waiting);
        let mut due = mem::take(&mut self.due);
        due.extend(waiting.keys().cloned());
        let mut topics = mem::take(&mut self.doubted);
        topics.extend(due.iter().cloned());
        topics.retain(|topic| self.tail.find(topic).is_some());
        if left.is_empty() && topics.is_empty() {
            return None;
        }
        let topics: Vec<_> = topics.into_iter().collect();
        let is_fresh = |topic: &&Topic| session.subscribed.insert((*topic).clone());
        let fresh: HashSet<_> = topics.iter().filter(is_fresh).cloned().collect();
        let question = Question {
            sink: session.sink.clone(),
            link: self.tail.archive.link.clone(),
            answer_within: self.config.answer_within,
            left: left.iter().map(|topic| self.names.stream(topic)).collect(),
            fresh: fresh.iter().map(|topic| self.names.stream(topic)).collect(),
            topics: topics.clone(),
        };
        Some(Round { topics, fresh, due, waiting, answer: Box::pin(question.ask()) })
    }

    /// Takes the answer to a round. Returns whether there is one.
    fn take(&mut self, session: &mut Session, answer: Result<Vec<Window>, Unavailable>) -> bool {
        let Ok(windows) = answer else { return false };
        let Some(Round { topics, fresh, due, mut waiting, .. }) = session.round.take() else {
            return true;
        };
        for (topic, window) in topics.into_iter().zip(windows) {
            let Some(kept) = self.tail.find(&topic) else {
                self.left.insert(topic);
                continue;
            };
            let Window { epoch, first, next } = window;
            let end = kept.end();
            let is_known = end.epoch != self.tail.archive.unknown;
            if end.epoch != epoch && is_known && !due.contains(&topic) {
                // Its turn may have come since the question.
                if !self.due.contains(&topic) {
                    self.resets.push(topic);
                }
                continue;
            }
            self.resets.remove(&topic);
            if end.epoch != epoch || fresh.contains(&topic) {
                self.tail.catch_up(&kept, window);
            } else if end.next < next {
                self.owed.new.insert(topic.clone(), Position { epoch, next });
            }
            self.tail.trim_followed(&kept, first);
            for waiting in waiting.remove(&topic).into_iter().flatten() {
                // The reader may be gone.
                let _ = waiting.send(window);
            }
        }
        true
    }

    /// Compares what was heard with what Redis had before the last check. Returns whether nothing
    /// is missing.
    fn check(&mut self) -> bool {
        let new = mem::take(&mut self.owed.new);
        let mut is_fine = true;
        for (topic, at) in mem::replace(&mut self.owed.old, new) {
            let Some(kept) = self.tail.find(&topic) else { continue };
            let end = kept.end();
            is_fine &= end.epoch != at.epoch || end.next >= at.next;
        }
        if !is_fine {
            tracing::warn!(target: TARGET, "messages were not announced");
        }
        self.doubted.extend(self.tail.followed());
        is_fine
    }

    /// Keeps for the next connection what this one has not answered.
    fn give_up(&mut self, session: Session) {
        self.owed = Owed::default();
        let Some(Round { waiting, due, .. }) = session.round else { return };
        self.due.extend(due);
        for (topic, waiting) in waiting {
            self.waiting.entry(topic).or_default().extend(waiting);
        }
    }
}

/// A new connection for channels.
async fn subscriber(source: &Source, within: Duration) -> Result<PubSub, String> {
    let client = source.master(within).await?;
    client.get_async_pubsub().await.map_err(|error| error.to_string())
}

/// What a round does.
struct Question {
    sink: PubSubSink,
    link: Arc<Link>,
    answer_within: Duration,
    /// Channels to leave.
    left: Vec<String>,
    /// Channels to subscribe to.
    fresh: Vec<String>,
    topics: Vec<Topic>,
}

impl Question {
    /// Fails if the connection for channels is lost.
    async fn ask(mut self) -> Result<Vec<Window>, Unavailable> {
        for left in self.left.chunks(SOME) {
            let leaving = timeout(self.answer_within, self.sink.unsubscribe(left));
            answered(leaving.await)?;
        }
        for fresh in self.fresh.chunks(SOME) {
            let subscribing = timeout(self.answer_within, self.sink.subscribe(fresh));
            answered(subscribing.await)?;
        }
        let mut windows = Vec::with_capacity(self.topics.len());
        for topics in self.topics.chunks(SOME) {
            let read = |connection: Connection| async move { connection.heads(topics).await };
            let heads = self.link.read(read).await?;
            windows.extend(heads.windows);
        }
        Ok(windows)
    }
}

type Answered = Result<Result<(), ::redis::RedisError>, tokio::time::error::Elapsed>;

fn answered(answer: Answered) -> Result<(), Unavailable> {
    match answer {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(Unavailable(error.to_string())),
        Err(_) => Err(ended()),
    }
}
