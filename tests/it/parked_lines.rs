//! Parked lines: application requests that wait for a place in flight, and protocol requests that
//! pass them (docs/protocol/calls.md, section 12).

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bellwire::{
    Client, ClientConfig, Router, ServerConfig,
    protocol::Code,
    server::{Action, Principal, Verdict},
};
use bellwire_testkit::{
    PipeServer, RawPeer,
    methods::{Waiting, router},
};
use tokio::{
    io::DuplexStream,
    sync::Semaphore,
    time::{Instant, advance, timeout},
};

type Peer = RawPeer<DuplexStream>;

fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Fails where it would hang otherwise: on the paused clock it takes no time.
async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(secs(3_600), event).await.expect("it comes")
}

async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

fn config() -> ServerConfig {
    ServerConfig::new().in_flight(1).allow_publish(true).handler_time(secs(600)).idle(None)
}

fn serve(config: ServerConfig) -> (PipeServer, Waiting) {
    let waiting = Waiting::default();
    (PipeServer::with_config(router(waiting.clone()), config), waiting)
}

async fn expect(peer: &mut Peer, lines: &str) {
    soon(peer.expect(lines)).await;
}

async fn finish(waiting: &Waiting, id: u64) {
    soon(waiting.finish(id)).await.unwrap();
}

/// [S3.13] Each protocol method is handled behind a parked line, in line order.
#[tokio::test(start_paused = true)]
async fn protocol_lines_pass_a_parked_line() {
    let (server, waiting) = serve(config());
    let mut peer = server.connect().await;
    peer.send("1 wait a\n* wait b\n3 /subscribe t\n4 /renew\n").await;
    let epoch = peer.attribute("epoch").await;
    expect(&mut peer, &format!("4 ok;lease=60 t:{epoch}:1\n")).await;
    server.publisher.publish("t", "x").await.unwrap();
    expect(&mut peer, "* t 1 x\n").await;
    peer.send(format!("5 /ack t {epoch}:2\n6 /unsubscribe t\n* /cancel 1\n")).await;
    expect(&mut peer, &format!("5 ok\n6 ok;next={epoch}:2\n1 cut cancelled\n")).await;
    finish(&waiting, 0).await;
}

/// [C4.4] The lease is renewed though a request waits longer than it lasts.
#[tokio::test(start_paused = true)]
async fn a_parked_line_does_not_delay_renewals() {
    let (server, waiting) = serve(config().lease(secs(10)));
    let mut peer = server.connect().await;
    peer.send("1 wait a\n2 wait b\n3 /subscribe t\n").await;
    let epoch = peer.attribute("epoch").await;
    for id in 4..20 {
        advance(secs(6)).await;
        peer.send(format!("{id} /renew\n")).await;
        expect(&mut peer, &format!("{id} ok;lease=10 t:{epoch}:1\n")).await;
    }
    finish(&waiting, 1).await;
    expect(&mut peer, "1 ok done a\n").await;
    finish(&waiting, 2).await;
    expect(&mut peer, "2 ok done b\n").await;
}

/// [S3.15] A line that waits for a place is cancelled before it starts. A `/publish` is not.
#[tokio::test(start_paused = true)]
async fn a_parked_line_is_cancelled_before_it_starts() {
    let (server, waiting) = serve(config());
    let mut peer = server.connect().await;
    peer.send("1 wait a\n2 wait b\n3 echo c\n4 /publish t x\n").await;
    peer.send("* /cancel 2\n* /cancel 2\n* /cancel 4\n").await;
    expect(&mut peer, "2 no cancelled\n").await;
    assert_eq!(server.handle.stats().started, 1);
    finish(&waiting, 1).await;
    expect(&mut peer, "1 ok done a\n3 ok c\n").await;
    assert_eq!(peer.attribute("seq").await, "1");
    assert_eq!(waiting.count(), 0, "the second never began");
}

/// [S3.11] [S4.14] Lines that need a place keep their order, `/publish` among them.
#[tokio::test(start_paused = true)]
async fn parked_lines_start_in_line_order() {
    let (server, waiting) = serve(config());
    let mut peer = server.connect().await;
    let lines: String = (2..50)
        .map(|id| match id % 3 {
            0 => format!("{id} /publish offers {id}\n"),
            1 => format!("{id} echo {id}\n"),
            _ => format!("* add {id}\n"),
        })
        .collect();
    peer.send(format!("1 wait a\n{lines}90 /subscribe offers\n")).await;
    // The subscription is there before any of them has published.
    let line = soon(peer.line()).await.unwrap();
    assert!(line.starts_with("90 ok;") && line.contains(";next=1;head=0;"), "{line}");
    finish(&waiting, 1).await;
    let (mut replies, mut payloads) = (Vec::new(), Vec::new());
    while replies.len() < 33 || payloads.len() < 32 {
        let line = soon(peer.line()).await.unwrap();
        let words: Vec<_> = line.trim_end().split([' ', ';']).collect();
        match words[..] {
            ["*", "offers", _, payload] => payloads.push(payload.parse::<u64>().unwrap()),
            [id, "ok", ..] => replies.push(id.parse::<u64>().unwrap()),
            _ => panic!("{line}"),
        }
    }
    assert!(replies.is_sorted(), "{replies:?}");
    assert!(payloads.iter().copied().eq((2..50).filter(|id| id % 3 != 1)), "{payloads:?}");
}

/// [S3.14] A `ttl` runs while its line waits.
#[tokio::test(start_paused = true)]
async fn a_parked_line_is_refused_at_the_end_of_its_ttl() {
    let (server, waiting) = serve(config());
    let mut peer = server.connect().await;
    peer.send("1 wait a\n2 echo;ttl=5000 b\n* add;ttl=4000 x\n3 /publish;ttl=6000 t x\n").await;
    peer.send("4 echo;ttl=700000 c\n").await;
    settle().await;
    let since = Instant::now();
    for (id, after) in [(2, secs(5)), (3, secs(6))] {
        expect(&mut peer, &format!("{id} no deadline\n")).await;
        let late = since.elapsed().checked_sub(after).expect("not before its time");
        assert!(late <= Duration::from_millis(50), "{id} is {late:?} late");
    }
    finish(&waiting, 1).await;
    expect(&mut peer, "1 ok done a\n4 ok c\n").await;
    assert_eq!(server.handle.stats().started, 2);
}

/// [S11.2] [S3.1] [S3.6] Faults are found when a line is read, whatever waits before it.
#[tokio::test(start_paused = true)]
async fn faults_are_answered_behind_a_parked_line() {
    let (server, waiting) = serve(config());
    let mut peer = server.connect().await;
    peer.send("1 wait a\n5 wait b\n5 echo\n6 nosuch\n7 echo;nosuch=1\n8 bad..name\n").await;
    expect(&mut peer, "* /error;id=5 id-order last is 5\n").await;
    expect(&mut peer, "6 no unknown-method no method \"nosuch\"; ask /methods\n").await;
    expect(&mut peer, "7 no unknown-attribute nosuch\n").await;
    expect(&mut peer, "8 no malformed byte 2: bad method\n").await;
    finish(&waiting, 1).await;
    expect(&mut peer, "1 ok done a\n").await;
    finish(&waiting, 5).await;
    expect(&mut peer, "5 ok done b\n").await;
}

/// [S3.17] [S3.16] `/quit` and a half-close take effect after every line that was read before,
/// parked or not.
#[tokio::test(start_paused = true)]
async fn quit_and_half_close_wait_for_parked_lines() {
    for quits in [true, false] {
        let (server, waiting) = serve(config());
        let mut peer = server.connect().await;
        peer.send("1 wait a\n2 wait b\n* add x\n3 echo c\n").await;
        match quits {
            true => peer.send("4 /quit\n5 echo d\n").await,
            false => peer.half_close().await,
        }
        settle().await;
        finish(&waiting, 1).await;
        expect(&mut peer, "1 ok done a\n").await;
        finish(&waiting, 2).await;
        expect(&mut peer, "2 ok done b\n3 ok c\n").await;
        if quits {
            expect(&mut peer, "4 ok\n").await;
        }
        soon(peer.expect_closed()).await;
        assert_eq!(server.handle.stats().started, 4, "the one-way ran");
    }
}

/// [S18.3] [S18.9] When the `/bye` with `last` is written, a parked line is above that `last`: it
/// is refused at once and never starts, so that its client may send it to another server.
#[tokio::test(start_paused = true)]
async fn the_final_bye_refuses_parked_lines() {
    let banned = Code::from_static("banned");
    for reason in ["shutdown", "banned", "violations", "idle"] {
        let (mut server, waiting) = serve(config().violations(0).idle(secs(60)));
        let mut peer = server.connect().await;
        peer.send("1 wait a\n* add x\n2 wait b\n3 /publish t x\n4 /renew\n").await;
        expect(&mut peer, "4 ok;lease=60\n").await;
        match reason {
            "shutdown" => {
                server.stop();
                expect(&mut peer, "* /bye shutdown\n").await;
            }
            "banned" => server.handle.sessions().iter().for_each(|it| it.close(banned.clone())),
            "violations" => peer.ask("4 /renew\n", "* /error;id=4 id-order last is 4\n").await,
            _ => {}
        }
        expect(&mut peer, &format!("* /bye;last=1 {reason}\n2 no closing\n3 no closing\n")).await;
        finish(&waiting, 1).await;
        expect(&mut peer, "1 ok done a\n").await;
        soon(peer.expect_closed()).await;
        assert_eq!(server.handle.stats().started, 1, "{reason}");
    }
}

/// [S18.9] Lines that were read before the half-close do not outlast the drain.
#[tokio::test(start_paused = true)]
async fn parked_lines_before_a_half_close_are_refused_after_the_drain() {
    let (mut server, _waiting) = serve(config());
    let mut peer = server.connect().await;
    peer.send("1 wait a\n2 wait b\n* add x\n").await;
    peer.half_close().await;
    settle().await;
    server.stop();
    expect(&mut peer, "1 cut closing\n2 no closing\n").await;
    soon(peer.expect_closed()).await;
}

/// [S12.9] At the bound the server stops reading, and the peer gets a notice every 5 s. The server
/// reads again as soon as the first parked line is started.
#[tokio::test(start_paused = true)]
async fn at_the_parked_bound_the_peer_gets_a_notice_every_5_s() {
    let (server, waiting) = serve(config().parked_bytes(1_000));
    let mut peer = server.connect().await;
    peer.send("1 wait a\n").await;
    let payload = "x".repeat(300);
    let since = Instant::now();
    for id in 2..6 {
        peer.send(format!("{id} echo {payload}\n")).await;
    }
    peer.send("6 /renew\n").await;
    settle().await;
    peer.expect_silence().await;
    let held = server.handle.stats().buffered_bytes;
    for beat in 1..4 {
        expect(&mut peer, "* /hold\n").await;
        let late = since.elapsed().checked_sub(beat * secs(5)).expect("not before its time");
        assert!(late <= Duration::from_millis(50), "{late:?}");
    }
    assert!((900..70_000).contains(&held), "{held}");
    finish(&waiting, 1).await;
    expect(&mut peer, "1 ok done a\n").await;
    let mut lines = Vec::new();
    for _ in 0..5 {
        lines.push(soon(peer.line()).await.unwrap());
    }
    let renewed = lines.iter().position(|line| line == "6 ok;lease=60\n");
    lines.remove(renewed.expect("the renewal is answered"));
    assert!((2..6).map(|id| format!("{id} ok {payload}\n")).eq(lines));
    // Nothing more is said once it reads again.
    advance(secs(30)).await;
    peer.expect_silence().await;
    settle().await;
    assert_eq!(server.handle.stats().buffered_bytes, 0);
}

/// Within the bound no notice is sent, however long a line waits.
#[tokio::test(start_paused = true)]
async fn no_notice_is_sent_within_the_parked_bound() {
    let (server, waiting) = serve(config());
    let mut peer = server.connect().await;
    peer.send("1 wait a\n2 echo b\n3 echo c\n").await;
    for _ in 0..10 {
        advance(secs(5)).await;
        peer.expect_silence().await;
    }
    finish(&waiting, 1).await;
    expect(&mut peer, "1 ok done a\n2 ok b\n3 ok c\n").await;
}

/// [S19.9] [S4.14] A `/publish` that waits for its authorization keeps its order, and delays no
/// protocol method.
#[tokio::test(start_paused = true)]
async fn protocol_lines_pass_a_publish_awaiting_authorization() {
    let gate = Arc::new(Semaphore::new(0));
    let asked = gate.clone();
    let authorizer = move |_: &Principal, action: Action<'_>| match action {
        Action::Publish("slow") => {
            let asked = asked.clone();
            Verdict::later(async move {
                asked.acquire().await.unwrap().forget();
                true
            })
        }
        Action::Publish("never") => Verdict::later(std::future::pending()),
        _ => Verdict::Allow,
    };
    let config = config().in_flight(9).handler_time(secs(30));
    let server = PipeServer::built(router(Waiting::default()), |server| {
        server.config(config).authorizer(authorizer)
    });
    let mut peer = server.connect().await;
    peer.send("1 wait a\n2 /publish slow x\n3 /publish slow y\n4 echo b\n* /cancel 2\n").await;
    peer.send("* /cancel 1\n5 /renew\n").await;
    expect(&mut peer, "1 cut cancelled\n5 ok;lease=60\n").await;
    gate.add_permits(2);
    let mut lines = Vec::new();
    for _ in 0..3 {
        lines.push(soon(peer.line()).await.unwrap());
    }
    assert!(lines[0].starts_with("2 ok;") && lines[0].ends_with(";seq=1\n"), "{lines:?}");
    assert!(lines[1].starts_with("3 ok;") && lines[1].ends_with(";seq=2\n"), "{lines:?}");
    assert_eq!(lines[2], "4 ok b\n");
    // A decision that does not come is a denial after the time of a handler.
    let since = Instant::now();
    peer.send("6 /publish never x\n7 echo c\n8 /renew\n").await;
    expect(&mut peer, "8 ok;lease=60\n").await;
    let line = soon(peer.line()).await.unwrap();
    assert!(line.starts_with("6 no "), "{line}");
    let late = since.elapsed().checked_sub(secs(30)).expect("not before its time");
    assert!(late <= Duration::from_millis(50), "{late:?}");
    expect(&mut peer, "7 ok c\n").await;
}

struct Guard(Arc<AtomicBool>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A call that is dropped frees its handler at once, whatever one-ways wait behind it.
#[tokio::test(start_paused = true)]
async fn a_dropped_call_ends_its_handler_behind_one_ways() {
    let gone = Arc::new(AtomicBool::new(false));
    let guard = gone.clone();
    let hang = move || {
        let guard = Guard(guard.clone());
        async move {
            let _guard = guard;
            std::future::pending::<()>().await;
        }
    };
    let router = Router::new().method("hang", hang).method("note", async || {});
    let server = PipeServer::with_config(router, config());
    let (client, connection) = Client::new(server.pipe(), ClientConfig::new());
    let _driver = tokio::spawn(connection);
    let calling = client.clone();
    let call = tokio::spawn(async move { calling.call("hang", "").await });
    settle().await;
    client.one_way("note", "").await.unwrap();
    settle().await;
    let since = Instant::now();
    call.abort();
    let freed = async {
        while !gone.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
    };
    soon(freed).await;
    assert!(since.elapsed() < secs(1), "{:?}", since.elapsed());
}
