//! `bellwire context`, and what decides where a command connects.

use std::os::unix::fs::PermissionsExt;

use bellwire::server::{Principal, TokenAuthenticator};

use crate::support::{Cli, TestServer, nobody};

async fn guarded() -> TestServer {
    let tokens = TokenAuthenticator::new().token("5f1c-secret", Principal::new("ada"));
    TestServer::with(|server| server.authenticator(tokens)).await
}

#[tokio::test]
async fn contexts_are_added_listed_used_and_removed() {
    let cli = Cli::new();
    cli.run(&["context", "use", "prod"]).await.failed(2, &["no context prod", "context add prod"]);
    cli.file("token", "5f1c-secret\n");
    cli.run(&["context", "add", "prod", "--addr", "a:1,b:2", "--token-file", "token"]).await.ok();
    cli.run(&["context", "add", "test", "--addr", "c:3", "--tls", "--tls-name", "d"]).await.ok();
    let list = cli.run(&["context", "list"]).await;
    let token = cli.home.path().join("token");
    assert_eq!(
        list.ok(),
        format!("* prod  a:1,b:2  token {}\n  test  c:3  tls\n", token.display())
    );
    cli.run(&["context", "use", "test"]).await.ok();
    assert!(cli.run(&["context", "list"]).await.ok().contains("* test"));
    cli.run(&["context", "remove", "prod"]).await.ok();
    cli.run(&["context", "remove", "prod"])
        .await
        .failed(2, &["no context prod", "there are: test"]);
    let gone = cli.run(&["context", "remove", "test"]).await;
    assert!(gone.stderr.contains("now there is none"), "{gone:?}");
    cli.run(&["context", "add", "a b", "--addr", "c:3"]).await.failed(2, &["letters, digits"]);
    cli.run(&["context", "add", "x", "--addr", "c:3,unix:/y"]).await.failed(2, &["one kind"]);
}

#[tokio::test]
async fn file_is_for_its_owner_and_has_no_token() {
    let cli = Cli::new();
    cli.file("token", "5f1c-secret\n");
    cli.run(&["context", "add", "prod", "--addr", "a:1", "--token-file", "token"]).await.ok();
    let path = cli.home.path().join("bellwire/contexts.json");
    let mode = |path| std::fs::metadata(path).expect("it is there").permissions().mode() & 0o777;
    assert_eq!(mode(path.as_path()), 0o600);
    assert_eq!(mode(path.parent().expect("a folder")), 0o700);
    assert!(!std::fs::read_to_string(&path).expect("text").contains("5f1c"));
    std::fs::write(&path, "{").expect("written");
    cli.run(&["methods"]).await.failed(1, &["cannot read the contexts", "correct the file"]);
}

/// Option, environment, context, default: in this order.
#[tokio::test]
async fn address_comes_from_the_most_explicit_place() {
    let [a, b, c] =
        [TestServer::start().await, TestServer::start().await, TestServer::start().await];
    let cli = Cli::new();
    cli.run(&["context", "add", "one", "--addr", &a.address]).await.ok();
    cli.run(&["context", "add", "two", "--addr", &b.address]).await.ok();
    let asks = |cli: Cli, options: &'static [&'static str]| async move {
        cli.run(&[&["call", "echo", "x"], options].concat()).await.ok();
        cli
    };
    let counts = || [&a, &b, &c].map(|server| server.handle.stats().accepted);
    let cli = asks(cli, &[]).await;
    assert_eq!(counts(), [1, 0, 0], "the current context");
    let cli = asks(cli.with("BELLWIRE_CONTEXT", "two"), &[]).await;
    assert_eq!(counts(), [1, 1, 0], "the context of the environment");
    let cli = asks(cli.with("BELLWIRE_ADDR", &*c.address), &[]).await;
    assert_eq!(counts(), [1, 1, 1], "the address of the environment");
    let cli = asks(cli, &["--context", "one"]).await;
    assert_eq!(counts(), [2, 1, 1], "the context of the option");
    cli.run(&["call", "echo", "--addr", &b.address, "--context", "one"]).await.ok();
    assert_eq!(counts(), [2, 2, 1], "the address of the option");
    cli.run(&["call", "echo", "--context", "three"]).await.failed(2, &["there are: one, two"]);
}

#[tokio::test]
async fn token_comes_from_a_file_the_environment_or_stdin() {
    let server = guarded().await;
    let cli = Cli::at(&server.address);
    cli.run(&["methods"])
        .await
        .failed(6, &["requires credentials", "--token-file", "BELLWIRE_TOKEN"]);
    let file = cli.file("token", "5f1c-secret\n");
    let warned = cli.run(&["methods", "--token-file", &file]).await;
    assert!(warned.ok().contains("echo") && warned.stderr.contains("chmod 600"), "{warned:?}");
    std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).expect("changed");
    assert_eq!(cli.run(&["methods", "--token-file", &file]).await.stderr, "");
    cli.run_with(&["methods", "--token-file", "-"], b"5f1c-secret\n").await.ok();
    let twice = cli.run(&["call", "echo", "-", "--token-file", "-"]).await;
    twice.failed(2, &["both the token and the payload", "BELLWIRE_TOKEN"]);
    let twice = cli.run(&["publish", "news", "--lines", "--token-file", "-"]).await;
    twice.failed(2, &["both the token and the lines"]);
    let cli = cli.with("BELLWIRE_TOKEN", "wrong-5f1c");
    let refused = cli.run(&["methods"]).await;
    refused.failed(6, &["refused the credentials", "is the token right"]);
    assert!(!refused.stderr.contains("5f1c"), "{refused:?}");
    cli.run(&["methods", "--token-file", &file]).await.ok();
    cli.run(&["methods", "--token-file", "none"])
        .await
        .failed(1, &["cannot read the token file none"]);
}

/// The token of the current context is for the servers of that context only.
#[tokio::test]
async fn token_of_a_context_is_not_sent_elsewhere() {
    let (prod, other) = (guarded().await, guarded().await);
    let cli = Cli::new();
    cli.file("token", "5f1c-secret\n");
    cli.run(&["context", "add", "prod", "--addr", &prod.address, "--token-file", "token"])
        .await
        .ok();
    cli.run(&["methods"]).await.ok();
    let elsewhere = cli.run(&["methods", "--addr", &other.address]).await;
    elsewhere.failed(6, &["requires credentials"]);
    let cli = cli.with("BELLWIRE_ADDR", &*other.address);
    cli.run(&["methods"]).await.failed(6, &["requires credentials", "from BELLWIRE_ADDR"]);
    cli.run(&["methods", "--context", "prod"]).await.ok();
}

#[tokio::test]
async fn addresses_are_tried_in_turn_and_checked() {
    let server = TestServer::start().await;
    let both = format!("{},{}", nobody(), server.address);
    Cli::at(&both).run(&["methods"]).await.ok();
    let wrong = Cli::at("localhost").run(&["methods"]).await;
    wrong.failed(2, &["is invalid", "HOST:PORT"]);
    let tls = Cli::at("unix:/x").with("BELLWIRE_TLS", "1").run(&["methods"]).await;
    tls.failed(2, &["no TLS"]);
    let neither = Cli::new().with("BELLWIRE_TLS", "maybe").run(&["methods"]).await;
    neither.failed(2, &["neither 1 nor 0"]);
    Cli::at("a:1,").run(&["methods"]).await.failed(2, &["an address is empty", "BELLWIRE_ADDR"]);
    Cli::at("a:1,ws://b").run(&["methods"]).await.failed(2, &["several kinds"]);
    Cli::at("http://a/b").run(&["methods"]).await.failed(2, &["is invalid", "ws://a/b"]);
    let hosts = Cli::at("a:1,b:1").run(&["methods", "--tls"]).await;
    hosts.failed(2, &["several hosts", "--tls-name"]);
    let raw = Cli::at("a\u{1b}[31mb:1").run(&["methods", "--token-file", "\u{1b}"]).await;
    raw.failed(1, &[r"\x1b"]);
    let raw = Cli::at("a\u{1b}[31mb").run(&["methods"]).await;
    raw.failed(2, &[r"a\x1b[31mb"]);
    assert!(!raw.stderr.contains('\u{1b}'), "{raw:?}");
    let spaced = format!(" {} , {}", nobody(), server.address);
    Cli::at(&spaced).run(&["methods"]).await.ok();
}
