//! Servers that fail or refuse at once, again and again: before everything that a client repeats by
//! itself, it pauses, each time for longer (docs/protocol/reconnecting.md, section 14).

use std::time::Duration;

use bellwire::{ClientConfig, ConnectionError, Credentials, Random, protocol::Code};
use bellwire_testkit::{
    dialogue::Peer,
    net::{HELLO, Net, builder, connected, connected_with, settle, subscribed},
};
use tokio::time::{Instant, timeout};

/// How long each server goes on.
const WHILE: Duration = Duration::from_secs(30);
/// The most repetitions in that time, of pauses that are the least there are; and one that was not
/// repeated.
const MOST: usize = 17;
/// The fewest there have to be: it does go on.
const LEAST: usize = 5;

/// Answers each line for a while: what `answer` makes of the id and the line. How many lines of `kind`
/// there were, and when the first ones came.
async fn lines(
    server: &mut Peer,
    kind: &str,
    mut answer: impl FnMut(&str, &str) -> String,
) -> usize {
    let (began, mut times) = (Instant::now(), Vec::new());
    // Without pauses, no time passes at all.
    while times.len() <= 2 * MOST {
        let left = WHILE.saturating_sub(began.elapsed());
        let Ok(line) = timeout(left, server.line()).await else { break };
        if began.elapsed() >= WHILE {
            break;
        }
        let (id, words) = line.split_once(' ').unwrap();
        if words.starts_with(kind) {
            times.push(began.elapsed());
        }
        let answer = answer(id, words);
        if !answer.is_empty() {
            server.send(&answer).await;
        }
    }
    check(&times);
    times.len()
}

/// There are no more repetitions than allowed, and the pauses between them grow.
fn check(times: &[Duration]) {
    assert!((LEAST..=MOST).contains(&times.len()), "{} in {WHILE:?}: {times:?}", times.len());
    for (n, pair) in times.windows(2).enumerate() {
        let least = Duration::from_millis((25 << n.saturating_sub(1)).min(3_000));
        assert!(pair[1] - pair[0] >= least, "pause {n}: {times:?}");
    }
}

fn renewal(id: &str, words: &str) -> Option<String> {
    words.starts_with("/renew").then(|| format!("{id} ok;lease=60 offers:e:18"))
}

/// [C5.6] A request of each kind is refused with the shortest possible retry hint.
#[tokio::test(start_paused = true)]
async fn retries_after_a_retry_hint_back_off() {
    for kind in ["m", "/publish", "/methods", "stream"] {
        let (client, mut server, _net) = connected().await;
        let asking = client.clone();
        let _task = tokio::spawn(async move {
            match kind {
                "m" => drop(asking.call("m", "").await),
                "/publish" => drop(asking.publish("t", "").await),
                "/methods" => drop(asking.methods().await),
                _ => drop(asking.stream("stream", "").next().await),
            }
        });
        let refuse = |id: &str, words: &str| {
            renewal(id, words).unwrap_or_else(|| format!("{id} no;retry=1 busy"))
        };
        lines(&mut server, kind, refuse).await;
    }
}

/// The caller gets the refusal.
#[tokio::test(start_paused = true)]
async fn a_retry_hint_of_zero_is_ignored() {
    for hint in ["0", "x", "01", "9007199254740992"] {
        let (client, mut server, _net) = connected().await;
        let asked = tokio::spawn(async move { client.call("m", "").await });
        server.expect("1 m").await;
        server.send(&format!("1 no;retry={hint} busy")).await;
        let error = asked.await.unwrap().unwrap_err();
        assert_eq!(error.code(), Some(&Code::BUSY), "retry={hint}");
    }
}

/// [C5.6] The server refuses with `closing` and has not sent `/bye`.
#[tokio::test(start_paused = true)]
async fn retries_after_a_closing_refusal_back_off() {
    let (client, mut server, _net) = connected().await;
    let _task = tokio::spawn(async move { client.call("m", "").await });
    let refuse =
        |id: &str, words: &str| renewal(id, words).unwrap_or_else(|| format!("{id} no closing"));
    lines(&mut server, "m", refuse).await;
}

/// [C5.6] [C4.5] A subscription expires as soon as it was accepted.
#[tokio::test(start_paused = true)]
async fn resubscribing_after_immediate_expiry_backs_off() {
    let (client, mut server, _net) = connected().await;
    let _offers = subscribed(&client, &mut server, 1).await;
    server.send("* /end offers expired e:18").await;
    let expire = |id: &str, words: &str| {
        renewal(id, words).unwrap_or_else(|| {
            format!("{id} ok;epoch=e;next=18;head=17;lease=60\n* /end offers expired e:18")
        })
    };
    lines(&mut server, "/subscribe", expire).await;
}

/// A subscription that was open for a while is resumed without a pause.
#[tokio::test(start_paused = true)]
async fn a_long_lived_subscription_is_resumed_without_a_pause() {
    let (client, mut server, _net) = connected().await;
    let _offers = subscribed(&client, &mut server, 1).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    server.expect("2 /renew").await;
    server.send("2 ok;lease=60 offers:e:18\n* /end offers expired e:18").await;
    let told = Instant::now();
    server.expect("3 /subscribe;from=e:18 offers").await;
    assert_eq!(told.elapsed(), Duration::ZERO);
}

/// [C5.6] [C4.5] The reply to `/renew` never lists the topic, and the lease is the shortest
/// possible.
#[tokio::test(start_paused = true)]
async fn resubscribing_to_topics_missing_in_renewals_backs_off() {
    let (builder, mut net) = builder();
    let client = builder.config(ClientConfig::new().random(Random::seeded(1))).connect_lazily();
    let mut server = net.attempt().await.accept(1 << 16);
    server.send(&HELLO.replace("lease=60", "lease=1")).await;
    client.connected().await.unwrap();
    let _offers = subscribed(&client, &mut server, 1).await;
    let began = Instant::now();
    let (mut renewals, mut subscribes) = (0, 0);
    while let Ok(line) = timeout(WHILE.saturating_sub(began.elapsed()), server.line()).await {
        assert!(subscribes <= MOST, "{:?}", began.elapsed());
        let (id, words) = line.split_once(' ').unwrap();
        if words == "/renew" {
            renewals += 1;
            server.send(&format!("{id} ok;lease=1")).await;
        } else {
            subscribes += 1;
            server.send(&format!("{id} ok;epoch=e;next=18;head=17;lease=1")).await;
        }
        if began.elapsed() >= WHILE {
            break;
        }
    }
    assert!(renewals <= 61 && (3..=MOST).contains(&subscribes), "{renewals}, {subscribes}");
}

/// [C5.6] A resume is refused temporarily, with and without a retry hint.
#[tokio::test(start_paused = true)]
async fn refused_resumes_back_off() {
    for refusal in ["no busy", "no;retry=1 busy", "no;retry=1 forbidden", "no;retry=0 busy"] {
        let (client, mut server, mut net) = connected().await;
        let _offers = subscribed(&client, &mut server, 1).await;
        drop(server);
        let mut server = net.greet().await;
        let refuse =
            |id: &str, words: &str| renewal(id, words).unwrap_or_else(|| format!("{id} {refusal}"));
        lines(&mut server, "/subscribe", refuse).await;
    }
}

/// [C5.6] [C14.1] The topic returns to an earlier log again and again.
#[tokio::test(start_paused = true)]
async fn alternating_epochs_back_off() {
    let (client, mut server, _net) = connected().await;
    let _offers = subscribed(&client, &mut server, 1).await;
    // Each log is left above where the server offers it next.
    server
        .send("* offers 18 x\n* /reset offers f:1\n* offers 1 x\n* /end offers expired f:2")
        .await;
    let mut epochs = ["e", "f"].into_iter().cycle();
    let answer = |id: &str, words: &str| {
        renewal(id, words).unwrap_or_else(|| match words.starts_with("/subscribe") {
            true => format!("{id} ok;epoch={};next=1;head=9;lease=60", epochs.next().unwrap()),
            false => format!("{id} ok"),
        })
    };
    lines(&mut server, "/subscribe", answer).await;
}

/// [C5.6] A log is reset again and again. The application refetches its state after each reset.
#[tokio::test(start_paused = true)]
async fn repeated_resyncs_after_resets_back_off() {
    let (client, mut server, _net) = connected().await;
    let asking = client.clone();
    let subscribing = client.subscribe("offers").resync(move |_| {
        let client = asking.clone();
        async move { client.call("offers.list", "").await.map(drop) }
    });
    let subscribing = tokio::spawn(subscribing.into_future());
    server.expect("1 /subscribe offers").await;
    server.send("1 ok;epoch=e;next=1;head=0;lease=60\n* /reset offers e0:1").await;
    let mut offers = subscribing.await.unwrap().unwrap();
    let _reading = tokio::spawn(async move { while offers.next().await.is_some() {} });
    let mut epoch = 0;
    let answer = |id: &str, words: &str| {
        renewal(id, words).unwrap_or_else(|| {
            epoch += 1;
            format!("{id} ok []\n* /reset offers e{epoch}:1")
        })
    };
    lines(&mut server, "offers.list", answer).await;
}

/// [C5.6] The resync callback fails each time, because its connection is lost.
#[tokio::test(start_paused = true)]
async fn resyncs_that_fail_with_their_connection_back_off() {
    let (client, mut server, mut net) = connected().await;
    let asking = client.clone();
    let subscribing = client.subscribe("offers").resync(move |_| {
        let client = asking.clone();
        async move { client.call("offers.list", "").await.map(drop) }
    });
    let subscribing = tokio::spawn(subscribing.into_future());
    server.expect("1 /subscribe offers").await;
    server.send("1 ok;epoch=e;next=1;head=0;lease=60\n* /reset offers f:1").await;
    let mut offers = subscribing.await.unwrap().unwrap();
    let _reading = tokio::spawn(async move { while offers.next().await.is_some() {} });
    server.expect("2 offers.list").await;
    let began = Instant::now();
    let mut calls = 0;
    while began.elapsed() < WHILE && calls <= 2 * MOST {
        drop(server);
        server = net.greet().await;
        loop {
            let line = server.line().await;
            let (id, words) = line.split_once(' ').unwrap();
            if words.starts_with("offers.list") {
                calls += 1;
                break;
            }
            server.send(&format!("{id} ok;epoch=f;next=1;head=0;lease=60")).await;
        }
    }
    assert!((LEAST..=MOST).contains(&calls), "{calls}");
}

/// What the server does with each connection; for those that ask for credentials, they are given.
async fn contacts(mut net: Net, mut serve: impl AsyncFnMut(Peer)) {
    let (began, mut times) = (Instant::now(), Vec::new());
    while times.len() <= 2 * MOST {
        let attempt = net.attempt().await;
        if began.elapsed() >= WHILE {
            break;
        }
        times.push(began.elapsed());
        serve(attempt.accept(1 << 16)).await;
        settle().await;
    }
    check(&times);
}

/// [C5.3] [C5.6] Each connection ends as soon as it is open, in each way.
#[tokio::test(start_paused = true)]
async fn connections_that_end_at_once_back_off() {
    let ends = ["", "\n* /bye;last=0;retry=1 busy", "\n* /bye;retry=1", "\n* /bye", "\n1 nonsense"];
    for end in ends {
        let (builder, net) = builder();
        let _client = builder.connect_lazily();
        contacts(net, async |mut server: Peer| server.send(&format!("{HELLO}{end}")).await).await;
    }
    // And those that never were.
    for first in ["* /hello;version=1;lease=0", "HTTP/1.1 400 Bad Request"] {
        let (builder, net) = builder();
        let _client = builder.connect_lazily();
        contacts(net, async |mut server: Peer| server.send(first).await).await;
    }
}

/// [C5.6] Credentials are refused temporarily, or, if a hook provides them, permanently.
#[tokio::test(start_paused = true)]
async fn refused_credentials_back_off() {
    let token = || Code::from_static("token");
    for (refusal, has_hook) in [
        ("no busy", false),
        ("no;retry=1 unauthenticated", false),
        ("no unauthenticated", true),
        ("no;retry=1 busy", true),
    ] {
        let (builder, net) = builder();
        let builder = match has_hook {
            false => builder.config(ClientConfig::new().auth(token(), "secret")),
            true => builder.authenticate(token(), || {
                std::future::ready(Ok::<_, ConnectionError>(Credentials::from("secret")))
            }),
        };
        let _client = builder.connect_lazily();
        contacts(net, async |mut server: Peer| {
            server.send(&format!("{HELLO};auth=token")).await;
            let line = server.line().await;
            let (id, _) = line.split_once(' ').unwrap();
            server.send(&format!("{id} {refusal}")).await;
        })
        .await;
    }
}

/// [C5.6] The hook returns an error.
#[tokio::test(start_paused = true)]
async fn failing_credentials_hook_backs_off() {
    let (builder, _net) = builder();
    let (asked, mut times) = tokio::sync::mpsc::unbounded_channel();
    let began = Instant::now();
    let builder = builder.authenticate(Code::from_static("token"), move || {
        let _ = asked.send(began.elapsed());
        std::future::ready(Err::<Credentials, _>("none today"))
    });
    let _client = builder.connect_lazily();
    tokio::time::sleep(WHILE).await;
    let mut seen = Vec::new();
    while let Ok(time) = times.try_recv() {
        seen.push(time);
    }
    check(&seen);
}

/// A manual reconnect skips the pause, but neither the least pause nor a retry hint.
#[tokio::test(start_paused = true)]
async fn a_manual_reconnect_respects_the_minimum_pause() {
    let (builder, mut net) = builder();
    let client = builder.connect_lazily();
    let hurrying = client.clone();
    let _hurry = tokio::spawn(async move {
        loop {
            hurrying.reconnect_now();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    let mut last = net.attempt().await.at;
    for _ in 0..20 {
        let attempt = net.attempt().await;
        let pause = (attempt.at - last).as_millis();
        assert!((25..=252).contains(&pause), "{pause} ms");
        last = attempt.at;
        attempt.refuse();
    }
    let mut server = net.attempt().await.greet().await;
    client.connected().await.unwrap();
    server.send("* /bye;last=0;retry=9000 busy").await;
    let told = Instant::now();
    drop(server);
    let attempt = net.attempt().await;
    assert_eq!((attempt.at - told).as_millis(), 9_000);
    let mut server = attempt.greet().await;
    client.connected().await.unwrap();
    // With a connection there is nothing to hurry.
    server.expect_silence().await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(net.0.try_recv().is_err());
}

/// A manual reconnect applies to one round. The next round has its pause.
#[tokio::test(start_paused = true)]
async fn a_manual_reconnect_skips_one_pause_only() {
    let hour = Duration::from_secs(3_600);
    let config = ClientConfig::new().reconnect_base(hour).reconnect_max(hour);
    let (client, server, mut net) = connected_with(config).await;
    drop(server);
    settle().await;
    client.reconnect_now();
    net.attempt().await.refuse();
    tokio::time::sleep(hour / 20).await;
    assert!(net.0.try_recv().is_err());
}

/// A manual reconnect request ends with the next connection, whether it was made before that
/// connection or during it.
#[tokio::test(start_paused = true)]
async fn a_manual_reconnect_does_not_outlive_a_connection() {
    let hour = Duration::from_secs(3_600);
    for is_before in [true, false] {
        let (builder, mut net) = builder();
        let config = ClientConfig::new().reconnect_base(hour).reconnect_max(hour);
        let client = builder.config(config).connect_lazily();
        let attempt = net.attempt().await;
        if is_before {
            client.reconnect_now();
        }
        let server = attempt.greet().await;
        client.connected().await.unwrap();
        if !is_before {
            client.reconnect_now();
        }
        drop(server);
        tokio::time::sleep(hour / 20).await;
        assert!(net.0.try_recv().is_err(), "asked for before: {is_before}");
    }
}

/// A manual reconnect ends a pause that has begun.
#[tokio::test(start_paused = true)]
async fn a_manual_reconnect_ends_the_current_pause() {
    let config = ClientConfig::new().reconnect_base(Duration::from_secs(3_600));
    let config = config.reconnect_max(Duration::from_secs(3_600));
    let (client, server, mut net) = connected_with(config).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    drop(server);
    settle().await;
    let lost = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(net.0.try_recv().is_err());
    client.reconnect_now();
    let server = net.greet().await;
    assert_eq!(lost.elapsed().as_millis(), 5_000);
    client.connected().await.unwrap();
    drop(server);
}
