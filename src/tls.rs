//! TLS by rustls, with ring, on both sides from the first byte (docs/protocol/grammar.md, section
//! 11).
//!
//! A server listens with a [`TlsListener`], and a client connects with
//! [`ClientBuilder::tls`](crate::ClientBuilder::tls). Both take configurations of rustls, and
//! [`rustls`] is re-exported for them. In a program that links more than one of rustls's crypto
//! providers, configurations must name theirs with `builder_with_provider`.

pub use tokio_rustls::rustls;

pub use crate::{
    client::driver::tls::TlsConnector,
    server::driver::tls::{TlsListener, TlsStream},
};
