//! An HTTP server of axum's that has a page at `/`, and accepts bellwire's WebSockets at
//! `/bellwire`.
//!
//! ```sh
//! cargo run --example axum_ws --features ws -- 127.0.0.1:8080
//! ```
//!
//! A page of the same server connects with `new WebSocket("ws://127.0.0.1:8080/bellwire",
//! "bellwire.v1")`, and a program with the address `ws://127.0.0.1:8080/bellwire`.

use std::{env, error::Error, net::SocketAddr};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{Method, StatusCode, Version, response},
    response::Response,
    routing::get,
};
use bellwire::{
    Router, Server,
    ws::{Accepted, Refusal, WsConfig, upgraded},
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

type Upgrades = bellwire::ws::Upgrades<TokioIo<Upgraded>>;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let (listener, upgrades) = upgraded(WsConfig::new());
    let router = Router::new().method("greet", async |name: String| format!("hello, {name}"));
    tokio::spawn(Server::new(listener).serve(router).into_future());

    let app = axum::Router::new()
        .route("/", get("bellwire is at /bellwire\n"))
        .route("/bellwire", get(bellwire))
        .with_state(upgrades);
    let listener = TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}

/// Checks the request, answers it, and passes the connection on to bellwire.
async fn bellwire(
    State(upgrades): State<Upgrades>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    match check(&upgrades, &request) {
        Ok(accepted) => {
            let response = respond(StatusCode::SWITCHING_PROTOCOLS, accepted.headers());
            // The connection is bellwire's once the response is written.
            tokio::spawn(async move {
                if let Ok(io) = hyper::upgrade::on(request).await {
                    let _ = upgrades.accept(TokioIo::new(io), peer).await;
                }
            });
            response.body(Body::empty())
        }
        Err(refusal) => {
            let status = StatusCode::from_u16(refusal.status()).unwrap_or(StatusCode::BAD_REQUEST);
            respond(status, refusal.headers().iter().copied()).body(format!("{refusal}\n").into())
        }
    }
    .expect("the headers are valid")
}

/// A route for GET is one for HEAD, too.
fn check(upgrades: &Upgrades, request: &Request) -> Result<Accepted, Refusal> {
    if (request.method(), request.version()) != (&Method::GET, Version::HTTP_11) {
        return Err(Refusal::Malformed);
    }
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    upgrades.check(headers)
}

fn respond<'a>(
    status: StatusCode,
    headers: impl IntoIterator<Item = (&'static str, &'a str)>,
) -> response::Builder {
    let response = Response::builder().status(status);
    headers.into_iter().fold(response, |response, (name, value)| response.header(name, value))
}
