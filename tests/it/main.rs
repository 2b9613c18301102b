//! The integration tests, in one process: a module for each theme (ARCHITECTURE.md, "Tests").
//!
//! The tests of `tests/memory.rs` and `tests/sweeps/` need a process of their own.

mod access;
mod acks;
mod again;
mod both_ends;
mod budgets;
mod by_hand;
mod client;
mod client_bounds;
mod client_states;
mod conformance;
mod connecting;
mod containment;
mod coop;
mod cores;
mod deadlines;
mod documents;
mod drain;
mod examples;
mod extremes;
mod goodbye;
mod half_open;
mod history;
mod hoarders;
mod imports;
mod in_memory;
#[cfg(feature = "unstable-core")]
mod intake;
mod layers;
mod layout;
mod limits;
mod load_test;
mod loss;
mod mutants;
mod notifications;
mod parked;
mod properties;
mod protocol_rules;
mod protocol_text;
mod proxy;
mod public_api;
mod readme;
mod recipes;
mod reconnect;
mod resend;
mod resume;
mod runtimes;
mod seams;
mod security_map;
mod seen;
mod server;
mod sockets;
#[cfg(feature = "store-suite")]
mod store_suite;
mod stores;
mod storm;
mod stream_life;
mod streams;
mod threats;
mod tls;
mod topics;
