//! The decoder of a WebSocket's frames on both ends, for any bytes.

#![no_main]

use bellwire_testkit::websockets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| websockets::frames(data));
