//! A manual driver of a client's connection.

use std::{sync::Arc, task::Waker};

use bellwire::{
    ConnectionError,
    unstable::client::{Connection, ConnectionState, Output},
};

use super::{
    executor::Flag,
    pipe::{Pipe, Read},
    world::World,
};
use crate::{
    history::Line,
    lines::{LineReader, Way},
};

/// The most reads in one turn.
const READS: usize = 4;

pub(super) struct ClientEnd {
    pub(super) core: Connection,
    pub(super) name: String,
    world: World,
    flag: Arc<Flag>,
    waker: Waker,
    was_gathered: bool,
    /// Reading returned nothing, so arriving bytes wake this end.
    waits_to_read: bool,
    /// The transport took nothing, so room in it wakes this end.
    waits_to_write: bool,
    to_server: LineReader,
    to_client: LineReader,
    connection: u64,
    /// Topics whose `/end` was read.
    ended_topics: Vec<String>,
    /// Why the connection ended.
    pub(super) ended: Option<ConnectionError>,
}

impl ClientEnd {
    pub(super) fn new(world: &World, name: &str, connection: u64, core: Connection) -> Self {
        let flag = Arc::<Flag>::default();
        flag.set();
        Self {
            core,
            name: name.to_owned(),
            world: world.clone(),
            waker: Waker::from(flag.clone()),
            flag,
            was_gathered: false,
            waits_to_read: false,
            waits_to_write: false,
            to_server: LineReader::new(Way::ToServer),
            to_client: LineReader::new(Way::ToClient),
            connection,
            ended_topics: Vec::new(),
            ended: None,
        }
    }

    /// Whether this end was woken.
    pub(super) fn is_ready(&self, input: &Pipe, output: &Pipe) -> bool {
        self.ended.is_none()
            && (self.flag.is_set()
                || (self.waits_to_read && input.is_readable())
                || (self.waits_to_write && output.room() > 0)
                || self.core.next_timeout().is_some_and(|at| at <= self.world.now()))
    }

    pub(super) fn turn(&mut self, input: &mut Pipe, output: &mut Pipe) {
        self.flag.take();
        (self.waits_to_read, self.waits_to_write) = (false, false);
        if let Err(error) = self.go_on(input, output) {
            self.end(error, input, output);
        }
    }

    /// Topics that have ended since the last call, and that are not subscribed to again on this
    /// connection because the server leaves.
    pub(super) fn given_up(&mut self) -> Vec<String> {
        let ended = std::mem::take(&mut self.ended_topics);
        match self.core.connection_state() {
            ConnectionState::Leaving | ConnectionState::Left => ended,
            _ => Vec::new(),
        }
    }

    fn end(&mut self, error: ConnectionError, input: &mut Pipe, output: &mut Pipe) {
        self.core.end(&error, self.world.now());
        assert_eq!(self.core.connection_state(), ConnectionState::Closed);
        self.world.wire(&self.name, self.connection, Line::Closed);
        self.ended = Some(error);
        output.shut();
        input.deafen();
    }

    fn go_on(&mut self, input: &mut Pipe, output: &mut Pipe) -> Result<(), ConnectionError> {
        let read = self.read(input);
        self.core.finish_input()?;
        read?;
        let now = self.world.now();
        if self.core.next_timeout().is_some_and(|at| at <= now) {
            self.core.handle_timeout(now)?;
        }
        self.write(output)?;
        while self.core.next_timeout().is_some_and(|at| at <= now) {
            self.core.handle_timeout(now)?;
            self.write(output)?;
        }
        Ok(())
    }

    fn read(&mut self, input: &mut Pipe) -> Result<(), ConnectionError> {
        for _ in 0..READS {
            if self.world.chance(8) {
                self.waits_to_read = true;
                return Ok(());
            }
            match input.read(size(&self.world)) {
                Read::Bytes(bytes) => {
                    self.world.passed(self.connection, &bytes);
                    let (world, name, number) = (&self.world, &self.name, self.connection);
                    let ended = &mut self.ended_topics;
                    self.to_client.pass(&bytes, |line| {
                        if let Line::End { topic, .. } = &line {
                            ended.push(topic.clone());
                        }
                        world.wire(name, number, line);
                    });
                    self.core.handle_input(&bytes, self.world.now())?;
                }
                Read::Eof => return Err(self.core.handle_eof()),
                Read::Pending => {
                    self.waits_to_read = true;
                    return Ok(());
                }
            }
        }
        self.flag.set();
        Ok(())
    }

    fn write(&mut self, output: &mut Pipe) -> Result<(), ConnectionError> {
        let now = self.world.now();
        loop {
            match self.core.poll_output(self.was_gathered, &self.waker, now)? {
                Output::Nothing => return Ok(()),
                Output::Write => self.was_gathered = false,
                _ => {
                    self.was_gathered = true;
                    self.flag.set();
                    return Ok(());
                }
            }
            while !self.core.output().is_empty() {
                let most = output.room().min(size(&self.world));
                if most == 0 || self.world.chance(16) {
                    self.waits_to_write = true;
                    return self.core.handle_write_blocked(&self.waker, now);
                }
                let bytes = self.core.output();
                let bytes = &bytes[..most.min(bytes.len())];
                self.world.passed(!self.connection, bytes);
                let (world, name, number) = (&self.world, &self.name, self.connection);
                self.to_server.pass(bytes, |line| world.wire(name, number, line));
                output.write(bytes);
                let count = bytes.len();
                self.core.handle_written(count, now);
            }
            if self.core.needs_flush() {
                self.core.handle_flushed();
            }
        }
    }
}

/// The most bytes that pass at once.
pub(super) fn size(world: &World) -> usize {
    match world.below(4) {
        0 | 1 => usize::MAX,
        2 => 1 + world.below(64),
        _ => 1 + world.below(5),
    }
}
