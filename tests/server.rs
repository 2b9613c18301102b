//! The server, spoken to in raw bytes.

mod support;

use bellwire::Router;
use bytes::Bytes;

use crate::support::{PipeServer, TcpServer};

async fn echo(payload: Bytes) -> Bytes {
    payload
}

#[tokio::test]
async fn a_call_is_answered() {
    let server = PipeServer::start(Router::new().method("echo", echo));
    let mut peer = server.connect().await;
    peer.ask("1 echo hello\n", "1 ok hello\n").await;
    peer.ask("2 echo\r\n7 echo ^PJ\n", "2 ok\n7 ok ^PJ\n").await;
}

#[tokio::test]
async fn a_burst_is_answered_once_each() {
    let server = TcpServer::start(Router::new().method("echo", echo)).await;
    let mut peer = server.connect().await;
    let burst: String = (1..=10_000).map(|n| format!("{n} echo {n}\n")).collect();
    let replies: String = (1..=10_000).map(|n| format!("{n} ok {n}\n")).collect();
    peer.ask(burst, replies).await;
}
