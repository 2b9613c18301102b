//! The counters of a server. Each connection counts in plain integers, and adds them to shared
//! counters once per poll.

use std::{mem, time::Duration};

use uuid::Uuid;

use crate::{
    protocol::Outcome,
    sync::{AtomicU64, Ordering},
};

/// The number of shards of the shared counters, so that connections on different processors seldom
/// write to the same cache line. A session always uses the same shard.
const SHARDS: usize = 16;

/// What a server has done and is doing, from [`ServerHandle::stats`](crate::ServerHandle::stats).
///
/// Counters begin at 0 with the server and only rise. An event is counted before a peer can observe
/// its effect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerStats {
    /// Gauge: connections that are open, or are closing. Connections over the limit are not
    /// included.
    pub connections: usize,
    /// Counter: connections that were accepted and served.
    pub accepted: u64,
    /// Counter: connections that were over the limit.
    pub refused: u64,
    /// Gauge: requests that have a place in flight, one-ways and `/publish` included, over all
    /// connections. A request that is answered at once never has one. A request is no longer
    /// counted when its terminal line can be read, or when its connection is gone.
    pub in_flight: usize,
    /// Gauge: subscriptions, over all connections.
    pub subscriptions: usize,
    /// Gauge: bytes that the connections hold, which count against
    /// [`buffered_bytes_total`](crate::ServerConfig::buffered_bytes_total).
    pub buffered_bytes: usize,
    /// Gauge: bytes of the connection that holds most; [`Session::stats`](crate::Session::stats)
    /// shows which it is.
    pub largest_held_bytes: usize,
    /// Gauge: the longest [`SessionStats::lag`](crate::server::SessionStats::lag) of all
    /// connections.
    pub longest_lag: Duration,
    /// Gauge: bytes that the topics hold, which count against
    /// [`retained_bytes_total`](crate::ServerConfig::retained_bytes_total); 0 with your own store.
    pub retained_bytes: usize,
    /// Gauge: topics that have a log, where the store counts them ([`TopicStore::topics`]).
    ///
    /// [`TopicStore::topics`]: crate::topic::TopicStore::topics
    pub topics: usize,
    /// Counter: requests that were started: those of the application's methods, one-ways included,
    /// and `/publish`.
    pub started: u64,
    /// Counter: requests that were answered `ok`. This and the three below include the protocol's
    /// own methods.
    pub ok: u64,
    /// Counter: requests that were answered `err`.
    pub err: u64,
    /// Counter: requests that were answered `no`.
    pub no: u64,
    /// Counter: requests that were answered `cut`.
    pub cut: u64,
    /// Counter: handlers that panicked.
    pub panics: u64,
    /// Counter: subscriptions that were refused or ended because the topic store failed: it was
    /// unavailable, panicked, or returned a wrong value.
    pub store_failures: u64,
    /// Counter: notifications that were written to subscribers.
    pub notifications: u64,
    /// Counter: gaps that were named to subscribers.
    pub gaps: u64,
    /// Counter: lines that were malformed or over-long, or whose id was not above the last.
    pub malformed: u64,
    /// Counter: credentials that were refused: each `/auth` that was answered `unauthenticated`.
    pub auth_refused: u64,
    /// Counter: connections that were closed because they held more than their share of
    /// [`buffered_bytes_total`](crate::ServerConfig::buffered_bytes_total) and did not read.
    pub shed: u64,
    /// Counter: bytes read.
    pub bytes_in: u64,
    /// Counter: bytes written.
    pub bytes_out: u64,
}

macro_rules! tally {
    ($($field:ident),* $(,)?) => {
        /// The counts of one connection during a poll.
        #[derive(Debug, Default)]
        pub(super) struct Tally {
            $(pub(super) $field: u64,)*
        }

        #[derive(Debug, Default)]
        #[repr(align(128))]
        struct Shard {
            $($field: AtomicU64,)*
        }

        impl Shard {
            fn fold(&self, tally: Tally) {
                $(if tally.$field > 0 {
                    self.$field.fetch_add(tally.$field, Ordering::Relaxed);
                })*
            }

            fn add_to(&self, stats: &mut ServerStats) {
                $(stats.$field += self.$field.load(Ordering::Relaxed);)*
            }
        }
    };
}

tally! {
    accepted, refused, started, ok, err, no, cut, panics, store_failures, notifications, gaps,
    malformed, auth_refused, shed, bytes_in, bytes_out,
}

impl Tally {
    /// Counts a terminal line.
    pub(super) fn outcome(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Ok => self.ok += 1,
            Outcome::Err => self.err += 1,
            Outcome::No => self.no += 1,
            Outcome::Cut => self.cut += 1,
            Outcome::More => {}
        }
    }
}

/// The sums over all connections.
#[derive(Debug, Default)]
pub(super) struct Totals {
    shards: [Shard; SHARDS],
}

impl Totals {
    /// Adds the counts of a connection, and resets them.
    pub(super) fn fold(&self, session: Uuid, tally: &mut Tally) {
        self.shard(session).fold(mem::take(tally));
    }

    /// Adds written bytes. They are known only after the other counts were added.
    pub(super) fn wrote(&self, session: Uuid, bytes: usize) {
        if bytes > 0 {
            self.shard(session).bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// The current counters. The gauges are 0.
    pub(super) fn stats(&self) -> ServerStats {
        let mut stats = ServerStats::default();
        self.shards.iter().for_each(|shard| shard.add_to(&mut stats));
        stats
    }

    fn shard(&self, session: Uuid) -> &Shard {
        let [.., last] = *session.as_bytes();
        &self.shards[usize::from(last) % SHARDS]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folded_counts_are_added_once() {
        let totals = Totals::default();
        for session in 0..100 {
            let mut tally = Tally { ok: 2, ..Tally::default() };
            tally.outcome(Outcome::Cut);
            totals.fold(Uuid::from_u128(session), &mut tally);
            totals.fold(Uuid::from_u128(session), &mut tally);
            totals.wrote(Uuid::from_u128(session), 3);
        }
        let counted = ServerStats { ok: 200, cut: 100, bytes_out: 300, ..ServerStats::default() };
        assert_eq!(totals.stats(), counted);
    }
}
