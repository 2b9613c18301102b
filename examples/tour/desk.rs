//! The servers of the tour: a small letting agency, and a hostile server.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bellwire::{
    Failure, Json, Publisher, Random, Router, Server, ServerConfig, State, Streamed, handler,
    protocol::Code, server::PeerAddr,
};
use futures::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::Notify,
};

const NOT_FOUND: Code = Code::from_static("not-found");

/// A letting agency. Its server runs in the background, and the agency decides when there is a new
/// offer.
#[derive(Clone)]
pub(crate) struct Desk {
    pub(crate) address: SocketAddr,
    offers: Arc<Mutex<BTreeMap<u64, Offer>>>,
    publisher: Publisher,
    other_asked: Arc<Notify>,
}

#[derive(Clone, Serialize)]
struct Offer {
    id: u64,
    title: &'static str,
    rent: u32,
    /// The lookup of this offer is so slow that the next offer is announced and requested
    /// meanwhile.
    #[serde(skip)]
    slow: bool,
}

impl Desk {
    /// Starts with these connections of subscribers. It is seeded, so that each tour is the same.
    pub(crate) async fn open(seed: u64, lease: Duration) -> io::Result<Self> {
        let config = ServerConfig::new().lease(lease);
        let server = Server::bind("127.0.0.1:0").await?.random(Random::seeded(seed)).config(config);
        let PeerAddr::Tcp(address) = server.local_addr()? else {
            return Err(io::Error::other("not a TCP listener"));
        };
        let desk = Self {
            address,
            offers: Arc::default(),
            publisher: server.publisher(),
            other_asked: Arc::default(),
        };
        tokio::spawn(server.serve(desk.router()).into_future());
        Ok(desk)
    }

    fn router(&self) -> Router<Self> {
        let random = async |Json(max): Json<u64>| Json(fastrand::u64(..max.max(1)));
        Router::with_state(self.clone())
            .method("random", handler(random).doc("MAX: a random number below MAX"))
            .method("offers.list", handler(list).doc("all offers, one by one"))
            .method("offers.get", handler(get).doc("ID: one offer"))
            .method("clumsy", handler(clumsy).doc("panics"))
    }

    /// Announces a new offer to all subscribers.
    pub(crate) async fn announce(&self, id: u64, title: &'static str, rent: u32) {
        self.add(Offer { id, title, rent, slow: false }).await;
    }

    /// As [`announce`](Self::announce), for an offer whose lookup is slow.
    pub(crate) async fn announce_slow(&self, id: u64, title: &'static str, rent: u32) {
        self.add(Offer { id, title, rent, slow: true }).await;
    }

    async fn add(&self, offer: Offer) {
        let id = offer.id;
        self.offers.lock().expect("no holder panics").insert(id, offer);
        let published = self.publisher.publish("offers", format!(r#"{{"id":{id}}}"#)).await;
        published.expect("a short payload fits");
    }
}

async fn list(State(desk): State<Desk>) -> Streamed<impl Stream<Item = Json<Offer>>> {
    let offers: Vec<_> = desk.offers.lock().expect("no holder panics").values().cloned().collect();
    Streamed(stream::iter(offers).map(Json))
}

async fn get(State(desk): State<Desk>, Json(id): Json<u64>) -> Result<Json<Offer>, Failure> {
    let found = desk.offers.lock().expect("no holder panics").get(&id).cloned();
    let offer = found.ok_or_else(|| Failure::new(NOT_FOUND, format!("no offer {id}")))?;
    if offer.slow {
        desk.announce(id + 1, "Houseboat, well heated", 1100).await;
        desk.other_asked.notified().await;
    } else {
        desk.other_asked.notify_one();
    }
    Ok(Json(offer))
}

async fn clumsy() {
    panic!("as announced");
}

/// A server that sends a reply without a request, and a second reply. It serves one connection.
pub(crate) async fn open_hostile() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move { be_hostile(listener.accept().await?.0).await });
    Ok(address)
}

async fn be_hostile(stream: TcpStream) -> io::Result<()> {
    let (reader, mut writer) = stream.into_split();
    let mut lines = BufReader::new(reader).lines();
    let session = "00000000-0000-4000-8000-000000000000";
    let hello = format!("* /hello;version=1;session={session};max-line=65535;in-flight=8;lease=60");
    writer.write_all(format!("{hello}\n").as_bytes()).await?;
    writer.write_all(b"999 ok nobody asked\n").await?;
    while let Some(line) = lines.next_line().await? {
        let (id, method) = line.split_once(' ').unwrap_or_default();
        if method == "/quit" {
            return writer.write_all(format!("{id} ok\n").as_bytes()).await;
        }
        writer.write_all(format!("{id} ok 4\n{id} ok 5\n").as_bytes()).await?;
    }
    Ok(())
}
