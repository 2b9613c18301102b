//! The protocol's core: bytes into lines and back, and the transitions of both ends. Sans-IO.
//!
//! Nothing here touches a socket, a runtime or a clock: bytes come in as slices, time as a
//! [`Time`], randomness as a number. It is what the fuzz targets run, and what a program of one's
//! own can be built on. PROTOCOL.md is the normative text.
//!
//! The way of a line in: [`LineDecoder`] splits the stream, [`Line::parse`] takes a line apart,
//! [`Notice::parse`] or [`Outcome::from_word`] say what it is. The way out: [`encode`]. What each
//! end then does is in [`Lease`], [`Cursor`], [`Violations`] and [`LineTime`] for the server, and
//! [`Renewal`], [`Silence`] and [`SubscriptionState`] for the client.

#![deny(clippy::unwrap_used, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::indexing_slicing))]

mod attribute;
mod code;
mod cursor;
pub mod encode;
mod escape;
mod id;
mod lease;
mod line;
mod name;
mod notice;
mod parse;
mod patience;
mod position;
mod reply;
pub(crate) mod rest;
mod subscription;
mod time;

pub use self::{
    attribute::{AttributeList, Attributes, InvalidAttribute, MAX_ATTRIBUTES, MAX_KEY, MAX_VALUE},
    code::{Code, MAX_CODE},
    cursor::{BadPosition, Cursor, Step, Window},
    escape::{Escaped, MAX_SHOWN},
    id::{MAX_NUMBER, RequestId, parse_number},
    lease::{Lease, LeaseEvent, Renewal},
    line::{DEFAULT_MAX_LINE, LineDecoder, LineTooLong, MIN_MAX_LINE, strip_cr},
    name::{InvalidName, MAX_NAME, Method, Topic},
    notice::{
        Hello, Notice, VERSION, encode_bye, encode_end, encode_error, encode_gap, encode_reset,
    },
    parse::{Line, MAX_HEAD, Malformed, Mark, Rest, Word},
    patience::{LineTime, Silence, Verdict, Violations},
    position::{Epoch, InvalidPosition, MAX_EPOCH, Position},
    reply::{Outcome, Reason},
    rest::{stuff, stuffed_len, unstuff},
    subscription::{Action, Actions, SubscriptionEvent, SubscriptionState, Then},
    time::Time,
};
pub(crate) use self::{
    notice::parse_notification,
    reply::{Incoming, encode_failure},
};
