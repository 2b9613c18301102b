//! The load of all rows that answer requests. Callers make one request after the other.
//!
//! Every reply is compared with its request. A request counts if its reply arrives while the window
//! is open.

use std::{
    hint,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use tokio::{task::JoinSet, time::timeout};

use crate::{
    child::Server,
    cpu::CpuClock,
    meter::{Meter, Sample, Window},
};

pub const PAYLOAD: usize = 32;
pub type Payload = [u8; PAYLOAD];

/// The first byte of a request whose handler takes [`SLOW_FOR`].
const SLOW: u8 = b's';
const SLOW_FOR: Duration = Duration::from_millis(1);
/// If any request is slow, one in this many is.
const SLOW_EVERY: u64 = 10;
/// How long the last replies may take.
const GRACE: Duration = Duration::from_secs(10);

/// A client that many tasks share.
pub trait Call: Clone + Send + Sync + 'static {
    fn call(&self, payload: Payload) -> impl Future<Output = Result<Payload>> + Send;
}

/// The clients of one row, each with a connection of its own to the same server.
#[derive(Debug)]
pub struct Clients<C> {
    pub clients: Vec<C>,
    /// The program that serves, if it is not this one.
    pub server: Option<Server>,
}

impl<C> Clients<C> {
    pub fn in_process(clients: Vec<C>) -> Self {
        Self { clients, server: None }
    }
}

/// What the callers do.
#[derive(clap::Args, Clone, Debug)]
pub struct Plan {
    /// Connections, each from a client of its own
    #[arg(long, default_value_t = 1)]
    pub connections: usize,
    /// Callers on each connection
    #[arg(long, default_value_t = 64)]
    pub callers: usize,
    /// Each caller computes for up to so many microseconds between two requests
    #[arg(long, default_value_t = 0)]
    pub think_us: u64,
    /// The handler of one request in ten takes 1 ms
    #[arg(long)]
    pub slow_handlers: bool,
    #[command(flatten)]
    pub window: Window,
}

/// What an echo handler does before it answers `payload`.
pub async fn handle(payload: &[u8]) {
    if is_slow(payload) {
        tokio::time::sleep(SLOW_FOR).await;
    }
}

/// Whether the handler of `payload` takes [`SLOW_FOR`].
pub fn is_slow(payload: &[u8]) -> bool {
    payload.first() == Some(&SLOW)
}

/// A reply in the buffer type of a peer.
pub fn to_payload(bytes: &[u8]) -> Result<Payload> {
    bytes.try_into().with_context(|| format!("a reply of {} bytes", bytes.len()))
}

pub async fn run<C: Call>(clients: Clients<C>, plan: &Plan) -> Result<Sample> {
    let meter = Meter::new();
    let mut callers = JoinSet::new();
    for number in 0..plan.connections * plan.callers {
        let client = clients.clients[number % plan.connections].clone();
        callers.spawn(Caller::new(number, client, plan, meter.clone()).run());
    }
    let clock = CpuClock::new(clients.server.iter().map(Server::pid).collect());
    let sample = {
        let window = meter.run(&plan.window, &clock, None);
        tokio::pin!(window);
        loop {
            tokio::select! {
                biased;
                sample = &mut window => break sample?,
                // If a caller ends without an error, its window has ended.
                Some(ended) = callers.join_next() => ended?.context("a caller failed")?,
            }
        }
    };
    let last = async {
        while let Some(ended) = callers.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    };
    timeout(GRACE, last).await.context("a reply is missing")??;
    Ok(sample)
}

struct Caller<C> {
    client: C,
    meter: Arc<Meter>,
    payload: Payload,
    sequence: u64,
    think: Duration,
    has_slow: bool,
}

impl<C: Call> Caller<C> {
    fn new(number: usize, client: C, plan: &Plan, meter: Arc<Meter>) -> Self {
        // Printable, because text protocols carry it as it is.
        let mut payload = *b"caller-0000-request-000000000000";
        payload[7..11].copy_from_slice(format!("{:04}", number % 10_000).as_bytes());
        let think = Duration::from_micros(plan.think_us);
        // Callers begin at different offsets, so that their slow requests do not coincide.
        let sequence = number as u64;
        Self { client, meter, payload, sequence, think, has_slow: plan.slow_handlers }
    }

    async fn run(mut self) -> Result<()> {
        let mut started = Instant::now();
        loop {
            self.stamp_next();
            let reply = self.client.call(self.payload).await?;
            self.check(&reply)?;
            let ended = Instant::now();
            if !self.meter.note(1, ended - started) {
                return Ok(());
            }
            started = if self.think.is_zero() { ended } else { self.compute(ended) };
        }
    }

    fn stamp_next(&mut self) {
        self.sequence += 1;
        let is_slow = self.has_slow && self.sequence.is_multiple_of(SLOW_EVERY);
        self.payload[0] = if is_slow { SLOW } else { b'c' };
        let mut rest = self.sequence;
        for digit in self.payload[20..].iter_mut().rev() {
            *digit = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
    }

    fn check(&self, reply: &Payload) -> Result<()> {
        let (sent, reply) = (self.payload.escape_ascii(), reply);
        ensure!(self.payload == *reply, "reply {} to request {sent}", reply.escape_ascii());
        Ok(())
    }

    /// Keeps a core busy, as a caller does that processes the reply. Returns the time afterwards.
    fn compute(&self, from: Instant) -> Instant {
        let until = from + self.think.mul_f64(fastrand::f64());
        loop {
            let now = Instant::now();
            if now >= until {
                return now;
            }
            hint::spin_loop();
        }
    }
}
