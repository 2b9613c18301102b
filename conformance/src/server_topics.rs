//! The topics of the test server: bellwire's logs in memory, which can be trimmed and reset when
//! told.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker, ready},
};

use bellwire::{
    PublishError, Published, Random,
    protocol::{Code, Cursor, Position, Topic, Window},
    topic::{BoxFuture, MemoryTopics, Read, Room, TopicReader, TopicStore, Unavailable},
};
use bytes::Bytes;

use crate::server_options::Options;

/// Logs in memory.
#[derive(Clone)]
pub struct TestTopics(Arc<Hub>);

struct Hub {
    random: Random,
    memory: MemoryTopics,
    /// How many messages a log retains, and how many topics may have a log.
    retained: u64,
    topics: usize,
    /// The log of the topic `no-log` cannot be opened.
    has_no_log: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    born: HashSet<Topic>,
    changes: HashMap<Topic, Changes>,
}

/// What happened to a topic besides publishing.
#[derive(Default)]
struct Changes {
    /// How often it was reset.
    generation: u64,
    /// The log since the last reset.
    memory: Option<MemoryTopics>,
    /// Numbers below this have left.
    first: u64,
    /// The readers that wait.
    waiting: Vec<Waker>,
}

impl TestTopics {
    pub fn new(options: &Options) -> Self {
        let random = Random::from_system();
        let memory = MemoryTopics::new(&random);
        let Options { retained, topics, has_no_log, .. } = *options;
        let state = Mutex::default();
        Self(Arc::new(Hub { random, memory, retained, topics, has_no_log, state }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().expect("no holder panics")
    }

    fn memory(&self, changes: &Changes) -> MemoryTopics {
        changes.memory.clone().unwrap_or_else(|| self.0.memory.clone())
    }

    fn change(&self, topic: &Topic, change: impl FnOnce(&mut Changes)) {
        let waiting = {
            let mut state = self.state();
            let changes = state.changes.entry(topic.clone()).or_default();
            change(changes);
            std::mem::take(&mut changes.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Lets the messages below `first` leave the log of `topic`.
    pub fn trim(&self, topic: &Topic, first: u64) {
        self.change(topic, |changes| changes.first = changes.first.max(first));
    }

    /// Replaces the log of `topic` by an empty one of another epoch, as after a loss.
    pub fn reset(&self, topic: &Topic) {
        let memory = MemoryTopics::new(&self.0.random);
        self.change(topic, |changes| {
            *changes = Changes {
                generation: changes.generation + 1,
                memory: Some(memory),
                first: 0,
                waiting: std::mem::take(&mut changes.waiting),
            };
        });
    }

    /// Counts the log of `topic`; whether there is room for it.
    fn count(&self, topic: &Topic) -> bool {
        let mut state = self.state();
        let has_room = state.born.len() < self.0.topics || state.born.contains(topic);
        if has_room {
            state.born.insert(topic.clone());
        }
        has_room
    }
}

impl TopicStore for TestTopics {
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        if !self.count(topic) {
            return Box::pin(std::future::ready(Err(PublishError::TooMany)));
        }
        let memory = {
            let mut state = self.state();
            self.memory(state.changes.entry(topic.clone()).or_default())
        };
        let (topics, topic, appended) =
            (self.clone(), topic.clone(), memory.append(topic, payload));
        Box::pin(async move {
            let published = appended.await?;
            let first = (published.sequence + 1).saturating_sub(topics.0.retained);
            topics.trim(&topic, first);
            Ok(published)
        })
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        let mut reader = TestReader {
            topics: self.clone(),
            topic: topic.clone(),
            generation: 0,
            reader: self.0.memory.open(topic),
        };
        reader.reopen();
        Box::new(reader)
    }

    fn has_room_for(&self, topic: &Topic) -> bool {
        let state = self.state();
        state.born.len() < self.0.topics || state.born.contains(topic)
    }

    fn close(&self, topic: &Topic) -> BoxFuture<Result<Option<Position>, Unavailable>> {
        let memory = {
            let mut state = self.state();
            state.born.remove(topic);
            let changes = state.changes.entry(topic.clone()).or_default();
            changes.first = 0;
            self.memory(changes)
        };
        memory.close(topic)
    }
}

struct TestReader {
    topics: TestTopics,
    topic: Topic,
    generation: u64,
    reader: Box<dyn TopicReader>,
}

impl TestReader {
    /// Takes the current log of the topic; whether it is another one than before.
    fn reopen(&mut self) -> bool {
        let mut state = self.topics.state();
        let changes = state.changes.entry(self.topic.clone()).or_default();
        if changes.generation == self.generation {
            return false;
        }
        self.generation = changes.generation;
        self.reader = self.topics.memory(changes).open(&self.topic);
        true
    }

    fn first(&self) -> u64 {
        self.topics.state().changes.get(&self.topic).map_or(0, |changes| changes.first)
    }

    /// Wakes the reader at the next change.
    fn register(&self, cx: &Context<'_>) {
        let mut state = self.topics.state();
        let waiting = &mut state.changes.entry(self.topic.clone()).or_default().waiting;
        if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            waiting.push(cx.waker().clone());
        }
    }
}

impl TopicReader for TestReader {
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        if self.topics.0.has_no_log && self.topic.as_str() == "no-log" {
            return Poll::Ready(Err(Unavailable("it has no log, as the options say".into())));
        }
        let window = ready!(self.reader.poll_window(cx))?;
        let first = window.first.max(self.first()).min(window.next);
        Poll::Ready(Ok(Window { first, ..window }))
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        self.register(cx);
        if self.reopen() {
            let window = ready!(self.reader.poll_window(cx))?;
            return Poll::Ready(Ok(Read::Reset(Position { epoch: window.epoch, next: 1 })));
        }
        let window = ready!(self.reader.poll_window(cx))?;
        let first = self.first().min(window.next);
        if window.epoch == cursor.position.epoch && cursor.position.next < first {
            let reason = Code::from_static("retention");
            return Poll::Ready(Ok(Read::Gap { last: first - 1, reason }));
        }
        self.reader.poll_read(cx, cursor, room, out)
    }
}
