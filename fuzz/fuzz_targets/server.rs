//! The server's connection, for any bytes from a client.

#![no_main]

use bellwire_testkit::harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::server(data));
