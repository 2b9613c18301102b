//! The deadlines of all connections, in one coarse wheel driven by one timer.

use std::{
    collections::BTreeMap,
    pin::Pin,
    task::{Context, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep};

use crate::{
    protocol::Time,
    server::mailbox::{ALARM, Mailbox},
    sync::{Arc, Mutex},
};

/// How coarse: no deadline of the protocol's is finer than some tens of milliseconds.
const TICK: Duration = Duration::from_millis(10);

/// The server's time, and the alarms of its connections.
///
/// A connection registers only its earliest deadline, and only if it is earlier than what it has
/// registered; on an alarm it looks which of its deadlines passed, and registers the next.
#[derive(Debug)]
pub(super) struct Wheel {
    start: Instant,
    alarms: Mutex<Alarms>,
}

#[derive(Debug, Default)]
struct Alarms {
    by_tick: BTreeMap<u64, Vec<Arc<Mailbox>>>,
    /// Who turns the wheel.
    turner: Option<Waker>,
}

impl Wheel {
    pub(super) fn new() -> Self {
        Self { start: Instant::now(), alarms: Mutex::default() }
    }

    pub(super) fn now(&self) -> Time {
        Time::from_millis(self.start.elapsed().as_millis() as u64)
    }

    /// Raises [`ALARM`] in `mailbox` at `deadline`, or up to a tick later.
    pub(super) fn register(&self, deadline: Time, mailbox: Arc<Mailbox>) {
        let tick = deadline.as_millis().div_ceil(TICK.as_millis() as u64);
        let mut alarms = self.alarms.lock();
        let is_earliest = alarms.by_tick.first_key_value().is_none_or(|(&first, _)| tick < first);
        alarms.by_tick.entry(tick).or_default().push(mailbox);
        let turner = is_earliest.then(|| alarms.turner.take()).flatten();
        drop(alarms);
        if let Some(turner) = turner {
            turner.wake();
        }
    }

    /// Raises what is due, and sets `timer` to what comes next.
    pub(super) fn poll_turn(&self, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) {
        loop {
            let (due, next) = self.take_due(cx.waker());
            due.iter().for_each(|mailbox| mailbox.raise(ALARM));
            let Some(next) = next else { return };
            if timer.deadline() != next {
                timer.as_mut().reset(next);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
        }
    }

    fn take_due(&self, turner: &Waker) -> (Vec<Arc<Mailbox>>, Option<Instant>) {
        let now = self.now().as_millis() / TICK.as_millis() as u64;
        let mut alarms = self.alarms.lock();
        let later = alarms.by_tick.split_off(&(now + 1));
        let due = std::mem::replace(&mut alarms.by_tick, later);
        alarms.turner = Some(turner.clone());
        let next = alarms.by_tick.first_key_value();
        let next =
            next.and_then(|(&tick, _)| self.start.checked_add(TICK * u32::try_from(tick).ok()?));
        (due.into_values().flatten().collect(), next)
    }
}
