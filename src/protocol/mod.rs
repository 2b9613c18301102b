//! The protocol without input and output: bytes into lines and back, and the rules of both ends.
//!
//! Nothing here touches a socket, a runtime or a clock. Bytes come in as slices, time as a
//! [`Time`], and randomness as a number. The fuzz targets run this module, and your own tools can
//! use it. PROTOCOL.md and docs/protocol/ are the normative text.
//!
//! To read: [`LineDecoder`] splits the stream into lines, [`Line::parse`] takes a line apart, and
//! [`Notice::parse`] or [`Outcome::from_word`] interpret it. To write: [`encode`]. Stores of topics
//! use [`Cursor`] and [`Window`].

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

pub(crate) mod rules;
mod time;
mod wire;

pub(crate) use self::{
    rules::{
        AckWindow, Action, Begin, FlowControl, Handled, KeepAlive, Lease, LeaseEvent, LineTime,
        Overtaken, Reconnect, Renewal, Repeats, SubscriptionEvent, SubscriptionState, Terms, Then,
        Verdict, Violations, half_window,
    },
    wire::{Incoming, encode_failure, encode_refusal, parse_notification},
};
pub use self::{
    rules::{Backoff, BadPosition, Cursor, Slow, Step, Window},
    time::Time,
    wire::*,
};
