//! Calls and notifications over a pipe, on one thread. `scripts/allocations.sh` counts the allocations
//! of both; `scripts/instructions.sh` counts the instructions of `deliveries`.
//!
//! ```text
//! cargo run --release --example hot_path -- calls 64 100000
//! cargo run --release --example hot_path -- deliveries 64 100000
//! ```
//!
//! `calls` makes 100,000 calls on one connection, with 64 callers that each wait for their reply
//! before they go on. `deliveries` publishes 100,000 messages to one subscriber in batches of 64, and
//! reads each batch before it publishes the next one. Each payload has 32 bytes.

use std::error::Error;

use bellwire_testkit::hot_path::HotPath;

const USAGE: &str = "usage: hot_path calls|deliveries BATCH COUNT";

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [work, batch, count] = args.as_slice() else { return Err(USAGE.into()) };
    let (work, batch, count) = (work.clone(), batch.parse()?, count.parse()?);
    // As a task, because the runtime polls the future of `main` more often than a task.
    tokio::spawn(async move {
        let path = HotPath::connect().await;
        match work.as_str() {
            "calls" => path.call(batch, count).await,
            "deliveries" => path.deliver(&mut path.subscribe().await, batch, count).await,
            _ => return Err(USAGE),
        }
        Ok(())
    })
    .await??;
    Ok(())
}
