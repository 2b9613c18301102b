//! Authentication by tokens, an authorizer, and closing a user's connections.
//!
//! `cargo run --example secured` starts a server and plays two users against it. With the feature
//! `tls`, put a `TlsListener` around the listener and call `Client::connect_tls`: nothing else
//! changes, and the tokens can no longer be read on the way.

#[macro_use]
#[path = "shared/print.rs"]
mod print;

use bellwire::{
    CallError, Client, ClientConfig, ConnectionError, Delivery, Router, Server,
    protocol::Code,
    server::{Action, Principal, TokenAuthenticator},
};

/// What the application knows of a user. It is part of the principal.
struct Team(&'static str);

/// A user may call all methods, and subscribe and publish to the topics of the user's team.
fn allow(who: &Principal, action: Action<'_>) -> bool {
    match action {
        Action::Subscribe(topic) | Action::Publish(topic) => {
            let team = who.value::<Team>();
            team.is_some_and(|team| topic.split('.').next() == Some(team.0))
        }
        _ => true,
    }
}

async fn whoami(who: Principal) -> String {
    who.name().unwrap_or("nobody").to_owned()
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Real tokens are random, and come from a store of secrets.
    let tokens = TokenAuthenticator::new()
        .token("5f1c0a3e7d524f0e", Principal::new("ada").with_value(Team("red")))
        .token("c2b9d7f011aa4a34", Principal::new("bob").with_value(Team("blue")));
    let server = Server::bind("127.0.0.1:0").await?.authenticator(tokens).authorizer(allow);
    let (address, handle) = (server.local_addr()?.to_string(), server.handle());
    tokio::spawn(server.serve(Router::new().method("whoami", whoami)).into_future());

    let ada = connect(&address, "5f1c0a3e7d524f0e").await?;
    let bob = connect(&address, "c2b9d7f011aa4a34").await?;
    println!("ada is {}", String::from_utf8_lossy(&ada.call("whoami", "").await?));

    let mut news = ada.subscribe("red.news").await?;
    let denied = [
        bob.subscribe("red.news").await.map(drop).expect_err("not his team's"),
        bob.publish("red.news", "psst").await.map(drop).expect_err("not his team's"),
    ];
    println!("bob listens to red.news: {}\nbob publishes to it: {}", denied[0], denied[1]);
    ada.publish("red.news", "hello, team").await?;
    if let Some(Delivery::Notification(first)) = news.next().await {
        println!("ada is told: {}", String::from_utf8_lossy(&first.payload));
    }

    for session in handle.sessions_of("ada") {
        session.revoke("red.news");
    }
    if let Some(Delivery::End { reason, .. }) = news.next().await {
        println!("ada is told: {reason}");
    }
    for session in handle.sessions_of("bob") {
        session.close(Code::from_static("banned"));
    }
    println!("bob asks again: {}", refusal(&bob).await);
    let Err(error) = connect(&address, "guess").await else { return Err("a lucky guess".into()) };
    println!("mallory connects: {error}");
    ada.close().await?;
    Ok(())
}

async fn connect(address: &str, token: &str) -> Result<Client, ConnectionError> {
    let config = ClientConfig::new().auth(TokenAuthenticator::SCHEME, token);
    Client::connect_with(address, config).await
}

/// Makes calls until one reports the end of the connection. (A client reconnects by itself. To keep
/// a user out, remove the token, too.)
async fn refusal(client: &Client) -> CallError {
    loop {
        if let Err(error) = client.call("whoami", "").fail_fast().await {
            return error;
        }
    }
}
