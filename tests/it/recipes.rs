//! The recipes of README.md. Each block between `// recipe NAME` and `// end` stands in README.md, to
//! the letter, and runs here. Each is a module of its own, so its imports are all that it needs.

use std::{error::Error, future::Future};

use bellwire::{
    Client, Router, Server,
    memory::{self, MemoryConnector, MemoryListener},
};
use bellwire_testkit::bound::bounded;

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

mod typed {
    // recipe typed
    use std::error::Error;

    use bellwire::{Client, Failure, Json, Router, protocol::Code};
    use serde::{Deserialize, Serialize};

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

    async fn title(client: &Client, id: u64) -> Result<String, Box<dyn Error>> {
        let offer: Offer = client.request("offers.get", &id).await?;
        Ok(offer.title)
    }
    // end

    use super::{Server, lazily, memory, serve, within};

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
}

mod once {
    // recipe once
    use std::time::Duration;

    use bellwire::{CallError, Client};
    use bytes::Bytes;

    async fn pay(client: &Client, order: &str, sum: u64) -> Result<Bytes, CallError> {
        let call = client.call("pay", sum.to_string()).key(order); // the same key for the same order
        call.deadline(Duration::from_secs(60)).await // all attempts together
    }
    // end

    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    };

    use bellwire::State;

    use super::{Router, Server, lazily, memory, serve, within};

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
}

mod survive {
    // recipe survive
    use std::error::Error;

    use bellwire::{Client, Delivery, protocol::Position};

    /// Begins at `from` if the program was here before; returns where to begin the next time.
    async fn follow(
        client: &Client,
        from: Option<Position>,
        mut show: impl FnMut(String),
    ) -> Result<Position, Box<dyn Error>> {
        let offers = client.subscribe("offers");
        let mut offers = match from {
            Some(position) => offers.from(position).await?, // its text is `k3f9:18`: store that
            None => offers.await?,
        };
        while let Some(delivery) = offers.next().await {
            match delivery {
                Delivery::Notification(offer) => show(format!("{:?}", offer.payload)),
                Delivery::Gap(gap) => show(format!("missed {} to {}", gap.first, gap.last)),
                Delivery::Reset { .. } => show("a new log has begun: fetch everything".into()),
                other => show(format!("{other:?}")), // the end, with its reason
            }
        }
        Ok(offers.position())
    }
    // end

    use bellwire::protocol::Code;

    use super::{Outcome, Router, Server, lazily, memory, serve, within};

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
            let following =
                async move { follow(&follower, None, |text| drop(shown.send(text))).await };
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
}

mod streamed {
    // recipe stream
    use std::error::Error;

    use bellwire::{Client, Router, Streamed};
    use futures::{Stream, stream};

    async fn list() -> Streamed<impl Stream<Item = String>> {
        Streamed(stream::iter((1..=3).map(|id| format!("offer {id}"))))
    }

    fn offers() -> Router {
        Router::new().method("offers.list", list)
    }

    async fn read_all(client: &Client) -> Result<Vec<String>, Box<dyn Error>> {
        let mut offers = client.stream("offers.list", "").window(8); // at most 8 items ahead
        let mut all = Vec::new();
        while let Some(offer) = offers.next().await {
            all.push(String::from_utf8(offer?.to_vec())?);
        }
        Ok(all)
    }
    // end

    use super::{Server, lazily, memory, serve, within};

    #[tokio::test]
    async fn streamed() {
        within(async {
            let (listener, connector) = memory::pair();
            serve(Server::new(listener), offers());
            assert_eq!(read_all(&lazily(connector)).await?, ["offer 1", "offer 2", "offer 3"]);
            Ok(())
        })
        .await;
    }
}

mod roles {
    // recipe roles
    use std::io;

    use bellwire::{
        Client, ClientConfig, ConnectionError, PublishError, Publisher, Server,
        server::{Action, Principal, TokenAuthenticator},
    };

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

    async fn bind(address: &str) -> io::Result<Server> {
        Ok(Server::bind(address).await?.authenticator(tokens()).authorizer(allow))
    }

    async fn connect(address: &str, token: &str) -> Result<Client, ConnectionError> {
        let config = ClientConfig::new().auth(TokenAuthenticator::SCHEME, token);
        Client::connect_with(address, config).await
    }

    /// The server publishes to one user. No other user may subscribe to this topic.
    async fn tell(publisher: &Publisher, user: &str, text: String) -> Result<(), PublishError> {
        publisher.publish(format!("users/{user}"), text).await.map(drop)
    }
    // end

    use bellwire::Delivery;

    use super::{Router, within};

    #[tokio::test]
    async fn roles() {
        within(async {
            let server = bind("127.0.0.1:0").await?;
            let (address, publisher) = (server.local_addr()?.to_string(), server.publisher());
            let router = Router::new().method("admin.stop", async || "stopping");
            tokio::spawn(server.serve(router).into_future());
            let ada = connect(&address, "5f1c0a3e7d524f0e").await?;
            assert_eq!(ada.call("admin.stop", "").await?, "stopping");
            let bob = connect(&address, "c2b9d7f011aa4a34").await?;
            let refused = bob.call("admin.stop", "").await.unwrap_err();
            assert_eq!(refused.code().unwrap(), "forbidden");
            assert!(bob.subscribe("users/ada").await.is_err());
            let mut own = bob.subscribe("users/bob").await?;
            tell(&publisher, "bob", "you have mail".into()).await?;
            let Some(Delivery::Notification(mail)) = own.next().await else { panic!("mail") };
            assert_eq!(mail.payload, "you have mail");
            let unknown = connect(&address, "no such token").await.unwrap_err();
            assert!(matches!(unknown, ConnectionError::AuthRefused(_)), "{unknown}");
            Ok(())
        })
        .await;
    }
}

mod drain {
    // recipe drain
    use std::io;

    use bellwire::{Router, Server};

    async fn interrupted() {
        tokio::signal::ctrl_c().await.ok();
    }

    /// In a real program `signal` is `interrupted()`.
    async fn serve_until(
        signal: impl Future<Output = ()> + Send + 'static,
        server: Server,
        router: Router,
    ) -> io::Result<()> {
        server.serve(router).with_graceful_shutdown(signal).await
    }
    // end

    use super::{Client, within};

    #[tokio::test]
    async fn draining() {
        drop(interrupted()); // without a poll, so that Ctrl-C still ends the tests
        within(async {
            let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
            let server = Server::bind("127.0.0.1:0").await?;
            let address = server.local_addr()?.to_string();
            let router = Router::new().method("ping", async || "pong");
            let signal = async { drop(stopped.await) };
            let serving = tokio::spawn(serve_until(signal, server, router));
            let client = Client::connect(address).await?;
            assert_eq!(client.call("ping", "").await?, "pong");
            stop.send(()).unwrap();
            client.close().await?;
            Ok(serving.await??)
        })
        .await;
    }
}

#[cfg(feature = "ws")]
mod browser {
    // recipe browser
    use std::io;

    use bellwire::{
        Router, Server,
        ws::{Origins, WsConfig, WsListener},
    };
    use tokio::net::TcpListener;

    /// Pages of this server's own host and port may connect, and those of `page`.
    async fn serve_pages(page: &str, address: &str, router: Router) -> io::Result<()> {
        let config = WsConfig::new().path("/bellwire").origins(Origins::list([page]));
        let listener = WsListener::new(TcpListener::bind(address).await?, config);
        Server::new(listener).serve(router).await
    }
    // end

    use super::{Client, within};

    #[tokio::test]
    async fn a_browser() {
        within(async {
            // A port that was free a moment ago.
            let address = TcpListener::bind("127.0.0.1:0").await?.local_addr()?.to_string();
            let url = format!("ws://{address}/bellwire");
            let router = Router::new().method("ping", async || "pong");
            let serving = tokio::spawn(async move {
                serve_pages("https://offers.example", &address, router).await
            });
            let builder = Client::builder().address(url);
            let client = builder.connector(bellwire::ws::WsConnector::new()).connect_lazily();
            assert_eq!(client.call("ping", "").await?, "pong");
            client.close().await?;
            serving.abort();
            Ok(())
        })
        .await;
    }
}

mod test {
    // recipe test
    use std::{error::Error, time::Duration};

    use bellwire::{Client, Failure, Router, Server, memory, protocol::Code, server::TestRequest};

    async fn half(text: String) -> Result<String, Failure> {
        match text.parse::<u64>() {
            Ok(number) => Ok((number / 2).to_string()),
            Err(_) => Err(Failure::new(Code::from_static("not-a-number"), text)),
        }
    }

    fn router() -> Router {
        Router::new().method("half", half)
    }

    #[tokio::test(start_paused = true)] // the clock is paused: a deadline costs no time
    async fn the_service_answers() -> Result<(), Box<dyn Error>> {
        let (listener, connector) = memory::pair();
        tokio::spawn(Server::new(listener).serve(router()).into_future());

        let client = Client::builder().address("any").connector(connector).connect_lazily();
        let reply = client.call("half", "86").deadline(Duration::from_secs(1)).await?;
        assert_eq!(reply, "43");
        Ok(())
    }

    /// `TestRequest` runs one handler, with its layers, without a connection.
    #[tokio::test]
    async fn a_handler_alone() {
        let reply = TestRequest::new("half").payload("86").run(&router()).await;
        assert_eq!(reply.payload().unwrap(), "43");
        let reply = TestRequest::new("half").payload("x").run(&router()).await;
        assert_eq!(reply.code().unwrap(), "not-a-number");
    }
    // end
}

/// Handlers with state and with several extractors, which the README mentions.
mod state {
    // recipe state
    use bellwire::{Router, Session, State};

    async fn greeting(State(text): State<&'static str>, session: Session, name: String) -> String {
        format!("{text}, {name}, at {}", session.peer())
    }

    fn greetings() -> Router<&'static str> {
        Router::with_state("hello").method("greeting", greeting)
    }
    // end

    use super::{Server, lazily, memory, serve, within};

    #[tokio::test]
    async fn state() {
        within(async {
            let (listener, connector) = memory::pair();
            serve(Server::new(listener), greetings());
            let greeting = lazily(connector).call("greeting", "Ada").await?;
            assert!(greeting.starts_with(b"hello, Ada, at "), "{greeting:?}");
            Ok(())
        })
        .await;
    }
}
