//! Addresses with `ws://` and `wss://`, with `bellwire serve --ws` on the other side.

use crate::support::{Cli, Running, certificate};

/// Starts a `serve` with WebSockets. Returns it with the address of the WebSocket.
async fn serve(cli: &Cli, options: &[&str]) -> (Running, String) {
    let all =
        [&["--ws", "127.0.0.1:0", "--method", "cat=cat", "--allow-publish"], options].concat();
    let (mut server, _) = cli.serve(&all).await;
    let line = server.line().await;
    let address = line.strip_prefix("listening on ").expect("an address").to_owned();
    (server, address)
}

#[tokio::test]
async fn subcommands_connect_to_web_sockets() {
    let cli = Cli::new();
    let (_server, address) = serve(&cli, &["--open"]).await;
    assert!(address.starts_with("ws://"), "{address}");
    let cli = cli.with("BELLWIRE_ADDR", &*address);
    assert_eq!(cli.run(&["methods"]).await.ok(), "cat\n");
    assert_eq!(cli.run(&["call", "cat", "x"]).await.ok(), "x\n");
    cli.run_with(&["publish", "news", "--lines"], b"one\ntwo\n").await.ok();
    let listen = cli.run(&["listen", "news", "--last", "2", "-C", "2"]).await;
    assert_eq!(listen.ok(), "news 1 one\nnews 2 two\n");
    let bench = ["bench", "--method", "cat", "--requests", "3", "--callers", "1", "-a", &address];
    assert!(cli.run(&bench).await.ok().contains("3 answered, 0 failed"));
    let mut monitor = cli.start(&["monitor"]);
    let first = monitor.remark().await;
    let near = first.strip_prefix("listening on ").and_then(|rest| rest.split(',').next());
    let reply = Cli::at(near.expect("an address")).run(&["call", "cat", "y"]).await;
    assert_eq!(reply.ok(), "y\n");
    assert!(monitor.line().await.ends_with("#1 - connected"));
    assert!(monitor.line().await.contains("#1 < * /hello;version=1;"));
}

#[tokio::test]
async fn web_sockets_over_tls_are_checked() {
    let cli = Cli::new();
    let [cert, key] = certificate(&cli);
    let (_server, address) = serve(&cli, &["--tls-cert", &cert, "--tls-key", &key]).await;
    let named = address.replace("wss://127.0.0.1", "wss://localhost");
    let reply = cli.run(&["call", "cat", "x", "--addr", &named, "--ca", &cert]).await;
    assert_eq!(reply.ok(), "x\n");
    let other = cli.run(&["call", "cat", "--addr", &address, "--ca", &cert]).await;
    other.failed(6, &["not for 127.0.0.1, but for localhost", "connect to a name"]);
    let plain = cli.run(&["call", "cat", "--addr", &address.replace("wss", "ws")]).await;
    plain.failed(6, &["does not speak HTTP", "wss://"]);
    let name = cli.run(&["call", "cat", "--addr", &named, "--tls-name", "a"]).await;
    name.failed(2, &["--tls-name"]);
    cli.run(&["call", "cat", "--addr", "ws://a", "--tls"]).await.failed(2, &["write wss://"]);
}

#[tokio::test]
async fn a_plain_server_is_no_web_socket() {
    let cli = Cli::new();
    let (_server, address) = cli.serve(&["--method", "cat=cat"]).await;
    let failed = cli.run(&["call", "cat", "--addr", &format!("ws://{address}/")]).await;
    failed.failed(6, &["does not speak HTTP", "HOST:PORT"]);
}

/// A page can reach a server on its visitor's machine under a name of its own, so that it is of the
/// same origin. So a WebSocket needs a token, or TLS, which the page does not have.
#[tokio::test]
async fn web_sockets_need_users_or_tls() {
    let cli = Cli::new();
    let web = ["serve", "--listen", "127.0.0.1:0", "--ws", "127.0.0.1:0", "--method", "cat=cat"];
    cli.run(&web).await.failed(2, &["web page", "--users", "--open"]);
    let users = cli.file("users", "ada 5f1c-secret\n");
    let (_server, address) = serve(&cli, &["--users", &users]).await;
    let cli = cli.with("BELLWIRE_ADDR", &*address);
    cli.run(&["call", "cat", "x"]).await.failed(6, &["requires credentials"]);
    let cli = cli.with("BELLWIRE_TOKEN", "5f1c-secret");
    assert_eq!(cli.run(&["call", "cat", "x"]).await.ok(), "x\n");
}

/// A page of another site may connect only if its origin is listed.
#[tokio::test]
async fn origins_of_pages_are_checked() {
    let cli = Cli::new();
    let (_server, address) = serve(&cli, &["--open", "--origin", "https://offers.example"]).await;
    for (origin, status) in [("https://offers.example", "101"), ("https://evil.example", "403")] {
        assert_eq!(status_of(&address, origin).await, status, "{origin}");
    }
}

/// The HTTP status of a WebSocket that a page of `origin` opens.
async fn status_of(address: &str, origin: &str) -> String {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpStream,
    };
    let address = address.strip_prefix("ws://").expect("a WebSocket");
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Protocol: bellwire.v1\r\nOrigin: {origin}\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.expect("written");
    let mut response = [0; 12];
    stream.read_exact(&mut response).await.expect("a response");
    String::from_utf8_lossy(&response[9..]).into_owned()
}
