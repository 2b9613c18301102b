//! `/renew`: the lease, and where each subscription stands (PROTOCOL.md, section 8.4).

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    protocol::{LeaseEvent, Line, Mark, RequestId, encode},
    server::connection::{
        Connection, Taken,
        control::{Refusal, check_attributes, no_arguments},
    },
};

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    pub(super) fn renew(&mut self, id: RequestId, line: &Line<'_>) -> Result<Taken, Refusal> {
        let mut in_pages = false;
        let read = |_: &str, value: &str| {
            in_pages = true;
            (value == "more").then_some(())
        };
        check_attributes(line, read, &["list"])?;
        no_arguments(line)?;
        if self.subscriptions.as_ref().is_some_and(|list| !list.is_empty()) {
            self.lease_event(LeaseEvent::Renewed);
        }
        let lease = self.shared.config.lease.as_secs();
        if in_pages {
            self.list_in_pages(id);
            self.answer_ok(id, format_args!(";lease={lease}"));
        } else {
            let positions = self.subscriptions.as_ref().map(|list| list.positions());
            let positions = positions.into_iter().flatten().collect::<Vec<_>>().join(" ");
            let (head, list) = (format_args!("ok;lease={lease}"), format_args!("{positions}"));
            self.answer(id, |out| encode::display(out, Mark::Id(id), head, list));
        }
        Ok(Taken::Yes)
    }

    /// Appends the list, as many items to a line as the client takes; the longest item is below the
    /// least limit.
    fn list_in_pages(&mut self, id: RequestId) {
        let Some(list) = &self.subscriptions else { return };
        let out = self.active.get_or_insert_default().out.bytes();
        let head = format!("{id} more");
        let mut begin = out.len();
        for item in list.positions() {
            let length = out.len() - begin;
            if length > 0 && length + item.len() + " \n".len() > self.client_max_line {
                out.push(b'\n');
                begin = out.len();
            }
            if out.len() == begin {
                out.extend_from_slice(head.as_bytes());
            }
            out.push(b' ');
            out.extend_from_slice(item.as_bytes());
        }
        if out.len() > begin {
            out.push(b'\n');
        }
    }
}
