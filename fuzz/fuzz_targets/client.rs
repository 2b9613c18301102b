//! The client's driver, for any bytes from a server that has said hello.

#![no_main]

use bellwire_testkit::harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::client(data));
