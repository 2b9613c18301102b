//! Calls and listens on one connection: `cargo run --example minimal_client [ADDR]`
use std::io::{Write, stdout};

use bellwire::{Client, Delivery};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:7440".into());
    let client = Client::connect(address).await?;
    let mut ticks = client.subscribe("ticks").await?;

    while let Some(delivery) = ticks.next().await {
        let Delivery::Notification(tick) = delivery else {
            writeln!(stdout(), "{delivery:?}")?; // a gap, or a reset after a restart of the server
            continue;
        };
        // Call while listening: replies and notifications share the connection.
        let echo = client.call("echo", &tick.payload).await?;
        writeln!(stdout(), "tick {} came back as {}", tick.sequence, echo.escape_ascii())?;
        if tick.sequence % 3 == 0 {
            break;
        }
    }
    drop(ticks); // unsubscribes
    Ok(client.close().await?)
}
