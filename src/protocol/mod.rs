//! The protocol without input and output: bytes into lines and back, and the rules of both ends.
//!
//! Nothing here touches a socket, a runtime or a clock: bytes come in as slices, time as a
//! [`Time`], randomness as a number. It is what the fuzz targets run, and what your own tools can be
//! built on. PROTOCOL.md and docs/protocol/ are the normative text.
//!
//! The way of a line in: [`LineDecoder`] splits the stream, [`Line::parse`] takes a line apart, and
//! [`Notice::parse`] or [`Outcome::from_word`] say what it is. The way out: [`encode`]. [`Cursor`]
//! and [`Window`] are for stores of topics.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub(crate) mod rules;
mod time;
mod wire;

pub(crate) use self::{
    rules::{
        AckWindow, Action, FlowControl, Handled, KeepAlive, Lease, LeaseEvent, LineTime, Overtaken,
        Reconnect, Renewal, Repeats, SubscriptionEvent, SubscriptionState, Terms, Then, Verdict,
        Violations, half_window,
    },
    wire::{Incoming, encode_failure, encode_refusal, parse_notification},
};
pub use self::{
    rules::{Backoff, BadPosition, Cursor, Slow, Step, Window},
    time::Time,
    wire::*,
};
