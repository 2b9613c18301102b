//! A service with methods and notifications: `cargo run --example offers_server -- --help`
//!
//! It serves offers of flats to let.
//!
//! To see it work: start it with `--offers my.jsonl`, start `offers_client` beside it, or
//! `nc localhost 7440` and type `1 /subscribe offers`; then append a line to the file:
//!
//! ```sh
//! echo '{"id":43,"title":"Loft","rent":700}' >> my.jsonl
//! ```
//!
//! The file adds offers and changes them, by their ids. An offer that is new is announced on the
//! topic `offers` as `{"id":43}`, and one that changed as `{"id":43,"changed":true}`. One that is
//! read again unchanged is not announced, so a file may be rewritten, truncated and replaced. An
//! offer that leaves the file stays until the server is restarted. Offers that are in the file at
//! the start are not announced.
//!
//! With `--features sqlite`, `--store topics.db` keeps the messages of the topics in a file, and the
//! keys of requests. A client that subscribes again after a restart has missed nothing, and
//! `offers.add` with a key adds one offer, however often it is sent and the server is killed.
//!
//! With `--features ws`, `--page 127.0.0.1:8080` serves a page for browsers, `examples/live/page`. It
//! shows the offers as they arrive, and adds offers.
//!
//! Ctrl-C or SIGTERM stops it in order; a second one stops it at once.

#[macro_use]
#[path = "shared/print.rs"]
mod print;
#[cfg(feature = "ws")]
#[path = "shared/axum_ws.rs"]
mod adapter;
#[path = "offers/file.rs"]
mod file;
#[path = "offers/follow.rs"]
mod follow;
#[cfg(feature = "ws")]
#[path = "live/http.rs"]
mod http;
#[path = "offers/offer.rs"]
mod offer;
#[path = "offers/reading.rs"]
mod reading;
#[path = "shared/stop.rs"]
mod stop;
#[path = "offers/store.rs"]
mod store;
#[path = "offers/topics.rs"]
mod topics;

use std::{
    convert::Infallible, error::Error, net::SocketAddr, num::NonZeroU64, path::PathBuf,
    process::ExitCode, sync::Arc, time::Duration,
};

#[cfg(feature = "ws")]
use bellwire::server::Both;
use bellwire::{
    Failure, Json, Listener, PublishError, Publisher, Router, Server, ServerConfig, State,
    Streamed, handler, protocol::Code,
};
use clap::Parser;
use futures::{Stream, stream};
use serde::Deserialize;
use tokio::{
    net::TcpListener,
    sync::{Mutex, oneshot},
    task::{spawn_blocking, yield_now},
    time::{Instant, interval, sleep},
};
use tracing_subscriber::EnvFilter;

use file::{Found, MAX_OFFER};
use follow::Event;
use offer::{Flat, News, Offer, Summary};
use reading::Reading;
use stop::Stop;
use store::{Put, Store};
use topics::Topics;

/// The offers when no file is given.
const SHIPPED: &str = include_str!("offers/offers.jsonl");
/// How often to look at the file.
const INTERVAL: Duration = Duration::from_millis(100);
/// How long the start, and a call that adds an offer, may wait for the file to be read. Other
/// programs may write faster than the server reads.
const PATIENCE: Duration = Duration::from_secs(2);
/// The bound of `random`, unless one is given.
const DEFAULT_MAX: NonZeroU64 = NonZeroU64::new(100).expect("not zero");

const NOT_FOUND: Code = Code::from_static("not-found");
const EXISTS: Code = Code::from_static("exists");

/// Serves offers of flats to let: methods to ask for them, a topic that tells of new ones.
///
/// Methods: random [MAX], offers.list [AFTER], offers.get ID, offers.add {…}. Topics: offers,
/// random. RUST_LOG=bellwire=debug shows what the library does.
#[derive(Parser)]
struct Args {
    /// Where to listen; port 0 takes a free one
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7440")]
    listen: String,
    /// Offers, one line of JSON each; followed while others append to it. Default: a dozen built in
    #[arg(long, value_name = "FILE")]
    offers: Option<PathBuf>,
    /// Keeps the messages of the topics and the keys of requests in this file, over restarts; needs the feature `sqlite`. Default: in memory
    #[arg(long, value_name = "FILE")]
    store: Option<PathBuf>,
    /// Serves a page with the offers over HTTP, with a WebSocket; needs the feature `ws`
    #[arg(long, value_name = "ADDR")]
    page: Option<String>,
    /// How many messages each topic keeps for clients that come back; at most 1 MiB in memory
    #[arg(long, value_name = "MESSAGES", default_value_t = 65_536, value_parser = clap::value_parser!(u32).range(1..))]
    retain: u32,
    /// How long a subscription lives without a renewal
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    lease: u64,
    /// Lets every client read the statistics, for `bellwire top`; needs the feature `stats-method`
    #[arg(long)]
    stats: bool,
    /// How often to publish a random number; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    random_every: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .log_internal_errors(false)
        .init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("offers_server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let listener = TcpListener::bind(&args.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", args.listen))?;
    match args.page.clone() {
        Some(page) => with_page(page, listener, args).await,
        None => serve(Server::new(listener), args, None).await,
    }
}

/// Serves with the page, over the same topics.
#[cfg(feature = "ws")]
async fn with_page(page: String, tcp: TcpListener, args: Args) -> Result<(), Box<dyn Error>> {
    let cannot = |error: std::io::Error| format!("cannot listen on {page}: {error}");
    let (http, web_sockets) = http::Http::bind(&page).await.map_err(cannot)?;
    let address = http.local_addr().map_err(cannot)?;
    let server = Server::new(Both::new(tcp, web_sockets));
    tokio::select! {
        served = serve(server, args, Some(address)) => served,
        failed = http.serve() => Err(format!("the page: {:?}", failed.err()).into()),
    }
}

#[cfg(not(feature = "ws"))]
async fn with_page(_page: String, _tcp: TcpListener, _args: Args) -> Result<(), Box<dyn Error>> {
    Err("--page needs WebSockets: run it with `--features ws`".into())
}

async fn serve<L: Listener>(
    server: Server<L>,
    args: Args,
    page: Option<SocketAddr>,
) -> Result<(), Box<dyn Error>> {
    let mut stop = Stop::new()?;
    let config = ServerConfig::new()
        .lease(Duration::from_secs(args.lease))
        .retained_messages(args.retain as usize);
    let topics = Topics::open(args.store, args.retain).await?;
    let server = with_stats(topics.of(server.config(config)), args.stats)?;
    let service = Service::new(server.publisher(), args.offers);
    tokio::select! {
        () = service.load() => {}
        () = stop.next() => return Ok(()),
    }
    println!("listening on {}", server.local_addr()?);
    if let Some(page) = page {
        println!("the page is at http://{page}/");
    }
    eprintln!("{} offers", service.store.len());

    let (drain, is_told) = oneshot::channel::<()>();
    let serving = server.serve(router(service.clone()));
    let serving = serving.with_graceful_shutdown(async { drop(is_told.await) });
    tokio::select! {
        served = serving => {
            served?;
            Ok(topics.close().await?)
        }
        never = service.follow() => match never {},
        never = service.publish_random(args.random_every) => match never {},
        () = stop.until_second(drain) => {
            eprintln!("stopped at once, whatever clients were waiting for");
            Ok(())
        }
    }
}

/// Offers the statistics. As before, clients may do everything except publish.
#[cfg(feature = "stats-method")]
fn with_stats<L: Listener>(server: Server<L>, has_stats: bool) -> Result<Server<L>, String> {
    use bellwire::server::{Action, Principal};
    let may = |_: &Principal, action: Action<'_>| !matches!(action, Action::Publish(_));
    Ok(if has_stats { server.authorizer(may).stats_method() } else { server })
}

#[cfg(not(feature = "stats-method"))]
fn with_stats<L: Listener>(server: Server<L>, has_stats: bool) -> Result<Server<L>, String> {
    match has_stats {
        true => Err("--stats needs the method: run it with `--features stats-method`".into()),
        false => Ok(server),
    }
}

fn router(service: Arc<Service>) -> Router<Arc<Service>> {
    Router::with_state(service)
        .method("random", handler(random).doc("[MAX]: a random number below MAX, or below 100"))
        .method(
            "offers.list",
            handler(list).doc("[AFTER]: the offers with ids above AFTER, in short, one by one"),
        )
        .method("offers.get", handler(get).doc("ID: one offer"))
        .method(
            "offers.add",
            handler(add).doc(r#"{"title":"…","rent":N}: adds an offer, and tells its id"#),
        )
}

async fn random(Json(max): Json<Option<NonZeroU64>>) -> Json<u64> {
    Json(fastrand::u64(..max.unwrap_or(DEFAULT_MAX).get()))
}

/// Looks up the next offer only when there is credit for it. So an offer that is added meanwhile is
/// listed, too.
async fn list(
    State(service): State<Arc<Service>>,
    Json(after): Json<Option<NonZeroU64>>,
) -> Streamed<impl Stream<Item = Json<Summary>>> {
    Streamed(stream::unfold((service, after), async |(service, after)| {
        let summary = service.store.next(after)?;
        let after = Some(summary.id);
        Some((Json(summary), (service, after)))
    }))
}

async fn get(
    State(service): State<Arc<Service>>,
    Json(id): Json<NonZeroU64>,
) -> Result<Json<Offer>, Failure> {
    let offer = service.store.get(id);
    offer.map(Json).ok_or_else(|| Failure::new(NOT_FOUND, format!("no offer {id}")))
}

/// An offer that may not have an id yet.
#[derive(Deserialize)]
struct Draft {
    id: Option<NonZeroU64>,
    #[serde(flatten)]
    flat: Flat,
}

async fn add(
    State(service): State<Arc<Service>>,
    Json(draft): Json<Draft>,
) -> Result<Json<News>, Failure> {
    // Runs as a task, so that a cancel by the caller does not stop it half-way.
    let added = tokio::spawn(async move { service.add(draft).await }).await;
    added.map_err(internal)?.map(|id| Json(News { id, changed: false }))
}

/// The state that the methods, the file and the topics share.
struct Service {
    store: Store,
    publisher: Publisher,
    file: Option<PathBuf>,
    /// The reader of the file, if there is one. It is locked while offers are read, and from the
    /// choice of an id for a new offer until that offer is stored.
    source: Mutex<Option<Reading>>,
}

impl Service {
    fn new(publisher: Publisher, file: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self { store: Store::default(), publisher, file, source: Mutex::default() })
    }

    /// Reads the initial content of the file without announcing it. If this takes too long, the
    /// rest is read while the server runs, also without being announced.
    async fn load(&self) {
        let Some(file) = &self.file else {
            let lines = (1..).zip(SHIPPED.lines());
            let events = lines.map(|(number, line)| Event::Line { number, text: line.into() });
            for found in events.map(file::read) {
                if let Found::Offer(offer) = found {
                    self.store.put(offer);
                }
            }
            return;
        };
        let mut reading = Reading::new(file);
        let begun = Instant::now();
        while reading.is_loading() && begun.elapsed() < PATIENCE {
            self.read_on(&mut reading).await;
        }
        *self.source.lock().await = Some(reading);
    }

    /// Reads the file as it grows, and announces its offers. Other tasks can use the reader between
    /// two pieces.
    async fn follow(&self) -> Infallible {
        loop {
            let is_idle = match &mut *self.source.lock().await {
                Some(reading) => self.read_on(reading).await,
                None => true,
            };
            match is_idle {
                true => sleep(INTERVAL).await,
                false => yield_now().await,
            }
        }
    }

    /// Reads everything that is in the file now. Returns whether there was enough time.
    async fn catch_up(&self, reading: &mut Reading) -> bool {
        let begun = Instant::now();
        let mut is_idle = self.read_on(reading).await;
        let length = reading.follower.length();
        while !is_idle && (reading.is_held() || reading.follower.position() < length) {
            if begun.elapsed() > PATIENCE {
                return false;
            }
            is_idle = self.read_on(reading).await;
        }
        true
    }

    /// Reads a piece of the file, and announces its offers. Returns whether nothing was there.
    async fn read_on(&self, reading: &mut Reading) -> bool {
        let is_silent = reading.is_loading();
        let offers = reading.read(self.file.as_deref()).await;
        for offer in offers {
            if is_silent {
                self.store.put(offer);
            } else if let Err(error) = self.put(offer).await {
                eprintln!("cannot tell of an offer: {error}");
            }
        }
        reading.follower.is_idle()
    }

    /// Stores an offer, and announces it unless it was known and unchanged.
    async fn put(&self, offer: Offer) -> Result<(), PublishError> {
        let id = offer.id;
        let changed = match self.store.put(offer) {
            Put::Same => return Ok(()),
            Put::New => false,
            Put::Changed => true,
        };
        let news = serde_json::to_vec(&News { id, changed }).expect("a number and a flag");
        self.publisher.publish("offers", news).await.map(drop)
    }

    /// Adds an offer, also to the file, so that it is there after a restart.
    ///
    /// First it reads everything in the file, so that the id is new. The line that it appends is
    /// read only after the offer was stored, so that the offer is announced once.
    async fn add(&self, Draft { id, flat }: Draft) -> Result<NonZeroU64, Failure> {
        let mut source = self.source.lock().await;
        if let Some(reading) = &mut *source
            && !self.catch_up(reading).await
        {
            return Err(Failure::new(Code::BUSY, "the file is not read to its end yet"));
        }
        let id = id.or_else(|| self.store.free_id());
        let id = id.ok_or_else(|| Failure::new(Code::TOO_MANY, "the ids are used up"))?;
        if self.store.get(id).is_some() {
            return Err(Failure::new(EXISTS, format!("there is an offer {id}")));
        }
        let offer = Offer { id, flat };
        self.append(offer.clone()).await?;
        self.put(offer).await.map_err(internal)?;
        Ok(id)
    }

    async fn append(&self, offer: Offer) -> Result<(), Failure> {
        if serde_json::to_vec(&offer).is_ok_and(|json| json.len() > MAX_OFFER) {
            return Err(Failure::new(Code::TOO_LARGE, format!("more than {MAX_OFFER} bytes")));
        }
        let Some(file) = self.file.clone() else { return Ok(()) };
        let appended = spawn_blocking(move || file::append(&file, &offer)).await;
        match appended.map_err(internal)?.map_err(internal)? {
            true => Ok(()),
            false => Err(Failure::new(Code::BUSY, "the last line of the file is not finished")),
        }
    }

    async fn publish_random(&self, every: u64) -> Infallible {
        if every == 0 {
            return std::future::pending().await;
        }
        let mut ticks = interval(Duration::from_secs(every));
        loop {
            ticks.tick().await;
            let number = fastrand::u64(..DEFAULT_MAX.get()).to_string();
            if let Err(error) = self.publisher.publish("random", number).await {
                eprintln!("cannot publish a number: {error}");
            }
        }
    }
}

/// Logs why an offer could not be added. The peer learns only that it failed.
fn internal(error: impl Error) -> Failure {
    eprintln!("cannot add an offer: {error}");
    Failure::new(Code::INTERNAL, "cannot be stored")
}
