//! The live page over HTTP: its files, and the WebSocket that it opens.

use std::{io, net::SocketAddr};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{StatusCode, header, response},
    response::{IntoResponse, Response},
    routing::get,
};
use bellwire::ws::{self, WsConfig};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

type Io = TokioIo<Upgraded>;
type Upgrades = ws::Upgrades<Io>;
/// The listener of the WebSockets that come to the page's server.
pub(crate) type PageListener = ws::UpgradedListener<Io>;

/// The page may load and open nothing but what its own server has.
const POLICY: &str = "default-src 'self'; img-src data:; base-uri 'none'; frame-ancestors 'none'";

const HTML: (&str, &str) = ("text/html; charset=utf-8", include_str!("page/index.html"));
const CSS: (&str, &str) = ("text/css; charset=utf-8", include_str!("page/style.css"));
const PAGE: (&str, &str) = ("text/javascript; charset=utf-8", include_str!("page/page.js"));
/// The browser build of clients/js.
const CLIENT: (&str, &str) =
    ("text/javascript; charset=utf-8", include_str!("page/bellwire.min.js"));

/// An HTTP server with the page at `/`, and WebSockets at `/bellwire`.
pub(crate) struct Http {
    listener: TcpListener,
    app: axum::Router,
}

impl Http {
    /// Listens on `address`. The second part has the WebSockets.
    pub(crate) async fn bind(address: &str) -> io::Result<(Self, PageListener)> {
        let (connections, upgrades) = ws::upgraded(WsConfig::new());
        let app = axum::Router::new()
            .route("/", get(async || file(HTML)))
            .route("/style.css", get(async || file(CSS)))
            .route("/page.js", get(async || file(PAGE)))
            .route("/bellwire.min.js", get(async || file(CLIENT)))
            .route("/bellwire", get(upgrade))
            .with_state(upgrades);
        Ok((Self { listener: TcpListener::bind(address).await?, app }, connections))
    }

    pub(crate) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until it is dropped. The WebSockets stay open then.
    pub(crate) async fn serve(self) -> io::Result<()> {
        let app = self.app.into_make_service_with_connect_info::<SocketAddr>();
        axum::serve(self.listener, app).await
    }
}

fn file((kind, text): (&'static str, &'static str)) -> impl IntoResponse {
    let headers = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        // A new version of the server has new files.
        (header::CACHE_CONTROL, "no-cache"),
    ];
    (headers, text)
}

/// Checks the request, answers it, and passes the connection on to bellwire.
async fn upgrade(
    State(upgrades): State<Upgrades>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request,
) -> Response {
    let headers = request.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    match upgrades.check(headers) {
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

fn respond<'a>(
    status: StatusCode,
    headers: impl IntoIterator<Item = (&'static str, &'a str)>,
) -> response::Builder {
    let response = Response::builder().status(status);
    headers.into_iter().fold(response, |response, (name, value)| response.header(name, value))
}
