//! An adapter for axum: a handler that passes WebSockets on to bellwire. Copy it into your program.
//!
//! The router needs the [`Upgrades`] as its state, and connection information of [`SocketAddr`].

use std::net::SocketAddr;

use axum::{
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{Method, StatusCode, Version, response},
    response::Response,
};
use bellwire::ws::{self, Accepted, Refusal};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;

pub(crate) type Io = TokioIo<Upgraded>;
pub(crate) type Upgrades = ws::Upgrades<Io>;

/// Checks the request, answers it, and passes the connection on to bellwire.
pub(crate) async fn upgrade(
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
