//! The deadlines of all connections, in ticks, driven by one timer of the runtime.

use std::{
    collections::BTreeMap,
    pin::Pin,
    task::{Context, Waker},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::{
    protocol::Time,
    server::{
        mailbox::{ALARM, Mailbox},
        session::SessionClock,
    },
    sync::{Arc, AtomicU64, Mutex, Ordering},
};

/// The length of a tick, in milliseconds. Deadlines of the protocol need not be more exact than
/// some tens.
const TICK: u64 = 10;

/// If an alarm is later than this, in milliseconds, the process was stopped.
const LATE: u64 = 1_000;

/// How long all alarms are held back after that, in milliseconds. Meanwhile the connections read
/// what has arrived; this is enough for ten thousand of them.
const HOLD: u64 = 250;

/// A time in the far future.
const AGES: Duration = Duration::from_secs(1_000 * 365 * 24 * 60 * 60);

/// The server's time, and the alarms of its connections.
///
/// A connection registers only its earliest deadline, and only if that is earlier than the
/// registered one. On an alarm it checks its deadlines, and registers the next one.
#[derive(Debug)]
pub(in crate::server) struct Timers {
    start: Instant,
    alarms: Mutex<Alarms>,
    connections: AtomicU64,
}

/// A connection's entry in the timers.
///
/// **Invariant:** the timers hold at most one entry per alarm, and none once it is cleared. So
/// earlier deadlines and ended connections do not pile up.
#[derive(Debug)]
pub(in crate::server) struct Alarm {
    /// Identifies the connection. Within a tick, alarms are raised in this order.
    number: u64,
    /// The registered deadline, or [`NONE`]. Its alarm may have been raised since.
    deadline: Time,
}

/// No deadline.
const NONE: Time = Time::from_millis(u64::MAX);

/// By tick, then by the connection's number.
type ByTick = BTreeMap<(u64, u64), Arc<Mailbox>>;

#[derive(Debug, Default)]
struct Alarms {
    by_tick: ByTick,
    /// The waker of the task that raises the alarms.
    turner: Option<Waker>,
    /// The tick up to which alarms are held back.
    held: Option<u64>,
}

impl Alarm {
    /// Whether `deadline` is earlier than what is registered.
    pub(in crate::server) fn is_later_than(&self, deadline: Time) -> bool {
        deadline < self.deadline
    }

    fn key(&self) -> Option<(u64, u64)> {
        (self.deadline < NONE).then(|| (tick_of(self.deadline), self.number))
    }
}

impl Alarms {
    /// Removes the alarms that are due. If the first one is far too late, the process was stopped,
    /// and all alarms are held back for [`HOLD`].
    fn split_due(&mut self, now: u64) -> ByTick {
        let is_late = |&(first, _): &(u64, u64)| first.saturating_add(LATE / TICK) < now;
        match self.held {
            Some(until) if now < until => return ByTick::new(),
            Some(_) => self.held = None,
            None if self.by_tick.keys().next().is_some_and(is_late) => {
                self.held = Some(now + HOLD / TICK);
                return ByTick::new();
            }
            None => {}
        }
        let later = self.by_tick.split_off(&(now + 1, 0));
        std::mem::replace(&mut self.by_tick, later)
    }
}

fn time_since(start: Instant) -> Time {
    Time::from_millis(start.elapsed().as_millis() as u64)
}

fn tick_of(deadline: Time) -> u64 {
    deadline.as_millis().div_ceil(TICK)
}

impl Timers {
    pub(in crate::server) fn new() -> Self {
        Self { start: Instant::now(), alarms: Mutex::default(), connections: AtomicU64::default() }
    }

    pub(in crate::server) fn now(&self) -> Time {
        time_since(self.start)
    }

    /// The server's clock, for code that has no access to the timers.
    pub(in crate::server) fn clock(&self) -> SessionClock {
        let start = self.start;
        SessionClock::new(move || time_since(start))
    }

    /// Waits until `at`. For an endless time it waits until the far future.
    pub(in crate::server) async fn sleep_until(&self, at: Time) {
        let since_start = Duration::from_millis(at.as_millis()).min(AGES);
        sleep_until(self.start + since_start).await;
    }

    /// A new alarm, not set.
    pub(in crate::server) fn new_alarm(&self) -> Alarm {
        Alarm { number: self.connections.fetch_add(1, Ordering::Relaxed), deadline: NONE }
    }

    /// Sets the alarm: raises [`ALARM`] in `mailbox` at `deadline` or up to a tick later. This
    /// replaces an earlier deadline.
    pub(in crate::server) fn set(&self, alarm: &mut Alarm, deadline: Time, mailbox: &Arc<Mailbox>) {
        let key = (tick_of(deadline), alarm.number);
        let before = alarm.key();
        alarm.deadline = deadline;
        if before == Some(key) {
            return;
        }
        let mut alarms = self.alarms.lock();
        let replaced = before.and_then(|before| alarms.by_tick.remove(&before));
        let first = alarms.by_tick.first_key_value();
        let is_earliest = first.is_none_or(|(&first, _)| key < first);
        alarms.by_tick.insert(key, mailbox.clone());
        let turner = is_earliest.then(|| alarms.turner.take()).flatten();
        drop(alarms);
        drop(replaced);
        if let Some(turner) = turner {
            turner.wake();
        }
    }

    /// Clears the alarm.
    pub(in crate::server) fn clear(&self, alarm: &mut Alarm) {
        if let Some(key) = alarm.key() {
            alarm.deadline = NONE;
            let cleared = self.alarms.lock().by_tick.remove(&key);
            drop(cleared);
        }
    }

    /// Raises the alarms that are due, and sets `timer` to the next one.
    pub(in crate::server) fn poll_turn(&self, mut timer: Pin<&mut Sleep>, cx: &mut Context<'_>) {
        loop {
            let (due, next) = self.take_due(cx.waker());
            due.values().for_each(|mailbox| mailbox.raise(ALARM));
            let Some(next) = next else { return };
            if timer.deadline() != next {
                timer.as_mut().reset(next);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return;
            }
        }
    }

    fn take_due(&self, turner: &Waker) -> (ByTick, Option<Instant>) {
        let now = self.now().as_millis() / TICK;
        // Cloned before the lock, and the old waker is dropped after it: dropping a waker runs
        // foreign code.
        let turner = turner.clone();
        let mut alarms = self.alarms.lock();
        let due = alarms.split_due(now);
        let before = alarms.turner.replace(turner);
        let first = alarms.by_tick.first_key_value().map(|(&(tick, _), _)| tick);
        let next = first.map(|first| first.max(alarms.held.unwrap_or_default()));
        drop(alarms);
        drop(before);
        (due, next.and_then(|tick| self.instant_of(tick)))
    }

    /// The instant of a tick; `None` if it is out of range.
    fn instant_of(&self, tick: u64) -> Option<Instant> {
        self.start.checked_add(Duration::from_millis(tick.checked_mul(TICK)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    fn entries(timers: &Timers) -> usize {
        timers.alarms.lock().by_tick.len()
    }

    fn raised(mailbox: &Mailbox) -> bool {
        mailbox.take(Waker::noop(), &mut Vec::new()) & ALARM != 0
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_has_one_entry_and_none_once_cleared() {
        let (timers, mailbox) = (Timers::new(), Arc::default());
        let mut alarms = [timers.new_alarm(), timers.new_alarm()];
        for millis in (0..1_000).rev() {
            timers.set(&mut alarms[0], at(millis), &mailbox);
            timers.set(&mut alarms[1], at(millis), &mailbox);
        }
        assert_eq!(entries(&timers), 2);
        assert!(!alarms[0].is_later_than(at(0)) && alarms[0].deadline == at(0));
        alarms.iter_mut().for_each(|alarm| timers.clear(alarm));
        assert_eq!((entries(&timers), Arc::strong_count(&mailbox)), (0, 1));
    }

    /// After the process was suspended, connections read before deadlines fire. SECURITY.md, threat
    /// 30.
    #[tokio::test(start_paused = true)]
    async fn alarms_are_delayed_after_a_process_suspension() {
        let turn = |timers: &Timers| {
            let mut timer = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
            timers.poll_turn(timer.as_mut(), &mut Context::from_waker(Waker::noop()));
        };
        for (late, is_held) in [(0, false), (1_000, false), (1_010, true), (1_000_000, true)] {
            let (timers, mailbox) = (Timers::new(), Arc::default());
            timers.set(&mut timers.new_alarm(), at(5_000), &mailbox);
            tokio::time::advance(Duration::from_millis(5_000 + late)).await;
            turn(&timers);
            assert_eq!(raised(&mailbox), !is_held, "{late}");
            if is_held {
                // An alarm that is set meanwhile is held back, too.
                timers.set(&mut timers.new_alarm(), at(5_010), &mailbox);
                tokio::time::advance(Duration::from_millis(HOLD - TICK)).await;
                turn(&timers);
                assert!(!raised(&mailbox), "{late}");
                tokio::time::advance(Duration::from_millis(TICK)).await;
                turn(&timers);
                assert!(raised(&mailbox), "{late}");
                assert_eq!(entries(&timers), 0);
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn alarms_fire_after_years() {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        let (timers, mailbox) = (Timers::new(), Arc::default());
        let mut alarm = timers.new_alarm();
        // 2^32 ticks are 497 days.
        tokio::time::advance(DAY * 498).await;
        let deadline = timers.now().after(Duration::from_secs(1));
        timers.set(&mut alarm, deadline, &mailbox);
        let due_at = timers.start + DAY * 498 + Duration::from_secs(1);
        assert_eq!(timers.take_due(Waker::noop()).1, Some(due_at));
        tokio::time::advance(Duration::from_secs(1)).await;
        let mut timer = std::pin::pin!(tokio::time::sleep(Duration::ZERO));
        timers.poll_turn(timer.as_mut(), &mut Context::from_waker(Waker::noop()));
        assert!(raised(&mailbox));
    }
}
