//! What reaches a connection from outside its own task: woken handlers, alarms, the drain.

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
/// The server drains: say so, and go on as before.
pub(super) const DRAIN: u8 = 1 << 2;
/// The drain time is over: cut what still runs.
pub(super) const CUT: u8 = 1 << 3;
/// The grace is over: draw the line.
pub(super) const LINE: u8 = 1 << 4;
/// The server's buffers are full, and the connection is to give up what it holds.
pub(super) const SHED: u8 = 1 << 5;
/// Nothing more will be published: a subscriber that was given everything may leave.
pub(super) const LAST: u8 = 1 << 6;
/// The application has commands for the connection.
pub(super) const COMMANDS: u8 = 1 << 7;

/// One per connection, shared with whatever may wake it.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    waker: Mutex<Option<Waker>>,
    /// The connection was woken and has not looked yet: one wake per look is enough.
    notified: AtomicBool,
    flags: AtomicU8,
    /// The connection is gone. Changes under the lock of `commands`.
    closed: AtomicBool,
    handlers: Mutex<Vec<usize>>,
    /// The numbers of subscriptions whose topics have news.
    news: Mutex<Vec<u64>>,
    commands: Mutex<Option<Box<Commands>>>,
}

/// What the application wants of the connection.
#[derive(Debug, Default)]
pub(super) struct Commands {
    /// Topics whose subscriptions end, each once.
    pub(super) revoked: BTreeSet<Box<str>>,
    /// Why the connection is closed, if it is.
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

    /// The connection is gone. A session that the application keeps must not keep its commands or the
    /// connection's task.
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

    /// Takes the commands. The flag falls first: what is ordered meanwhile is taken, or raises it.
    pub(super) fn take_commands(&self) -> Option<Box<Commands>> {
        self.flags.fetch_and(!COMMANDS, Ordering::AcqRel);
        self.commands.lock().take()
    }

    /// Leaves `flags` and wakes the connection.
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

    /// Opens the mailbox: from here on `waker` is woken; what was raised before is returned, and
    /// the woken slots are appended to `handlers`.
    ///
    /// [`COMMANDS`] stays raised until [`take_commands`](Self::take_commands): until the commands are
    /// obeyed, [`has_commands`](Self::has_commands) has to see them.
    ///
    /// The order matters: `notified` falls before the mail is taken, so mail that comes in between
    /// is either taken here or wakes again.
    pub(super) fn take(&self, waker: &Waker, handlers: &mut Vec<usize>) -> u8 {
        self.register(waker);
        self.notified.swap(false, Ordering::AcqRel);
        handlers.append(&mut self.handlers.lock());
        self.flags.fetch_and(COMMANDS, Ordering::AcqRel)
    }

    /// Gives back the room of what was taken.
    pub(super) fn shrink(&self) {
        self.handlers.lock().shrink_to_fit();
        self.news.lock().shrink_to(1);
    }

    fn register(&self, waker: &Waker) {
        let mut slot = self.waker.lock();
        if !slot.as_ref().is_some_and(|known| known.will_wake(waker)) {
            let old = slot.replace(waker.clone());
            // A waker's drop is the runtime's code: not under the lock.
            drop(slot);
            drop(old);
        }
    }
}

/// Wakes one handler or one subscription of a connection, by leaving its name in the mailbox.
#[derive(Debug)]
pub(super) struct SlotWaker {
    mailbox: Arc<Mailbox>,
    whom: Whom,
    queued: AtomicBool,
}

/// Who of a connection is woken.
#[derive(Clone, Copy, Debug)]
pub(super) enum Whom {
    /// The handler in this slot.
    Handler(usize),
    /// The subscription of this number.
    Subscription(u64),
    /// A hook, of which there is one at a time.
    Hook,
}

impl SlotWaker {
    pub(super) fn new(mailbox: Arc<Mailbox>, whom: Whom) -> Arc<Self> {
        Arc::new(Self { mailbox, whom, queued: AtomicBool::new(false) })
    }

    /// Whether the connection has commands: what it copied meanwhile may be what they forbid.
    pub(super) fn has_commands(&self) -> bool {
        self.mailbox.has_commands()
    }

    /// Whether it was woken since the last call; to be called before what it wakes is polled.
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

    /// A session may be kept for longer than its connection.
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
