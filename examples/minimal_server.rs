//! A server with one method and one topic: `cargo run --example minimal_server [ADDR]`
use std::{
    io::{Write, stdout},
    time::Duration,
};

use bellwire::{Router, Server, handler};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7440".into());
    let server = Server::bind(address).await?;
    writeln!(stdout(), "listening on {}", server.local_addr()?)?;

    let publisher = server.publisher();
    tokio::spawn(async move {
        for tick in 1_u64.. {
            tokio::time::sleep(Duration::from_secs(1)).await;
            publisher.publish("ticks", tick.to_string()).await.expect("a short payload fits");
        }
    });

    let echo = handler(async |text: String| text).doc("TEXT: the same again");
    Ok(server.serve(Router::new().method("echo", echo)).await?)
}
