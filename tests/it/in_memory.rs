//! `bellwire::memory`: services without ports.

use std::{
    future::Future,
    io,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bellwire::{
    Client, Delivery, Listener, Router, Server, Unknown,
    memory::{self, MemoryConnector},
    protocol::Code,
};
use bellwire_testkit::bound::bounded;
use tokio::io::{AsyncBufReadExt, BufReader};

fn client(connector: MemoryConnector) -> Client {
    Client::builder().address("any").connector(connector).connect_lazily()
}

#[tokio::test]
async fn a_subscription_survives_a_lost_connection() {
    bounded("the dialogue", async {
        let (listener, connector) = memory::pair();
        let server = Server::new(listener);
        let (publisher, handle) = (server.publisher(), server.handle());
        tokio::spawn(server.serve(Router::<()>::new()).into_future());

        let client = client(connector);
        let mut news = client.subscribe("news").await.unwrap();
        for session in handle.sessions() {
            session.close(Code::from_static("maintenance"));
        }
        publisher.publish("news", "it rains").await.unwrap();
        let Some(Delivery::Notification(first)) = news.next().await else { panic!("a message") };
        assert_eq!(first.payload, "it rains");
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn the_clock_can_be_paused() {
    let (listener, connector) = memory::pair();
    let never = Router::new().method("never", async || std::future::pending::<String>().await);
    tokio::spawn(Server::new(listener).serve(never).into_future());
    let client = client(connector);
    let call = client.call("never", "").deadline(Duration::from_secs(5));
    assert_eq!(call.await, Err(Unknown::Deadline.into()));
}

#[tokio::test]
async fn raw_bytes_reach_the_server() {
    bounded("the dialogue", async {
        let (listener, connector) = memory::pair();
        tokio::spawn(Server::new(listener).serve(Router::<()>::new()).into_future());
        let mut line = String::new();
        BufReader::new(connector.open().await.unwrap()).read_line(&mut line).await.unwrap();
        assert!(line.starts_with("* /hello;version=1;"));
    })
    .await;
}

#[tokio::test]
async fn connecting_fails_once_the_listener_is_gone() {
    let (listener, connector) = memory::pair();
    drop(listener);
    let error = connector.open().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

/// The 129th connection waits until the listener has accepted one.
#[tokio::test]
async fn connections_that_are_not_accepted_are_bounded() {
    let (mut listener, connector) = memory::pair();
    let mut open = Vec::new();
    for _ in 0..128 {
        open.push(connector.open().await.unwrap());
    }
    let mut next = pin!(connector.open());
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(next.as_mut().poll(cx).is_pending());
    listener.accept().await.unwrap();
    assert!(matches!(next.as_mut().poll(cx), Poll::Ready(Ok(_))));
}
