//! Handlers within a stack of tower layers: `cargo run --features tower --example tower_layers`
//!
//! Each handler of the server has one second, and two run at once over all connections. A client
//! calls a quick handler, one that is too slow, and many at the same time.
#[macro_use]
#[path = "shared/print.rs"]
mod print;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use bellwire::{CallError, Client, Router, Server, Unknown};
use tokio::{task::JoinSet, time::sleep};
use tower::{ServiceBuilder, limit::GlobalConcurrencyLimitLayer};

const AT_ONCE: usize = 2;

static RUNNING: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

/// Works for a while, and counts how many handlers do.
async fn work(millis: String) -> String {
    let running = RUNNING.fetch_add(1, Ordering::Relaxed) + 1;
    MOST.fetch_max(running, Ordering::Relaxed);
    sleep(Duration::from_millis(millis.parse().unwrap_or(0))).await;
    RUNNING.fetch_sub(1, Ordering::Relaxed);
    format!("worked {millis} ms")
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The limit comes before the timeout, so that waiting for a place does not count as work.
    let stack = ServiceBuilder::new()
        .layer(GlobalConcurrencyLimitLayer::new(AT_ONCE))
        .timeout(Duration::from_secs(1));
    let router = Router::new()
        .method("work", work)
        .method("stall", async || std::future::pending::<()>().await)
        .tower(stack);

    let server = Server::bind("127.0.0.1:0").await?;
    let client_of = server.local_addr()?.to_string();
    tokio::spawn(server.serve(router).into_future());
    let client = Client::connect(client_of).await?;

    println!("quick: {}", String::from_utf8_lossy(&client.call("work", "10").await?));

    // The handler may have done something before its time was over, so the outcome is `cut`.
    let error = client.call("stall", "").await.unwrap_err();
    assert!(matches!(error, CallError::Unknown(Unknown::Cut(_))));
    println!("slow: {error}");

    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let client = client.clone();
        calls.spawn(async move { client.call("work", "20").await });
    }
    let replies = calls.join_all().await;
    assert!(replies.iter().all(Result::is_ok));
    let most = MOST.load(Ordering::Relaxed);
    assert!(most <= AT_ONCE);
    println!("eight calls at once: {most} ran at the same time");

    client.close().await?;
    Ok(())
}
