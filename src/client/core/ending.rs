//! How connections and clients end: what moves to the next connection, and the outcome of the rest.

use std::task::Waker;

use tokio::sync::Semaphore;

use crate::{
    client::{
        core::link::{Link, LinkId, Withdrawn},
        core::links::count_lines,
        core::status::Phase,
        core::topics::Told,
        core::waiter::Waiter,
        event::ConnectionEvent,
        shared::{Shared, wake},
    },
    error::{CallError, ConnectionError, NotSent},
    guard::guarded,
};

impl Shared {
    /// Takes nothing new, for this reason, lets the servers finish what they have, and ends.
    pub(crate) fn begin_close(&self, why: ConnectionError) {
        let mut links = self.links.lock();
        if std::mem::replace(&mut links.closing, true) {
            return;
        }
        links.refusing.get_or_insert(why);
        let all = std::iter::once(&links.current).chain(&links.leaving);
        let all: Vec<_> = all.map(|link| link.id).collect();
        let drivers: Vec<_> = all.into_iter().map(|id| links.quit(id)).collect();
        let places = links.current.places.clone();
        drop(links);
        drivers.into_iter().for_each(wake);
        places.close();
        self.drained.notify_waiters();
        self.news.notify_one();
    }

    /// Quits a server that has said goodbye, if nothing is under way there any more: it need not wait for
    /// this client then. Whether it does.
    pub(crate) fn quit_if_idle(&self, id: LinkId) -> bool {
        let topics = self.topics.lock();
        let mut links = self.links.lock();
        let is_idle = |link: &&mut Link| link.is_idle() && link.refusing().is_none();
        if topics.has_any_on(id) || links.link(id).filter(is_idle).is_none() {
            return false;
        }
        // The driver is running: it writes next, and needs no waking.
        let unused = links.quit(id);
        drop(links);
        drop(topics);
        drop(unused);
        true
    }

    /// Nothing new is begun on this connection: its server is about to go, and takes the protocol's
    /// own requests till then. What is new waits for another connection, where there will be one.
    pub(crate) fn leave(&self, id: LinkId, error: ConnectionError) {
        self.turn_from(id, |link| {
            link.leave(error);
            Withdrawn::default()
        });
    }

    /// No line is taken on this connection any more: its server has drawn the line. What was not
    /// offered to it is for another connection, where there will be one.
    pub(crate) fn refuse(&self, id: LinkId, error: ConnectionError) {
        let withdraws = self.reconnects;
        let withdrawn = self.turn_from(id, |link| {
            link.refuse(error.clone());
            if withdraws { link.withdraw() } else { Withdrawn::default() }
        });
        let mut told = Told::default();
        for waiter in withdrawn {
            match waiter {
                Waiter::Subscribe(topic) | Waiter::Unsubscribe(topic) => {
                    self.topics.lock().move_on(self, id, &topic, &mut told);
                }
                waiter => waiter.fail(NotSent::Lost(error.clone()).into()),
            }
        }
        told.tell(self);
    }

    /// Does `what` to a link on which nothing is begun any more, and moves on to the next.
    fn turn_from(&self, id: LinkId, what: impl FnOnce(&mut Link) -> Withdrawn) -> Vec<Waiter> {
        let mut links = self.links.lock();
        let Some(link) = links.link(id) else { return Vec::new() };
        let Withdrawn { waiters, one_ways } = what(link);
        let places = link.places.clone();
        let moves_on = self.reconnects && links.current.id == id;
        if moves_on {
            let left = links.replace_current();
            links.set_down(left.refusal().cloned());
            links.leaving.push(left);
        }
        let carried = links.carry(&one_ways);
        drop(links);
        if moves_on {
            self.phase.replace(Phase::Connecting);
        }
        self.shut(&places, carried);
        self.news.notify_one();
        waiters
    }

    /// Nothing is begun on a link any more. Who hears of it is not to take it for there: so the phase
    /// is another one by then.
    fn shut(&self, places: &Semaphore, carried: (u64, Option<Waker>)) {
        let (dropped, driver) = carried;
        wake(driver);
        self.report_dropped(dropped);
        guarded(|| places.close());
        guarded(|| self.drained.notify_waiters());
    }

    /// A connection is over. Every call that waits on it gets the outcome that can be proven, and
    /// its subscriptions wait for the next one. Without a next one, the client ends.
    ///
    /// `last` is the id above which the server said it executes nothing.
    pub(crate) fn lose(&self, id: LinkId, error: &ConnectionError, last: Option<u64>) {
        let mut links = self.links.lock();
        if !self.is_supervised {
            links.refusing.get_or_insert_with(|| error.clone());
            links.closing = true;
        }
        let Some((link, was_current)) = links.take_link(id) else { return };
        if was_current {
            links.set_down(Some(error.clone()));
        }
        let one_ways = link.one_ways();
        let carried = match self.reconnects {
            true => links.carry(&one_ways),
            false => (count_lines(&one_ways), None),
        };
        drop(links);
        let mut is_news = false;
        match self.is_supervised {
            false => is_news = self.phase.end(error),
            true if was_current => self.phase.replace(Phase::Connecting),
            true => {}
        }
        self.shut(&link.places, carried);
        for (waiter, failure) in link.dissolve(error, last) {
            match (waiter, failure) {
                (Waiter::Subscribe(_), CallError::NotSent(_)) => {}
                (Waiter::Subscribe(topic), failure) => self.topics.lock().failed(&topic, &failure),
                (waiter, failure) => waiter.fail(failure),
            }
        }
        if !self.is_supervised {
            return self.finish(error, is_news);
        }
        let mut told = Told::default();
        self.topics.lock().disconnected(self, id, &mut told);
        told.tell(self);
        self.news.notify_one();
    }

    pub(crate) fn report_dropped(&self, one_ways: u64) {
        if one_ways > 0 {
            self.events.emit(ConnectionEvent::OneWaysDropped(one_ways));
        }
    }

    /// There is no next connection: all is over.
    pub(crate) fn end(&self, error: &ConnectionError) {
        let mut links = self.links.lock();
        links.refusing.get_or_insert_with(|| error.clone());
        links.closing = true;
        let places = links.current.places.clone();
        let carried = std::mem::take(&mut links.carried);
        drop(links);
        let is_news = self.phase.end(error);
        self.shut(&places, (count_lines(&carried), None));
        self.finish(error, is_news);
    }

    /// The client ends. The phase says so by now, so that new streams of events end at once.
    fn finish(&self, error: &ConnectionError, is_news: bool) {
        let told = self.topics.lock().end(error);
        told.tell(self);
        if is_news {
            self.events.emit(ConnectionEvent::Ended(error.clone()));
        }
    }
}
