//! Both cores against each other: the bytes choose what happens.

#![no_main]

use bellwire_testkit::harness;

libfuzzer_sys::fuzz_target!(|data: &[u8]| harness::cores(data));
