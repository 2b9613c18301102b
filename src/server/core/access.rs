//! What is to be decided about a peer: who it is, and whether it may subscribe.

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

/// What is to be decided about a peer. Where nothing is, there is none.
pub(super) enum Access {
    Stranger(Stranger),
    Asking(Asking),
}

/// A peer that has to `/auth` first.
pub(super) struct Stranger {
    /// Absolute: no line of the peer's puts it off.
    pub(super) deadline: Time,
    pub(super) tries: u32,
    pub(super) trying: Option<(RequestId, HookFuture<Result<Principal, Denied>>)>,
}

/// A `/subscribe` that waits for the authorizer. Its line is deferred, with the protocol requests
/// behind it, so that they keep their order.
pub(super) struct Asking {
    pub(super) id: RequestId,
    pub(super) topic: String,
    pub(super) permission: Permission,
}

/// The decision of the authorizer, which may take its time.
pub(super) struct Permission {
    asked: HookFuture<Ruling>,
    ruling: Option<Ruling>,
    deadline: Time,
}

impl Access {
    /// Of a peer that has to authenticate until this time.
    pub(super) fn stranger(deadline: Time) -> Self {
        Self::Stranger(Stranger { deadline, tries: 0, trying: None })
    }

    /// When what is undecided is decided by the clock.
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

    /// When it is given up.
    pub(super) fn deadline(&self) -> Time {
        self.deadline
    }

    /// The decision, if it is known.
    pub(super) fn ruling(&self) -> Option<&Ruling> {
        self.ruling.as_ref()
    }

    /// Decides it, whatever the authorizer says.
    pub(super) fn decide(&mut self, ruling: Ruling) {
        self.ruling = Some(ruling);
    }

    /// Whether the authorizer has answered, by now. One that panics has decided nothing.
    pub(super) fn is_decided(&mut self) -> bool {
        if self.ruling.is_none()
            && let Poll::Ready(said) = self.asked.poll()
        {
            self.ruling = Some(said.unwrap_or_else(|| Err(Rejection::busy(""))));
        }
        self.ruling.is_some()
    }

    /// Waits no longer.
    pub(super) fn give_up(&mut self) {
        if self.ruling.is_none() {
            tracing::error!("the authorizer does not answer");
            self.ruling = Some(Err(Rejection::busy("")));
        }
    }
}
