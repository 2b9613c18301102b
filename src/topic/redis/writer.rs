//! The task that writes. Messages that wait are sent together, and the next ones after the answer.

use std::{collections::HashMap, future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    time::sleep,
};

use super::{
    command::{Append, Command},
    config::RedisConfig,
    connection::{Connection, Messages},
    error::{Failure, TARGET},
    link::{State, ended},
    remote::{Followed, Remote},
    source::Source,
};
use crate::{
    protocol::{Position, Topic},
    random::Random,
    sync::Arc,
    topic::{PublishError, Published, Unavailable, tail::Tail},
};

/// Messages, and bytes of payload, that are sent at once at most; the bytes by one message more.
const BATCH: usize = 1_024;
const BATCH_BYTES: usize = 1 << 20;

pub(super) struct Writer {
    pub(super) tail: Arc<Tail<Remote>>,
    pub(super) source: Arc<Source>,
    pub(super) config: RedisConfig,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    /// A command that came behind messages.
    pub(super) next: Option<Command>,
}

/// Why the task uses a connection no more.
enum End {
    Lost(String),
    Stopped(Option<oneshot::Sender<()>>),
}

impl Writer {
    pub(super) async fn run(mut self, connection: Connection) {
        let mut connection = Some(connection);
        let done = loop {
            let Some(current) = connection.take() else {
                match self.reconnect().await {
                    Ok(again) => connection = Some(again),
                    Err(done) => break done,
                }
                continue;
            };
            match self.serve(current).await {
                End::Lost(why) => {
                    tracing::warn!(target: TARGET, why, "the connection to Redis is lost");
                    self.set(State::Down(why));
                }
                End::Stopped(done) => break done,
            }
        };
        self.set(State::Closed);
        self.commands.close();
        while let Ok(command) = self.commands.try_recv() {
            self.refuse(command, &ended());
        }
        if let Some(done) = done {
            // The caller may be gone.
            let _ = done.send(());
        }
    }

    fn set(&self, state: State) {
        let before = self.tail.archive.link.state.send_replace(state);
        drop(before);
    }

    /// Uses a connection until it is lost.
    async fn serve(&mut self, connection: Connection) -> End {
        self.set(State::Up(connection.clone()));
        loop {
            let command = match self.next.take() {
                Some(command) => Some(command),
                None => self.commands.recv().await,
            };
            let done = match command {
                Some(Command::Append(append @ Append { once: None, .. })) => {
                    self.append(&connection, append).await
                }
                Some(Command::Append(append)) => self.append_once(&connection, append).await,
                Some(Command::Close(topic, done)) => self.close(&connection, topic, done).await,
                Some(Command::Check) => self.check(&connection).await,
                Some(Command::Sweep) => {
                    tokio::spawn(sweep(self.tail.clone(), connection.clone()));
                    Ok(())
                }
                Some(Command::Stop(done)) => return End::Stopped(done),
                None => return End::Stopped(None),
            };
            if let Err(failure) = done
                && failure.ends_connection()
            {
                return End::Lost(failure.why().into());
            }
        }
    }

    /// Sends a message, together with those that wait behind it.
    async fn append(&mut self, connection: &Connection, first: Append) -> Result<(), Failure> {
        let batch = self.batch(first);
        let bytes = batch.iter().map(Append::bytes).sum();
        let (order, messages) = by_topic(&batch);
        let appended = connection.append(&messages).await;
        self.tail.archive.written(bytes);
        let (count, begins) = match appended {
            Ok(appended) => appended,
            Err(failure) => {
                for append in batch {
                    let _ = append.done.send(Err(failure.publishing()));
                }
                return Err(failure);
            }
        };
        let born = messages.iter().zip(&begins).filter(|(_, begin)| begin.is_some());
        let born = born.map(|(messages, _)| messages.topic.clone());
        let learnt = self.tail.archive.census.learn(connection, count, born, None).await;
        let numbers = numbers(&order, &begins);
        for (append, number) in batch.into_iter().zip(numbers) {
            // The publisher may be gone.
            let _ = append.done.send(number);
        }
        learnt
    }

    async fn append_once(&self, connection: &Connection, append: Append) -> Result<(), Failure> {
        let bytes = append.bytes();
        let Append { topic, payload, once, done, .. } = append;
        let Some(once) = once else { return Ok(()) };
        let appended = connection.append_once(&topic, &payload, &once).await;
        self.tail.archive.written(bytes);
        let (count, at) = match appended {
            Ok(appended) => appended,
            Err(failure) => {
                let _ = done.send(Err(failure.publishing()));
                return Err(failure);
            }
        };
        let census = &self.tail.archive.census;
        let learnt = census.learn(connection, count, at.map(|_| topic).into_iter(), None).await;
        let number = at.map(|Position { epoch, next }| Published::new(epoch, next));
        // The publisher may be gone.
        let _ = done.send(number.ok_or(PublishError::TooMany));
        learnt
    }

    fn batch(&mut self, first: Append) -> Vec<Append> {
        let (mut bytes, mut batch) = (first.content(), vec![first]);
        while batch.len() < BATCH && bytes < BATCH_BYTES {
            match self.commands.try_recv() {
                Ok(Command::Append(append @ Append { once: None, .. })) => {
                    bytes += append.content();
                    batch.push(append);
                }
                other => {
                    self.next = other.ok();
                    break;
                }
            }
        }
        batch
    }

    async fn close(
        &self,
        connection: &Connection,
        topic: Topic,
        done: oneshot::Sender<Result<Option<Position>, Unavailable>>,
    ) -> Result<(), Failure> {
        let closed = match connection.close(&topic).await {
            Ok(closed) => closed,
            Err(failure) => {
                let _ = done.send(Err(Unavailable(failure.why().into())));
                return Err(failure);
            }
        };
        let (count, end) = closed;
        let census = &self.tail.archive.census;
        let learnt = census.learn(connection, count, std::iter::empty(), Some(&topic)).await;
        if let Some(end) = end {
            self.tail.end(&topic, end);
        }
        let _ = done.send(Ok(end));
        learnt
    }

    async fn check(&self, connection: &Connection) -> Result<(), Failure> {
        // A replica answers a ping, but refuses scripts.
        let checked = connection.heads(&[]).await;
        if !checked.as_ref().is_err_and(Failure::ends_connection) {
            self.set(State::Up(connection.clone()));
        }
        checked.map(drop)
    }

    /// Connects, and refuses all commands meanwhile.
    async fn reconnect(&mut self) -> Result<Connection, Option<oneshot::Sender<()>>> {
        let link = self.tail.archive.link.clone();
        let (source, config) = (self.source.clone(), self.config.clone());
        let mut connecting = pin!(async move {
            let mut attempt = 0;
            loop {
                let why = match connect(&source, &config).await {
                    Ok(connection) => return connection,
                    Err(why) => why,
                };
                tracing::debug!(target: TARGET, why, "cannot connect to Redis");
                link.state.send_replace(State::Down(why));
                sleep(pause(attempt, &config.random)).await;
                attempt += 1;
            }
        });
        loop {
            let next = poll_fn(|cx| {
                if let Poll::Ready(connection) = connecting.as_mut().poll(cx) {
                    return Poll::Ready(Ok(connection));
                }
                self.commands.poll_recv(cx).map(Err)
            });
            let waiting = self.next.take();
            let next = if waiting.is_some() { Err(waiting) } else { next.await };
            match next {
                Ok(connection) => return Ok(connection),
                Err(Some(Command::Stop(done))) => return Err(done),
                Err(None) => return Err(None),
                Err(Some(command)) => {
                    let why = self.tail.archive.link.check().err();
                    self.refuse(command, &why.unwrap_or_else(ended));
                }
            }
        }
    }

    fn refuse(&self, command: Command, why: &Unavailable) {
        match command {
            Command::Append(append) => {
                self.tail.archive.written(append.bytes());
                let _ = append.done.send(Err(PublishError::Busy(why.clone())));
            }
            Command::Close(_, done) => {
                let _ = done.send(Err(why.clone()));
            }
            Command::Stop(Some(done)) => {
                let _ = done.send(());
            }
            Command::Check | Command::Sweep | Command::Stop(None) => {}
        }
    }
}

async fn connect(source: &Source, config: &RedisConfig) -> Result<Connection, String> {
    let connection = Connection::open(source, config).await.map_err(|error| error.to_string())?;
    // A replica and a server that is loading refuse it.
    match connection.heads(&[]).await {
        Err(failure) if failure.ends_connection() => Err(failure.why().into()),
        _ => Ok(connection),
    }
}

/// The time before the next attempt: up to 50 ms at first, up to 2 s later.
pub(super) fn pause(attempt: u32, random: &Random) -> Duration {
    let most = (50_u64 << attempt.min(6)).min(2_000);
    Duration::from_millis(most / 2 + random.next_u64() % (most / 2))
}

/// The messages of each topic; and for each message the index of its topic.
fn by_topic(batch: &[Append]) -> (Vec<usize>, Vec<Messages<'_>>) {
    let mut found: HashMap<&Topic, usize> = HashMap::new();
    let mut topics: Vec<Messages<'_>> = Vec::new();
    let order = batch.iter().map(|Append { topic, key, payload, .. }| {
        let index = *found.entry(topic).or_insert(topics.len());
        if index == topics.len() {
            topics.push(Messages { topic, payloads: Vec::new(), keys: Vec::new() });
        }
        let Messages { payloads, keys, .. } = &mut topics[index];
        keys.extend(key.as_deref().map(|key| (payloads.len(), key)));
        payloads.push(payload);
        index
    });
    (order.collect(), topics)
}

/// The number of each message, from those of the first messages of the topics.
fn numbers(order: &[usize], begins: &[Option<Position>]) -> Vec<Result<Published, PublishError>> {
    let mut next = begins.to_vec();
    let number = |&index: &usize| {
        let at = next.get_mut(index).and_then(Option::as_mut).ok_or(PublishError::TooMany)?;
        let published = Published::new(at.epoch, at.next);
        at.next += 1;
        Ok(published)
    };
    order.iter().map(number).collect()
}

/// Drops logs whose messages have expired. Other servers do the same, which does no harm.
async fn sweep(tail: Arc<Tail<Remote>>, connection: Connection) {
    tail.tidy();
    let mut at = "0".to_owned();
    loop {
        let swept = connection.sweep(&at).await;
        let (count, next) = match swept {
            Ok(swept) => swept,
            // The next sweep does it.
            Err(_) => return,
        };
        let census = &tail.archive.census;
        if next == "0" {
            // If it fails, the next message learns it.
            let _ = census.learn(&connection, count, std::iter::empty(), None).await;
            return;
        }
        at = next;
    }
}
