//! Clients and runtimes: what is asked for outside of one, and in another than the driver's, which may be
//! gone.

use std::{future::IntoFuture, pin::pin, thread, time::Duration};

use bellwire::{CallError, Client, ClientConfig, Delivery, NotSent, Router};
use futures::executor::block_on;
use tokio::{
    io::AsyncWriteExt,
    runtime::{Builder, Runtime},
    sync::mpsc,
};

mod support;
use support::{PipeServer, bound::bounded};

const HELLO: &[u8] = b"* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60\n";

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// The closure runs on the client's runtime, since there is no other.
#[test]
fn a_closure_listens_for_a_thread_outside_of_a_runtime() {
    let runtime = runtime();
    let (server, client) = runtime.block_on(async {
        let server = PipeServer::start(Router::<()>::new());
        let (client, connection) = Client::new(server.pipe(), ClientConfig::new());
        tokio::spawn(connection);
        (server, client)
    });
    let (tell, mut told) = mpsc::unbounded_channel();
    let listening = block_on(client.listen("t", move |delivery| {
        tell.send(delivery).unwrap();
        async {}
    }));
    let listening = listening.unwrap();
    block_on(server.publisher.publish("t", "x")).unwrap();
    let delivery = runtime.block_on(bounded("the delivery", told.recv())).unwrap();
    assert!(matches!(delivery, Delivery::Notification(_)), "{delivery:?}");
    // Dropped there, too.
    drop(listening);
    assert!(runtime.block_on(bounded("the end", told.recv())).is_none());
}

/// The runtime in which a client was made is of no use once its driver has another, and may be gone by
/// then.
#[test]
fn the_runtime_that_a_client_was_made_in_may_be_gone() {
    let first = runtime();
    let (near, mut far) = tokio::io::duplex(1_024);
    let made = first.block_on(async { Client::new(near, ClientConfig::new()) });
    drop(first);
    let (client, connection) = made;
    runtime().block_on(async {
        // Before the driver has a runtime, and after.
        let early = client.call("m", "").deadline(Duration::from_millis(10)).await;
        assert_eq!(early.unwrap_err(), NotSent::Deadline(None).into());
        let driver = tokio::spawn(connection);
        far.write_all(HELLO).await.unwrap();
        bounded("the hello", client.connected()).await.unwrap();
        let late = client.call("m", "").deadline(Duration::from_millis(10)).await;
        assert!(matches!(late.unwrap_err(), CallError::Unknown(_)));
        assert!(!driver.is_finished());
    });
}

/// A pause before a request is sent again ends when the client's runtime shuts down, wherever it is
/// waited for.
#[test]
fn a_pause_ends_with_the_runtime_of_the_client() {
    let own = runtime();
    let (near, mut far) = tokio::io::duplex(1_024);
    let (client, connection) = Client::new(near, ClientConfig::new());
    own.spawn(connection);
    own.block_on(bounded("the hello", async {
        far.write_all(HELLO).await.unwrap();
        far.write_all(b"* /hold\n").await.unwrap();
        client.connected().await.unwrap();
    }));
    let outcome = block_on(async {
        let mut call = pin!(client.call("m", ""));
        assert!(futures::poll!(call.as_mut()).is_pending());
        own.block_on(bounded("the refusal", far.write_all(b"1 no;retry=40000 busy\n"))).unwrap();
        while client.stats().resent == 0 {
            assert!(futures::poll!(call.as_mut()).is_pending());
            thread::yield_now();
        }
        drop(own);
        call.await
    });
    assert!(outcome.is_err(), "{outcome:?}");
}

/// Outside of a runtime everything but the driver works, as within.
#[test]
fn all_is_asked_for_outside_of_a_runtime() {
    let runtime = runtime();
    let (server, client) = runtime.block_on(async {
        let echo = bellwire::handler(async |text: String| text);
        let server = PipeServer::start(Router::<()>::new().method("echo", echo));
        let (client, connection) = Client::new(server.pipe(), ClientConfig::new());
        tokio::spawn(connection);
        (server, client)
    });
    block_on(async {
        assert_eq!(client.call("echo", "x").await.unwrap(), "x");
        assert_eq!(client.methods().await.unwrap().len(), 1);
        client.one_way("echo", "x").await.unwrap();
        assert_eq!(client.stream("echo", "x").next().await.unwrap().unwrap(), "x");
        let mut topic = client.subscribe("t").into_future().await.unwrap();
        server.publisher.publish("t", "x").await.unwrap();
        assert!(matches!(topic.next().await, Some(Delivery::Notification(_))));
        assert!(topic.seen(topic.position()).await);
        client.close().await.unwrap();
    });
    drop(runtime);
}
