//! Messages to a connection from outside its task: woken handlers, alarms, and the steps of a stop.

use std::{
    collections::BTreeSet,
    task::{Wake, Waker},
};

use crate::{
    protocol::Code,
    sync::{Arc, AtomicBool, AtomicU8, Mutex, Ordering},
};

/// A deadline of the connection may have passed.
pub(super) const ALARM: u8 = 1;
/// A subscription's topic has news.
pub(super) const NEWS: u8 = 1 << 1;
/// The server stops: send `/bye`, and go on as before.
pub(super) const DRAIN: u8 = 1 << 2;
/// The drain time is over: cut what still runs.
pub(super) const CUT: u8 = 1 << 3;
/// The grace is over: send `/bye;last=N`.
pub(super) const LINE: u8 = 1 << 4;
/// The connection is shed: the server's buffers are full, and it has to drop what it holds.
pub(super) const SHED: u8 = 1 << 5;
/// Nothing more will be published. The connection may end once its subscriptions have delivered
/// everything.
pub(super) const LAST: u8 = 1 << 6;
/// The application has commands for the connection.
pub(super) const COMMANDS: u8 = 1 << 7;

/// The mailbox of one connection, shared with everything that may wake it.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    waker: Mutex<Option<Waker>>,
    /// The connection was woken and has not taken its mail. Until then it is not woken again.
    notified: AtomicBool,
    flags: AtomicU8,
    /// The connection has closed. This changes only under the lock of `commands`.
    closed: AtomicBool,
    handlers: Mutex<Vec<usize>>,
    /// The numbers of subscriptions whose topics have news.
    news: Mutex<Vec<u64>>,
    commands: Mutex<Option<Box<Commands>>>,
}

/// Commands of the application for the connection.
#[derive(Debug, Default)]
pub(super) struct Commands {
    /// Topics whose subscriptions are revoked.
    pub(super) revoked: BTreeSet<Box<str>>,
    /// The reason for closing the connection, if it is closed.
    pub(super) close: Option<Code>,
}

impl Mailbox {
    pub(super) fn command_revoke(&self, topic: &str) {
        self.command(|commands| _ = commands.revoked.insert(topic.into()));
    }

    pub(super) fn command_close(&self, reason: Code) {
        self.command(|commands| _ = commands.close.get_or_insert(reason));
    }

    fn command(&self, add: impl FnOnce(&mut Commands)) {
        let mut commands = self.commands.lock();
        if self.closed.load(Ordering::Relaxed) {
            return;
        }
        add(commands.get_or_insert_default());
        drop(commands);
        self.raise(COMMANDS);
    }

    /// The connection has closed. A session that the application keeps must not keep its commands
    /// or the waker of its task.
    pub(super) fn close(&self) {
        let mut commands = self.commands.lock();
        self.closed.store(true, Ordering::Relaxed);
        let left = (commands.take(), self.waker.lock().take());
        drop(commands);
        drop(left);
    }

    /// Whether there are commands that were not taken.
    pub(super) fn has_commands(&self) -> bool {
        self.flags.load(Ordering::Acquire) & COMMANDS != 0
    }

    /// Takes the commands. The flag is cleared first, so a command that is added meanwhile is
    /// either taken here or sets the flag again.
    pub(super) fn take_commands(&self) -> Option<Box<Commands>> {
        self.flags.fetch_and(!COMMANDS, Ordering::AcqRel);
        self.commands.lock().take()
    }

    /// Sets `flags` and wakes the connection.
    pub(super) fn raise(&self, flags: u8) {
        self.flags.fetch_or(flags, Ordering::AcqRel);
        self.notify();
    }

    fn push_handler(&self, slot: usize) {
        self.handlers.lock().push(slot);
        self.notify();
    }

    fn push_news(&self, subscription: u64) {
        self.news.lock().push(subscription);
        self.raise(NEWS);
    }

    /// Takes the numbers of the subscriptions whose topics have news, once [`NEWS`] was taken.
    pub(super) fn take_news(&self, numbers: &mut Vec<u64>) {
        numbers.append(&mut self.news.lock());
    }

    fn notify(&self) {
        if self.notified.swap(true, Ordering::AcqRel) {
            return;
        }
        let waker = self.waker.lock().clone();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// Takes the flags that were raised, and appends the woken slots to `handlers`. From now on
    /// `waker` is woken for new mail.
    ///
    /// [`COMMANDS`] stays raised until [`take_commands`](Self::take_commands), so that
    /// [`has_commands`](Self::has_commands) is true until the commands are processed.
    ///
    /// The order matters: `notified` is cleared before the mail is taken. So mail that comes in
    /// between is either taken here or wakes the connection again.
    pub(super) fn take(&self, waker: &Waker, handlers: &mut Vec<usize>) -> u8 {
        self.register(waker);
        self.notified.swap(false, Ordering::AcqRel);
        handlers.append(&mut self.handlers.lock());
        self.flags.fetch_and(COMMANDS, Ordering::AcqRel)
    }

    /// Frees the room of the mail that was taken.
    pub(super) fn shrink(&self) {
        self.handlers.lock().shrink_to_fit();
        self.news.lock().shrink_to(1);
    }

    fn register(&self, waker: &Waker) {
        let mut slot = self.waker.lock();
        if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
            let old = slot.replace(waker.clone());
            // Dropping a waker runs the runtime's code, so it happens outside the lock.
            drop(slot);
            drop(old);
        }
    }
}

/// Wakes a connection for one of its handlers, subscriptions or hooks, which it names in the
/// mailbox.
#[derive(Debug)]
pub(super) struct SlotWaker {
    mailbox: Arc<Mailbox>,
    whom: Whom,
    queued: AtomicBool,
}

/// The part of a connection that is woken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whom {
    /// The handler in this slot.
    Handler(usize),
    /// The subscription with this number.
    Subscription(u64),
    /// The hook, of which there is at most one at a time.
    Hook,
}

impl SlotWaker {
    pub(super) fn new(mailbox: Arc<Mailbox>, whom: Whom) -> Arc<Self> {
        Arc::new(Self { mailbox, whom, queued: AtomicBool::new(false) })
    }

    /// Whether the connection has commands. Messages that were copied since may be newer than a
    /// command that forbids them.
    pub(super) fn has_commands(&self) -> bool {
        self.mailbox.has_commands()
    }

    /// Whether this was woken since the last call. Call it before the poll, so that no wake-up is
    /// lost.
    pub(super) fn take_queued(&self) -> bool {
        self.queued.swap(false, Ordering::AcqRel)
    }
}

impl Wake for SlotWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.queued.swap(true, Ordering::AcqRel) {
            return;
        }
        match self.whom {
            Whom::Handler(slot) => self.mailbox.push_handler(slot),
            Whom::Subscription(number) => self.mailbox.push_news(number),
            Whom::Hook => self.mailbox.raise(NEWS),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sync::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A session may outlive its connection.
    #[test]
    fn a_closed_mailbox_keeps_nothing() {
        let (mailbox, count) = (Mailbox::default(), Arc::new(Count::default()));
        mailbox.take(&Waker::from(count.clone()), &mut Vec::new());
        mailbox.command_revoke("before");
        mailbox.close();
        mailbox.command_revoke("after");
        mailbox.command_close(Code::SHUTDOWN);
        assert!(mailbox.take_commands().is_none());
        assert_eq!((count.0.load(Ordering::Relaxed), Arc::strong_count(&count)), (1, 1));
    }

    #[test]
    fn a_connection_is_woken_once_until_it_looks() {
        let (mailbox, count) = (Arc::new(Mailbox::default()), Arc::new(Count::default()));
        let (waker, mut woken) = (Waker::from(count.clone()), Vec::new());
        assert_eq!(mailbox.take(&waker, &mut woken), 0);
        let slots: Vec<_> =
            (0..3).map(|slot| SlotWaker::new(mailbox.clone(), Whom::Handler(slot))).collect();
        slots.iter().for_each(Wake::wake_by_ref);
        slots.iter().for_each(Wake::wake_by_ref);
        mailbox.raise(ALARM);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        assert_eq!(mailbox.take(&waker, &mut woken), ALARM);
        assert_eq!(woken, [0, 1, 2]);
        slots[1].wake_by_ref();
        assert_eq!(mailbox.take(&waker, &mut woken), 0);
        assert_eq!(woken.len(), 3, "not looked at yet, so not queued again");
        assert!(slots[1].take_queued());
        slots[1].wake_by_ref();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }
}
