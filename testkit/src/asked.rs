//! Extracts the number with which a request's payload begins.

use bellwire::server::{FromRequest, Rejection, RequestParts};

use crate::lines::first_number;

/// The number of a request, and the payload behind it.
pub(crate) struct Asked {
    pub(crate) call: u64,
    pub(crate) text: String,
}

impl<S> FromRequest<S> for Asked {
    fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        let payload = parts.payload();
        let call = first_number(&payload).ok_or_else(|| Rejection::bad_arguments("no number"))?;
        let text = String::from_utf8_lossy(&payload);
        Ok(Self { call, text: text.split_once(' ').unwrap_or_default().1.to_owned() })
    }
}
