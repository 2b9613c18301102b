//! The connections of a client: the one on which what is new is begun, and those that are left.

use std::task::Waker;

use crate::{
    client::{
        core::link::{Link, LinkId, SendError},
        core::waiter::Waiter,
    },
    error::{ConnectionError, NotSent},
    protocol::RequestId,
};

/// **Invariant:** no waker is woken, no one-shot sent and no user code run while it is locked.
pub(crate) struct Links {
    /// Where what is new is begun: the connection, or, shut, the next one.
    pub(crate) current: Link,
    /// Connections whose servers are about to go: what is under way there goes on.
    pub(crate) leaving: Vec<Link>,
    /// Ids rise over all connections, so that each names one request of this client for good, and no
    /// handle needs to know on which connection its own was sent.
    pub(crate) last_id: u64,
    /// Why nothing is taken any more.
    pub(crate) refusing: Option<ConnectionError>,
    /// This side closes: it quits, and waits only so long.
    pub(crate) closing: bool,
    /// Why there is no connection, after there was one, or was to be.
    pub(crate) down: Option<ConnectionError>,
    /// The last failure since there was a connection: of that one, or of an attempt to connect.
    pub(crate) cause: Option<ConnectionError>,
    /// The next round of attempts is not to wait for its time.
    pub(crate) hurry: bool,
    /// One-way lines of the application's that no connection was offered.
    pub(crate) carried: Vec<u8>,
}

impl Links {
    pub(crate) fn new() -> Self {
        Self {
            current: Link::new(LinkId::default()),
            leaving: Vec::new(),
            last_id: 0,
            refusing: None,
            closing: false,
            down: None,
            cause: None,
            hurry: false,
            carried: Vec::new(),
        }
    }

    /// There is no connection any more, for this reason.
    pub(crate) fn set_down(&mut self, error: Option<ConnectionError>) {
        self.cause = error.clone().or(self.cause.take());
        self.down = error;
    }

    /// Whether this side closes.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing
    }

    /// The link of a driver, until it is over.
    pub(crate) fn link(&mut self, id: LinkId) -> Option<&mut Link> {
        if self.current.id == id {
            return Some(&mut self.current);
        }
        self.leaving.iter_mut().find(|link| link.id == id)
    }

    /// The link on which a request waits for its terminal line.
    pub(crate) fn link_of(&mut self, id: RequestId) -> Option<&mut Link> {
        let mut links = std::iter::once(&mut self.current).chain(&mut self.leaving);
        links.find(|link| link.pending.has(id.get()))
    }

    /// The link on which something new can be begun now.
    pub(crate) fn gate(&mut self) -> Result<&mut Link, SendError> {
        match self.refusal() {
            Some(error) => Err(SendError::Refused(NotSent::Lost(error.clone()))),
            None => self.protocol_gate(),
        }
    }

    /// The same for what a server that is about to go still takes.
    pub(crate) fn protocol_gate(&mut self) -> Result<&mut Link, SendError> {
        if let Some(error) = self.refusing.as_ref().or(self.current.refusing()) {
            return Err(SendError::Refused(NotSent::Lost(error.clone())));
        }
        match self.current.is_open() {
            true => Ok(&mut self.current),
            false => Err(SendError::NoPlace),
        }
    }

    /// Why nothing is begun any more, ever; `None` while it is, or will be.
    pub(crate) fn refusal(&self) -> Option<&ConnectionError> {
        self.refusing.as_ref().or(self.current.refusal())
    }

    pub(crate) fn next_id(&mut self) -> Result<RequestId, NotSent> {
        let exhausted = || NotSent::Lost(ConnectionError::Protocol("ids are used up".into()));
        let id = RequestId::new(self.last_id + 1).ok_or_else(exhausted)?;
        self.last_id += 1;
        Ok(id)
    }

    /// Takes the current link out, and shuts the gate before its successor.
    pub(crate) fn replace_current(&mut self) -> Link {
        let next = Link::new(self.current.id.next());
        std::mem::replace(&mut self.current, next)
    }

    /// Takes out a link that is over; whether it was the current one.
    pub(crate) fn take_link(&mut self, id: LinkId) -> Option<(Link, bool)> {
        if self.current.id == id {
            return Some((self.replace_current(), true));
        }
        let at = self.leaving.iter().position(|link| link.id == id)?;
        Some((self.leaving.remove(at), false))
    }

    /// Takes one-way lines for the next connection, or for the one there is; how many of them it does
    /// not take, and its driver to wake. Behind its `/quit`, no server reads.
    pub(crate) fn carry(&mut self, lines: &[u8]) -> (u64, Option<Waker>) {
        if self.closing {
            return (count_lines(lines), None);
        }
        if self.current.is_open() {
            return self.current.append_carried(lines);
        }
        self.carried.extend_from_slice(lines);
        (0, None)
    }

    /// What a link needs to quit; one whose server has not said hello quits once it is open. Without an
    /// id left to quit with, the driver's bound on closing ends it. The driver to wake.
    pub(crate) fn quit(&mut self, id: LinkId) -> Option<Waker> {
        let link = self.link(id)?;
        if !link.is_open() {
            return link.take_driver();
        }
        let quit = self.next_id();
        let link = self.link(id)?;
        // Behind its `/quit`, no server reads.
        link.append_grants();
        let appended = match quit {
            Ok(id) if link.refusing().is_none() => {
                link.append_control(id, Waiter::Quit, format_args!("/quit"), format_args!(""))
            }
            _ => None,
        };
        link.refuse(ConnectionError::Closed);
        appended.or_else(|| link.take_driver())
    }
}

/// How many lines these are.
pub(crate) fn count_lines(lines: &[u8]) -> u64 {
    lines.iter().filter(|&&byte| byte == b'\n').count() as u64
}
