//! The client that connects anew, for any bytes from servers that have said hello.

#![no_main]

use bellwire_testkit::harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::reconnect(data));
