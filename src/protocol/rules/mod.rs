//! The rules of both ends as pure transitions. A transition takes a state, an event and a time, and
//! returns the next state and the actions.
//!
//! The rules read no clock and draw no random numbers: time is a [`Time`](crate::protocol::Time),
//! and jitter is an argument.
//!
//! - Topics on the server: [`Cursor`], [`FlowControl`], [`Lease`].
//! - Topics on the client: [`SubscriptionState`], [`Handled`], [`Renewal`]. [`AckWindow`] is for both.
//! - Limits on the peer's time and faults: [`Violations`] and [`LineTime`] on the server,
//!   [`KeepAlive`] on the client.
//! - Repetition by the client: [`Backoff`], [`Repeats`], [`Reconnect`].

#![cfg_attr(
    not(feature = "unstable-core"),
    allow(unreachable_pub, dead_code, unused_imports, reason = "public with `unstable-core`")
)]

mod ack_window;
mod backoff;
mod cursor;
mod flow_control;
mod handled;
mod keepalive;
mod lease;
mod line_time;
mod reconnect;
mod subscription;
mod violations;

pub use self::{
    ack_window::AckWindow,
    backoff::{Backoff, Repeats},
    cursor::{BadPosition, Cursor, Step, Window},
    flow_control::{FlowControl, Overtaken, Slow, Terms},
    handled::Handled,
    keepalive::{KeepAlive, Verdict},
    lease::{Lease, LeaseEvent, Renewal},
    line_time::LineTime,
    reconnect::Reconnect,
    subscription::{Action, Actions, SubscriptionEvent, SubscriptionState, Then},
    violations::Violations,
};
pub(crate) use self::{cursor::Begin, handled::half as half_window};
