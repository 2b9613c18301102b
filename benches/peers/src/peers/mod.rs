//! bellwire and its peers, one file each. Where a peer's documentation recommends a setting for many
//! requests at once, it is set and the reason stands beside it. All others are defaults.

pub mod bellwire;
pub mod jsonrpsee;
pub mod nats;
pub mod redis;
pub mod tarpc;
pub mod tonic;

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::{io::AsyncReadExt, net::TcpStream, time::timeout};

/// More than any load here has in flight on one connection, for limits that would only distort the
/// measurement.
const MOST_IN_FLIGHT: usize = 4096;

/// Reads until `needle` has come, for handshakes written by hand.
async fn read_until(stream: &mut TcpStream, needle: &[u8]) -> Result<()> {
    let mut input = Vec::new();
    let reading = async {
        while memchr::memmem::find(&input, needle).is_none() {
            ensure!(stream.read_buf(&mut input).await? > 0, "closed during the handshake");
        }
        Ok(())
    };
    timeout(Duration::from_secs(10), reading).await?
}
