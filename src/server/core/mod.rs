//! One connection of a server, without a transport and without a runtime. Bytes and times go in;
//! bytes and the time of the next deadline come out.

#![cfg_attr(
    not(feature = "unstable-core"),
    allow(dead_code, unreachable_pub, reason = "the whole interface is public with that feature")
)]

mod access;
mod acks;
mod active;
mod answer;
mod arguments;
mod auth;
#[cfg(test)]
mod by_hand;
pub(in crate::server) mod closing;
mod commands;
pub(crate) mod connection;
mod control;
mod deadlines;
mod deferred;
mod deferring;
pub(crate) mod environment;
mod in_flight;
mod keyed;
mod lines;
mod listing;
mod numbered;
mod output;
mod parked;
mod parking;
mod renewal;
mod requests;
pub(crate) mod rounds;
mod share;
pub(in crate::server) mod shedding;
mod source;
pub(crate) mod state;
mod streams;
mod subscriptions;
mod tiny_reads;
pub(crate) mod upkeep;
