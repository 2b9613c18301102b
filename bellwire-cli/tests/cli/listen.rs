//! `bellwire listen`.

use std::collections::BTreeSet;

use crate::support::{Cli, TestServer};

#[tokio::test]
async fn messages_are_printed_as_they_come() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    let mut listen = cli.start(&["listen", "news", "weather"]);
    server.subscribed(2).await;
    server.publish("news", 1..=2).await;
    assert_eq!(listen.line().await, "news 1 1");
    assert_eq!(listen.line().await, "news 2 2");
    server.publish("weather", 7..=7).await;
    assert_eq!(listen.line().await, "weather 1 7");
    listen.signal("INT").await;
    assert_eq!(listen.end().await.code(), Some(0));
    server.subscribed(0).await;
}

#[tokio::test]
async fn count_and_start_are_chosen() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    server.publish("news", 1..=5).await;
    let last = cli.run(&["listen", "news", "--last", "2", "-C", "2", "--format", "%e:%s %p"]).await;
    let lines: Vec<_> = last.ok().lines().collect();
    assert_eq!(lines.len(), 2);
    let position = lines[0].strip_suffix(" 4").expect("number 4");
    let from =
        cli.run(&["listen", "news", "--from", position, "-C", "1", "--format", "json"]).await;
    assert!(from.ok().contains(r#""payload":"4","sequence":4"#), "{from:?}");
    let several = cli.run(&["listen", "news", "weather", "--from", position]).await;
    several.failed(2, &["one topic"]);
    cli.run(&["listen", "news", "--from", "nonsense"]).await.failed(2, &["--from"]);
    cli.run(&["listen", "news", "--format", "%q"]).await.failed(2, &["%q is not known"]);
}

#[tokio::test]
async fn time_limit_fails_only_if_messages_are_missing() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    server.publish("news", 1..=1).await;
    let all = ["listen", "news", "--last", "1", "-W", "2s"];
    assert_eq!(cli.run(&all).await.code, 0);
    let missing = cli.run(&[&all[..], &["-C", "2"]].concat()).await;
    missing.failed(8, &["1 of 2 messages", "-W"]);
    assert_eq!(missing.stdout, "news 1 1\n");
}

/// Losses are named, and are no messages.
#[tokio::test]
async fn gap_and_end_are_named_on_stderr() {
    let server = TestServer::with(|server| {
        server.config(bellwire::ServerConfig::new().retained_messages(2))
    })
    .await;
    let cli = Cli::at(&server.address);
    server.publish("news", 1..=1).await;
    let first = cli.run(&["listen", "news", "--last", "1", "-C", "1", "--format", "%e:%s"]).await;
    let position = first.ok().trim().to_owned();
    server.publish("news", 2..=6).await;
    let mut listen = cli.start(&["listen", "news", "--from", &position]);
    assert_eq!(listen.remark().await, "gap: missed 1 to 4 of news: retention");
    assert_eq!((listen.line().await, listen.line().await), ("news 5 5".into(), "news 6 6".into()));
    server.publisher.close("news").await.expect("closed");
    assert!(listen.remark().await.starts_with("end: news: closed; resume it --from "));
    assert_eq!(listen.end().await.code(), Some(4));
}

/// Each message is in the output of at least one run, however the runs end.
#[tokio::test]
async fn resume_file_survives_kills() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    let arguments = ["listen", "jobs", "--ack", "--resume", "positions"];
    let mut seen = BTreeSet::new();
    for round in 0..3 {
        let mut listen = cli.start(&arguments);
        server.subscribed(1).await;
        server.publish("jobs", 3 * round + 1..=3 * round + 3).await;
        for _ in 0..2 {
            seen.insert(listen.line().await);
        }
        listen.signal("KILL").await;
        listen.end().await;
        // The third message may or may not have been written when the kill came.
        let rest = listen.stdout.as_mut().expect("it is open");
        while let Some(line) = rest.next_line().await.expect("text") {
            seen.insert(line);
        }
        server.subscribed(0).await;
        let missed = 100 + round;
        server.publisher.publish("jobs", missed.to_string()).await.expect("published");
    }
    // The last message says that all of them have come.
    server.publisher.publish("jobs", "end").await.expect("published");
    let mut listen = cli.start(&arguments);
    loop {
        let line = listen.line().await;
        let is_end = line.ends_with(" end");
        seen.insert(line);
        if is_end {
            break;
        }
    }
    let numbers: BTreeSet<u64> = seen
        .iter()
        .map(|line| line.split(' ').nth(1).expect("a number").parse().expect("a number"))
        .collect();
    assert!(numbers.iter().copied().eq(1..=13), "{seen:?}");
}

#[tokio::test]
async fn resume_file_that_cannot_be_used_is_an_error_at_once() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    let file = cli.file("wrong", r#"{"news":"nonsense"}"#);
    let wrong = cli.run(&["listen", "news", "--resume", &file]).await;
    wrong.failed(1, &["cannot read the positions", "nonsense", "remove it"]);
    let folder = cli.run(&["listen", "news", "--resume", "none/positions"]).await;
    folder.failed(1, &["cannot write the positions"]);
}

/// With 128 unacknowledged messages the server waits, so 500 come only if they are acknowledged.
#[tokio::test]
async fn acks_let_the_server_go_on() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    let mut listen = cli.start(&["listen", "jobs", "--ack", "-C", "500", "--format", "%p"]);
    server.subscribed(1).await;
    server.publish("jobs", 1..=500).await;
    for number in 1..=500 {
        assert_eq!(listen.line().await, number.to_string());
    }
    assert_eq!(listen.end().await.code(), Some(0));
}

/// As `bellwire listen news | head -1`: it does not wait for the next message to notice.
#[tokio::test]
async fn reader_that_leaves_ends_a_quiet_listen() {
    let server = TestServer::start().await;
    server.publish("news", 1..=1).await;
    let mut listen = Cli::at(&server.address).start(&["listen", "news", "--last", "1"]);
    assert_eq!(listen.line().await, "news 1 1");
    listen.stdout = None;
    assert_eq!(listen.end().await.code(), Some(141));
    assert_eq!(listen.stderr.next_line().await.expect("text"), None);
}

/// The time of -W is also that of a server that does not answer.
#[tokio::test]
async fn time_limit_covers_the_connecting() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let cli = Cli::at(&silent.local_addr().expect("an address").to_string());
    let arguments = ["listen", "news", "-C", "1", "-W", "100ms", "--connect-timeout", "1h"];
    cli.run(&arguments).await.failed(6, &["accepted the connection", "--tls", "ws://"]);
}
