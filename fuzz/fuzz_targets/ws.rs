//! A server of WebSockets, for any bytes from a client.

#![no_main]

use bellwire_testkit::websockets;

libfuzzer_sys::fuzz_target!(|data: &[u8]| websockets::connection(data));
