//! A run: connect, warm up, measure, collect.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bellwire::{Client, ClientConfig, Subscription};
use tokio::{
    signal::ctrl_c,
    sync::{mpsc::UnboundedReceiver, oneshot},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::{
    bench::{
        args::Args,
        callers::{self, Calls},
        control::Control,
        cpu,
        progress::Progress,
        report::{Report, Span},
        schedule::Schedule,
        server::InProcess,
        subscribers::{self, Received, Sent, Way},
    },
    failed::Failed,
    target::Target,
};

/// How long the last replies and notifications may take after the end.
const GRACE: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: &Args) -> Result<Report, Failed> {
    let server = match args.target.is_explicit() {
        true => None,
        false => Some(InProcess::start().await.map_err(Failed::other)?),
    };
    let report = measure(args, server.as_ref()).await?;
    if let Some(server) = server {
        server.stop().await.map_err(Failed::other)?;
    }
    Ok(report)
}

async fn measure(args: &Args, server: Option<&InProcess>) -> Result<Report, Failed> {
    let connector = Connector::new(args, server)?;
    let clients = connector.connect_many(args.connections).await?;
    let audience = match args.subscribers {
        0 => None,
        _ => Some(Audience::gather(args, &connector, server).await?),
    };
    let control = control_with_ctrl_c();
    // Without a warm-up the first call counts, so the clock starts before there are callers.
    let at_once = args.warm_up().is_zero().then(|| Beginning::now(&control));
    let schedule = Schedule::start(args);
    let (mut callers, counts) = callers::spawn(args, &clients, &control, schedule.as_ref());
    let beginning = match at_once {
        Some(beginning) => beginning,
        None => warm_up(args, &control).await,
    };
    let audience = audience.map(|audience| audience.start(args));
    wait_for_end(args, &control, &mut callers).await;
    let ended = Instant::now();
    if let Some(schedule) = &schedule {
        schedule.close();
    }
    join_in_time(&mut callers).await;
    let span = beginning.span();

    let mut calls = collect(counts, Calls::merge).await;
    if let Some(schedule) = &schedule {
        calls.add_unstarted(schedule.unstarted(ended));
    }
    let heard = match audience {
        None => None,
        Some(audience) => Some(audience.end().await),
    };
    let address = server.is_none().then(|| connector.target.settings.addr.join(","));
    Ok(Report::new(args, address, span, calls, heard))
}

/// Connects to the server under test.
struct Connector {
    target: Target,
    config: ClientConfig,
}

impl Connector {
    fn new(args: &Args, server: Option<&InProcess>) -> Result<Self, Failed> {
        let target = match server {
            Some(server) => Target::of(server.address.to_string()),
            None => args.target.resolve()?,
        };
        Ok(Self { target, config: ClientConfig::new().in_flight(args.callers.into()) })
    }

    async fn connect(&self) -> Result<Client, Failed> {
        // A lost connection must be reported as an error, so the client must not reconnect.
        self.target.connect_as(self.config.clone(), false).await
    }

    async fn connect_many(&self, count: u16) -> Result<Vec<Client>, Failed> {
        let mut clients = Vec::with_capacity(count.into());
        for _ in 0..count {
            clients.push(self.connect().await?);
        }
        Ok(clients)
    }
}

/// Ctrl-C ends the run. Its report covers what was measured until then.
fn control_with_ctrl_c() -> Arc<Control> {
    let control = Arc::new(Control::new());
    let interrupted = control.clone();
    tokio::spawn(async move {
        if ctrl_c().await.is_ok() {
            interrupted.end();
        }
    });
    control
}

async fn warm_up(args: &Args, control: &Control) -> Beginning {
    tokio::select! {
        () = sleep(args.warm_up()) => {}
        () = control.ended() => {}
    }
    Beginning::now(control)
}

/// Waits until the time is over, the callers have made all requests, or a signal comes.
async fn wait_for_end(args: &Args, control: &Control, callers: &mut JoinSet<()>) {
    let progress = Progress::start(args);
    let has_callers = !callers.is_empty();
    tokio::select! {
        () = sleep(args.duration()) => {}
        () = control.ended() => {}
        () = join(callers), if has_callers => {}
    }
    control.end();
    drop(progress);
}

/// Waits for all tasks, and aborts those that take too long.
async fn join_in_time(tasks: &mut JoinSet<()>) {
    if timeout(GRACE, join(tasks)).await.is_err() {
        tasks.shutdown().await;
    }
}

async fn join(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.join_next().await {
        ended.expect("a task of the load test does not panic");
    }
}

/// Merges the counts of all tasks, which have ended.
async fn collect<T: Default>(mut counts: UnboundedReceiver<T>, merge: fn(&mut T, T)) -> T {
    let mut sum = T::default();
    while let Some(count) = counts.recv().await {
        merge(&mut sum, count);
    }
    sum
}

/// The start of the measurement.
struct Beginning {
    time: Instant,
    cpu: Option<f64>,
}

impl Beginning {
    /// From now on calls are counted.
    fn now(control: &Control) -> Self {
        let beginning = Self { time: Instant::now(), cpu: cpu::seconds() };
        control.measure(beginning.time);
        beginning
    }

    /// The time since then.
    fn span(&self) -> Span {
        let cpu_seconds = self.cpu.zip(cpu::seconds()).map(|(before, now)| now - before);
        Span { seconds: self.time.elapsed().as_secs_f64(), cpu_seconds }
    }
}

/// The subscribers, before anything is published.
struct Audience {
    topic: String,
    way: Way,
    subscriptions: Vec<Subscription>,
}

impl Audience {
    async fn gather(
        args: &Args,
        connector: &Connector,
        server: Option<&InProcess>,
    ) -> Result<Self, Failed> {
        let topic = subscribers::topic();
        let way = match server {
            Some(server) => Way::InProcess(server.publisher.clone()),
            None => Way::Remote(connector.connect().await?),
        };
        let mut subscriptions = Vec::with_capacity(args.subscribers.into());
        for client in connector.connect_many(args.subscribers).await? {
            subscriptions.push(client.subscribe(&topic).await?);
        }
        Ok(Self { topic, way, subscriptions })
    }

    fn start(self, args: &Args) -> Listening {
        let clock = Instant::now();
        let (tasks, counts) = subscribers::spawn(self.subscriptions, clock);
        let (stop, stopped) = oneshot::channel();
        let publisher = subscribers::spawn_publisher(args, self.way, self.topic, clock, stopped);
        Listening { clock, subscribers: (tasks, counts), publisher, stop }
    }
}

/// The running subscribers and their publisher.
struct Listening {
    clock: Instant,
    subscribers: (JoinSet<()>, UnboundedReceiver<Received>),
    publisher: (JoinSet<()>, UnboundedReceiver<Sent>),
    stop: oneshot::Sender<()>,
}

/// What was published, what arrived, and how long it took.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) sent: Sent,
    pub(crate) received: Received,
    pub(crate) seconds: f64,
}

impl Listening {
    /// Stops publishing, and waits until all subscribers have the last notification.
    async fn end(self) -> Heard {
        let Self { clock, subscribers: (mut tasks, received), mut publisher, stop } = self;
        drop(stop);
        join_in_time(&mut publisher.0).await;
        join_in_time(&mut tasks).await;
        let seconds = clock.elapsed().as_secs_f64();
        let sent = collect(publisher.1, Sent::merge).await;
        Heard { sent, received: collect(received, Received::merge).await, seconds }
    }
}
