//! `bellwire top`, without its screen.

use bellwire::{
    Server,
    server::{Action, Principal, STATS_METHOD},
};

use crate::support::{Cli, TestServer};

fn with_stats(server: Server) -> Server {
    server.authorizer(|_: &Principal, _: Action<'_>| true).stats_method()
}

#[tokio::test]
async fn figures_of_the_server_are_shown() {
    let server = TestServer::with(with_stats).await;
    let cli = Cli::at(&server.address);
    server.publish("news", 1..=3).await;
    server.publish("weather", 1..=1).await;
    let _listen = cli.start(&["listen", "news"]);
    server.subscribed(1).await;
    let top = cli.run(&["top", "--once", "--interval", "10ms"]).await;
    let text = top.ok();
    let has = |part: &str| assert!(text.contains(part), "{part}: {text}");
    has("connections    2 open");
    has("2 topics; 1 subscriptions");
    has("of 512.0 MiB buffered");
    has("client ");
    has("127.0.0.1:");
    let rows: Vec<Vec<_>> = text.lines().map(|line| line.split_whitespace().collect()).collect();
    let news = rows.iter().find(|row| row.first() == Some(&"news")).expect("a row");
    assert_eq!((&news[..3], news.last()), (&["news", "0.0", "4"][..], Some(&"1")), "{text}");
    let place = |name| text.find(&format!("\n{name} ")).expect("a row");
    assert!(place("news") < place("weather"), "the busiest first: {text}");
}

/// Nobody may read them unless the server offers them and its authorizer allows it.
#[tokio::test]
async fn figures_are_denied_by_default() {
    let none = TestServer::start().await;
    let missing = Cli::at(&none.address).run(&["top", "--once"]).await;
    missing.failed(4, &["no figures", "Server::stats_method"]);
    let open = TestServer::with(Server::stats_method).await;
    let forbidden = Cli::at(&open.address).run(&["top", "--once"]).await;
    forbidden.failed(4, &["forbidden", "no authorizer", "authorizer has to allow"]);
    let denied = TestServer::with(|server| {
        let may = |_: &Principal, action: Action<'_>| action != Action::Call(STATS_METHOD);
        server.authorizer(may).stats_method()
    })
    .await;
    let forbidden = Cli::at(&denied.address).run(&["top", "--once"]).await;
    forbidden.failed(4, &["forbidden", "authorizer has to allow"]);
}

#[tokio::test]
async fn number_of_lines_is_bounded() {
    let server = TestServer::with(with_stats).await;
    let cli = Cli::at(&server.address);
    for topic in 0..9 {
        server.publish(&format!("t{topic}"), 1..=topic + 1).await;
    }
    let top = cli.run(&["top", "--once", "--interval", "10ms", "--lines", "2"]).await;
    let topics: Vec<_> = top.ok().lines().filter(|line| line.starts_with('t')).collect();
    assert_eq!(topics.len(), 3, "a head and two topics: {topics:?}");
    assert!(topics[1].starts_with("t8 ") && topics[2].starts_with("t7 "), "{topics:?}");
    cli.run(&["top", "--lines", "1001"]).await.failed(2, &["--lines"]);
    let asked = cli.run(&["call", STATS_METHOD, r#"{"users":1}"#, "--stream"]).await;
    asked.failed(4, &["bad-arguments"]);
}

#[tokio::test]
async fn without_a_terminal_the_screen_is_refused() {
    let server = TestServer::with(with_stats).await;
    let top = Cli::at(&server.address).run(&["top"]).await;
    top.failed(1, &["stdout is not a terminal", "--once"]);
    assert_eq!(top.stdout, "", "nothing is drawn");
}
