//! The method by which a server tells its statistics to clients, such as `bellwire top`.

use std::{cmp::Reverse, time::Duration};

use futures_core::Stream;
use serde::{Deserialize, Serialize};

use crate::{
    json::Json,
    server::{
        config::ServerConfig,
        handle::ServerHandle,
        handlers::{
            extractors::{FromRequest, RequestParts},
            handler::handler,
            reply::Rejection,
            router::Router,
            streamed::Streamed,
        },
        session::Session,
        stats::ServerStats,
    },
    topic::TopicStats,
};

/// The method that [`Server::stats_method`](crate::Server::stats_method) adds.
pub const STATS_METHOD: &str = "bellwire.stats";

/// The sessions and topics that are listed if the request does not say how many.
const DEFAULT: usize = 50;
/// The most that are listed, whatever the request says.
const MOST: usize = 1_000;

/// Adds the method. Without an authorizer it refuses every call.
pub(super) fn add<S: Clone + Send + Sync + 'static>(
    router: Router<S>,
    handle: ServerHandle,
    config: &ServerConfig,
    has_authorizer: bool,
) -> Router<S> {
    let doc = r#"[{"sessions":N,"topics":N}]: statistics of the server, its slowest sessions and its topics, as a stream"#;
    if !has_authorizer {
        return router.method(STATS_METHOD, handler(async |_: Forbidden| ()).doc(doc));
    }
    let bounds = Bounds {
        buffered_bytes_total: config.buffered_bytes_total,
        retained_bytes_total: config.retained_bytes_total,
    };
    let stats = move |Json(wanted): Json<Option<Wanted>>| {
        let handle = handle.clone();
        async move { Streamed(items(&handle, bounds, wanted.unwrap_or_default())) }
    };
    router.method(STATS_METHOD, handler(stats).doc(doc))
}

/// An argument that no request has.
struct Forbidden;

impl<S> FromRequest<S> for Forbidden {
    fn from_request(_: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        Err(Rejection::forbidden("the server has no authorizer"))
    }
}

/// The payload of a request.
#[derive(Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Wanted {
    sessions: usize,
    topics: usize,
}

impl Default for Wanted {
    fn default() -> Self {
        Self { sessions: DEFAULT, topics: DEFAULT }
    }
}

#[derive(Clone, Copy)]
struct Bounds {
    buffered_bytes_total: usize,
    retained_bytes_total: usize,
}

/// A line of the reply.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Item {
    Server(Box<ServerItem>),
    Session(SessionItem),
    Topic(TopicItem),
}

#[derive(Serialize)]
struct ServerItem {
    connections: usize,
    in_flight: usize,
    subscriptions: usize,
    buffered_bytes: usize,
    buffered_bytes_total: usize,
    largest_held_bytes: usize,
    retained_bytes: usize,
    retained_bytes_total: usize,
    longest_lag_ms: u64,
    topics: usize,
    accepted: u64,
    refused: u64,
    started: u64,
    ok: u64,
    err: u64,
    no: u64,
    cut: u64,
    panics: u64,
    store_failures: u64,
    notifications: u64,
    gaps: u64,
    malformed: u64,
    auth_refused: u64,
    shed: u64,
    bytes_in: u64,
    bytes_out: u64,
}

#[derive(Serialize)]
struct SessionItem {
    session: String,
    peer: String,
    principal: Option<String>,
    connected_ms: u64,
    held_bytes: usize,
    unwritten_bytes: usize,
    in_flight: usize,
    subscriptions: usize,
    lag_ms: u64,
    stuck_ms: u64,
}

#[derive(Serialize)]
struct TopicItem {
    topic: String,
    epoch: String,
    next: u64,
    retained_bytes: usize,
    subscribers: usize,
}

/// The figures at the time of the call: those of the server, then sessions, then topics.
fn items(
    handle: &ServerHandle,
    bounds: Bounds,
    wanted: Wanted,
) -> impl Stream<Item = Json<Item>> + use<> {
    let stats = handle.stats();
    let topics = handle.topics();
    let server = Item::Server(Box::new(of_server(stats, bounds)));
    let sessions = slowest(handle.sessions(), wanted.sessions.min(MOST));
    let topics = most_published(topics, wanted.topics.min(MOST));
    All(std::iter::once(server).chain(sessions).chain(topics))
}

/// A stream of what is already there.
struct All<I>(I);

impl<I: Iterator<Item = Item> + Unpin> Stream for All<I> {
    type Item = Json<Item>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.next().map(Json))
    }
}

fn of_server(stats: ServerStats, bounds: Bounds) -> ServerItem {
    let Bounds { buffered_bytes_total, retained_bytes_total } = bounds;
    ServerItem {
        connections: stats.connections,
        in_flight: stats.in_flight,
        subscriptions: stats.subscriptions,
        buffered_bytes: stats.buffered_bytes,
        buffered_bytes_total,
        largest_held_bytes: stats.largest_held_bytes,
        retained_bytes: stats.retained_bytes,
        retained_bytes_total,
        longest_lag_ms: millis(stats.longest_lag),
        topics: stats.topics,
        accepted: stats.accepted,
        refused: stats.refused,
        started: stats.started,
        ok: stats.ok,
        err: stats.err,
        no: stats.no,
        cut: stats.cut,
        panics: stats.panics,
        store_failures: stats.store_failures,
        notifications: stats.notifications,
        gaps: stats.gaps,
        malformed: stats.malformed,
        auth_refused: stats.auth_refused,
        shed: stats.shed,
        bytes_in: stats.bytes_in,
        bytes_out: stats.bytes_out,
    }
}

/// The sessions that keep something waiting for longest, and of the others those that hold most.
fn slowest(sessions: Vec<Session>, most: usize) -> impl Iterator<Item = Item> + Unpin + use<> {
    let mut figures: Vec<_> =
        sessions.into_iter().map(|session| (session.stats(), session)).collect();
    figures.sort_by_key(|(stats, _)| Reverse((stats.lag.max(stats.stuck), stats.held_bytes)));
    figures.truncate(most);
    figures.into_iter().map(|(stats, session)| {
        Item::Session(SessionItem {
            session: session.id().to_string(),
            peer: session.peer().to_string(),
            principal: session.principal().name().map(Into::into),
            connected_ms: millis(stats.connected),
            held_bytes: stats.held_bytes,
            unwritten_bytes: stats.unwritten_bytes,
            in_flight: stats.in_flight,
            subscriptions: stats.subscriptions,
            lag_ms: millis(stats.lag),
            stuck_ms: millis(stats.stuck),
        })
    })
}

/// The topics with most messages since their logs began. The reader computes rates.
fn most_published(
    mut topics: Vec<TopicStats>,
    most: usize,
) -> impl Iterator<Item = Item> + Unpin + use<> {
    topics.sort_by_key(|topic| Reverse(topic.end.next));
    topics.truncate(most);
    topics.into_iter().map(|stats| {
        Item::Topic(TopicItem {
            topic: stats.topic.to_string(),
            epoch: stats.end.epoch.to_string(),
            next: stats.end.next,
            retained_bytes: stats.retained_bytes,
            subscribers: stats.subscribers,
        })
    })
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
