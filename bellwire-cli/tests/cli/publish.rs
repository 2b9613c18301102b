//! `bellwire publish`.

use bellwire::{Client, Delivery};

use crate::support::{Cli, TestServer, bounded};

/// The payloads of the next messages.
async fn payloads(news: &mut bellwire::Subscription, count: usize) -> Vec<String> {
    let mut found = Vec::new();
    while found.len() < count {
        match bounded("a message", news.next()).await {
            Some(Delivery::Notification(message)) => {
                found.push(String::from_utf8_lossy(&message.payload).into_owned());
            }
            other => panic!("{other:?}"),
        }
    }
    found
}

#[tokio::test]
async fn message_comes_from_the_argument_or_stdin() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    let client = Client::connect(&server.address).await.expect("connected");
    let mut news = client.subscribe("news").await.expect("subscribed");
    assert_eq!(cli.run(&["publish", "news", "it rains"]).await.ok(), "");
    cli.run_with(&["publish", "news", "-"], b"two\nlines\n").await.ok();
    cli.run(&["publish", "news", "--key", "k", "once"]).await.ok();
    cli.run(&["publish", "news", "--key", "k", "once"]).await.ok();
    cli.run(&["publish", "news"]).await.ok();
    assert_eq!(payloads(&mut news, 4).await, ["it rains", "two\nlines\n", "once", ""]);
}

#[tokio::test]
async fn lines_are_published_in_order() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    let client = Client::connect(&server.address).await.expect("connected");
    let mut log = client.subscribe("log").await.expect("subscribed");
    let lines: Vec<_> = (1..=300).map(|n| n.to_string()).collect();
    let text = format!("{}\r\n\nlast", lines.join("\n"));
    cli.run_with(&["publish", "log", "--lines"], text.as_bytes()).await.ok();
    let mut expected = lines;
    expected.extend(["".into(), "last".into()]);
    assert_eq!(payloads(&mut log, expected.len()).await, expected);
}

#[tokio::test]
async fn refusal_names_the_line_and_what_to_do() {
    let server = TestServer::with(|server| server).await;
    let cli = Cli::at(&server.address);
    cli.run(&["publish", "news", "x"]).await.failed(4, &["forbidden", "allow_publish"]);
    let lines = cli.run_with(&["publish", "news", "--lines"], b"a\nb\n").await;
    lines.failed(4, &["line 1: not published", "forbidden", "no line is published"]);
    cli.run(&["publish", "no spaces", "x"]).await.failed(2, &["topic"]);
    let server = TestServer::start().await;
    let long = format!("short\n{}\n", "x".repeat(70_000));
    let lines =
        Cli::at(&server.address).run_with(&["publish", "t", "--lines"], long.as_bytes()).await;
    lines.failed(6, &["line 2: not published", "65535", "line 1 is published", "send less"]);
    let longer = format!("a\nb\n{}\n", "x".repeat(2_000_000));
    let lines = Cli::at(&server.address);
    let lines = lines.run_with(&["publish", "u", "--lines"], longer.as_bytes()).await;
    lines.failed(2, &["over 1 MiB", "lines 1 to 2 are published"]);
}

/// After the first signal the command reads no further line, and publishes those that it has read.
#[tokio::test]
async fn interrupt_finishes_what_is_in_flight() {
    use tokio::io::AsyncWriteExt;
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    let client = Client::connect(&server.address).await.expect("connected");
    let mut log = client.subscribe("log").await.expect("subscribed");
    let mut publish = cli.start(&["publish", "log", "--lines"]);
    publish.stdin.as_mut().expect("open").write_all(b"one\ntwo\n").await.expect("written");
    assert_eq!(payloads(&mut log, 2).await, ["one", "two"]);
    publish.signal("INT").await;
    assert_eq!(publish.end().await.code(), Some(130));
    assert_eq!(publish.remark().await, "error: interrupted; lines 1 to 2 are published");
}

/// A command that waits for its stdin is connected meanwhile, and loses no line.
#[tokio::test]
async fn lines_that_come_late_are_published() {
    use tokio::io::AsyncWriteExt;
    let server = TestServer::start().await;
    let client = Client::connect(&server.address).await.expect("connected");
    let mut log = client.subscribe("log").await.expect("subscribed");
    let mut publish = Cli::at(&server.address).start(&["publish", "log", "--lines"]);
    for line in ["one", "two"] {
        let stdin = publish.stdin.as_mut().expect("open");
        stdin.write_all(format!("{line}\n").as_bytes()).await.expect("written");
        assert_eq!(payloads(&mut log, 1).await, [line]);
    }
    publish.stdin.as_mut().expect("open").write_all(b"no line feed").await.expect("written");
    publish.stdin = None;
    assert_eq!(payloads(&mut log, 1).await, ["no line feed"]);
    assert_eq!(publish.end().await.code(), Some(0));
}
