//! Statistics as metrics of the [`metrics`] facade, for the recorder that a program installs.
//!
//! Nothing is recorded by itself. A program calls [`record_server`] and [`record_client`] when its
//! metrics are requested, or every few seconds. Each sets the metrics from the statistics. To measure
//! how long handlers take, put [`Handlers`] around them with
//! [`Router::layer`](crate::Router::layer).
//!
//! | metric | kind | labels |
//! |---|---|---|
//! | `bellwire_server_connections` | gauge | `server` |
//! | `bellwire_server_connections_total` | counter | `server`, `result`: `accepted`, `refused` |
//! | `bellwire_server_in_flight`, `…_subscriptions`, `…_topics` | gauge | `server` |
//! | `bellwire_server_buffered_bytes`, `…_retained_bytes` | gauge | `server` |
//! | `bellwire_server_largest_held_bytes`, `…_longest_lag_seconds` | gauge | `server` |
//! | `bellwire_server_auth_refused_total` | counter | `server` |
//! | `bellwire_server_started_total`, `…_panics_total`, `…_malformed_total` | counter | `server` |
//! | `bellwire_server_store_failures_total` | counter | `server` |
//! | `bellwire_server_shed_total` | counter | `server` |
//! | `bellwire_server_replies_total` | counter | `server`, `outcome` |
//! | `bellwire_server_notifications_total`, `…_gaps_total` | counter | `server` |
//! | `bellwire_server_bytes_total` | counter | `server`, `direction`: `in`, `out` |
//! | `bellwire_client_connections_total` | counter | `client` |
//! | `bellwire_client_requests_total`, `…_resent_total`, `…_one_ways_total` | counter | `client` |
//! | `bellwire_client_pending`, `bellwire_client_in_flight` | gauge | `client` |
//! | `bellwire_client_replies_total` | counter | `client`, `outcome` |
//! | `bellwire_client_unmatched_replies_total` | counter | `client`, `kind`: `late`, `doubled`, `unasked` |
//! | `bellwire_client_notifications_total`, `…_gaps_total`, `…_missed_total` | counter | `client` |
//! | `bellwire_client_violations_total` | counter | `client` |
//! | `bellwire_client_bytes_total` | counter | `client`, `direction`: `in`, `out` |
//! | `bellwire_handler_seconds` | histogram | `method`, `outcome` |
//!
//! `outcome` is `ok`, `err`, `no` or `cut`. `server` and `client` are the names that the program
//! gives. `method` is one of the router's. No label has a value that a peer chose, so the number of
//! labels is bounded. That is why no metric names the connection that holds most or lags longest.
//! Use [`ServerHandle::sessions`](crate::ServerHandle::sessions) for that.
//!
//! ```
//! use bellwire::{Client, ServerHandle, metrics};
//!
//! fn render(server: &ServerHandle, upstream: &Client) {
//!     metrics::record_server("public", &server.stats());
//!     metrics::record_client("upstream", &upstream.stats());
//! }
//! ```

use std::time::Instant;

use metrics::{Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge};

use crate::{
    client::ClientStats,
    server::{HandlerFuture, Layer, Next, Rejection, RequestParts, ServerStats},
};

/// Registers the names and units of the metrics with the recorder. Call it once, after the recorder
/// is installed.
pub fn describe() {
    for (name, unit, text) in COUNTERS {
        describe_counter!(name, unit, text);
    }
    for (name, unit, text) in GAUGES {
        describe_gauge!(name, unit, text);
    }
    describe_histogram!("bellwire_handler_seconds", Unit::Seconds, "from a request to its reply");
}

const COUNTERS: [(&str, Unit, &str); 22] = [
    ("bellwire_server_connections_total", Unit::Count, "connections accepted and refused"),
    ("bellwire_server_started_total", Unit::Count, "requests started"),
    ("bellwire_server_panics_total", Unit::Count, "handlers that panicked"),
    ("bellwire_server_store_failures_total", Unit::Count, "subscriptions that a store failed"),
    ("bellwire_server_malformed_total", Unit::Count, "lines against the protocol"),
    ("bellwire_server_auth_refused_total", Unit::Count, "credentials that were refused"),
    ("bellwire_server_shed_total", Unit::Count, "connections closed to free the buffers"),
    ("bellwire_server_replies_total", Unit::Count, "requests answered"),
    ("bellwire_server_notifications_total", Unit::Count, "notifications written"),
    ("bellwire_server_gaps_total", Unit::Count, "gaps named"),
    ("bellwire_server_bytes_total", Unit::Bytes, "bytes read and written"),
    ("bellwire_client_connections_total", Unit::Count, "connections opened"),
    ("bellwire_client_requests_total", Unit::Count, "requests with an id"),
    ("bellwire_client_resent_total", Unit::Count, "calls sent again"),
    ("bellwire_client_one_ways_total", Unit::Count, "one-way requests"),
    ("bellwire_client_replies_total", Unit::Count, "terminal lines"),
    ("bellwire_client_unmatched_replies_total", Unit::Count, "replies that found no caller"),
    ("bellwire_client_notifications_total", Unit::Count, "notifications read"),
    ("bellwire_client_gaps_total", Unit::Count, "holes in topics"),
    ("bellwire_client_missed_total", Unit::Count, "numbers in those holes"),
    ("bellwire_client_violations_total", Unit::Count, "lines against a topic's order"),
    ("bellwire_client_bytes_total", Unit::Bytes, "bytes read and written"),
];

const GAUGES: [(&str, Unit, &str); 10] = [
    ("bellwire_server_connections", Unit::Count, "open connections"),
    ("bellwire_server_in_flight", Unit::Count, "requests in flight"),
    ("bellwire_server_subscriptions", Unit::Count, "subscriptions"),
    ("bellwire_server_topics", Unit::Count, "topics with a log"),
    ("bellwire_server_buffered_bytes", Unit::Bytes, "held by connections"),
    ("bellwire_server_retained_bytes", Unit::Bytes, "held by topics"),
    ("bellwire_server_largest_held_bytes", Unit::Bytes, "held by the largest connection"),
    ("bellwire_server_longest_lag_seconds", Unit::Seconds, "of the slowest subscriber"),
    ("bellwire_client_pending", Unit::Count, "requests without a terminal line"),
    ("bellwire_client_in_flight", Unit::Count, "places in flight taken"),
];

/// Records the counters and gauges of a server, under a name for it.
///
/// The counters are set, not added to, so each server needs its own name.
pub fn record_server(name: &'static str, stats: &ServerStats) {
    let set = |metric: &'static str, value: u64| counter!(metric, "server" => name).absolute(value);
    set("bellwire_server_started_total", stats.started);
    set("bellwire_server_panics_total", stats.panics);
    set("bellwire_server_store_failures_total", stats.store_failures);
    set("bellwire_server_malformed_total", stats.malformed);
    set("bellwire_server_auth_refused_total", stats.auth_refused);
    set("bellwire_server_shed_total", stats.shed);
    set("bellwire_server_notifications_total", stats.notifications);
    set("bellwire_server_gaps_total", stats.gaps);
    for (result, value) in [("accepted", stats.accepted), ("refused", stats.refused)] {
        let labels = [("server", name), ("result", result)];
        counter!("bellwire_server_connections_total", &labels).absolute(value);
    }
    let outcomes = outcomes([stats.ok, stats.err, stats.no, stats.cut]);
    for (outcome, value) in outcomes {
        let labels = [("server", name), ("outcome", outcome)];
        counter!("bellwire_server_replies_total", &labels).absolute(value);
    }
    for (direction, value) in [("in", stats.bytes_in), ("out", stats.bytes_out)] {
        let labels = [("server", name), ("direction", direction)];
        counter!("bellwire_server_bytes_total", &labels).absolute(value);
    }
    let set = |metric: &'static str, value: f64| gauge!(metric, "server" => name).set(value);
    set("bellwire_server_connections", stats.connections as f64);
    set("bellwire_server_in_flight", stats.in_flight as f64);
    set("bellwire_server_subscriptions", stats.subscriptions as f64);
    set("bellwire_server_topics", stats.topics as f64);
    set("bellwire_server_buffered_bytes", stats.buffered_bytes as f64);
    set("bellwire_server_retained_bytes", stats.retained_bytes as f64);
    set("bellwire_server_largest_held_bytes", stats.largest_held_bytes as f64);
    set("bellwire_server_longest_lag_seconds", stats.longest_lag.as_secs_f64());
}

/// Records the counters and gauges of a client, under a name for it.
///
/// The counters are set, not added to, so each client needs its own name. They count over all
/// connections of the client.
pub fn record_client(name: &'static str, stats: &ClientStats) {
    let set = |metric: &'static str, value: u64| counter!(metric, "client" => name).absolute(value);
    set("bellwire_client_connections_total", stats.connections);
    set("bellwire_client_requests_total", stats.requests);
    set("bellwire_client_resent_total", stats.resent);
    set("bellwire_client_one_ways_total", stats.one_ways);
    set("bellwire_client_notifications_total", stats.notifications);
    set("bellwire_client_gaps_total", stats.gaps);
    set("bellwire_client_missed_total", stats.missed);
    set("bellwire_client_violations_total", stats.violations);
    for (outcome, value) in outcomes([stats.ok, stats.err, stats.no, stats.cut]) {
        let labels = [("client", name), ("outcome", outcome)];
        counter!("bellwire_client_replies_total", &labels).absolute(value);
    }
    let unmatched = [
        ("late", stats.late_replies),
        ("doubled", stats.doubled_replies),
        ("unasked", stats.unasked_replies),
    ];
    for (kind, value) in unmatched {
        let labels = [("client", name), ("kind", kind)];
        counter!("bellwire_client_unmatched_replies_total", &labels).absolute(value);
    }
    for (direction, value) in [("in", stats.bytes_in), ("out", stats.bytes_out)] {
        let labels = [("client", name), ("direction", direction)];
        counter!("bellwire_client_bytes_total", &labels).absolute(value);
    }
    gauge!("bellwire_client_pending", "client" => name).set(stats.pending as f64);
    gauge!("bellwire_client_in_flight", "client" => name).set(stats.in_flight as f64);
}

fn outcomes(counts: [u64; 4]) -> [(&'static str, u64); 4] {
    let [ok, err, no, cut] = counts;
    [("ok", ok), ("err", err), ("no", no), ("cut", cut)]
}

/// A [`Layer`] that measures how long requests take, by method and outcome: from their start to
/// their reply, or to the end of a streamed reply. The metric is `bellwire_handler_seconds`; its
/// count is the number of requests.
///
/// A streamed reply is measured once, with the outcome of its end: `cut` if it was cancelled,
/// exceeded its time, or was lost with its connection. Requests that are refused before their
/// handler starts, or dropped before it replies (cancelled, past their deadline), are not measured.
///
/// ```
/// use bellwire::{Router, metrics::Handlers};
///
/// let router = Router::new().method("echo", async |text: String| text).layer(Handlers::new());
/// # let _ = router;
/// ```
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Handlers;

impl Handlers {
    /// The layer.
    pub fn new() -> Self {
        Self
    }
}

impl Layer for Handlers {
    fn call(&self, request: &RequestParts<'_>, next: Next<'_>) -> Result<HandlerFuture, Rejection> {
        let (method, begin) = (request.method().to_owned(), Instant::now());
        let handler = next.run()?;
        Ok(Box::pin(async move {
            let reply = handler.await;
            reply.on_end(move |outcome| {
                let labels = [("method", method), ("outcome", outcome.to_string())];
                metrics::histogram!("bellwire_handler_seconds", &labels).record(begin.elapsed());
            })
        }))
    }
}
