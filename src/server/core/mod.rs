//! One connection of a server.

mod acks;
mod answer;
mod auth;
pub(in crate::server) mod closing;
mod commands;
pub(in crate::server) mod connection;
mod control;
mod deadlines;
mod deferred;
mod in_flight;
mod lines;
mod listing;
#[cfg(test)]
mod mixtures;
mod parked;
mod renewal;
mod requests;
mod share;
mod source;
mod streams;
mod subscriptions;
mod tiny_reads;
