//! The end of connections and clients: which requests move to the next connection, and the outcomes
//! of the others.

use crate::{
    client::{
        core::{Core, key::LinkId, link::Link, status::Status, step::Step, waiter::Waiter},
        event::ConnectionEvent,
    },
    error::{CallError, ConnectionError, NotSent, Unknown},
    protocol::{Code, Reason},
};

impl Core {
    /// Begins to close the client for this reason. Nothing new begins, the servers finish what they
    /// have accepted, and then the client ends.
    pub(crate) fn begin_close(&mut self, why: ConnectionError, step: &mut Step) {
        if self.links.closing.is_some() {
            return;
        }
        self.requests.end_waiting(&why, step);
        self.links.closing = Some(why);
        let all: Vec<_> = self.links.iter().map(|link| link.id).collect();
        all.into_iter().for_each(|id| self.links.quit(id, step));
        self.wake_waiting(step);
        self.wake_supervisor(step);
    }

    /// Sends `/quit` to a server that has sent `/bye`, if nothing is in flight on the connection,
    /// so that the server need not wait for this client. Returns whether it does.
    pub(crate) fn quit_if_idle(&mut self, id: LinkId, step: &mut Step) -> bool {
        let is_idle = |link: &mut Link| link.is_idle() && link.state.takes_controls();
        if !self.links.link(id).is_some_and(is_idle) || self.topics.has_any_on(id) {
            return false;
        }
        self.links.quit(id, step);
        true
    }

    /// Takes in a `/bye`. Without `last`, the server still accepts requests of the protocol itself.
    /// With `last`, it accepts no further line: requests that were not offered to the transport go
    /// to another connection, if the client reconnects.
    pub(crate) fn on_bye(
        &mut self,
        id: LinkId,
        last: Option<u64>,
        reason: &Reason,
        step: &mut Step,
    ) {
        let error = ConnectionError::Bye(reason.clone());
        let (reconnects, is_current) = (self.links.reconnects, self.links.is_current(id));
        let Some(link) = self.links.link(id) else { return };
        link.state.on_bye(last, reason.clone());
        let takes_back = last.is_some() && reconnects;
        let (unsent, one_ways) = if takes_back { link.take_unsent() } else { Default::default() };
        if reconnects && is_current {
            let left = self.links.replace_current(&error);
            self.links.leaving.push(left);
            self.set_status(Status::Connecting, step);
            self.requests.end_impatient(&error, step);
        } else if !reconnects {
            self.requests.end_waiting(&error, step);
        }
        self.report_dropped(one_ways, step);
        self.wake_waiting(step);
        self.wake_supervisor(step);
        for waiter in unsent {
            self.requeue(id, waiter, &error, step);
        }
        self.requests.send_waiting(&mut self.links, step);
    }

    /// Moves a request that was not offered to the transport to the next connection.
    fn requeue(&mut self, id: LinkId, waiter: Waiter, error: &ConnectionError, step: &mut Step) {
        let Self { topics, links, requests, .. } = self;
        match waiter {
            Waiter::Subscribe(topic) | Waiter::Unsubscribe(topic) => {
                topics.move_on(links, id, &topic, step);
            }
            Waiter::Request(key) | Waiter::List(key) => {
                let lost = NotSent::Lost(error.clone());
                requests.finish(key, Err(lost.into()), links, step);
            }
            _ => {}
        }
    }

    /// Ends a connection. Each waiting request gets the outcome that can be proven, and the
    /// subscriptions wait for the next connection. If there is no supervisor, no connection
    /// follows, and the client ends.
    pub(crate) fn lose(&mut self, id: LinkId, error: &ConnectionError, step: &mut Step) {
        if !self.is_supervised {
            self.links.closing.get_or_insert_with(|| error.clone());
        }
        let Some((mut link, was_current)) = self.links.take_link(id, error) else { return };
        match self.is_supervised {
            false => self.end_status(error, step),
            true if was_current => self.set_status(Status::Connecting, step),
            true => {}
        }
        self.report_dropped(link.unsent_one_ways(), step);
        step.drop_later(link.take_driver());
        let last = link.state.last_executed();
        for (id, waiter, was_offered) in link.drain() {
            let is_executed = last.is_none_or(|last| id.get() <= last);
            self.fail_all(waiter, &outcome(error, was_offered, is_executed), step);
        }
        match self.is_supervised {
            false => self.requests.end_waiting(error, step),
            true if was_current => self.requests.end_impatient(error, step),
            true => {}
        }
        self.wake_waiting(step);
        if !self.is_supervised {
            return self.end_topics(error, step);
        }
        self.topics.disconnected(&mut self.links, id, step);
        self.requests.send_waiting(&mut self.links, step);
        self.wake_supervisor(step);
    }

    fn fail_all(&mut self, waiter: Waiter, error: &CallError, step: &mut Step) {
        match waiter {
            Waiter::Request(key) | Waiter::List(key) => {
                self.requests.finish(key, Err(error.clone()), &mut self.links, step);
            }
            Waiter::Subscribe(topic) if !matches!(error, CallError::NotSent(_)) => {
                self.topics.failed(&topic, error);
            }
            _ => {}
        }
    }

    fn report_dropped(&self, one_ways: u64, step: &mut Step) {
        if one_ways > 0 {
            step.emit(ConnectionEvent::OneWaysDropped(one_ways));
        }
    }

    /// Ends the client: no connection follows.
    pub(crate) fn end(&mut self, error: &ConnectionError, step: &mut Step) {
        self.links.closing.get_or_insert_with(|| error.clone());
        self.end_status(error, step);
        self.requests.end_waiting(error, step);
        self.wake_waiting(step);
        self.end_topics(error, step);
    }

    /// Sets the final status. This happens before the event, so that a task that has seen the end
    /// gets no further event.
    fn end_status(&mut self, error: &ConnectionError, step: &mut Step) {
        self.is_end_news = !matches!(self.status, Status::Ended(_));
        self.set_status(Status::Ended(error.clone()), step);
    }

    fn end_topics(&mut self, error: &ConnectionError, step: &mut Step) {
        self.topics.end(error, step);
        // The driver may stop now, so no later time wakes these tasks.
        step.wake(self.alarms.take_all());
        if std::mem::take(&mut self.is_end_news) {
            step.emit(ConnectionEvent::Ended(error.clone()));
        }
    }
}

/// The outcome that can be proven for a request when its connection is over.
fn outcome(error: &ConnectionError, was_offered: bool, is_executed: bool) -> CallError {
    match (was_offered, is_executed) {
        (false, _) => NotSent::Lost(error.clone()).into(),
        (true, false) => CallError::Refused { reason: Reason::new(Code::CLOSING, ""), retry: None },
        (true, true) => Unknown::Lost(error.clone()).into(),
    }
}
