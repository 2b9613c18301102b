//! Open decisions about a peer: who it is, and whether it may subscribe.

use std::task::Poll;

use crate::{
    protocol::{RequestId, Time},
    server::{
        access::{
            authenticator::Denied, authorizer::Ruling, hook_future::HookFuture,
            principal::Principal,
        },
        handlers::reply::Rejection,
    },
};

/// An open decision about a peer.
pub(super) enum Access {
    Stranger(Stranger),
    Asking(Asking),
}

/// A peer that has not yet authenticated, and must.
pub(super) struct Stranger {
    /// Absolute: no line of the peer postpones it.
    pub(super) deadline: Time,
    pub(super) tries: u32,
    pub(super) trying: Option<(RequestId, HookFuture<Result<Principal, Denied>>)>,
}

/// A `/subscribe` that waits for the authorizer. Its line is deferred together with the protocol
/// requests after it, so that they keep their order.
pub(super) struct Asking {
    pub(super) id: RequestId,
    pub(super) topic: String,
    pub(super) permission: Permission,
}

/// A decision of the authorizer, which may take time.
pub(super) struct Permission {
    asked: HookFuture<Ruling>,
    ruling: Option<Ruling>,
    deadline: Time,
}

impl Access {
    /// The state of a peer that has to authenticate before `deadline`.
    pub(super) fn stranger(deadline: Time) -> Self {
        Self::Stranger(Stranger { deadline, tries: 0, trying: None })
    }

    /// The time at which an open decision is made without the hook.
    pub(super) fn deadline(&self) -> Time {
        match self {
            Self::Stranger(stranger) => stranger.deadline,
            Self::Asking(asking) => asking.permission.deadline,
        }
    }
}

impl Permission {
    pub(super) fn new(asked: HookFuture<Ruling>, deadline: Time) -> Self {
        Self { asked, ruling: None, deadline }
    }

    /// The time at which the authorizer is no longer waited for.
    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }

    /// The decision, if it is known.
    pub(super) fn ruling(&self) -> Option<&Ruling> {
        self.ruling.as_ref()
    }

    /// Sets the decision, whatever the authorizer answers.
    pub(super) fn decide(&mut self, ruling: Ruling) {
        self.ruling = Some(ruling);
    }

    /// Polls the authorizer, and returns whether there is a decision. A panic of the authorizer
    /// counts as `no busy`.
    pub(super) fn is_decided(&mut self) -> bool {
        if self.ruling.is_none()
            && let Poll::Ready(said) = self.asked.poll()
        {
            self.ruling = Some(said.unwrap_or_else(|| Err(Rejection::busy(""))));
        }
        self.ruling.is_some()
    }

    /// Stops waiting for the authorizer. An open decision becomes `no busy`.
    pub(super) fn give_up(&mut self) {
        if self.ruling.is_none() {
            tracing::error!("the authorizer did not answer in time");
            self.ruling = Some(Err(Rejection::busy("")));
        }
    }
}
