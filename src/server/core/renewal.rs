//! `/renew`: it restarts the lease, and lists the subscriptions and their positions
//! (docs/protocol/subscriptions.md, section 13).

use crate::{
    protocol::{LeaseEvent, Line, Mark, RequestId, encode},
    server::core::{
        arguments::{Refusal, check_attributes, no_arguments},
        connection::{Connection, Taken},
    },
};

/// As many positions take as long to write as a short line takes to process.
const POSITIONS_PER_LINE: usize = 2;

impl Connection {
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
        let lease = self.environment.config.lease.as_secs();
        let positions = self.positions();
        let (head, list) = (format_args!("ok;lease={lease}"), format_args!("{positions}"));
        self.answer(id, |out| encode::display(out, Mark::Id(id), head, list));
        Ok(Taken::Yes)
    }

    /// The positions of all subscriptions. Stops when the line is over the client's limit, since it
    /// is not sent then. The work counts as processed lines in proportion, because the request
    /// itself is short.
    fn positions(&mut self) -> String {
        let (mut positions, mut listed) = (String::new(), 0);
        for (_, item) in self.subscriptions.iter().flat_map(|list| list.positions_behind(0)) {
            let separator = if listed == 0 { "" } else { " " };
            positions.extend([separator, &item]);
            listed += 1;
            if positions.len() > self.client_max_line {
                break;
            }
        }
        let lines = u16::try_from(listed / POSITIONS_PER_LINE).unwrap_or(u16::MAX);
        self.lines_left = self.lines_left.saturating_sub(lines);
        positions
    }
}
