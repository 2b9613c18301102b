//! The client without transport and runtime.
//!
//! All that a client's handles and its connections share is one struct, [`Core`], behind one lock.
//! In front of it is a queue of requests, the [`Intake`]. Handles submit requests and join topics.
//! A [`Connection`] takes in the bytes of its server, and gives out the bytes to be written.
//! Nothing here waits, reads a clock or runs user code: the effects of a step are collected in a
//! [`Step`], and run once the lock is released.
//!
//! [`Connection`]: self::connection::Connection

#![cfg_attr(
    not(feature = "unstable-core"),
    allow(unreachable_pub, dead_code, reason = "public with `unstable-core`")
)]

pub(crate) mod acks;
mod alarms;
pub(crate) mod auth;
pub(crate) mod body;
pub(crate) mod caller;
pub(crate) mod cell;
pub(crate) mod connection;
pub(crate) mod delivery;
mod ending;
pub(crate) mod inbox;
mod intake;
pub(crate) mod items;
pub(crate) mod key;
mod lines;
pub(crate) mod link;
pub(crate) mod links;
pub(crate) mod locked;
mod missed;
pub(crate) mod outcome;
mod overdue;
mod payloads;
pub(crate) mod pending;
pub(crate) mod reader;
pub(crate) mod repetition;
pub(crate) mod requests;
pub(crate) mod retry_after;
pub(crate) mod sift;
pub(crate) mod state;
pub(crate) mod status;
pub(crate) mod step;
mod timers;
pub(crate) mod topics;
pub(crate) mod wait_list;
pub(crate) mod waiter;

use std::task::Waker;

use self::{
    alarms::Alarms,
    intake::{Intake, IntakeOwner, SPARE},
    key::LinkId,
    links::Links,
    requests::Requests,
    state::LinkState,
    status::Status,
    step::Step,
    topics::Topics,
    wait_list::WaitList,
};
use crate::{
    client::{
        config::ClientConfig,
        event::{ConnectionEvent, Events},
        stats::Tally,
    },
    protocol::{Hello, Time},
    sync::Arc,
};

/// The state of a client.
#[derive(Debug)]
pub(crate) struct Core {
    /// Whether there is a supervisor, which decides when the client ends. Otherwise the client ends
    /// with its connection.
    is_supervised: bool,
    status: Status,
    /// There was a connection at least once.
    was_open: bool,
    /// The end was not reported as an event yet.
    is_end_news: bool,
    pub(crate) links: Links,
    pub(crate) requests: Requests,
    pub(crate) topics: Topics,
    pub(crate) events: Events,
    /// The counters.
    counted: Tally,
    /// Tasks that wait for another status, or for the end of a connection.
    waiting: WaitList,
    /// Tasks that wait to begin a subscription.
    turns: WaitList,
    supervisor: SupervisorNews,
    timers: Timekeeper,
    /// Tasks that wait for a time, if the client is driven by hand.
    pub(crate) alarms: Alarms,
    intake: IntakeOwner,
}

/// News for the supervisor.
#[derive(Debug, Default)]
struct SupervisorNews {
    waker: Option<Waker>,
    /// Something has happened since the supervisor looked last.
    has_news: bool,
    /// The next round of attempts has to begin without a pause.
    hurry: bool,
}

/// The task that handles the client's timers, as opposed to those of one connection.
#[derive(Debug, Default)]
struct Timekeeper {
    /// The waker of that task.
    waker: Option<Waker>,
    /// The time to which that task has set its timer.
    known: Option<Time>,
}

impl Core {
    pub(crate) fn new(config: Arc<ClientConfig>, reconnects: bool, is_supervised: bool) -> Self {
        Self {
            is_supervised,
            status: Status::Connecting,
            was_open: false,
            is_end_news: false,
            links: Links::new(config, reconnects),
            requests: Requests::default(),
            topics: Topics::default(),
            events: Events::default(),
            counted: Tally::default(),
            waiting: WaitList::default(),
            turns: WaitList::default(),
            supervisor: SupervisorNews::default(),
            timers: Timekeeper::default(),
            alarms: Alarms::default(),
            intake: IntakeOwner::default(),
        }
    }

    /// Takes over the requests that callers have queued in the intake.
    fn take_in(&mut self, intake: &Intake, step: &mut Step) {
        intake.take(&mut self.intake.taken);
        self.submit_taken(step);
    }

    fn submit_taken(&mut self, step: &mut Step) {
        let Self { intake: IntakeOwner { taken, .. }, requests, links, .. } = self;
        for request in taken.drain(..) {
            requests.take_in(request, links, step);
        }
        if taken.capacity() > SPARE {
            *taken = Vec::new();
        }
    }

    /// Opens the intake for a driver that waits. Returns `false` instead if there are requests to
    /// be taken over.
    fn open_intake(
        &mut self,
        intake: &Intake,
        link: LinkId,
        waker: &Waker,
        step: &mut Step,
    ) -> bool {
        let Some(max_line) = self.takes_requests(link) else { return true };
        self.intake.link = Some(link);
        intake.wait(max_line, waker, step)
    }

    /// The longest request line that can be sent on this connection; `None` if no request can be
    /// sent.
    fn takes_requests(&self, link: LinkId) -> Option<usize> {
        match self.links.current.state {
            LinkState::Open { max_line } if self.links.is_current(link) => {
                Some(max_line).filter(|_| self.links.closing.is_none())
            }
            _ => None,
        }
    }

    /// Closes the intake if its driver can send no further request.
    fn close_intake(&mut self, intake: &Intake, step: &mut Step) {
        if let Some(link) = self.intake.link
            && self.takes_requests(link).is_none()
        {
            self.intake.link = None;
            intake.close(&mut self.intake.taken, step);
            self.submit_taken(step);
        }
    }

    /// Opens a connection: the server has sent `/hello` and accepted the credentials. Subscriptions
    /// resume before anything else is sent.
    pub(crate) fn open(&mut self, id: LinkId, hello: Hello, step: &mut Step) {
        let places = self.links.config.in_flight.min(hello.in_flight);
        let Some(link) = self.links.link(id) else { return };
        link.open(hello.max_line, places, hello.keys);
        self.supervisor.hurry = false;
        if self.links.closing.is_some() {
            self.links.quit(id, step);
        }
        step.tally().connections += 1;
        step.emit(ConnectionEvent::Connected(hello.clone()));
        self.set_status(Status::Open(hello), step);
        self.topics.connected(&mut self.links, step);
        self.send_waiting(step);
    }

    /// Sends waiting requests, as far as there are places and room.
    pub(crate) fn send_waiting(&mut self, step: &mut Step) {
        if self.requests.are_waiting() {
            self.requests.send_waiting(&mut self.links, step);
        }
    }

    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    pub(crate) fn was_open(&self) -> bool {
        self.was_open
    }

    /// Sets the status, unless the client has ended.
    fn set_status(&mut self, status: Status, step: &mut Step) {
        if !matches!(self.status, Status::Ended(_)) {
            self.was_open |= matches!(status, Status::Open(_));
            self.status = status;
            self.wake_waiting(step);
        }
    }

    fn wake_waiting(&mut self, step: &mut Step) {
        step.wake(self.waiting.wake_all());
    }

    /// Registers a task that waits for a change of the status, or of the connections.
    pub(crate) fn wait(&mut self, ticket: &mut Option<u64>, waker: &Waker, step: &mut Step) {
        step.drop_later(self.waiting.wait(ticket, waker.clone()));
    }

    /// Removes a task that no longer waits.
    pub(crate) fn leave(&mut self, ticket: Option<u64>, step: &mut Step) {
        step.drop_later(self.waiting.leave(ticket));
    }

    /// Whether a subscription may begin: there is room for its request, or it will be rejected.
    fn has_turn(&self) -> bool {
        self.links.has_room_for_control() || self.links.refusal().is_some()
    }

    /// Returns whether it is the turn of a task to begin a subscription. If not, the task is
    /// registered.
    pub(crate) fn poll_turn(
        &mut self,
        ticket: &mut Option<u64>,
        waker: &Waker,
        step: &mut Step,
    ) -> bool {
        if self.turns.is_first(*ticket) && self.has_turn() {
            return true;
        }
        step.drop_later(self.turns.wait(ticket, waker.clone()));
        false
    }

    /// Removes a task that has begun its subscription or no longer waits. The next task has its
    /// turn.
    pub(crate) fn leave_turn(&mut self, ticket: Option<u64>, step: &mut Step) {
        step.drop_later(self.turns.leave(ticket));
    }

    fn wake_supervisor(&mut self, step: &mut Step) {
        self.supervisor.has_news = true;
        step.wake(self.supervisor.waker.take());
    }

    /// Returns whether something has happened since the last call. If not, the supervisor is
    /// registered.
    pub(crate) fn take_news(&mut self, supervisor: &Waker, step: &mut Step) -> bool {
        if std::mem::take(&mut self.supervisor.has_news) {
            return true;
        }
        step.drop_later(self.supervisor.waker.replace(supervisor.clone()));
        false
    }

    /// Lets the next round of attempts begin without a pause, unless there is a connection.
    pub(crate) fn hurry(&mut self, step: &mut Step) {
        if !self.links.current.state.is_admitted() {
            self.supervisor.hurry = true;
            self.wake_supervisor(step);
        }
    }

    pub(crate) fn is_in_a_hurry(&self) -> bool {
        self.supervisor.hurry
    }

    pub(crate) fn take_hurry(&mut self) {
        self.supervisor.hurry = false;
    }

    /// Whether the server owes a reply or notifications. After a `/bye` with `last`, or a `/quit`,
    /// it need not answer new requests, so it is not probed.
    pub(crate) fn awaits(&mut self, id: LinkId) -> bool {
        let has_topics = self.topics.has_any_on(id);
        let link = self.links.link(id).filter(|link| link.state.takes_controls());
        link.is_some_and(|link| has_topics || link.pending.len() > 0)
    }

    /// When the client's own timers are due: those of requests, topics and waiting tasks. The task
    /// that handles them is woken when that time becomes earlier.
    pub(crate) fn next_timeout(&mut self, waker: &Waker, step: &mut Step) -> Option<Time> {
        let next = self.earliest();
        self.timers.known = next;
        if !self.timers.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            step.drop_later(self.timers.waker.replace(waker.clone()));
        }
        next
    }

    fn earliest(&self) -> Option<Time> {
        let (requests, topics) = (self.requests.next_timeout(), self.topics.next_timeout());
        requests.into_iter().chain(topics).chain(self.alarms.next_timeout()).min()
    }

    /// Does what is due by the client's timers.
    pub(crate) fn handle_timeout(&mut self, step: &mut Step) {
        self.requests.handle_timeout(&mut self.links, step);
        self.topics.handle_timeout(&mut self.links, step);
        step.wake(self.alarms.take_due(step.now));
    }

    /// Ends each step, before the lock is released. Here a task gets its turn if there is room for
    /// a subscription.
    pub(crate) fn settle(&mut self, step: &mut Step) {
        if let Some(counted) = step.counted() {
            self.counted.take(counted);
        }
        if step.has_events() {
            let readers = self.events.queue(step.take_events());
            step.wake(readers);
        }
        if !self.turns.is_empty() && self.has_turn() {
            step.wake(self.turns.wake_first());
        }
        let next = self.earliest();
        if next.is_some_and(|next| self.timers.known.is_none_or(|known| next < known)) {
            self.timers.known = next;
            // The driver of the current connection updates its timer before it waits.
            if step.driver != Some(self.links.current.id) {
                step.wake(self.timers.waker.take());
            }
        }
    }
}
