//! Flats to let, to be asked for and to be told of: `cargo run --example offers_server -- --help`
//!
//! To see it work: start it with `--offers my.jsonl`, start `offers_client` beside it, or
//! `nc localhost 7440` and type `1 /subscribe offers`; then append a line to the file:
//!
//! ```sh
//! echo '{"id":43,"title":"Loft","rent":700}' >> my.jsonl
//! ```
//!
//! The file adds offers and changes them, by their ids. An offer that is new is announced on the
//! topic `offers` as `{"id":43}`, one that changed as `{"id":43,"changed":true}`, one that is read
//! again as it was not at all; so a file may be rewritten, truncated and replaced, and nothing is
//! announced twice. An offer that leaves the file stays until the server is started anew. What
//! stands in the file at the start is not announced.

#[path = "offers/file.rs"]
mod file;
#[path = "offers/follow.rs"]
mod follow;
#[path = "offers/offer.rs"]
mod offer;
#[path = "offers/stop.rs"]
mod stop;
#[path = "offers/store.rs"]
mod store;

use std::{
    convert::Infallible, error::Error, num::NonZeroU64, path::PathBuf, process::ExitCode,
    sync::Arc, time::Duration,
};

use bellwire::{
    Failure, Json, PublishError, Publisher, Router, Server, ServerConfig, State, Streamed, handler,
    protocol::Code,
};
use clap::Parser;
use futures::{Stream, stream};
use serde::Deserialize;
use tokio::{
    sync::Mutex,
    task::spawn_blocking,
    time::{interval, sleep},
};
use tracing_subscriber::EnvFilter;

use file::{Found, MAX_OFFER};
use follow::{Event, Follower};
use offer::{Flat, News, Offer, Summary};
use store::{Put, Store};

/// What there is to let when no file is given.
const SHIPPED: &str = include_str!("offers/offers.jsonl");
/// How often to look at the file.
const INTERVAL: Duration = Duration::from_millis(100);
/// What `random` is below, unless it is told.
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
    /// How long a subscription lives without a renewal
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    lease: u64,
    /// How often to publish a random number; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 5)]
    random_every: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    match run(Args::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("offers_server: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: Args) -> Result<(), Box<dyn Error>> {
    let stop = stop::stop()?;
    let config = ServerConfig::new().lease(Duration::from_secs(args.lease));
    let server = Server::bind(&args.listen)
        .await
        .map_err(|error| format!("cannot listen on {}: {error}", args.listen))?
        .config(config);
    let service = Service::new(server.publisher(), args.offers);
    service.load().await;
    println!("listening on {}", server.local_addr()?);
    eprintln!("{} offers", service.store.len());

    let serving = server.serve(router(service.clone())).with_graceful_shutdown(stop);
    tokio::select! {
        served = serving => Ok(served?),
        never = service.follow() => match never {},
        never = service.publish_random(args.random_every) => match never {},
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

/// Looks for the next offer when there is credit for it: one that comes in meanwhile is in the list.
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
    // A task of its own, so that it is not left half way if the caller cancels.
    let added = tokio::spawn(async move { service.add(draft).await }).await;
    added.map_err(internal)?.map(|id| Json(News { id, changed: false }))
}

/// What the methods, the file and the topics share.
struct Service {
    store: Store,
    publisher: Publisher,
    file: Option<PathBuf>,
    /// What follows the file, if there is one. Held while offers are taken from it, and from when
    /// an id is chosen for a new one until it is stored.
    source: Mutex<Option<Follower>>,
}

impl Service {
    fn new(publisher: Publisher, file: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self { store: Store::default(), publisher, file, source: Mutex::default() })
    }

    /// Takes what is there at the start, telling nobody.
    async fn load(&self) {
        let Some(file) = &self.file else {
            let lines = (1..).zip(SHIPPED.lines());
            let events = lines.map(|(number, line)| Event::Line { number, text: line.into() });
            events.filter_map(|event| self.read(event)).for_each(|offer| _ = self.store.put(offer));
            return;
        };
        let mut follower = Follower::new(file);
        while !follower.is_idle() {
            let offers = self.read_new(&mut follower).await;
            offers.into_iter().for_each(|offer| _ = self.store.put(offer));
        }
        *self.source.lock().await = Some(follower);
    }

    /// Takes what comes into the file, and tells of it.
    async fn follow(&self) -> Infallible {
        loop {
            if let Some(follower) = &mut *self.source.lock().await {
                self.catch_up(follower).await;
            }
            sleep(INTERVAL).await;
        }
    }

    async fn catch_up(&self, follower: &mut Follower) {
        loop {
            for offer in self.read_new(follower).await {
                if let Err(error) = self.put(offer).await {
                    eprintln!("cannot tell of an offer: {error}");
                }
            }
            if follower.is_idle() {
                return;
            }
        }
    }

    /// The offers that came into the file since the last look.
    async fn read_new(&self, follower: &mut Follower) -> Vec<Offer> {
        match follower.read_new().await {
            Ok(events) => events.into_iter().filter_map(|event| self.read(event)).collect(),
            Err(error) => {
                eprintln!("{error}; waiting for it");
                Vec::new()
            }
        }
    }

    /// The offer in an event of the file; what is none is reported.
    fn read(&self, event: Event) -> Option<Offer> {
        match file::read(event) {
            Found::Offer(offer) => Some(offer),
            Found::Remark(remark) => {
                let file = self.file.as_deref().unwrap_or("offers.jsonl".as_ref());
                eprintln!("{}: {remark}", file.display());
                None
            }
        }
    }

    /// Stores an offer, and tells of it unless it was known as it is.
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

    /// Adds an offer, to the file too, so that it is there after a restart.
    ///
    /// All that stands in the file is taken first, so that the id is a new one; and its own line is
    /// read only after it was stored, so that it is not told of twice.
    async fn add(&self, Draft { id, flat }: Draft) -> Result<NonZeroU64, Failure> {
        let mut source = self.source.lock().await;
        if let Some(follower) = &mut *source {
            self.catch_up(follower).await;
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

/// Tells whoever minds the server why; the peer only that it failed.
fn internal(error: impl Error) -> Failure {
    eprintln!("cannot add an offer: {error}");
    Failure::new(Code::INTERNAL, "cannot be stored")
}
