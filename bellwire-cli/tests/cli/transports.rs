//! TLS and Unix sockets, with `bellwire serve` on the other side.

use crate::support::{Cli, certificate};

#[tokio::test]
async fn tls_is_spoken_and_checked() {
    let cli = Cli::new();
    let [cert, key] = certificate(&cli);
    let options = ["--method", "cat=cat", "--tls-cert", &cert, "--tls-key", &key];
    let (_server, address) = cli.serve(&options).await;
    let trusting = ["call", "cat", "x", "--addr", &address, "--tls", "--ca", &cert];
    let reply = cli.run(&[&trusting[..], &["--tls-name", "localhost"]].concat()).await;
    assert_eq!(reply.ok(), "x\n");
    let named = cli.run(&[&trusting[..], &["--connect-timeout", "1s"]].concat()).await;
    named.failed(6, &["not for 127.0.0.1, but for localhost", "--tls-name"]);
    let plain = cli.run(&["call", "cat", "--addr", &address, "--connect-timeout", "300ms"]).await;
    plain.failed(6, &["--tls"]);
    cli.run(&["call", "cat", "--ca", &cert]).await.failed(2, &["add --tls"]);
    let no_pem = cli.run(&["call", "cat", "--addr", &address, "--tls", "--ca", "cert.txt"]).await;
    no_pem.failed(1, &["cannot read the certificates in cert.txt", "PEM"]);
}

#[tokio::test]
async fn monitor_speaks_tls_to_the_server() {
    let cli = Cli::new();
    let [cert, key] = certificate(&cli);
    let options = ["--method", "cat=cat", "--tls-cert", &cert, "--tls-key", &key];
    let (_server, address) = cli.serve(&options).await;
    let tls = ["--addr", &address, "--tls", "--ca", &cert, "--tls-name", "localhost"];
    let mut monitor = cli.start(&[&["monitor"], &tls[..]].concat());
    let first = monitor.remark().await;
    let near = first.strip_prefix("listening on ").and_then(|rest| rest.split(',').next());
    let reply = Cli::at(near.expect("an address")).run(&["call", "cat", "x"]).await;
    assert_eq!(reply.ok(), "x\n");
}

#[tokio::test]
async fn unix_sockets_are_addresses() {
    let cli = Cli::new();
    let path = format!("unix:{}/socket", cli.home.path().display());
    let mut server = cli.start(&["serve", "--listen", &path, "--method", "cat=cat"]);
    assert_eq!(server.line().await, format!("listening on {path}"));
    let reply = cli.run(&["call", "cat", "x", "--addr", &path]).await;
    assert_eq!(reply.ok(), "x\n");
    let mut monitor = cli.start(&["monitor", "--addr", &path]);
    let first = monitor.remark().await;
    let near = first.strip_prefix("listening on ").and_then(|rest| rest.split(',').next());
    let reply = Cli::at(near.expect("an address")).run(&["call", "cat", "y"]).await;
    assert_eq!(reply.ok(), "y\n");
}
