//! Fan-out: one publisher, many subscribers, payloads of 64 bytes. The publisher keeps 64 messages
//! outstanding, and the figure is deliveries per second to all subscribers together. At the end every
//! message must have reached every subscriber, or the run fails.

use std::{
    cell::RefCell,
    io::ErrorKind,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, tcp::OwnedWriteHalf},
    sync::Notify,
    task::JoinSet,
    time::timeout,
};

use crate::{
    bare::{self, ring},
    child,
    cpu::CpuClock,
    meter::{Meter, Sample, Window},
    peers::{bellwire, nats, redis},
};

/// Messages outstanding; half of them are published at a time.
const OUTSTANDING: u64 = 64;
/// The first byte of a payload. It appears nowhere else in the bytes that are sent.
const MARK: u8 = b'@';
const MESSAGE: Message = {
    let mut message = [b'x'; 64];
    message[0] = MARK;
    message
};
const GRACE: Duration = Duration::from_secs(10);

pub type Message = [u8; 64];

/// The rows of this work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Row {
    /// The bare ring, to sockets that count.
    BareRing,
    /// bellwire, to sockets that count.
    BellwireSockets,
    /// bellwire, to its own clients.
    BellwireClients,
    /// redis-server, to sockets that count.
    RedisSockets,
    /// nats-server, to clients of async-nats.
    AsyncNats,
}

#[derive(clap::Args, Clone, Debug)]
pub struct Plan {
    #[arg(long)]
    pub subscribers: usize,
    #[command(flatten)]
    pub window: Window,
}

/// Sends messages to all subscribers.
pub trait Publish: Send + 'static {
    /// Queues a message.
    fn publish(&mut self, message: &Message) -> Result<()>;
    /// Sends what is queued.
    fn flush(&mut self) -> impl Future<Output = Result<()>> + Send;
}

/// What all subscribers of a run have received.
#[derive(Debug, Default)]
pub struct Deliveries {
    count: AtomicU64,
    /// The count that the publisher waits for.
    awaited: AtomicU64,
    reached: Notify,
}

impl Deliveries {
    /// A payload, from a client that decodes messages.
    pub fn take(&self, payload: &[u8]) -> Result<()> {
        ensure!(payload == MESSAGE, "a payload that was not published");
        self.add(1);
        Ok(())
    }

    fn add(&self, count: u64) {
        let before = self.count.fetch_add(count, Ordering::SeqCst);
        let awaited = self.awaited.load(Ordering::SeqCst);
        if before < awaited && before + count >= awaited {
            self.reached.notify_one();
        }
    }

    async fn until(&self, count: u64) {
        // Stored before the count is read, so that one of the two tasks sees the other's change.
        self.awaited.store(count, Ordering::SeqCst);
        while self.count.load(Ordering::SeqCst) < count {
            self.reached.notified().await;
        }
    }
}

/// Reads and counts, with one buffer for each thread: the cheapest subscriber.
async fn count(stream: TcpStream, deliveries: Arc<Deliveries>) -> Result<()> {
    thread_local! {
        static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 64 * 1024]);
    }
    loop {
        stream.readable().await?;
        BUFFER.with_borrow_mut(|buffer| match stream.try_read(buffer) {
            Ok(0) => bail!("the server closed a subscriber's connection"),
            Ok(length) => {
                deliveries.add(memchr::memchr_iter(MARK, &buffer[..length]).count() as u64);
                Ok(())
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error.into()),
        })?;
    }
}

/// A publisher with a socket of its own.
#[derive(Debug)]
pub struct SocketPublisher {
    socket: OwnedWriteHalf,
    queued: Vec<u8>,
    /// The bytes before each message; a line end follows the message.
    prefix: &'static [u8],
}

impl SocketPublisher {
    /// Replies are read and dropped.
    pub fn new(stream: TcpStream, prefix: &'static [u8]) -> Self {
        let (mut read, socket) = stream.into_split();
        tokio::spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            while read.read(&mut buffer).await? > 0 {}
            anyhow::Ok(())
        });
        Self { socket, queued: Vec::new(), prefix }
    }
}

impl Publish for SocketPublisher {
    fn publish(&mut self, message: &Message) -> Result<()> {
        for part in [self.prefix, message, b"\r\n"] {
            self.queued.extend_from_slice(part);
        }
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        self.socket.write_all(&self.queued).await?;
        self.queued.clear();
        Ok(())
    }
}

pub async fn run(row: Row, plan: &Plan) -> Result<Sample> {
    let mut audience = Audience::default();
    match row {
        Row::BareRing => {
            let server = ring::Server::start().await?;
            audience.count(plan.subscribers, || bare::connect(server.address)).await?;
            let publisher = server.publisher(plan.subscribers).await?;
            audience.publish(plan, publisher, CpuClock::default()).await
        }
        Row::BellwireSockets | Row::BellwireClients => {
            let (address, publisher) = bellwire::serve().await?;
            audience.join_bellwire(row, plan, address).await?;
            let publisher = bellwire::Publisher::new(publisher);
            audience.publish(plan, publisher, CpuClock::default()).await
        }
        Row::RedisSockets => {
            let server = child::redis()?;
            let address = server.address;
            audience.count(plan.subscribers, || redis::subscribe_socket(address, 1)).await?;
            let publisher = redis::publisher(address).await?;
            audience.publish(plan, publisher, CpuClock::new(vec![server.pid()])).await
        }
        Row::AsyncNats => {
            let server = child::nats()?;
            for _ in 0..plan.subscribers {
                let deliveries = audience.deliveries.clone();
                nats::subscribe(server.address, deliveries, &mut audience.tasks).await?;
            }
            let publisher = nats::publisher(server.address).await?;
            audience.publish(plan, publisher, CpuClock::new(vec![server.pid()])).await
        }
    }
}

/// The subscribers of a run.
#[derive(Debug, Default)]
struct Audience {
    deliveries: Arc<Deliveries>,
    tasks: JoinSet<Result<()>>,
}

impl Audience {
    async fn join_bellwire(&mut self, row: Row, plan: &Plan, address: SocketAddr) -> Result<()> {
        if row == Row::BellwireSockets {
            return self.count(plan.subscribers, || bellwire::subscribe_socket(address, 1)).await;
        }
        for _ in 0..plan.subscribers {
            bellwire::subscribe(address, self.deliveries.clone(), &mut self.tasks).await?;
        }
        Ok(())
    }

    /// This many sockets that only count.
    async fn count<F: Future<Output = Result<TcpStream>>>(
        &mut self,
        subscribers: usize,
        connect: impl Fn() -> F,
    ) -> Result<()> {
        for _ in 0..subscribers {
            self.tasks.spawn(count(connect().await?, self.deliveries.clone()));
        }
        Ok(())
    }

    /// Measures, and checks that everything arrived.
    async fn publish(
        mut self,
        plan: &Plan,
        publisher: impl Publish,
        clock: CpuClock,
    ) -> Result<Sample> {
        let stop = Arc::new(AtomicBool::new(false));
        let subscribers = plan.subscribers as u64;
        let flood = flood(publisher, subscribers, self.deliveries.clone(), stop.clone());
        let flood = tokio::spawn(flood);
        let delivered = || self.deliveries.count.load(Ordering::Relaxed);
        let sample = Meter::new().run(&plan.window, &clock, Some(&delivered)).await?;
        stop.store(true, Ordering::Relaxed);
        let published = timeout(GRACE, flood).await.context("messages are missing")???;
        if let Some(ended) = self.tasks.try_join_next() {
            ended??;
        }
        let due = published * subscribers;
        ensure!(delivered() == due, "{} deliveries instead of {due}", delivered());
        Ok(sample)
    }
}

/// Publishes until it is stopped and everything has arrived. Returns how much it published.
async fn flood(
    mut publisher: impl Publish,
    subscribers: u64,
    deliveries: Arc<Deliveries>,
    stop: Arc<AtomicBool>,
) -> Result<u64> {
    let mut published = 0;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..OUTSTANDING / 2 {
            publisher.publish(&MESSAGE)?;
        }
        publisher.flush().await?;
        // The previous half has arrived; this one is in transit.
        deliveries.until(published * subscribers).await;
        published += OUTSTANDING / 2;
    }
    deliveries.until(published * subscribers).await;
    Ok(published)
}
