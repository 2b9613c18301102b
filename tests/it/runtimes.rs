//! Clients that are used outside a runtime, or in another runtime than that of their driver.

use std::{future::IntoFuture, pin::pin, thread, time::Duration};

use bellwire::{CallError, Client, ClientConfig, Delivery, NotSent, Router};
use bellwire_testkit::{PipeServer, bound::bounded};
use futures::executor::block_on;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    runtime::{Builder, Runtime},
};

const HELLO: &[u8] = b"* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60\n";

fn runtime() -> Runtime {
    Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

/// A subscription can be begun, read and dropped outside a runtime.
#[test]
fn a_subscription_works_outside_a_runtime() {
    let runtime = runtime();
    let (server, client) = runtime.block_on(async {
        let server = PipeServer::start(Router::<()>::new());
        let (client, connection) = Client::new(server.pipe(), ClientConfig::new());
        tokio::spawn(connection);
        (server, client)
    });
    let mut subscription = block_on(client.subscribe("t").into_future()).unwrap();
    block_on(server.publisher.publish("t", "x")).unwrap();
    let delivery = block_on(subscription.next()).unwrap();
    assert!(matches!(delivery, Delivery::Notification(_)), "{delivery:?}");
    // Dropped there, too.
    drop(subscription);
    let is_left = async {
        while server.handle.stats().subscriptions > 0 {
            tokio::task::yield_now().await;
        }
    };
    runtime.block_on(bounded("the end", is_left));
}

/// The driver runs in another runtime than the one in which the client was made, which has shut down.
#[test]
fn a_client_survives_the_runtime_it_was_created_in() {
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

/// A deadline needs nothing of the client's runtime, which may be blocked.
#[test]
fn a_deadline_fires_while_the_clients_runtime_is_blocked() {
    let own = Builder::new_current_thread().enable_all().build().unwrap();
    let (near, mut far) = tokio::io::duplex(1_024);
    let client = own.block_on(async {
        let (client, connection) = Client::new(near, ClientConfig::new());
        tokio::spawn(connection);
        far.write_all(HELLO).await.unwrap();
        bounded("the hello", client.connected()).await.unwrap();
        client
    });
    runtime().block_on(bounded("the deadlines", async {
        let soon = Duration::from_millis(10);
        assert!(client.call("m", "").deadline(soon).await.is_err());
        assert!(client.publish("t", "").deadline(soon).await.is_err());
        assert!(client.methods().deadline(soon).await.is_err());
        assert!(client.subscribe("t").deadline(soon).await.is_err());
        assert!(client.stream("m", "").deadline(soon).next().await.unwrap().is_err());
    }));
}

/// The pause before a request is sent again ends when the runtime of the client shuts down, without a
/// panic in the caller's task.
#[test]
fn a_pause_ends_when_the_runtime_of_the_client_shuts_down() {
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
        let refusing = async move {
            let mut line = [0; 4];
            far.read_exact(&mut line).await.unwrap();
            assert_eq!(line, *b"1 m\n");
            far.write_all(b"1 no;retry=40000 busy\n").await.unwrap();
            far
        };
        let _far = own.spawn(bounded("the request", refusing));
        while client.stats().resent == 0 {
            assert!(futures::poll!(call.as_mut()).is_pending());
            thread::yield_now();
        }
        drop(own);
        call.await
    });
    assert!(outcome.is_err(), "{outcome:?}");
}

/// Everything but the driver works outside a runtime.
#[test]
fn requests_work_outside_a_runtime() {
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
