//! `bellwire monitor`.

use bellwire::server::{Principal, TokenAuthenticator};

use crate::support::{Cli, TestServer, nobody};

#[tokio::test]
async fn both_directions_are_shown_without_credentials() {
    let server = TestServer::with(|server| {
        server.authenticator(TokenAuthenticator::new().token("5f1c-secret", Principal::new("ada")))
    })
    .await;
    let cli = Cli::at(&server.address);
    let mut monitor = cli.start(&["monitor"]);
    let first = monitor.remark().await;
    let address = first.strip_prefix("listening on ").and_then(|rest| rest.split(',').next());
    let client = Cli::at(address.expect("an address")).with("BELLWIRE_TOKEN", "5f1c-secret");
    let reply = client.run(&["call", "echo", "a\u{1b}[31mb", "--raw"]).await;
    assert_eq!(reply.ok(), "a\u{1b}[31mb", "bytes are passed on unchanged");

    let mut seen = Vec::new();
    while !seen.last().is_some_and(|line: &String| line.ends_with("- closed")) {
        seen.push(monitor.line().await);
    }
    let has =
        |part: &str| assert!(seen.iter().any(|line| line.contains(part)), "{part}: {seen:#?}");
    has("#1 - connected");
    has("#1 < * /hello;version=1;");
    has("#1 > 1 /auth token [redacted]");
    has("#1 < 1 ok");
    has(r"echo");
    has(r" a\x1b[31mb");
    has("/quit");
    assert!(!seen.iter().any(|line| line.contains("5f1c") || line.contains('\u{1b}')), "{seen:#?}");
    monitor.signal("INT").await;
    assert_eq!(monitor.end().await.code(), Some(0));
}

#[tokio::test]
async fn server_that_is_away_is_named() {
    let cli = Cli::at(&nobody());
    let mut monitor = cli.start(&["monitor"]);
    let first = monitor.remark().await;
    let address = first.strip_prefix("listening on ").and_then(|rest| rest.split(',').next());
    Cli::at(address.expect("an address"))
        .run(&["call", "echo", "--connect-timeout", "200ms"])
        .await
        .failed(6, &[]);
    assert!(monitor.line().await.ends_with("#1 - connected"));
    let closed = monitor.line().await;
    assert!(closed.contains("#1 - closed: no connection to 127.0.0.1:"), "{closed}");
    assert!(closed.ends_with("Connection refused"), "{closed}");
    let taken = cli.run(&["monitor", "--listen", "nowhere"]).await;
    taken.failed(1, &["cannot listen on nowhere", "--listen"]);
}
