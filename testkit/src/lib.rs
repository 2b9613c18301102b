//! The code that bellwire's integration tests, benches and fuzz targets share.
//!
//! - Ends to test: [`RawPeer`] writes and reads bytes; [`PipeServer`] and [`TcpServer`] are servers that
//!   end when they are dropped; [`net`] is a client with scripted servers to connect to.
//! - Transports that fail: [`proxy`], [`cutting`], [`faulty`].
//! - Checks: [`history`] says which guarantees a recorded run breaks; [`harness`] has the
//!   properties that hold for any bytes; [`document`] and [`transcript`] read PROTOCOL.md and
//!   docs/protocol; [`latest`] says what a topic of keys has to hold.
//! - Whole runs: [`cores`] and [`simulation`] by seed, [`session`] with its cuts ([`case`]).
//! - [`hot_path`] makes calls and deliveries whose allocations and instructions are counted.
//! - [`bound`] names a test that hangs, and checks a deadline from both sides.
//!
//! [`history`], [`latest`], [`lines`], [`proxy`] and [`cutting`] check the crate, so they do not use it.

mod asked;
pub mod bound;
pub mod case;
pub mod cores;
pub mod cutting;
pub mod dialogue;
pub mod document;
pub mod doors;
pub mod faulty;
pub mod harness;
pub mod history;
pub mod hot_path;
pub mod latest;
pub mod lines;
#[cfg(unix)]
pub mod load;
pub mod logs;
pub mod methods;
pub mod net;
#[cfg(unix)]
pub mod process;
pub mod proxy;
mod raw_peer;
pub mod recorder;
mod servers;
pub mod session;
pub mod simulation;
pub mod slow_store;
pub mod transcript;
mod wakes;
pub mod websockets;

pub use self::{
    raw_peer::RawPeer,
    servers::{PIPE, PipeServer, Pipes, TcpServer, publisher_to},
    wakes::Wakes,
};
