//! The command `bellwire`, run as a process against real servers over real sockets.

mod bench;
mod call;
mod contexts;
mod document;
mod listen;
mod monitor;
mod publish;
mod serve;
mod shell;
mod support;
mod top;
mod transports;
mod web_sockets;
