//! The frames and the opening handshake of a WebSocket, for any bytes from a client.

#![no_main]

use bellwire_testkit::harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::ws(data));
