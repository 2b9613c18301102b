//! A manual driver of a server's connection.

use std::{sync::Arc, task::Waker};

use bellwire::{
    server::{PeerAddr, Principal, Session},
    unstable::server::{Connection, ConnectionState, Environment, StopStep},
};

use super::{
    client_end::size,
    executor::Flag,
    pipe::{Pipe, Read},
    world::World,
};

/// The most rounds in one turn.
const ROUNDS: usize = 3;
/// The most turns in a row that ask for another turn without passing a byte.
const IDLE_TURNS: usize = 10_000;

pub(super) struct ServerEnd {
    /// `None` once the connection is closed and dropped.
    pub(super) core: Option<Connection>,
    pub(super) session: Session,
    world: World,
    flag: Arc<Flag>,
    waker: Waker,
    waits_to_read: bool,
    waits_to_write: bool,
    idle_turns: usize,
}

impl ServerEnd {
    pub(super) fn new(world: &World, environment: &Arc<Environment>, number: u64) -> Self {
        let peer = PeerAddr::Other("by hand".into());
        let (principal, now) = (Principal::anonymous(), world.now());
        let core = Connection::accept(environment, number.into(), peer, principal, now);
        let flag = Arc::<Flag>::default();
        flag.set();
        Self {
            session: core.session().clone(),
            core: Some(core),
            world: world.clone(),
            waker: Waker::from(flag.clone()),
            flag,
            waits_to_read: false,
            waits_to_write: false,
            idle_turns: 0,
        }
    }

    /// Whether this end was woken.
    pub(super) fn is_ready(&self, input: &Pipe, output: &Pipe) -> bool {
        let Some(core) = &self.core else { return false };
        self.flag.is_set()
            || (self.waits_to_read && input.is_readable())
            || (self.waits_to_write && output.room() > 0)
            || core.next_timeout().is_some_and(|at| at <= self.world.now())
    }

    pub(super) fn stop(&mut self, step: StopStep) {
        if let Some(core) = &mut self.core {
            core.handle_stop(step, self.world.now());
            self.flag.set();
        }
    }

    pub(super) fn turn(&mut self, input: &mut Pipe, output: &mut Pipe) {
        let Some(mut core) = self.core.take() else { return };
        self.flag.take();
        (self.waits_to_read, self.waits_to_write) = (false, false);
        let now = self.world.now();
        core.handle_wakeups(&self.waker, now);
        if core.next_timeout().is_some_and(|at| at <= now) {
            core.handle_timeout(now);
        }
        let mut goes_on = true;
        for _ in 0..ROUNDS {
            (self.waits_to_read, self.waits_to_write) = (false, false);
            goes_on = self.round(&mut core, input, output);
            if !goes_on {
                break;
            }
        }
        if goes_on {
            self.flag.set();
            self.idle_turns += 1;
            assert!(self.idle_turns < IDLE_TURNS, "the server does not come to rest: {core:?}");
        }
        match core.state() {
            ConnectionState::Closed => self.drop_core(core, input, output),
            _ => self.core = Some(core),
        }
    }

    fn round(&mut self, core: &mut Connection, input: &mut Pipe, output: &mut Pipe) -> bool {
        let now = self.world.now();
        core.begin_round(now);
        while let Some(most) = core.wants_input() {
            let read = match self.world.chance(8) {
                true => Read::Pending,
                false => input.read(most.min(size(&self.world))),
            };
            match read {
                Read::Bytes(bytes) => {
                    self.idle_turns = 0;
                    core.handle_input(&bytes, now);
                }
                Read::Eof => core.handle_eof(now),
                Read::Pending => {
                    self.waits_to_read = true;
                    break;
                }
            }
        }
        core.advance(now);
        self.write(core, output);
        let goes_on = core.end_round(now);
        if core.state() == ConnectionState::Closing {
            assert!(core.output().is_empty(), "output is left");
            output.shut();
            core.handle_shutdown(now);
            return core.state() != ConnectionState::Closed;
        }
        goes_on
    }

    fn write(&mut self, core: &mut Connection, output: &mut Pipe) {
        let now = self.world.now();
        while !core.output().is_empty() {
            let most = output.room().min(size(&self.world)).min(core.output().len());
            if most == 0 || self.world.chance(16) {
                self.waits_to_write = true;
                core.handle_write_blocked(now);
                return;
            }
            output.write(&core.output()[..most]);
            core.handle_written(most, now);
            self.idle_turns = 0;
        }
        if core.needs_flush() {
            core.handle_flushed(now);
        }
    }

    /// The connection has ended, so the driver drops its transport.
    fn drop_core(&mut self, core: Connection, input: &mut Pipe, output: &mut Pipe) {
        drop(core);
        output.shut();
        input.deafen();
    }

    /// The transport is lost.
    pub(super) fn lose(&mut self, input: &mut Pipe, output: &mut Pipe) {
        if let Some(core) = self.core.take() {
            self.drop_core(core, input, output);
        }
    }
}
