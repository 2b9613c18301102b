//! The connections of a client: the one on which new requests begin, and those whose servers have
//! sent `/bye`.

use std::fmt;

use crate::{
    client::{
        config::ClientConfig,
        core::{key::LinkId, link::Link, state::Outage, step::Step, waiter::Waiter},
    },
    error::{ConnectionError, NotSent},
    protocol::{Backoff, Position, RequestId, Topic},
    sync::Arc,
};

/// The maximum number of connections that a client is leaving. If there are as many, it waits for
/// one of them to end before it connects again, because each may have all its places in flight
/// taken.
pub(crate) const MAX_LEAVING: usize = 4;

/// Why a line could not be appended.
#[derive(Debug)]
pub(crate) enum SendError {
    /// There is no connection, or it has no room: the request has to wait.
    Wait,
    Refused(NotSent),
}

#[derive(Debug)]
pub(crate) struct Links {
    pub(crate) config: Arc<ClientConfig>,
    /// Whether another connection follows when one ends.
    pub(crate) reconnects: bool,
    /// The connection on which new requests begin. While there is none, the next one.
    pub(crate) current: Link,
    /// Connections whose servers have sent `/bye`. Requests that were sent there are finished
    /// there.
    pub(crate) leaving: Vec<Link>,
    /// Ids rise over all connections, so that each id names one request of this client for good.
    last_id: u64,
    /// Why this side closes, or has closed. Nothing begins any more.
    pub(crate) closing: Option<ConnectionError>,
}

impl Links {
    pub(crate) fn new(config: Arc<ClientConfig>, reconnects: bool) -> Self {
        let current = Link::new(LinkId::default(), Outage::default());
        Self { config, reconnects, current, leaving: Vec::new(), last_id: 0, closing: None }
    }

    pub(crate) fn backoff(&self) -> Backoff {
        self.config.backoff()
    }

    /// The number of requests that were sent.
    pub(crate) fn requests(&self) -> u64 {
        self.last_id
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Link> {
        std::iter::once(&self.current).chain(&self.leaving)
    }

    /// The link of a driver, until it has ended.
    pub(crate) fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        if self.current.id == id {
            return Some(&mut self.current);
        }
        self.leaving.iter_mut().find(|link| link.id == id)
    }

    pub(crate) fn is_current(&self, id: LinkId) -> bool {
        self.current.id == id
    }

    /// Whether new requests begin on another connection than this one.
    pub(crate) fn has_moved_on_from(&self, id: LinkId) -> bool {
        self.refusal().is_none() && !self.is_current(id)
    }

    /// Why no request begins any more; `None` while requests begin, or will begin on the next
    /// connection.
    pub(crate) fn refusal(&self) -> Option<ConnectionError> {
        self.closing.clone().or_else(|| self.current.state.refusal())
    }

    /// The error of a request that was not sent by its deadline. It says why there is no
    /// connection, if there is none.
    pub(crate) fn out_of_time(&self) -> NotSent {
        NotSent::Deadline(self.current.state.last_failure().cloned())
    }

    pub(crate) fn next_id(&mut self) -> Result<RequestId, NotSent> {
        let exhausted = || NotSent::Lost(ConnectionError::Protocol("no request id is left".into()));
        let id = RequestId::new(self.last_id + 1).ok_or_else(exhausted)?;
        self.last_id += 1;
        Ok(id)
    }

    /// Whether there is room to write, and room for another request of the protocol itself.
    pub(crate) fn has_room_for_control(&self) -> bool {
        let Self { current, config, .. } = self;
        current.controls() < config.control_requests && current.unwritten() < config.outbound_bytes
    }

    /// Appends a `/subscribe` on the current connection. Returns the link of that connection.
    pub(crate) fn send_subscribe(
        &mut self,
        topic: &Topic,
        head: fmt::Arguments<'_>,
        step: &mut Step,
    ) -> Result<LinkId, SendError> {
        if let Some(error) = self.refusal() {
            return Err(SendError::Refused(NotSent::Lost(error)));
        }
        if !self.current.state.takes_controls() {
            return Err(SendError::Wait);
        }
        let id = self.next_id().map_err(SendError::Refused)?;
        let waiter = Waiter::Subscribe(topic.clone());
        self.current.append_control(id, waiter, head, format_args!("{topic}"));
        self.current.wake_for_line(step);
        Ok(self.current.id)
    }

    /// Appends a follow-up request of the protocol itself on the connection that it is about. It
    /// does not wait for room, because the number of such requests is bounded: see
    /// [`ClientConfig::control_requests`]. Returns whether that connection accepts lines.
    pub(crate) fn send_control(
        &mut self,
        link: LinkId,
        waiter: Waiter,
        head: fmt::Arguments<'_>,
        arguments: fmt::Arguments<'_>,
        step: &mut Step,
    ) -> bool {
        if !self.link(link).is_some_and(|link| link.state.takes_controls()) {
            return false;
        }
        let Ok(id) = self.next_id() else { return false };
        if let Some(link) = self.link(link) {
            link.append_control(id, waiter, head, arguments);
            link.wake_for_line(step);
        }
        true
    }

    /// Takes an id for one of the first lines of a connection.
    pub(crate) fn first_id(&mut self, link: LinkId, waiter: Waiter) -> Option<RequestId> {
        let id = self.next_id().ok()?;
        self.link(link)?.expect_reply(id, waiter);
        Some(id)
    }

    /// Notes that a connection has acks to be written.
    pub(crate) fn announce_acks(&mut self, link: LinkId, step: &mut Step) {
        if let Some(link) = self.link(link) {
            link.announce_acks();
            link.wake_for_line(step);
        }
    }

    /// Appends `* /ack TOPIC POSITION`, unless this side closes. It does so after a `/bye` with
    /// `last` too, because the server may have further messages to deliver.
    pub(crate) fn append_ack(
        &mut self,
        link: LinkId,
        topic: &Topic,
        position: Position,
        step: &mut Step,
    ) {
        let is_closing = self.closing.is_some();
        if let Some(link) = self.link(link).filter(|_| !is_closing) {
            link.append_notice(format_args!("/ack"), format_args!("{topic} {position}"));
            link.wake_for_line(step);
        }
    }

    /// Takes out the current link, for this reason. Its place is taken by the next one, which is
    /// awaited.
    pub(crate) fn replace_current(&mut self, why: &ConnectionError) -> Link {
        let next = Link::new(self.current.id.next(), Outage::down(why.clone()));
        std::mem::replace(&mut self.current, next)
    }

    /// Takes out a link that has ended, for this reason. Also returns whether it was the current
    /// one.
    pub(crate) fn take_link(&mut self, id: LinkId, why: &ConnectionError) -> Option<(Link, bool)> {
        if self.current.id == id {
            return Some((self.replace_current(why), true));
        }
        let at = self.leaving.iter().position(|link| link.id == id)?;
        Some((self.leaving.remove(at), false))
    }

    /// Sends `/quit` on a connection, or begins to close without it. If the server has not sent
    /// `/hello`, the driver is woken to close the connection. If no id is left for the `/quit`, the
    /// close timeout ends the connection.
    pub(crate) fn quit(&mut self, id: LinkId, step: &mut Step) {
        let Some(link) = self.link(id) else { return };
        if !link.state.is_admitted() {
            return link.wake_driver(step);
        }
        let takes_lines = link.state.takes_controls();
        // Behind its `/quit` the server reads nothing.
        link.append_grants();
        let quit = if takes_lines { self.next_id().ok() } else { None };
        let Some(link) = self.link(id) else { return };
        if let Some(id) = quit {
            link.append_control(id, Waiter::Quit, format_args!("/quit"), format_args!(""));
        }
        link.state.on_quit();
        link.wake_driver(step);
    }
}
