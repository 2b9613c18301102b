//! TLS by rustls, with ring: both sides, from the first byte (docs/protocol/grammar.md, section
//! 11).
//!
//! A server listens with a [`TlsListener`], a client connects with
//! [`ClientBuilder::tls`](crate::ClientBuilder::tls); both take rustls's own configurations, which
//! [`rustls`] is re-exported for. In a program that links more than one of rustls's crypto
//! providers, configurations have to name theirs: `builder_with_provider`.

pub use tokio_rustls::rustls;

pub use crate::{
    client::driver::tls::TlsConnector,
    server::driver::tls::{TlsListener, TlsStream},
};
