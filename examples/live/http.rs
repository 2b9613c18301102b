//! The live page over HTTP: its files, and the WebSocket that it opens.

use std::{io, net::SocketAddr};

use axum::{http::header, response::IntoResponse, routing::get};
use bellwire::ws::{self, WsConfig};
use tokio::net::TcpListener;

use crate::adapter::{self, Io};

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
            .route("/bellwire", get(adapter::upgrade))
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
