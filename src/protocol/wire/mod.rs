//! Lines on the wire: how they are split, parsed and encoded, and the names, numbers, codes and
//! notices in them.

mod attribute;
mod code;
pub mod encode;
mod escape;
mod id;
mod keys;
mod limits;
mod line;
mod name;
mod notice;
mod outcome;
mod parse;
mod position;
mod reply;
pub(crate) mod rest;
mod trace;
mod word;

pub use self::{
    attribute::{AttributeList, Attributes, InvalidAttribute},
    code::{Code, MAX_CODE},
    escape::{Escaped, MAX_SHOWN},
    id::{MAX_NUMBER, RequestId, parse_number},
    keys::{InvalidKeyWindow, KeyWindow},
    limits::{MAX_ATTRIBUTES, MAX_HEAD, MAX_KEY, MAX_NAME, MAX_VALUE},
    line::{DEFAULT_MAX_LINE, LineDecoder, LineTooLong, MIN_MAX_LINE, strip_cr},
    name::{InvalidName, Method, Topic},
    notice::{
        Hello, Notice, VERSION, encode_bye, encode_end, encode_end_unread, encode_error,
        encode_gap, encode_goodbye, encode_hold, encode_reset,
    },
    outcome::Outcome,
    parse::{Line, Malformed, Mark, Rest},
    position::{Epoch, InvalidPosition, MAX_EPOCH, Position},
    reply::Reason,
    rest::{stuff, stuffed_len, unstuff},
    trace::{InvalidTraceParent, TraceParent},
    word::Word,
};
pub(crate) use self::{
    notice::parse_notification,
    reply::{Incoming, encode_failure, encode_refusal},
};
