//! The recipes of README.md. Each block between `// recipe NAME` and `// end` stands in README.md, to
//! the letter, and runs here.

use std::{
    error::Error,
    future::Future,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bellwire::{
    CallError, Client, ClientConfig, Delivery, Failure, Json, Router, Server, State, Streamed,
    memory::{self, MemoryConnector, MemoryListener},
    protocol::{Code, Position},
    server::{Action, Principal, TestRequest, TokenAuthenticator},
};
use bellwire_testkit::bound::bounded;
use bytes::Bytes;
use futures::stream;
use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

type Outcome = Result<(), Box<dyn Error>>;

fn serve<S: Clone + Send + Sync + 'static>(server: Server<MemoryListener>, router: Router<S>) {
    tokio::spawn(server.serve(router).into_future());
}

fn lazily(connector: MemoryConnector) -> Client {
    Client::builder().address("memory").connector(connector).connect_lazily()
}

async fn within<T>(recipe: impl Future<Output = Result<T, Box<dyn Error>>>) {
    bounded("the recipe", recipe).await.map(drop).unwrap();
}

// recipe typed-server
#[derive(Serialize, Deserialize)]
struct Offer {
    id: u64,
    title: String,
}

async fn get_offer(Json(id): Json<u64>) -> Result<Json<Offer>, Failure> {
    match id {
        43 => Ok(Json(Offer { id, title: "Loft".into() })),
        _ => Err(Failure::new(Code::from_static("not-found"), format!("no offer {id}"))),
    }
}

fn offers() -> Router {
    Router::new().method("offers.get", get_offer)
}
// end

// recipe typed-client
async fn title(client: &Client, id: u64) -> Result<String, Box<dyn Error>> {
    let offer: Offer = client.request("offers.get", &id).await?;
    Ok(offer.title)
}
// end

// recipe once
async fn pay(client: &Client, order: &str, sum: u64) -> Result<Bytes, CallError> {
    let call = client.call("pay", sum.to_string()).key(order); // the same key for the same order
    call.deadline(Duration::from_secs(60)).await // all attempts together
}
// end

#[tokio::test]
async fn once() {
    within(async {
        let paid = Arc::new(AtomicUsize::new(0));
        let count = async |State(paid): State<Arc<AtomicUsize>>, sum: String| {
            paid.fetch_add(sum.parse().unwrap_or_default(), Ordering::SeqCst).to_string()
        };
        let (listener, connector) = memory::pair();
        let router = Router::with_state(paid.clone()).method("pay", count);
        serve(Server::new(listener), router);
        let client = lazily(connector);
        for _ in 0..2 {
            assert_eq!(pay(&client, "order-17", 40).await?, "0");
        }
        assert_eq!(pay(&client, "order-18", 2).await?, "40");
        assert_eq!(paid.load(Ordering::SeqCst), 42);
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn typed() {
    within(async {
        let (listener, connector) = memory::pair();
        serve(Server::new(listener), offers());
        let client = lazily(connector);
        assert_eq!(title(&client, 43).await?, "Loft");
        assert!(title(&client, 7).await.unwrap_err().to_string().contains("no offer 7"));
        Ok(())
    })
    .await;
}

// recipe survive
/// Begins at `from` if the program was here before; returns where to begin the next time.
async fn follow(
    client: &Client,
    from: Option<Position>,
    mut show: impl FnMut(String),
) -> Result<Position, Box<dyn Error>> {
    let offers = client.subscribe("offers");
    let mut offers = match from {
        Some(position) => offers.from(position).await?, // `Position` is stored as text: `k3f9:18`
        None => offers.await?,
    };
    while let Some(delivery) = offers.next().await {
        match delivery {
            Delivery::Notification(offer) => show(format!("{:?}", offer.payload)),
            Delivery::Gap(gap) => show(format!("missed {} to {}", gap.first, gap.last)),
            Delivery::Reset { .. } => show("the server began a new log: fetch everything".into()),
            other => show(format!("{other:?}")), // the end, with its reason
        }
    }
    Ok(offers.position())
}
// end

#[tokio::test]
async fn survive() {
    within(async {
        let (listener, connector) = memory::pair();
        let server = Server::new(listener);
        let (handle, publisher) = (server.handle(), server.publisher());
        serve(server, Router::<()>::new());
        let client = lazily(connector);
        let (shown, mut seen) = tokio::sync::mpsc::unbounded_channel();
        let follower = client.clone();
        let following = async move { follow(&follower, None, |text| drop(shown.send(text))).await };
        let looking = async {
            while handle.stats().subscriptions == 0 {
                tokio::task::yield_now().await;
            }
            publisher.publish("offers", "a").await?;
            assert_eq!(seen.recv().await.as_deref(), Some("b\"a\""));
            for session in handle.sessions() {
                session.close(Code::from_static("maintenance"));
            }
            publisher.publish("offers", "b").await?;
            assert_eq!(seen.recv().await.as_deref(), Some("b\"b\""));
            client.close().await?;
            Outcome::Ok(())
        };
        let (followed, looked) = tokio::join!(following, looking);
        assert_eq!(followed?.next, 3);
        looked
    })
    .await;
}

// recipe stream-server
async fn list() -> Streamed<impl futures::Stream<Item = String>> {
    Streamed(stream::iter((1..=3).map(|id| format!("offer {id}"))))
}
// end

// recipe stream-client
async fn read_all(client: &Client) -> Result<Vec<String>, Box<dyn Error>> {
    let mut offers = client.stream("offers.list", "").window(8); // at most 8 items ahead
    let mut all = Vec::new();
    while let Some(offer) = offers.next().await {
        all.push(String::from_utf8(offer?.to_vec())?);
    }
    Ok(all)
}
// end

#[tokio::test]
async fn streamed() {
    within(async {
        let (listener, connector) = memory::pair();
        serve(Server::new(listener), Router::new().method("offers.list", list));
        assert_eq!(read_all(&lazily(connector)).await?, ["offer 1", "offer 2", "offer 3"]);
        Ok(())
    })
    .await;
}

// recipe roles
struct Role(&'static str);

fn tokens() -> TokenAuthenticator {
    TokenAuthenticator::new() // real tokens are random, and come from where secrets are kept
        .token("5f1c0a3e7d524f0e", Principal::new("ada").with_value(Role("admin")))
        .token("c2b9d7f011aa4a34", Principal::new("bob").with_value(Role("user")))
}

/// Every user may listen to the user's own topic. Only admins may call `admin.…` and publish.
fn allow(who: &Principal, action: Action<'_>) -> bool {
    let Some(name) = who.name() else { return false }; // an anonymous client
    let is_admin = who.value::<Role>().is_some_and(|role| role.0 == "admin");
    match action {
        Action::Subscribe(topic) => topic.strip_prefix("users/") == Some(name),
        Action::Publish(_) => is_admin,
        Action::Call(method) => is_admin || !method.starts_with("admin."),
        _ => false,
    }
}
// end

#[tokio::test]
async fn roles() {
    within(async {
        let (listener, connector) = memory::pair();
        // recipe roles-server
        let server = Server::new(listener).authenticator(tokens()).authorizer(allow);
        // end
        let publisher = server.publisher();
        let router = Router::new().method("admin.stop", async || "stopping");
        serve(server, router);
        // recipe roles-client
        let config = ClientConfig::new().auth(TokenAuthenticator::SCHEME, "c2b9d7f011aa4a34");
        let client = Client::builder().address("offers.example:7440").config(config);
        // end
        let bob = client.connector(connector).connect().await?;
        let refused = bob.call("admin.stop", "").await.unwrap_err();
        assert_eq!(refused.code().unwrap(), "forbidden");
        assert!(bob.subscribe("users/ada").await.is_err());
        let mut own = bob.subscribe("users/bob").await?;
        // recipe topic-per-user
        publisher.publish("users/bob", "you have mail").await?;
        // end
        let Some(Delivery::Notification(mail)) = own.next().await else { panic!("mail") };
        assert_eq!(mail.payload, "you have mail");
        Ok(())
    })
    .await;
}

#[tokio::test]
async fn draining() {
    within(async {
        let (listener, connector) = memory::pair();
        let (stop, stopped) = oneshot::channel::<()>();
        let (server, router) = (Server::new(listener), offers());
        let signal = async { drop(stopped.await) };
        let serving = async {
            // recipe drain
            // Of a real program: let signal = async { tokio::signal::ctrl_c().await.ok(); };
            server.serve(router).with_graceful_shutdown(signal).await?;
            // end
            Outcome::Ok(())
        };
        let serving = tokio::spawn(async { serving.await.map_err(|error| error.to_string()) });
        let client = lazily(connector);
        assert_eq!(title(&client, 43).await?, "Loft");
        stop.send(()).unwrap();
        client.close().await?;
        Ok(serving.await??)
    })
    .await;
}

// recipe test-service
#[tokio::test(start_paused = true)] // the clock is paused: a deadline costs no time
async fn the_service_answers() -> Result<(), Box<dyn Error>> {
    let (listener, connector) = memory::pair();
    tokio::spawn(Server::new(listener).serve(offers()).into_future());

    let client = Client::builder().address("any").connector(connector).connect_lazily();
    let offer: Offer = client.request("offers.get", &43).deadline(Duration::from_secs(1)).await?;
    assert_eq!(offer.title, "Loft");
    Ok(())
}
// end

// recipe test-handler
#[tokio::test]
async fn a_handler_alone() {
    let reply = TestRequest::new("offers.get").payload("7").run(&offers()).await;
    assert_eq!(reply.code().unwrap(), "not-found");
}
// end

/// A handler with state, which the README mentions.
#[tokio::test]
async fn state() {
    within(async {
        let (listener, connector) = memory::pair();
        // recipe state
        let router = Router::with_state("hello")
            .method("greeting", async |State(text): State<&'static str>| text);
        // end
        serve(Server::new(listener), router);
        let client = lazily(connector);
        let greeting = pin!(client.call("greeting", ""));
        assert_eq!(greeting.await?, "hello");
        Ok(())
    })
    .await;
}
