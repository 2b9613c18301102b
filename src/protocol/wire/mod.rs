//! Lines on the wire: splitting, parsing and encoding them, and the names, numbers, codes and notices
//! that they hold.

mod attribute;
mod code;
pub mod encode;
mod escape;
mod id;
mod line;
mod name;
mod notice;
mod parse;
mod position;
mod reply;
pub(crate) mod rest;
mod trace;

pub use self::{
    attribute::{AttributeList, Attributes, InvalidAttribute, MAX_ATTRIBUTES, MAX_KEY, MAX_VALUE},
    code::{Code, MAX_CODE},
    escape::{Escaped, MAX_SHOWN},
    id::{MAX_NUMBER, RequestId, parse_number},
    line::{DEFAULT_MAX_LINE, LineDecoder, LineTooLong, MIN_MAX_LINE, strip_cr},
    name::{InvalidName, MAX_NAME, Method, Topic},
    notice::{
        Hello, Notice, VERSION, encode_bye, encode_end, encode_end_unread, encode_error,
        encode_gap, encode_goodbye, encode_hold, encode_reset,
    },
    parse::{Line, MAX_HEAD, Malformed, Mark, Rest, Word},
    position::{Epoch, InvalidPosition, MAX_EPOCH, Position},
    reply::{Outcome, Reason},
    rest::{stuff, stuffed_len, unstuff},
    trace::{InvalidTraceParent, TraceParent},
};
pub(crate) use self::{
    notice::parse_notification,
    reply::{Incoming, encode_failure, encode_refusal},
};
