//! Lists of any length, which are written as the client reads them: the replies to `/methods`
//! (docs/protocol/calls.md, section 12) and to `/renew;list=more` (docs/protocol/subscriptions.md,
//! section 13).

use crate::{
    protocol::{Code, Line, Mark, Outcome, RequestId, encode},
    server::core::{
        active::{Listed, Listing},
        answer::cut_text,
        arguments::{Refusal, no_arguments, no_attributes},
        connection::{Connection, Taken},
    },
};

impl Connection {
    pub(super) fn methods(&mut self, id: RequestId, line: &Line<'_>) -> Result<Taken, Refusal> {
        no_attributes(line)?;
        no_arguments(line)?;
        self.begin_list(Listing { id, next: Listed::Method(0) });
        Ok(Taken::Yes)
    }

    /// Begins the list of all subscriptions and their positions.
    pub(super) fn list_subscriptions(&mut self, id: RequestId) {
        self.begin_list(Listing { id, next: Listed::SubscriptionBehind(0) });
    }

    fn begin_list(&mut self, listing: Listing) {
        self.active().listing = Some(listing);
        self.go_on_listing();
    }

    pub(super) fn is_listing(&self) -> bool {
        self.active.as_ref().is_some_and(|active| active.listing.is_some())
    }

    /// Continues a list while there is room for replies.
    pub(super) fn go_on_listing(&mut self) {
        let listing = self.active.as_mut().and_then(|active| active.listing.take());
        let Some(Listing { id, next }) = listing else { return };
        let next = match next {
            Listed::Method(at) => self.list_methods(id, at).map(Listed::Method),
            Listed::SubscriptionBehind(number) => {
                self.list_positions(id, number).map(Listed::SubscriptionBehind)
            }
        };
        if let Some(next) = next {
            self.active().listing = Some(Listing { id, next });
        }
    }

    /// The bytes that may still be written before replies have to wait.
    fn room(&self) -> usize {
        self.reply_mark().saturating_sub(self.unwritten())
    }

    /// Lists methods, beginning with the one at `next`. Returns where to continue, unless the list
    /// is complete.
    fn list_methods(&mut self, id: RequestId, mut next: usize) -> Option<usize> {
        let (room, max_line) = (self.room(), self.client_max_line);
        let environment = self.environment.clone();
        let out = self.out();
        let full_at = out.len() + room;
        let mut methods = environment.methods.sorted().skip(next);
        while out.len() < full_at {
            let Some((name, doc)) = methods.next() else {
                self.answer_ok(id, format_args!(""));
                return None;
            };
            let begin = out.len();
            let head = format_args!("more {name}");
            encode::display(out, Mark::Id(id), head, format_args!("{doc}"));
            cut_text(out, begin, max_line);
            next += 1;
        }
        Some(next)
    }

    /// Lists subscriptions whose numbers are above `last`, as many on a line as the client's limit
    /// allows. Returns the number of the last one listed, if there are more.
    fn list_positions(&mut self, id: RequestId, mut last: u64) -> Option<u64> {
        let (room, max_line) = (self.room(), self.client_max_line);
        let out = self.active.get_or_insert_default().out.bytes();
        let (full_at, mut begin) = (out.len() + room, out.len());
        let list = self.subscriptions.as_deref();
        let mut items =
            list.into_iter().flat_map(move |list| list.positions_behind(last)).peekable();
        while out.len() < full_at {
            let Some((number, item)) = items.next() else { break };
            if out.len() == begin {
                encode::mark(out, Mark::Id(id));
                out.extend_from_slice(b"more");
            }
            out.push(b' ');
            out.extend_from_slice(item.as_bytes());
            last = number;
            let fits = |(_, next): &(u64, String)| {
                out.len() - begin + " \n".len() + next.len() <= max_line
            };
            if !items.peek().is_some_and(fits) || out.len() >= full_at {
                out.push(b'\n');
                begin = out.len();
            }
        }
        let has_more = items.peek().is_some();
        drop(items);
        if has_more {
            return Some(last);
        }
        let lease = self.environment.config.lease.as_secs();
        self.answer_ok(id, format_args!(";lease={lease}"));
        None
    }

    /// Ends the list with `cut`, because the drain time is over.
    pub(super) fn cut_listing(&mut self) {
        if let Some(Listing { id, .. }) = self.active.as_mut().and_then(|on| on.listing.take()) {
            self.answer_failure(id, Outcome::Cut, &Code::CLOSING, format_args!(""));
        }
    }
}
