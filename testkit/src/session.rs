//! One session of a client with a server. It has the same content each time, whatever happens to
//! its connections: bursts of calls of every kind, one-way requests, two topics, and a close. Every
//! caller and subscriber must get the right outcome, or the session panics.

mod listener;
mod net;
mod script;
mod server;
mod verdict;

use std::{
    future::ready,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, ClientStats, ConnectionEvent, ConnectionEvents, Random,
    protocol::Position, topic::Published,
};
use bytes::Bytes;
use futures::{FutureExt, future::join_all};
use tokio::time::{Instant, sleep, timeout};

use self::{
    listener::Listener,
    net::Net,
    script::{Ask, BRIEF, HASTY, ITEMS, Manner, NEWS, PATIENT, text},
};
use crate::{
    cutting::Reads,
    history::{Event, Outcome},
    lines::first_number,
    proxy::{Direction, Plan},
    recorder::{Process, Recorder, outcome},
};

/// How long a subscription lives without a renewal.
const LEASE: Duration = Duration::from_secs(1);

/// The time between two publishes of the server.
const ROUND: Duration = Duration::from_millis(6);

/// The faults of a session.
#[derive(Clone, Debug)]
pub struct Trouble {
    /// The plans of its connections, in order.
    pub plans: Vec<Plan>,
    /// How many of the client's bytes its first connection takes, and what happens to reads after
    /// that.
    pub takes: Option<(usize, Reads)>,
    /// Another server takes over when the first connection has ended.
    pub restarts: bool,
    /// The seed of the client's jitter.
    pub seed: u64,
    /// The capacity of each pipe between client, proxy and server.
    pub pipe: usize,
}

/// The result of a session.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The bytes that were delivered on its first connection, by direction.
    pub delivered: [Vec<u8>; 2],
    /// How the calls ended; `None` if dropped.
    pub outcomes: Vec<Option<Outcome>>,
    /// Replies with an `after`.
    pub afters: usize,
    /// Subscriptions that got a reset to another log.
    pub resets: usize,
    /// Calls that were not offered to a lost connection, and were sent on the next one.
    pub carried: usize,
    pub stats: ClientStats,
    pub took: Duration,
}

/// The session's state, shared by its tasks.
struct Session {
    ada: Process,
    client: Client,
    net: Arc<Net>,
    told: Mutex<Told>,
    events: Mutex<ConnectionEvents>,
}

/// What the callers saw.
#[derive(Default)]
struct Told {
    calls: Vec<(Ask, Option<Outcome>)>,
    one_ways: Vec<u64>,
    afters: usize,
    resets: usize,
    /// Lines that were refused for now and sent again.
    refused: usize,
}

/// Plays the session.
pub async fn play(trouble: &Trouble, recorder: &Recorder) -> Report {
    let begun = Instant::now();
    let ada = recorder.process("ada");
    let net = Net::new(recorder, &ada, trouble);
    let client = client(&net, trouble.seed);
    let events = Mutex::new(client.events());
    let session = Arc::new(Session { ada, client, net, told: Mutex::default(), events });
    let listeners = session.converse().await;
    session.settle(&listeners).await;
    session.judge(recorder);
    session.leave(listeners).await;
    Report { took: begun.elapsed(), ..session.report() }
}

fn client(net: &Arc<Net>, seed: u64) -> Client {
    let net = net.clone();
    let config =
        ClientConfig::new().reconnect_base(Duration::from_millis(20)).random(Random::seeded(seed));
    let connector = move |_: &str| ready(net.connect());
    Client::builder().connector(connector).config(config).connect_lazily()
}

impl Session {
    /// Plays everything except the end. The subscriptions go on.
    async fn converse(self: &Arc<Self>) -> [Listener; 2] {
        let news = self.client.subscribe(NEWS).window(4);
        let news = Listener::start(&self.ada, 1, news, None).await;
        let brief = Listener::start(&self.ada, 2, self.client.subscribe(BRIEF), None).await;
        let publishing = tokio::spawn(self.clone().publish());
        let patient = tokio::spawn(self.clone().be_patient());
        let hasty = tokio::spawn(self.clone().be_hasty());
        let poster = tokio::spawn(self.clone().post(news, brief));
        patient.await.expect("no panic");
        hasty.await.expect("no panic");
        publishing.await.expect("no panic");
        poster.await.expect("no panic")
    }

    /// Publishes on the server, whether or not there are subscribers.
    async fn publish(self: Arc<Self>) {
        for n in 0..3 {
            sleep(ROUND).await;
            for (topic, number) in [(BRIEF, 1_000), (NEWS, 2_000), (BRIEF, 3_000)] {
                self.net.desk().publish(topic, text(number + n, 130)).await;
            }
        }
    }

    async fn be_patient(self: Arc<Self>) {
        for (burst, asks) in PATIENT.iter().enumerate() {
            self.burst(100 + 10 * burst as u64, asks).await;
        }
    }

    async fn be_hasty(self: Arc<Self>) {
        for (burst, asks) in HASTY.iter().enumerate() {
            let number = 200 + 10 * burst as u64;
            self.client.connected().await.expect("it goes on");
            let publish = Ask { number: number + 9, method: "/publish", manner: Manner::Patient };
            tokio::join!(self.tell(number + 8), self.burst(number, asks), self.ask(publish));
        }
    }

    /// Waits until the effect of its own call is seen. Leaves the other topic, and subscribes to it
    /// again.
    async fn post(self: Arc<Self>, news: Listener, mut brief: Listener) -> [Listener; 2] {
        for n in 0..2 {
            let ask = Ask { number: 300 + n, method: "post", manner: Manner::Patient };
            let mut after = None;
            self.ada_asks(ask, self.reply(ask, &mut after)).await;
            if let Some(position) = after {
                self.told.lock().unwrap().afters += 1;
                news.seen(position).await;
            }
            if n == 0 {
                sleep(ROUND).await;
                let left = brief.leave().await;
                let again = self.client.subscribe(BRIEF);
                brief = Listener::start(&self.ada, 3 + n, again, Some(left)).await;
            }
        }
        [news, brief]
    }

    async fn reply(&self, ask: Ask, after: &mut Option<Position>) -> Result<Bytes, CallError> {
        let replied = self.client.call(ask.method, text(ask.number, 210)).replied().await?;
        *after = replied.after.map(|after| after.position);
        Ok(replied.value)
    }

    /// Makes these calls at the same time, numbered from `number` on.
    async fn burst(&self, number: u64, asks: &[(&'static str, Manner)]) {
        let asks = asks.iter().zip(number..);
        join_all(asks.map(|(&(method, manner), number)| self.ask(Ask { number, method, manner })))
            .await;
    }

    async fn ask(&self, ask: Ask) {
        match ask.method {
            "/publish" => self.ask_to_publish(ask).await,
            "list" => self.ada_asks(ask, self.list(ask)).await,
            _ => self.ada_asks(ask, self.call(ask)).await,
        }
    }

    /// Makes a call in the given manner.
    async fn ada_asks(&self, ask: Ask, asked: impl Future<Output = Result<Bytes, CallError>>) {
        let calling = self.ada.call(ask.number, asked);
        let outcome = match ask.manner {
            Manner::Dropped(time) => timeout(time, calling).await.ok(),
            _ => Some(calling.await),
        };
        self.note(ask, outcome);
    }

    fn note(&self, ask: Ask, outcome: Option<Outcome>) {
        self.told.lock().unwrap().calls.push((ask, outcome));
    }

    async fn call(&self, ask: Ask) -> Result<Bytes, CallError> {
        let call = self.client.call(ask.method, text(ask.number, 210));
        match ask.manner {
            Manner::FailFast => call.fail_fast().await,
            Manner::Deadline(time) => call.deadline(time).await,
            _ => call.await,
        }
    }

    /// The last item of the list, once all items have come.
    async fn list(&self, ask: Ask) -> Result<Bytes, CallError> {
        let mut items = self.client.stream(ask.method, text(ask.number, 160)).window(2);
        if ask.manner == Manner::FailFast {
            items = items.fail_fast();
        }
        let (mut last, mut count) = (Bytes::new(), 0);
        while let Some(item) = items.next().await {
            (last, count) = (item?, count + 1);
            assert_eq!(first_number(&last), Some(ask.number), "an item of another's");
        }
        assert_eq!(count, ITEMS);
        Ok(last)
    }

    async fn ask_to_publish(&self, ask: Ask) {
        let payload = text(ask.number, 130);
        let asked = self.client.publish(NEWS, &payload);
        let result = self.ada.publish(NEWS, &payload, asked).await;
        let named = result.map(|_| Bytes::from(ask.number.to_string()));
        self.note(ask, Some(outcome(&named)));
    }

    async fn tell(&self, number: u64) {
        self.ada.record(Event::Told { one_way: number });
        self.client.one_way("tell", text(number, 160)).await.expect("it goes on");
        self.told.lock().unwrap().one_ways.push(number);
    }

    /// Waits until each subscriber has seen the last message of its topic, a lease was renewed, and
    /// no request is in progress.
    async fn settle(&self, listeners: &[Listener; 2]) {
        'rounds: for round in 0.. {
            let generation = self.net.generation();
            let desk = self.net.desk();
            let mut last = Vec::new();
            for (topic, listener) in [NEWS, BRIEF].into_iter().zip(listeners) {
                let payload = format!("{round} is the last");
                // Another server may take over meanwhile.
                let Some(published) = desk.publish(topic, payload).await else { continue 'rounds };
                listener.seen(behind(published)).await;
                last.push((topic, published));
            }
            sleep(LEASE).await;
            self.rest().await;
            if self.net.generation() == generation {
                return last.into_iter().for_each(|(topic, published)| desk.head(topic, published));
            }
        }
    }

    /// Waits until the client is connected and has no request in progress.
    async fn rest(&self) {
        loop {
            self.client.connected().await.expect("it goes on");
            if self.client.stats().pending == 0 {
                return;
            }
            sleep(LEASE / 4).await;
        }
    }

    /// Panics if an expectation is not met.
    fn judge(&self, recorder: &Recorder) {
        recorder.close(self.net.wire(), &self.ada);
        self.ada.record(Event::Quiet);
        let (mut told, evidence) = (self.told.lock().unwrap(), self.net.evidence());
        told.calls.iter().for_each(|&(ask, outcome)| evidence.judge(ask, outcome));
        told.refused = told.calls.iter().map(|&(ask, _)| evidence.refused(ask)).sum();
        let mut unwritten = 0;
        for &number in &told.one_ways {
            unwritten += evidence.judge_one_way(number, self.net.starts(number));
        }
        let dropped = self.dropped();
        assert!(unwritten <= dropped, "{unwritten} one-ways not written, {dropped} counted");
        recorder.assert_holds();
    }

    /// How many one-way requests the client reports as dropped.
    fn dropped(&self) -> u64 {
        let mut events = self.events.lock().unwrap();
        let events = std::iter::from_fn(|| events.next().now_or_never().flatten());
        let dropped = events.map(|event| match event {
            ConnectionEvent::OneWaysDropped(count) => count,
            ConnectionEvent::Missed(count) => panic!("{count} events missed"),
            _ => 0,
        });
        dropped.sum()
    }

    fn report(&self) -> Report {
        let (told, stats) = (self.told.lock().unwrap(), self.client.stats());
        Report {
            delivered: Direction::BOTH.map(|direction| self.net.wire().delivered(0, direction)),
            outcomes: told.calls.iter().map(|(_, outcome)| *outcome).collect(),
            afters: told.afters,
            resets: told.resets,
            carried: stats.resent as usize - told.refused,
            stats,
            ..Report::default()
        }
    }

    /// Unsubscribes and closes. Afterwards neither end may hold anything.
    async fn leave(&self, listeners: [Listener; 2]) {
        for listener in listeners {
            let begun = listener.begun;
            let is_reset = listener.leave().await.epoch != begun.epoch;
            self.told.lock().unwrap().resets += usize::from(is_reset);
        }
        self.until(|client, (connections, held)| client == (0, 0) && held == 0 && connections < 2)
            .await;
        let closed = self.client.close().await;
        assert!(closed.is_ok() || self.net.is_troubled(), "{closed:?}");
        self.until(|client, (connections, _)| client == (0, 0) && connections == 0).await;
    }

    /// Waits until `holds` accepts what the client has pending and in flight, and the server's
    /// connections and the bytes that it holds for them.
    async fn until(&self, holds: impl Fn((usize, usize), (usize, usize)) -> bool) {
        loop {
            let stats = self.client.stats();
            if holds((stats.pending, stats.in_flight), self.net.held()) {
                return;
            }
            sleep(LEASE / 4).await;
        }
    }
}

/// The position behind the message.
fn behind(Published { epoch, sequence, .. }: Published) -> Position {
    Position { epoch, next: sequence + 1 }
}
