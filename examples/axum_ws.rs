//! An HTTP server of axum's that has a page at `/`, and accepts bellwire's WebSockets at
//! `/bellwire`.
//!
//! ```sh
//! cargo run --example axum_ws --features ws -- 127.0.0.1:8080
//! ```
//!
//! A page of the same server connects with `new WebSocket("ws://127.0.0.1:8080/bellwire",
//! "bellwire.v1")`, and a program with the address `ws://127.0.0.1:8080/bellwire`. The adapter is
//! `examples/shared/axum_ws.rs`.

#[path = "shared/axum_ws.rs"]
mod adapter;

use std::{env, error::Error, net::SocketAddr};

use axum::routing::get;
use bellwire::{
    Router, Server,
    ws::{WsConfig, upgraded},
};
use tokio::net::TcpListener;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    let (listener, upgrades) = upgraded::<adapter::Io>(WsConfig::new());
    let router = Router::new().method("greet", async |name: String| format!("hello, {name}"));
    tokio::spawn(Server::new(listener).serve(router).into_future());

    let app = axum::Router::new()
        .route("/", get("bellwire is at /bellwire\n"))
        .route("/bellwire", get(adapter::upgrade))
        .with_state(upgrades);
    let listener = TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await?;
    Ok(())
}
