//! The client that connects anew, for any bytes from servers that have said hello.

#![no_main]

#[path = "../../tests/support/harness.rs"]
mod harness;
#[path = "../../tests/support/mod.rs"]
mod support;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::reconnect(data));
