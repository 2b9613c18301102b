//! The opening handshake of a WebSocket: any bytes as a request, as a response and as an address.

#![no_main]

use bellwire_testkit::websockets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| websockets::opening(data));
