//! Every setting of both ends at 0, at 1 and at its maximum: a call, a stream and a subscription
//! either work or end as documented. Nothing panics, and nothing hangs.

use std::{collections::BTreeSet, time::Duration};

use bellwire::{Client, ClientConfig, Random, Router, ServerConfig, Streamed, protocol::Code};
use bellwire_testkit::{PipeServer, RawPeer};
use futures::stream;
use tokio::{
    io::{AsyncWriteExt, DuplexStream},
    time::timeout,
};

const MESSAGES: u64 = 5;

/// A value of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extreme {
    Zero,
    One,
    Max,
}

use Extreme::{Max, One, Zero};

impl Extreme {
    fn size(self) -> usize {
        match self {
            Zero => 0,
            One => 1,
            Max => usize::MAX,
        }
    }

    fn number(self) -> u32 {
        u32::try_from(self.size()).unwrap_or(u32::MAX)
    }

    fn flag(self) -> bool {
        self != Zero
    }

    fn time(self) -> Duration {
        match self {
            Zero => Duration::ZERO,
            One => Duration::from_millis(1),
            Max => Duration::MAX,
        }
    }
}

type Set<C> = fn(C, Extreme) -> C;

/// Each setting, and the values with which it keeps something from working.
type Settings<C> = Vec<(&'static str, Set<C>, &'static [Extreme])>;

fn server_settings() -> Settings<ServerConfig> {
    vec![
        ("max_line", |c, x| c.max_line(x.size()), &[]),
        ("first_line", |c, x| c.first_line(x.time()), &[Zero, One]),
        ("line_time", |c, x| c.line_time(x.time()), &[]),
        ("line_rate", |c, x| c.line_rate(x.size()), &[]),
        ("write_progress", |c, x| c.write_progress(x.time()), &[Zero, One]),
        ("idle", |c, x| c.idle(x.time()), &[]),
        ("tcp_user_timeout", |c, x| c.tcp_user_timeout(x.time()), &[]),
        ("violations", |c, x| c.violations(x.number()), &[]),
        ("violation_return", |c, x| c.violation_return(x.time()), &[]),
        ("in_flight", |c, x| c.in_flight(x.size()), &[]),
        ("payload_bytes", |c, x| c.payload_bytes(x.size()), &[]),
        ("unsent_bytes", |c, x| c.unsent_bytes(x.size()), &[]),
        ("parked_bytes", |c, x| c.parked_bytes(x.size()), &[]),
        ("handler_time", |c, x| c.handler_time(x.time()), &[Zero, One]),
        ("reply_mark", |c, x| c.reply_mark(x.size()), &[]),
        ("notification_mark", |c, x| c.notification_mark(x.size()), &[]),
        ("lease", |c, x| c.lease(x.time()), &[]),
        ("subscriptions", |c, x| c.subscriptions(x.size()), &[Zero]),
        ("retained_messages", |c, x| c.retained_messages(x.size()), &[]),
        ("retained_bytes", |c, x| c.retained_bytes(x.size()), &[]),
        ("retained_bytes_total", |c, x| c.retained_bytes_total(x.size()), &[]),
        ("topics", |c, x| c.topics(x.size()), &[Zero]),
        ("idle_log", |c, x| c.idle_log(x.time()), &[]),
        ("keys", |c, x| c.keys(x.size()), &[]),
        ("keys_bytes", |c, x| c.keys_bytes(x.size()), &[]),
        ("key_time", |c, x| c.key_time(x.time()), &[]),
        ("keyed_runs", |c, x| c.keyed_runs(x.size()), &[]),
        ("buffered_bytes_total", |c, x| c.buffered_bytes_total(x.size()), &[]),
        ("connections", |c, x| c.connections(x.size()), &[Zero]),
        ("connections_per_address", |c, x| c.connections_per_address(Some(x.size())), &[]),
        ("grace", |c, x| c.grace(x.time()), &[]),
        ("drain", |c, x| c.drain(x.time()), &[]),
        ("allow_publish", |c, x| c.allow_publish(x.flag()), &[]),
        ("auth_time", |c, x| c.auth_time(x.time()), &[]),
        ("auth_tries", |c, x| c.auth_tries(x.number()), &[]),
        ("max_line_before_auth", |c, x| c.max_line_before_auth(x.size()), &[]),
        ("handshake_time", |c, x| c.handshake_time(x.time()), &[]),
    ]
}

fn client_settings() -> Settings<ClientConfig> {
    vec![
        ("in_flight", |c, x| c.in_flight(x.size()), &[]),
        ("max_line", |c, x| c.max_line(x.size()), &[]),
        ("outbound_bytes", |c, x| c.outbound_bytes(x.size()), &[]),
        ("unsent_bytes", |c, x| c.unsent_bytes(x.size()), &[]),
        ("control_requests", |c, x| c.control_requests(x.size()), &[]),
        ("missed_topics", |c, x| c.missed_topics(x.size()), &[]),
        ("held_events", |c, x| c.held_events(x.size()), &[]),
        ("inbox_items", |c, x| c.inbox_items(x.size()), &[]),
        ("inbox_bytes", |c, x| c.inbox_bytes(x.size()), &[]),
        ("connect_timeout", |c, x| c.connect_timeout(x.time()), &[Zero, One]),
        ("close_timeout", |c, x| c.close_timeout(x.time()), &[]),
        ("strict", |c, x| c.strict(x.flag()), &[]),
        ("deadline", |c, x| c.deadline(x.time()), &[Zero, One]),
        ("ack_within", |c, x| c.ack_within(x.time()), &[]),
        ("probe", |c, x| c.probe(x.time()), &[Zero, One]),
        ("dead", |c, x| c.dead(x.time()), &[Zero, One]),
        ("fail_fast", |c, x| c.fail_fast(x.flag()), &[]),
        ("reconnect_base", |c, x| c.reconnect_base(x.time()), &[]),
        ("reconnect_max", |c, x| c.reconnect_max(x.time()), &[]),
        ("reconnect_stable", |c, x| c.reconnect_stable(x.time()), &[]),
        ("give_up_after", |c, x| c.give_up_after(x.time()), &[]),
        ("auth", |c, _| c.auth(Code::from_static("token"), "secret"), &[]),
        ("random", |c, x| c.random(Random::seeded(x.size() as u64)), &[]),
    ]
}

/// The setters of a configuration, as its source has them.
fn setters(source: &str) -> BTreeSet<&str> {
    let lines = source.lines().filter_map(|line| line.trim().strip_prefix("pub fn "));
    lines.filter_map(|line| line.split_once("(mut self")).map(|(name, _)| name).collect()
}

#[test]
fn every_setter_is_tested_at_its_extremes() {
    let server = server_settings().iter().map(|one| one.0).collect();
    assert_eq!(setters(include_str!("../../src/server/config.rs")), server);
    let client = client_settings().iter().map(|one| one.0).collect();
    assert_eq!(setters(include_str!("../../src/client/config.rs")), client);
}

fn router() -> Router {
    Router::new()
        .method("echo", async |text: String| text)
        .method("count", async || Streamed(stream::iter(["a", "b", "c"])))
}

/// A call, a stream and some messages, as raw lines; what did not come as it should.
async fn exchange(server: &PipeServer, peer: &mut RawPeer<DuplexStream>) -> Result<(), String> {
    let expect = async |peer: &mut RawPeer<DuplexStream>, lines: &[&str]| {
        for expected in lines {
            let line = peer.line().await.ok_or("closed")?;
            if !line.contains(expected) {
                return Err(format!("{line} for {expected}"));
            }
        }
        Ok(())
    };
    peer.line().await.filter(|hello| hello.contains("/hello")).ok_or("no hello")?;
    peer.io.write_all(b"1 echo x\n").await.map_err(|error| error.to_string())?;
    expect(peer, &["1 ok x\n"]).await?;
    peer.io.write_all(b"2 count\n").await.map_err(|error| error.to_string())?;
    expect(peer, &["2 more a\n", "2 more b\n", "2 more c\n", "2 ok\n"]).await?;
    peer.io.write_all(b"3 /subscribe t\n").await.map_err(|error| error.to_string())?;
    expect(peer, &["3 ok;epoch="]).await?;
    for _ in 0..MESSAGES {
        let published = server.publisher.publish("t", "x").await;
        published.map_err(|error| error.to_string())?;
    }
    let mut next = 1;
    while next <= MESSAGES {
        let line = peer.line().await.ok_or("closed")?;
        let words: Vec<_> = line.trim_end().split(' ').collect();
        match words[..] {
            ["*", "t", sequence, "x"] if sequence.parse() == Ok(next) => next += 1,
            ["*", "/gap", "t", _, first, last, "retention"] if first.parse() == Ok(next) => {
                next = last.parse::<u64>().map_err(|_| line.clone())? + 1;
            }
            _ => return Err(line),
        }
    }
    peer.io.write_all(b"4 /quit\n").await.map_err(|error| error.to_string())?;
    expect(peer, &["4 ok\n"]).await
}

/// Ends with a name, and not with the suite.
async fn bounded<T>(name: &str, extreme: Extreme, event: impl Future<Output = T>) -> T {
    let bound = Duration::from_secs(3_600);
    timeout(bound, event).await.unwrap_or_else(|_| panic!("{name} at {extreme:?} hangs"))
}

#[tokio::test(start_paused = true)]
async fn a_server_works_at_the_extremes_of_its_settings() {
    for (name, set, fails) in server_settings() {
        for extreme in [Zero, One, Max] {
            let server = PipeServer::with_config(router(), set(ServerConfig::new(), extreme));
            let mut peer = server.connect_raw(64 * 1024);
            let result = bounded(name, extreme, exchange(&server, &mut peer)).await;
            let may_fail = fails.contains(&extreme);
            assert!(result.is_ok() || may_fail, "{name} at {extreme:?}: {result:?}");
            drop(peer);
            bounded(name, extreme, server.ended()).await;
        }
    }
}

/// The same by a client.
async fn calls(server: &PipeServer, client: &Client) -> Result<(), String> {
    let told = |error: &dyn std::fmt::Display| error.to_string();
    client.call("echo", "x").await.map_err(|error| told(&error))?;
    let mut items = client.stream("count", "");
    let mut count = 0;
    while let Some(item) = items.next().await {
        item.map_err(|error| told(&error))?;
        count += 1;
    }
    let mut subscription = client.subscribe("t").await.map_err(|error| told(&error))?;
    for _ in 0..MESSAGES {
        server.publisher.publish("t", "x").await.map_err(|error| told(&error))?;
    }
    // The last one comes in any case; a small inbox may say that it lacks others.
    client.call("echo", "x").await.map_err(|error| told(&error))?;
    subscription.next().await.ok_or("no message")?;
    match count {
        3 => Ok(()),
        _ => Err(format!("{count} items")),
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_works_at_the_extremes_of_its_settings() {
    for (name, set, fails) in client_settings() {
        for extreme in [Zero, One, Max] {
            let server = PipeServer::start(router());
            let (client, connection) =
                Client::new(server.pipe(), set(ClientConfig::new(), extreme));
            let driver = tokio::spawn(connection);
            let result = bounded(name, extreme, calls(&server, &client)).await;
            let may_fail = fails.contains(&extreme);
            assert!(result.is_ok() || may_fail, "{name} at {extreme:?}: {result:?}");
            drop(client);
            bounded(name, extreme, driver).await.expect("no panic").ok();
            bounded(name, extreme, server.ended()).await;
        }
    }
}

/// A mark without bound once ended every subscription after one message.
#[tokio::test(start_paused = true)]
async fn unlimited_marks_deliver_every_message() {
    let config = ServerConfig::new()
        .notification_mark(usize::MAX)
        .reply_mark(usize::MAX)
        .buffered_bytes_total(usize::MAX)
        .retained_bytes(usize::MAX)
        .retained_messages(usize::MAX)
        .retained_bytes_total(usize::MAX);
    let server = PipeServer::with_config(router(), config);
    let mut peer = server.connect_raw(64 * 1024);
    exchange(&server, &mut peer).await.unwrap();
}
