//! The integration tests, in one process: a module for each theme (ARCHITECTURE.md, "Tests").
//!
//! The tests of `tests/memory.rs` and `tests/sweeps/` need a process of their own.

mod access;
mod acks;
mod backoff;
mod budgets;
mod client;
mod client_bounds;
#[cfg(feature = "unstable-core")]
mod client_intake;
mod client_panics;
mod client_states;
mod confirmed;
mod conformance;
mod connecting;
mod coop;
mod core_simulation;
mod deadlines;
mod documents;
mod drain;
mod end_to_end;
mod examples;
mod extreme_settings;
mod faulty_stores;
mod half_open;
mod history;
mod imports;
mod in_memory;
mod interactions;
mod key_tables;
mod keyed;
mod keyed_calls;
mod latest_per_key;
mod layers;
mod layout;
mod limits;
mod loss;
mod manual_client;
mod mutants;
mod notifications;
mod observability;
mod overload;
mod parked_lines;
mod properties;
mod protocol_rules;
mod protocol_text;
mod proxy;
mod public_api;
mod readme;
mod recipes;
mod reconnect;
mod reconnect_storm;
mod redelivery;
#[cfg(feature = "redis")]
mod redis;
mod resend;
mod resume;
mod runtimes;
mod security_map;
mod server;
mod server_bye;
mod sockets;
#[cfg(feature = "sqlite")]
mod sqlite;
#[cfg(feature = "store-suite")]
mod store_suite;
mod stream_life;
mod streams;
mod threats;
mod tls;
mod topics;
mod two_listeners;
#[cfg(feature = "ws")]
mod ws;
