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
        if in_pages {
            self.list_subscriptions(id);
            return Ok(Taken::Yes);
        }
        let lease = self.shared.config.lease.as_secs();
        let positions = self.subscriptions.iter().flat_map(|list| list.positions_behind(0));
        let positions = positions.map(|(_, item)| item).collect::<Vec<_>>().join(" ");
        let (head, list) = (format_args!("ok;lease={lease}"), format_args!("{positions}"));
        self.answer(id, |out| encode::display(out, Mark::Id(id), head, list));
        Ok(Taken::Yes)
    }
}
