//! The client under test, and what it was asked for.

use std::{collections::HashMap, time::Duration};

use bellwire::{
    CallError, Client, ClientBuilder, ClientConfig, ConnectionError, ConnectionEvent,
    ConnectionEvents, Connector, Streaming, protocol::Code, ws::WsConnector,
};
use tokio::{
    sync::mpsc::{UnboundedSender, unbounded_channel},
    task::JoinHandle,
};

use crate::client_testee::{
    command::Command,
    report,
    subscribing::{Order, Subscribing},
};

#[derive(Default)]
pub(super) struct Session {
    client: Option<Client>,
    /// Calls in progress, by tag.
    calls: HashMap<String, JoinHandle<()>>,
    /// Each takes an item at every message.
    streams: HashMap<String, UnboundedSender<()>>,
    subscriptions: HashMap<String, Subscribing>,
}

impl Session {
    pub(super) async fn obey(&mut self, mut command: Command) -> Result<(), String> {
        match &command.word[..] {
            "connect" => return self.connect(command).await,
            "close" => return self.close(),
            _ => {}
        }
        if command.word == "one-way" {
            return self.one_way(command).await;
        }
        if command.word == "counts" {
            return self.counts();
        }
        let tag = command.next()?;
        match &command.word[..] {
            "call" => self.call(tag, command),
            "publish" => self.publish(tag, command),
            "methods" => self.methods(tag),
            "stream" => self.stream(tag, command),
            "take" => self.take(&tag),
            "cancel" => self.cancel(&tag),
            "subscribe" => self.subscribe(tag, command),
            "unsubscribe" => self.order(&tag, Order::Leave),
            "pause" => self.order(&tag, Order::Pause),
            "resume" => self.order(&tag, Order::Resume),
            "ack" => {
                let position = command.next()?.parse().map_err(|_| "no position")?;
                self.order(&tag, Order::Ack(position))
            }
            "await" => self.wait(tag, command),
            word => Err(format!("no command {word:?}")),
        }
    }

    fn client(&self) -> Result<Client, String> {
        self.client.clone().ok_or_else(|| "there was no connect".to_owned())
    }

    async fn connect(&mut self, mut command: Command) -> Result<(), String> {
        let config = config(&command)?;
        let reconnects = command.option("reconnect").is_some();
        let mut builder = Client::builder().config(config).reconnect(reconnects);
        let address = command.next()?;
        let is_websocket = address.starts_with("ws://");
        builder = builder.address(address);
        while !command.left().is_empty() {
            builder = builder.address(command.next()?);
        }
        let connected = match is_websocket {
            true => connect(builder.connector(WsConnector::new()), reconnects).await,
            false => connect(builder, reconnects).await,
        };
        let Ok(client) = connected else {
            report(b"failed");
            return Ok(());
        };
        if !reconnects {
            report(b"connected");
        }
        tokio::spawn(tell_of_connection(client.events(), !reconnects));
        self.client = Some(client);
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let client = self.client()?;
        tokio::spawn(async move {
            // However it ended, it has.
            let _ = client.close().await;
            report(b"closed");
        });
        Ok(())
    }

    fn call(&mut self, tag: String, mut command: Command) -> Result<(), String> {
        let (client, method) = (self.client()?, command.next()?);
        let deadline = command.number("deadline")?;
        let told = tag.clone();
        let task = tokio::spawn(async move {
            let mut call = client.call(&method, command.left());
            for (key, value) in command.attributes() {
                call = call.attribute(key, value);
            }
            if let Some(ms) = deadline {
                call = call.deadline(Duration::from_millis(ms));
            }
            if let Some(key) = command.option("key") {
                call = call.key(key);
            }
            match call.replied().await {
                Ok(reply) => {
                    let after = reply
                        .after
                        .map(|after| format!(";after={}:{}", after.topic.as_str(), after.position));
                    let head = format!("{told} reply{}", after.unwrap_or_default());
                    report(&with_payload(&head, &reply.value));
                }
                Err(error) => tell_of_failure(&told, &error),
            }
        });
        self.calls.insert(tag, task);
        Ok(())
    }

    async fn one_way(&mut self, mut command: Command) -> Result<(), String> {
        let (client, method) = (self.client()?, command.next()?);
        let mut request = client.one_way(&method, command.left());
        for (key, value) in command.attributes() {
            request = request.attribute(key, value);
        }
        // Nobody is told of a one-way request that was not sent.
        let _ = request.await;
        Ok(())
    }

    fn publish(&mut self, tag: String, mut command: Command) -> Result<(), String> {
        let (client, topic) = (self.client()?, command.next()?);
        tokio::spawn(async move {
            let mut publish = client.publish(&topic, command.left());
            if let Some(key) = command.option("key") {
                publish = publish.key(key);
            }
            match publish.await {
                Ok(published) => {
                    let (epoch, sequence) = (published.epoch, published.sequence);
                    report(format!("{tag} published {epoch}:{sequence}").as_bytes());
                }
                Err(error) => tell_of_failure(&tag, &error),
            }
        });
        Ok(())
    }

    fn methods(&mut self, tag: String) -> Result<(), String> {
        let client = self.client()?;
        tokio::spawn(async move {
            match client.methods().await {
                Ok(methods) => {
                    for (name, about) in &methods {
                        let head = format!("{tag} item {}", name.as_str());
                        report(&with_payload(&head, about.as_bytes()));
                    }
                    report(format!("{tag} end").as_bytes());
                }
                Err(error) => tell_of_failure(&tag, &error),
            }
        });
        Ok(())
    }

    fn stream(&mut self, tag: String, mut command: Command) -> Result<(), String> {
        let (client, method) = (self.client()?, command.next()?);
        let window = command.number("window")?;
        let mut stream = client.stream(&method, command.left());
        if let Some(window) = window {
            stream = stream.window(usize::try_from(window).unwrap_or(usize::MAX));
        }
        let (sender, mut takes) = unbounded_channel();
        let told = tag.clone();
        let task = tokio::spawn(async move {
            begin(&mut stream);
            while takes.recv().await.is_some() {
                match stream.next().await {
                    Some(Ok(item)) => report(&with_payload(&format!("{told} item"), &item)),
                    Some(Err(error)) => return tell_of_failure(&told, &error),
                    None => return report(format!("{told} end").as_bytes()),
                }
            }
        });
        self.calls.insert(tag.clone(), task);
        self.streams.insert(tag, sender);
        Ok(())
    }

    fn take(&self, tag: &str) -> Result<(), String> {
        let takes = self.streams.get(tag).ok_or_else(|| format!("no stream {tag:?}"))?;
        // One that has ended has nothing to take.
        let _ = takes.send(());
        Ok(())
    }

    fn cancel(&mut self, tag: &str) -> Result<(), String> {
        let call = self.calls.remove(tag).ok_or_else(|| format!("no call {tag:?}"))?;
        call.abort();
        Ok(())
    }

    fn subscribe(&mut self, tag: String, command: Command) -> Result<(), String> {
        let subscribing = Subscribing::begin(self.client()?, tag.clone(), command)?;
        self.subscriptions.insert(tag, subscribing);
        Ok(())
    }

    fn order(&self, tag: &str, order: Order) -> Result<(), String> {
        let found = self.subscriptions.get(tag);
        found.ok_or_else(|| format!("no subscription {tag:?}"))?.order(order);
        Ok(())
    }

    fn wait(&self, tag: String, mut command: Command) -> Result<(), String> {
        let subscription = command.next()?;
        let position = command.next()?.parse().map_err(|_| "no position")?;
        let found = self.subscriptions.get(&subscription);
        let progress = found.and_then(Subscribing::progress).ok_or("not subscribed")?;
        tokio::spawn(async move {
            progress.seen(position).await;
            report(format!("{tag} satisfied").as_bytes());
        });
        Ok(())
    }

    fn counts(&self) -> Result<(), String> {
        let stats = self.client()?.stats();
        let replies = stats.doubled_replies + stats.unasked_replies;
        report(format!("counts {replies} {}", stats.violations).as_bytes());
        Ok(())
    }
}

/// A client that reconnects is there at once.
async fn connect<C: Connector>(
    builder: ClientBuilder<C>,
    reconnects: bool,
) -> Result<Client, ConnectionError> {
    match reconnects {
        true => Ok(builder.connect_lazily()),
        false => builder.connect().await,
    }
}

/// What a `connect` asks for.
fn config(command: &Command) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::new();
    if command.option("strict").is_some() {
        config = config.strict(true);
    }
    if let Some(bytes) = command.number("max-line")? {
        config = config.max_line(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    if let Some(calls) = command.number("in-flight")? {
        config = config.in_flight(usize::try_from(calls).unwrap_or(usize::MAX));
    }
    if let Some(ms) = command.number("probe")? {
        config = config.probe(Duration::from_millis(ms));
    }
    if let Some(auth) = command.option("auth") {
        let (scheme, credentials) = auth.split_once(':').ok_or("auth=SCHEME:CREDENTIALS")?;
        let scheme = Code::new(scheme).ok_or("no scheme")?;
        config = config.auth(scheme, credentials);
    }
    Ok(config)
}

/// Nothing is sent before the stream is polled.
fn begin(stream: &mut Streaming) {
    use std::task::{Context, Waker};

    use futures::Stream;

    // No item can be there yet.
    let _ = std::pin::Pin::new(stream).poll_next(&mut Context::from_waker(Waker::noop()));
}

/// Reports whether there was a connection, and when the client has ended without being told to.
async fn tell_of_connection(mut events: ConnectionEvents, mut was_connected: bool) {
    while let Some(event) = events.next().await {
        match event {
            ConnectionEvent::Connected(_) if !was_connected => {
                was_connected = true;
                report(b"connected");
            }
            ConnectionEvent::Ended(ConnectionError::Closed) => {}
            ConnectionEvent::Ended(_) if was_connected => report(b"disconnected"),
            ConnectionEvent::Ended(_) => report(b"failed"),
            _ => {}
        }
    }
}

pub(super) fn tell_of_failure(tag: &str, error: &CallError) {
    let outcome = match error {
        CallError::Remote(reason) => format!("error {}", reason.code),
        CallError::Refused { reason, .. } => format!("refused {}", reason.code),
        CallError::NotSent(_) | CallError::Encode(_) => "not-sent".to_owned(),
        _ => "unknown".to_owned(),
    };
    report(format!("{tag} {outcome}").as_bytes());
}

/// A line's head, and its payload, if there is one.
pub(super) fn with_payload(head: &str, payload: &[u8]) -> Vec<u8> {
    let mut line = head.as_bytes().to_vec();
    if !payload.is_empty() {
        line.push(b' ');
        line.extend_from_slice(payload);
    }
    line
}
