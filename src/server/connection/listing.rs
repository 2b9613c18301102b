//! `/methods`: a list of any length, written as the client reads it (PROTOCOL.md, section 8.6).

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    protocol::{Code, Line, Mark, Outcome, RequestId, encode},
    server::connection::{
        Connection, Taken,
        answer::cut_text,
        control::{Refusal, no_arguments, no_attributes},
    },
};

/// A list that is not written whole. No further line is looked at meanwhile, so that protocol
/// methods keep their order.
#[derive(Debug)]
pub(super) struct Listing {
    id: RequestId,
    /// The method that comes next, among those sorted by name.
    next: usize,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    pub(super) fn methods(&mut self, id: RequestId, line: &Line<'_>) -> Result<Taken, Refusal> {
        no_attributes(line)?;
        no_arguments(line)?;
        self.active().listing = Some(Listing { id, next: 0 });
        self.list_methods();
        Ok(Taken::Yes)
    }

    pub(super) fn is_listing(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.listing.is_some())
    }

    /// Goes on with a list while there is room for replies.
    pub(super) fn list_methods(&mut self) {
        let listing = self.active.as_mut().and_then(|active| active.listing.take());
        let Some(Listing { id, mut next }) = listing else { return };
        let room = self.reply_mark().saturating_sub(self.unwritten());
        let (max_line, shared) = (self.client_max_line, self.shared.clone());
        let active = self.active.get_or_insert_default();
        let out = active.out.bytes();
        let full_at = out.len() + room;
        let mut methods = shared.methods.sorted().skip(next);
        while out.len() < full_at {
            let Some((name, doc)) = methods.next() else {
                return self.answer_ok(id, format_args!(""));
            };
            let begin = out.len();
            let head = format_args!("more {name}");
            encode::display(out, Mark::Id(id), head, format_args!("{doc}"));
            cut_text(out, begin, max_line);
            next += 1;
        }
        active.listing = Some(Listing { id, next });
    }

    /// The server does not wait for the client to read the rest.
    pub(super) fn cut_listing(&mut self) {
        if let Some(Listing { id, .. }) = self.active.as_mut().and_then(|on| on.listing.take()) {
            self.answer_failure(id, Outcome::Cut, &Code::CLOSING, format_args!(""));
        }
    }
}
