//! What the server says of itself, and what changes from one look to the next.

use std::{
    cmp::Reverse,
    collections::HashMap,
    time::{Duration, Instant},
};

use bellwire::{CallError, Client, server::STATS_METHOD};
use serde::Deserialize;
use serde_json::json;

use crate::{failed::Failed, top::Order};

/// How long a look may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// A line of the reply. What a later server adds is ignored.
#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Item {
    Server(ServerFigures),
    Session(SessionFigures),
    Topic(TopicFigures),
    #[serde(other)]
    Other,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ServerFigures {
    pub(crate) connections: u64,
    pub(crate) in_flight: u64,
    pub(crate) subscriptions: u64,
    pub(crate) buffered_bytes: u64,
    pub(crate) buffered_bytes_total: u64,
    pub(crate) retained_bytes: u64,
    pub(crate) retained_bytes_total: u64,
    pub(crate) longest_lag_ms: u64,
    pub(crate) topics: u64,
    pub(crate) accepted: u64,
    pub(crate) started: u64,
    pub(crate) ok: u64,
    pub(crate) err: u64,
    pub(crate) no: u64,
    pub(crate) cut: u64,
    pub(crate) notifications: u64,
    pub(crate) gaps: u64,
    pub(crate) shed: u64,
    pub(crate) bytes_in: u64,
    pub(crate) bytes_out: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct SessionFigures {
    pub(crate) peer: String,
    pub(crate) principal: Option<String>,
    pub(crate) connected_ms: u64,
    pub(crate) held_bytes: u64,
    pub(crate) unwritten_bytes: u64,
    pub(crate) in_flight: u64,
    pub(crate) subscriptions: u64,
    pub(crate) lag_ms: u64,
    pub(crate) stuck_ms: u64,
}

impl SessionFigures {
    /// How long it has kept something waiting.
    pub(crate) fn slow_ms(&self) -> u64 {
        self.lag_ms.max(self.stuck_ms)
    }
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TopicFigures {
    pub(crate) topic: String,
    pub(crate) epoch: String,
    pub(crate) next: u64,
    pub(crate) retained_bytes: u64,
    pub(crate) subscribers: u64,
}

/// A look at a server.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    pub(crate) server: ServerFigures,
    pub(crate) sessions: Vec<SessionFigures>,
    /// Each with its messages per second, the busiest first.
    pub(crate) topics: Vec<(TopicFigures, f64)>,
    /// The counters per second since the look before.
    pub(crate) rates: Rates,
}

#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rates {
    pub(crate) requests: f64,
    pub(crate) notifications: f64,
    pub(crate) bytes_in: f64,
    pub(crate) bytes_out: f64,
}

impl View {
    /// Whether there are topics, of which the server's store lists none.
    pub(crate) fn hides_topics(&self) -> bool {
        self.topics.is_empty() && self.server.topics > 0
    }

    pub(crate) fn sort(&mut self, order: Order) {
        self.sessions.sort_by_key(|session| {
            Reverse(match order {
                Order::Lag => session.slow_ms(),
                Order::Memory => session.held_bytes,
                Order::InFlight => session.in_flight,
                Order::Age => session.connected_ms,
            })
        });
    }
}

/// Asks a server, again and again.
pub(crate) struct Source<'a> {
    client: &'a Client,
    lines: u16,
    before: Option<(Instant, ServerFigures, HashMap<String, TopicFigures>)>,
}

impl<'a> Source<'a> {
    pub(crate) fn new(client: &'a Client, lines: u16) -> Self {
        Self { client, lines, before: None }
    }

    /// Asks for the present figures.
    pub(crate) async fn look(&mut self) -> Result<View, Failed> {
        let argument = json!({ "sessions": self.lines, "topics": self.lines }).to_string();
        let mut items = self.client.stream(STATS_METHOD, argument).deadline(DEADLINE);
        let mut view = View::default();
        let now = Instant::now();
        while let Some(item) = items.next().await {
            match serde_json::from_slice(&item.map_err(explain)?) {
                Ok(Item::Server(server)) => view.server = server,
                Ok(Item::Session(session)) => view.sessions.push(session),
                Ok(Item::Topic(topic)) => view.topics.push((topic, 0.0)),
                Ok(Item::Other) => {}
                Err(error) => {
                    return Err(Failed::other(format!("the figures cannot be read: {error}"))
                        .hint("is the server of another version?"));
                }
            }
        }
        self.compare(now, &mut view);
        Ok(view)
    }

    /// Computes what changes per second.
    fn compare(&mut self, now: Instant, view: &mut View) {
        if let Some((then, server, topics)) = &self.before {
            let seconds = now.duration_since(*then).as_secs_f64().max(0.001);
            let rate = |now: u64, then: u64| now.saturating_sub(then) as f64 / seconds;
            view.rates = Rates {
                requests: rate(view.server.answered(), server.answered()),
                notifications: rate(view.server.notifications, server.notifications),
                bytes_in: rate(view.server.bytes_in, server.bytes_in),
                bytes_out: rate(view.server.bytes_out, server.bytes_out),
            };
            for (topic, per_second) in &mut view.topics {
                let before = topics.get(&topic.topic).filter(|then| then.epoch == topic.epoch);
                *per_second = before.map_or(0.0, |then| rate(topic.next, then.next));
            }
        }
        view.topics.sort_by(|(one, a), (other, b)| b.total_cmp(a).then(other.next.cmp(&one.next)));
        let topics = view.topics.iter().map(|(topic, _)| (topic.topic.clone(), topic.clone()));
        self.before = Some((now, view.server.clone(), topics.collect()));
    }
}

impl ServerFigures {
    /// All requests that were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.ok + self.err + self.no + self.cut
    }
}

fn explain(error: CallError) -> Failed {
    let code = error.code().map(|code| code.as_str().to_owned());
    let failed = match &error {
        CallError::NotSent(_) => Failed::from(error),
        _ => Failed::from(error).within("no figures"),
    };
    match code.as_deref() {
        Some("unknown-method") => failed.hint(
            "the server does not offer them: it needs the feature stats-method and \
             Server::stats_method",
        ),
        Some("forbidden") => failed.hint(
            "the server's authorizer has to allow the method bellwire.stats to you; without an \
             authorizer nobody may call it",
        ),
        _ => failed,
    }
}
