//! `bellwire call` and `bellwire methods`.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use crate::support::{Cli, TestServer, nobody, until};

#[tokio::test]
async fn reply_is_printed() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    assert_eq!(cli.run(&["call", "echo", "it rains"]).await.ok(), "it rains\n");
    assert_eq!(cli.run(&["call", "echo"]).await.ok(), "\n");
    assert_eq!(cli.run(&["call", "echo", "--raw", "x"]).await.ok(), "x");
    assert_eq!(cli.run_with(&["call", "echo", "-", "--raw"], b"a\nb\n").await.ok(), "a\nb\n");
    let json = cli.run(&["call", "echo", r#"{"id":43}"#, "--json"]).await;
    assert_eq!(json.ok(), "{\n  \"id\": 43\n}\n");
}

#[tokio::test]
async fn stream_is_printed_item_by_item() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    assert_eq!(cli.run(&["call", "count", "3", "--stream"]).await.ok(), "1\n2\n3\n");
    let json = cli.run(&["call", "count", "2", "--stream", "--json"]).await;
    assert_eq!(json.ok(), "1\n2\n");
}

/// Each outcome has an exit code of its own, and says what to do.
#[tokio::test]
async fn outcomes_have_exit_codes_and_hints() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    cli.run(&["call", "no spaces"]).await.failed(2, &["method"]);
    cli.run(&["call", "/methods"]).await.failed(2, &["the protocol's own"]);
    cli.run(&["call", "echo", "--attr", "nodot=1"]).await.failed(2, &["has a dot"]);
    cli.run(&["call", "echo", "{", "--json"]).await.failed(2, &["not JSON", "quote it"]);
    cli.run(&["call", "fail"]).await.failed(3, &["broken", "as planned"]);
    cli.run(&["call", "nosuch"]).await.failed(4, &["unknown-method", "bellwire methods"]);
    cli.run(&["call", "echo", "--attr", "app.refuse=1"]).await.failed(4, &["refused as asked for"]);
    cli.run(&["call", "late"]).await.failed(5, &["deadline", "may have run"]);
    cli.run(&["call", "count"]).await.failed(5, &["--stream"]);
    cli.run(&["call", "wait", "--deadline", "50ms"]).await.failed(8, &["--deadline"]);
    cli.run(&["call", "echo", "x", "--json"]).await.failed(2, &["not JSON"]);
    let text = cli.run(&["call", "session", "--json"]).await;
    text.failed(1, &["the reply is not JSON", "the method ran"]);
    let nobody = Cli::at(&nobody()).run(&["call", "echo", "--connect-timeout", "100ms"]).await;
    nobody
        .failed(6, &["no connection to 127.0.0.1", "from BELLWIRE_ADDR", "nothing listens there"]);
    let lost = Cli::at(&server_that_hangs_up().await).run(&["call", "echo"]).await;
    lost.failed(7, &["may have run", "--idempotent"]);
}

/// Greets, reads a request, and closes.
async fn server_that_hangs_up() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let hello = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;\
                         max-line=65535;in-flight=16;lease=60;idle=120\n";
            let _ = stream.write_all(hello.as_bytes()).await;
            let _ = stream.read(&mut [0; 1_024]).await;
        }
    });
    address
}

#[tokio::test]
async fn key_makes_a_call_run_once() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    let first = cli.run(&["call", "once", "--key", "order-17"]).await.ok().to_owned();
    assert_eq!(cli.run(&["call", "once", "--key", "order-17"]).await.ok(), first);
    assert_ne!(cli.run(&["call", "once", "--key", "order-18"]).await.ok(), first);
}

#[tokio::test]
async fn interrupt_cancels_the_call() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    let mut call = cli.start(&["call", "wait"]);
    until("the handler", || server.handle.stats().in_flight == 1).await;
    call.signal("INT").await;
    assert_eq!(call.end().await.code(), Some(130));
    assert!(call.remark().await.contains("interrupted"));
    until("the cancel", || server.handle.stats().in_flight == 0).await;
}

/// As `bellwire call count --stream | head -2`.
#[tokio::test]
async fn reader_that_leaves_ends_the_command_quietly() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    let mut call = cli.start(&["call", "count", "--stream"]);
    assert_eq!((call.line().await, call.line().await), ("1".into(), "2".into()));
    call.stdout = None;
    assert_eq!(call.end().await.code(), Some(141));
    assert_eq!(call.stderr.next_line().await.expect("text"), None);
}

#[tokio::test]
async fn methods_are_listed_with_their_documentation() {
    let server = TestServer::start().await;
    let cli = Cli::at(&server.address);
    let text = cli.run(&["methods"]).await;
    assert!(text.ok().lines().any(|line| line == "echo     BYTES: the same again"), "{text:?}");
    let json = cli.run(&["methods", "--json"]).await;
    assert!(json.ok().contains(r#"{"doc":"BYTES: the same again","method":"echo"}"#), "{json:?}");
}
