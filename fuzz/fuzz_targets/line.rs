//! The decoder, the parser and the encoder, for any bytes.

#![no_main]

use bellwire_testkit::harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::line(data));
