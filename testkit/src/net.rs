//! A client that reconnects, and the servers that it connects to: raw peers over pipes.

use std::{io, time::Duration};

use bellwire::{CallError, Client, ClientBuilder, ClientConfig, Connector, Delivery, Subscription};
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, timeout},
};

use crate::dialogue::Peer;

pub const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60";

/// The client's attempts to connect. The test answers each of them.
pub struct Net(pub mpsc::UnboundedReceiver<Attempt>);

pub struct Attempt {
    pub address: String,
    pub at: Instant,
    answer: oneshot::Sender<io::Result<DuplexStream>>,
}

impl Net {
    pub fn new() -> (Self, impl Connector<Io = DuplexStream>) {
        let (sender, attempts) = mpsc::unbounded_channel();
        let connector = move |address: &str| {
            let (answer, answered) = oneshot::channel();
            let _ =
                sender.send(Attempt { address: address.to_owned(), at: Instant::now(), answer });
            async move { answered.await.unwrap_or(Err(io::ErrorKind::ConnectionAborted.into())) }
        };
        (Self(attempts), connector)
    }

    pub async fn attempt(&mut self) -> Attempt {
        let attempt = timeout(Duration::from_secs(600), self.0.recv()).await;
        attempt.expect("the client does not connect").expect("the client is over")
    }

    /// The next attempt, which must be to this endpoint.
    pub async fn attempt_at(&mut self, endpoint: &str) -> Attempt {
        let attempt = self.attempt().await;
        assert_eq!(attempt.address, endpoint);
        attempt
    }

    /// Accepts the next attempt, and sends the hello.
    pub async fn greet(&mut self) -> Peer {
        self.attempt().await.greet().await
    }

    /// Expects that the client does not connect again.
    pub async fn expect_over(mut self) {
        let attempt = timeout(Duration::from_secs(600), self.0.recv()).await;
        assert!(attempt.expect("the client still may connect").is_none(), "it connects again");
    }
}

impl Attempt {
    /// Whether the client has stopped waiting for this attempt.
    pub fn is_dropped(&self) -> bool {
        self.answer.is_closed()
    }

    pub fn accept(self, size: usize) -> Peer {
        let (near, far) = tokio::io::duplex(size);
        self.answer.send(Ok(near)).expect("the client waits");
        Peer::new(far)
    }

    pub async fn greet(self) -> Peer {
        let mut server = self.accept(1 << 16);
        server.send(HELLO).await;
        server
    }

    pub fn refuse(self) {
        self.answer.send(Err(io::ErrorKind::ConnectionRefused.into())).expect("the client waits");
    }
}

pub fn builder() -> (ClientBuilder<impl Connector<Io = DuplexStream>>, Net) {
    let (net, connector) = Net::new();
    (Client::builder().address("a").connector(connector), net)
}

/// A connected client, its server, and its later attempts to connect.
pub async fn connected() -> (Client, Peer, Net) {
    connected_with(ClientConfig::new()).await
}

pub async fn connected_with(config: ClientConfig) -> (Client, Peer, Net) {
    let (builder, mut net) = builder();
    let client = builder.config(config).connect_lazily();
    let server = net.greet().await;
    client.connected().await.unwrap();
    (client, server, net)
}

/// Lets all other tasks run.
pub async fn settle() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

pub type Outcome = Result<String, CallError>;

pub fn call(client: &Client, payload: &str) -> JoinHandle<Outcome> {
    call_within(client, payload, None)
}

pub fn call_within(
    client: &Client,
    payload: &str,
    deadline: Option<Duration>,
) -> JoinHandle<Outcome> {
    let (client, payload) = (client.clone(), payload.to_owned());
    tokio::spawn(async move {
        let mut call = client.call("m", payload);
        if let Some(deadline) = deadline {
            call = call.deadline(deadline);
        }
        Ok(String::from_utf8(call.await?.to_vec()).unwrap())
    })
}

pub async fn outcome(call: JoinHandle<Outcome>) -> Outcome {
    timeout(Duration::from_secs(600), call).await.expect("the call hangs").unwrap()
}

pub async fn subscribed(client: &Client, server: &mut Peer, id: u64) -> Subscription {
    let subscribing = tokio::spawn(client.subscribe("offers").into_future());
    server.expect(&format!("{id} /subscribe offers")).await;
    server.send(&format!("{id} ok;epoch=e;next=18;head=17;lease=60")).await;
    subscribing.await.unwrap().unwrap()
}

pub async fn next(subscription: &mut Subscription) -> Delivery {
    let delivery = timeout(Duration::from_secs(600), subscription.next()).await;
    delivery.expect("nothing is delivered").expect("the subscription is over")
}

pub async fn number(subscription: &mut Subscription) -> u64 {
    next(subscription).await.into_notification().expect("a notification").sequence
}
