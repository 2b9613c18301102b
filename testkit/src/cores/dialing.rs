//! A manual driver of a client's connections. It reconnects after a pause.

use std::{sync::Arc, task::Waker, time::Duration};

use bellwire::{
    Client, ClientConfig,
    protocol::Time,
    unstable::client::{Connection, Dial, Dialer, dialer},
};

use super::{executor::Flag, world::World};

/// The longest pauses before an attempt, in milliseconds.
const PAUSES: [usize; 4] = [1, 1, 100, 3_000];

pub(super) struct Dialing {
    dialer: Dialer,
    world: World,
    flag: Arc<Flag>,
    waker: Waker,
    /// When it connects; `None` while there is a connection.
    due: Option<Time>,
    has_ended: bool,
}

impl Dialing {
    pub(super) fn new(world: &World, config: ClientConfig) -> (Client, Self) {
        let (client, dialer) = dialer(config);
        let flag = Arc::<Flag>::default();
        flag.set();
        let waker = Waker::from(flag.clone());
        let (world, due, has_ended) = (world.clone(), None, false);
        (client, Self { dialer, world, flag, waker, due, has_ended })
    }

    /// Whether the driver was woken.
    pub(super) fn is_ready(&self) -> bool {
        !self.has_ended && (self.flag.is_set() || self.is_due())
    }

    fn is_due(&self) -> bool {
        self.next_timeout().is_some_and(|at| at <= self.world.now())
    }

    pub(super) fn next_timeout(&self) -> Option<Time> {
        let live =
            (!self.has_ended).then(|| self.dialer.next_timeout().into_iter().chain(self.due));
        live?.min()
    }

    /// Whether there is a connection, or the client has ended.
    pub(super) fn is_settled(&self) -> bool {
        self.due.is_none() && !self.is_ready()
    }

    /// Returns the next connection once it is established.
    pub(super) fn turn(&mut self) -> Option<Connection> {
        self.flag.take();
        let now = self.world.now();
        if self.dialer.next_timeout().is_some_and(|at| at <= now) {
            self.dialer.handle_timeout(now);
        }
        match self.dialer.poll(&self.waker, now) {
            Dial::Connect => {
                let pause = || self.world.below(PAUSES[self.world.below(PAUSES.len())]) as u64;
                let due = self.due.unwrap_or_else(|| now.after(Duration::from_millis(pause())));
                self.due = Some(due).filter(|due| *due > now);
                if self.due.is_some() {
                    return None;
                }
                // The dialer is polled again once the connection exists.
                self.flag.set();
                Some(self.dialer.connect(now).expect("it is to connect"))
            }
            Dial::Ended => {
                (self.has_ended, self.due) = (true, None);
                None
            }
            _ => {
                self.due = None;
                None
            }
        }
    }
}
