//! The statistics of a client.

use crate::protocol::Outcome;

/// The statistics of a client: see [`Client::stats`](crate::Client::stats).
///
/// Counters begin at 0 with the client and only rise, over all its connections. `requests` is the
/// sum of `ok`, `err`, `no`, `cut` and `pending`, with two exceptions. If a connection ends, its
/// pending requests have no outcome. A call may be cancelled before its line was written.
///
/// ```
/// # async fn example(client: bellwire::Client) -> Result<(), bellwire::CallError> {
/// client.call("random", "6").await?;
/// let stats = client.stats();
/// assert_eq!((stats.requests, stats.ok, stats.in_flight), (1, 1, 0));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClientStats {
    /// Counter: connections on which the server has sent `/hello` and accepted this client.
    pub connections: u64,
    /// Counter: requests that were given an id, including those of the protocol itself
    /// (`/subscribe`, `/renew`).
    pub requests: u64,
    /// Counter: calls that were sent again, or will be, because they were proven not executed.
    pub resent: u64,
    /// Counter: one-way requests of the application.
    pub one_ways: u64,
    /// Counter: requests that were answered `ok`. This and the next three include cancelled
    /// requests whose answer came late.
    pub ok: u64,
    /// Counter: requests that were answered `err`.
    pub err: u64,
    /// Counter: requests that were answered `no`.
    pub no: u64,
    /// Counter: requests that were answered `cut`.
    pub cut: u64,
    /// Gauge: requests whose terminal line has not come, cancelled ones included.
    pub pending: usize,
    /// Gauge: places in flight that are taken by calls, and by cancelled calls whose terminal line
    /// has not arrived. Each connection, including those that are being left, has at most
    /// [`ClientConfig::in_flight`](crate::ClientConfig::in_flight).
    pub in_flight: usize,
    /// Counter: terminal lines that came after their caller had gone. Each is also counted in `ok`,
    /// `err`, `no` or `cut`.
    pub late_replies: u64,
    /// Counter: lines with the id of a request that already had its terminal line.
    pub doubled_replies: u64,
    /// Counter: lines with an id that no request of their connection has.
    pub unasked_replies: u64,
    /// Counter: notifications that were read.
    pub notifications: u64,
    /// Counter: holes in topics, named by the server or found by this client.
    pub gaps: u64,
    /// Counter: the numbers in those holes. What a stream drops because it is not read is reported
    /// only by that stream.
    pub missed: u64,
    /// Counter: lines that broke the order of a topic's numbers, exceeded its window, or belonged
    /// to a topic that is not subscribed; items of streamed replies that came without credit.
    pub violations: u64,
    /// Counter: bytes read.
    pub bytes_in: u64,
    /// Counter: bytes handed to the transport.
    pub bytes_out: u64,
}

macro_rules! tally {
    ($($field:ident),* $(,)?) => {
        /// The counters of a step, and the sums that the core keeps.
        #[derive(Debug, Default)]
        pub(crate) struct Tally {
            $(pub(crate) $field: u64,)*
        }

        impl Tally {
            /// Moves the counters of a step to these sums.
            pub(crate) fn take(&mut self, counted: &mut Self) {
                $(self.$field = self.$field.saturating_add(counted.$field);)*
                *counted = Self::default();
            }

            /// Returns the present sums.
            pub(crate) fn stats(&self) -> ClientStats {
                ClientStats { $($field: self.$field,)* ..ClientStats::default() }
            }
        }
    };
}

tally! {
    connections, resent, one_ways, ok, err, no, cut, late_replies, doubled_replies, unasked_replies,
    notifications, gaps, missed, violations, bytes_in, bytes_out,
}

impl Tally {
    /// Counts a terminal line.
    pub(crate) fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.ok += 1,
            Outcome::Err => self.err += 1,
            Outcome::No => self.no += 1,
            Outcome::Cut => self.cut += 1,
            Outcome::More => {}
        }
    }
}
