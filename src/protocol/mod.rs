//! The protocol's core: bytes into lines and back, and the transitions of both ends. Sans-IO.
//!
//! Nothing here touches a socket, a runtime or a clock: bytes come in as slices, time as a
//! [`Time`], randomness as a number. It is what the fuzz targets run, and what a program of one's
//! own can be built on. PROTOCOL.md is the normative text.
//!
//! The way of a line in: [`LineDecoder`] splits the stream, [`Line::parse`] takes a line apart,
//! [`Notice::parse`] or [`Outcome::from_word`] say what it is. The way out: [`encode`]. What each
//! end then does is in [`Lease`], [`Cursor`], [`Pace`], [`Violations`] and [`LineTime`] for the
//! server, and [`Renewal`], [`Silence`], [`Reconnect`], [`Repeats`] and [`SubscriptionState`] for the client;
//! [`Handled`] is what it acknowledges, and [`AckWindow`] is for both.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

mod ack;
mod attribute;
mod backoff;
mod code;
mod cursor;
pub mod encode;
mod escape;
mod handled;
mod id;
mod lease;
mod line;
mod name;
mod notice;
mod pace;
mod parse;
mod patience;
mod position;
mod reconnect;
mod reply;
pub(crate) mod rest;
mod subscription;
mod time;
mod trace;

pub use self::{
    ack::AckWindow,
    attribute::{AttributeList, Attributes, InvalidAttribute, MAX_ATTRIBUTES, MAX_KEY, MAX_VALUE},
    backoff::{Backoff, Repeats},
    code::{Code, MAX_CODE},
    cursor::{BadPosition, Cursor, Step, Window},
    escape::{Escaped, MAX_SHOWN},
    handled::Handled,
    id::{MAX_NUMBER, RequestId, parse_number},
    lease::{Lease, LeaseEvent, Renewal},
    line::{DEFAULT_MAX_LINE, LineDecoder, LineTooLong, MIN_MAX_LINE, strip_cr},
    name::{InvalidName, MAX_NAME, Method, Topic},
    notice::{
        Hello, Notice, VERSION, encode_bye, encode_end, encode_end_unread, encode_error,
        encode_gap, encode_goodbye, encode_hold, encode_reset,
    },
    pace::{Overtaken, Pace, Slow, Terms},
    parse::{Line, MAX_HEAD, Malformed, Mark, Rest, Word},
    patience::{LineTime, Silence, Verdict, Violations},
    position::{Epoch, InvalidPosition, MAX_EPOCH, Position},
    reconnect::Reconnect,
    reply::{Outcome, Reason},
    rest::{stuff, stuffed_len, unstuff},
    subscription::{Action, Actions, SubscriptionEvent, SubscriptionState, Then},
    time::Time,
    trace::{InvalidTraceParent, TraceParent},
};
pub(crate) use self::{
    handled::half as half_window,
    notice::parse_notification,
    reply::{Incoming, encode_failure, encode_refusal},
};
