//! One connection for commands, and the scripts.

use std::{fmt::Write as _, time::Duration};

use ::redis::{
    AsyncConnectionConfig, Cmd, ErrorKind, FromRedisValue, RedisError, ServerErrorKind,
    aio::MultiplexedConnection, cmd,
};

use super::{
    config::RedisConfig,
    error::{ConnectError, Failure},
    names::Names,
    source::Source,
};
use crate::{
    protocol::{Position, Topic, Window},
    random::Random,
    sync::Arc,
    topic::tail::{Ask, Fetched},
};

/// For how long readers of a closed log find the rest of it.
const CLOSED_FOR: Duration = Duration::from_secs(600);
/// The shortest time in which a connection has to be there.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

macro_rules! script {
    ($flags:literal, $($name:literal),+) => {
        concat!(
            "#!lua",
            $flags,
            "\n",
            include_str!("lua/begin.lua"),
            $(include_str!(concat!("lua/", $name, ".lua"))),+
        )
    };
}

macro_rules! key_script {
    ($flags:literal, $name:literal) => {
        concat!(
            "#!lua",
            $flags,
            "\n",
            include_str!("lua/keys.lua"),
            include_str!(concat!("lua/key_", $name, ".lua"))
        )
    };
}

/// The scripts. Those that need little memory also run when there is none left.
const SCRIPTS: [&str; 11] = [
    script!("", "store", "append"),
    script!("", "store", "once"),
    script!(" flags=allow-oom", "heads"),
    script!(" flags=allow-oom", "fetch"),
    script!(" flags=allow-oom", "close"),
    script!(" flags=allow-oom", "sweep"),
    key_script!("", "begin"),
    key_script!(" flags=allow-oom", "look"),
    key_script!(" flags=allow-oom", "end"),
    key_script!(" flags=allow-oom", "beat"),
    key_script!(" flags=allow-oom", "bury"),
];

/// An index in [`SCRIPTS`].
#[derive(Clone, Copy)]
pub(super) enum Script {
    Append,
    Once,
    Heads,
    Fetch,
    Close,
    Sweep,
    KeyBegin,
    KeyLook,
    KeyEnd,
    KeyBeat,
    KeyBury,
}

/// A connection. Cheap to clone; commands of one clone are executed in order.
#[derive(Clone)]
pub(super) struct Connection {
    inner: MultiplexedConnection,
    /// The names that the server gives to the scripts.
    hashes: Arc<[String; SCRIPTS.len()]>,
    shared: Arc<Shared>,
}

struct Shared {
    names: Names,
    random: Random,
    topics: usize,
    messages: usize,
    bytes: usize,
    expiry: u64,
    /// How long producers are known, in ms.
    remember: u64,
}

/// A number that a producer gave to a message.
#[derive(Clone, Debug)]
pub(super) struct Once {
    pub(super) producer: String,
    pub(super) number: u64,
}

/// Messages of one topic.
pub(super) struct Messages<'a> {
    pub(super) topic: &'a Topic,
    pub(super) payloads: Vec<&'a [u8]>,
    /// The keys of those that have one, each with the index of its payload.
    pub(super) keys: Vec<(usize, &'a [u8])>,
}

/// Where topics are, and how many have a log.
pub(super) struct Heads {
    pub(super) count: usize,
    pub(super) windows: Vec<Window>,
}

/// Whether the log is the current one, messages with their numbers, and the first and the last number
/// of what was replaced.
type FetchAnswer = (bool, Vec<(u64, Vec<u8>)>, Vec<(u64, u64)>);

impl Connection {
    /// Connects to a server that is not a replica.
    pub(super) async fn open(source: &Source, config: &RedisConfig) -> Result<Self, ConnectError> {
        let unreachable = |error: RedisError| ConnectError::Unreachable(error.to_string());
        let client =
            source.master(connect_within(config)).await.map_err(ConnectError::Unreachable)?;
        let settings = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(connect_within(config)))
            .set_response_timeout(Some(config.answer_within));
        let connecting = client.get_multiplexed_async_connection_with_config(&settings);
        let mut inner = connecting.await.map_err(unreachable)?;
        let hashes = load(&mut inner).await.map_err(|error| match error.code() {
            Some("ERR") => ConnectError::Version(error.to_string()),
            _ => unreachable(error),
        })?;
        let shared = Shared {
            names: Names::new(&config.prefix),
            random: config.random.clone(),
            topics: config.topics,
            messages: config.retained_messages,
            bytes: config.retained_bytes,
            expiry: config.expiry.map_or(0, millis),
            remember: millis(config.remember),
        };
        Ok(Self { inner, hashes: Arc::new(hashes), shared: Arc::new(shared) })
    }

    /// Appends messages. Returns the number of the first message of each topic; `None` if the topic
    /// has no room. Also returns how many topics have a log.
    pub(super) async fn append(
        &self,
        messages: &[Messages<'_>],
    ) -> Result<(usize, Vec<Option<Position>>), Failure> {
        let names = &self.shared.names;
        let streams = messages.iter().map(|messages| names.stream(messages.topic));
        let mut command = self.command(Script::Append, streams);
        let Shared { topics, messages: most, bytes, expiry, .. } = *self.shared;
        command.arg(topics).arg(most).arg(bytes).arg(expiry);
        for Messages { topic, payloads, keys } in messages {
            command.arg(topic.as_str()).arg(payloads.len());
            payloads.iter().for_each(|&payload| _ = command.arg(payload));
            command.arg(keys.len());
            keys.iter().for_each(|&(index, key)| _ = command.arg(index).arg(key));
        }
        let (count, answers): (usize, Vec<String>) = self.run(command).await?;
        let answers = answers.iter().map(|answer| match answer.as_str() {
            "" => Ok(None),
            position => position.parse().map(Some).map_err(|_| unexpected(position)),
        });
        Ok((count, answers.collect::<Result<_, _>>()?))
    }

    /// Appends a message, unless its producer has done so. Returns its number; `None` if the topic
    /// has no room. Also returns how many topics have a log.
    pub(super) async fn append_once(
        &self,
        topic: &Topic,
        payload: &[u8],
        once: &Once,
    ) -> Result<(usize, Option<Position>), Failure> {
        let (names, Once { producer, number }) = (&self.shared.names, once);
        let keys = [names.stream(topic), names.producer(producer)];
        let mut command = self.command(Script::Once, keys);
        let Shared { topics, messages, bytes, expiry, remember, .. } = *self.shared;
        command.arg(topics).arg(messages).arg(bytes).arg(expiry);
        command.arg(topic.as_str()).arg(payload).arg(number).arg(remember);
        let (count, answer): (usize, String) = self.run(command).await?;
        match answer.as_str() {
            "" => Ok((count, None)),
            "old" => Err(Failure::Outdated),
            position => Ok((count, Some(position.parse().map_err(|_| unexpected(position))?))),
        }
    }

    /// Says where topics are.
    pub(super) async fn heads(&self, topics: &[Topic]) -> Result<Heads, Failure> {
        let streams = topics.iter().map(|topic| self.shared.names.stream(topic));
        let mut command = self.command(Script::Heads, streams);
        topics.iter().for_each(|topic| _ = command.arg(topic.as_str()));
        let (count, answers): (usize, Vec<String>) = self.run(command).await?;
        let windows = answers.iter().map(|answer| window(answer).ok_or_else(|| unexpected(answer)));
        Ok(Heads { count, windows: windows.collect::<Result<_, _>>()? })
    }

    /// Reads messages; `None` if the topic has another log.
    pub(super) async fn fetch(&self, ask: &Ask) -> Result<(bool, Vec<Fetched>), Failure> {
        let (names, Position { epoch, next }) = (&self.shared.names, ask.from);
        let keys = [names.stream(&ask.topic), names.closed_stream(&ask.topic, epoch)];
        let mut command = self.command(Script::Fetch, keys);
        command.arg(ask.topic.as_str()).arg(epoch.as_str()).arg(next).arg(ask.bytes);
        let answer: FetchAnswer = self.run(command).await?;
        let (is_current, found, replaced) = answer;
        let message = |(sequence, payload)| Fetched::Message { sequence, payload };
        let mut found: Vec<_> = found.into_iter().map(message).collect();
        if !replaced.is_empty() {
            let gone = |(first, last)| Fetched::Replaced { first, last };
            found.extend(replaced.into_iter().map(gone));
            found.sort_unstable_by_key(Fetched::first);
        }
        Ok((is_current, found))
    }

    /// Ends the log of a topic. Returns where it ended; `None` if there was none.
    pub(super) async fn close(&self, topic: &Topic) -> Result<(usize, Option<Position>), Failure> {
        let names = &self.shared.names;
        let mut command = self.command(Script::Close, [names.stream(topic), names.closed(topic)]);
        command.arg(topic.as_str()).arg(self.shared.topics).arg(millis(CLOSED_FOR));
        let (count, end): (usize, String) = self.run(command).await?;
        match end.as_str() {
            "" => Ok((count, None)),
            end => Ok((count, Some(end.parse().map_err(|_| unexpected(end))?))),
        }
    }

    /// Drops logs whose messages have expired, some of them. Returns where to go on; `0` at the
    /// end.
    pub(super) async fn sweep(&self, from: &str) -> Result<(usize, String), Failure> {
        let mut command = self.command(Script::Sweep, [self.shared.names.streams()]);
        command.arg(from).arg(self.shared.topics);
        self.run(command).await
    }

    /// The topics that have a log.
    pub(super) async fn topics(&self) -> Result<Vec<Topic>, Failure> {
        let mut command = cmd("HKEYS");
        command.arg(self.shared.names.heads());
        let found: Vec<Vec<u8>> = command.query_async(&mut self.inner.clone()).await?;
        let topic = |name: &Vec<u8>| Topic::new(std::str::from_utf8(name).ok()?).ok();
        let topics = found.iter().filter_map(topic);
        Ok(topics.collect())
    }

    /// A call of a script of keyed requests. Its further arguments follow.
    pub(super) fn key_command(&self, script: Script) -> Cmd {
        let Shared { names, random, .. } = &*self.shared;
        let mut command = cmd("EVALSHA");
        command.arg(&self.hashes[script as usize]).arg(1).arg(names.keyed());
        command.arg(random.next_epoch().as_str());
        command
    }

    /// A call of a script with these keys. Its further arguments follow.
    fn command(&self, script: Script, keys: impl IntoIterator<Item = String>) -> Cmd {
        let Shared { names, random, .. } = &*self.shared;
        let keys: Vec<_> = [names.heads(), names.notes()].into_iter().chain(keys).collect();
        let mut command = cmd("EVALSHA");
        command.arg(&self.hashes[script as usize]).arg(keys.len()).arg(keys);
        command.arg(random.next_epoch().as_str()).arg(random.next_epoch().as_str());
        command
    }

    pub(super) async fn run<T: FromRedisValue>(&self, command: Cmd) -> Result<T, Failure> {
        let mut inner = self.inner.clone();
        let forgotten = ErrorKind::Server(ServerErrorKind::NoScript);
        match command.query_async(&mut inner).await {
            Err(error) if error.kind() == forgotten => {
                load(&mut inner).await?;
                Ok(command.query_async(&mut inner).await?)
            }
            done => Ok(done?),
        }
    }
}

/// The time in which a connection has to be there.
pub(super) fn connect_within(config: &RedisConfig) -> Duration {
    config.answer_within.max(CONNECT_WITHIN)
}

/// Gives the scripts to the server. Returns the names that it gives to them.
async fn load(
    connection: &mut MultiplexedConnection,
) -> Result<[String; SCRIPTS.len()], RedisError> {
    let mut hashes: [String; SCRIPTS.len()] = Default::default();
    for (hash, script) in hashes.iter_mut().zip(SCRIPTS) {
        *hash = cmd("SCRIPT").arg("LOAD").arg(script).query_async(connection).await?;
    }
    Ok(hashes)
}

/// Parses `EPOCH:NEXT FIRST`.
fn window(answer: &str) -> Option<Window> {
    let (end, first) = answer.split_once(' ')?;
    let Position { epoch, next } = end.parse().ok()?;
    Some(Window { epoch, first: first.parse().ok()?, next })
}

pub(super) fn unexpected(answer: &str) -> Failure {
    let mut why = String::from("an unexpected answer: ");
    // Writing to a string does not fail.
    let _ = write!(why, "{:.64}", answer.escape_debug().to_string());
    Failure::Failed(why)
}

pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}
