//! The kinds of addresses: `HOST:PORT`, `unix:PATH`, `ws://…` and `wss://…`.

use crate::{context::Context, failed::Failed};

/// What precedes the path of a Unix socket.
pub(crate) const UNIX: &str = "unix:";

/// How an address is connected to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Tcp,
    Unix,
    /// `is_tls` if the address begins with `wss`.
    WebSocket {
        is_tls: bool,
    },
}

impl Transport {
    pub(crate) fn of(address: &str) -> Self {
        let scheme = address.split_once("://").map(|(scheme, _)| scheme.to_ascii_lowercase());
        match scheme.as_deref() {
            Some("ws") => Self::WebSocket { is_tls: false },
            Some("wss") => Self::WebSocket { is_tls: true },
            _ if address.starts_with(UNIX) => Self::Unix,
            _ => Self::Tcp,
        }
    }

    /// Whether one connector has to connect to both kinds.
    fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

impl Context {
    /// How the addresses are connected to. They are of one kind.
    pub(crate) fn transport(&self) -> Transport {
        let mut kinds = self.addr.iter().map(|address| Transport::of(address));
        let first = kinds.next().unwrap_or(Transport::Tcp);
        // Some `wss` among `ws` needs the certificates.
        let tls = Transport::WebSocket { is_tls: true };
        if kinds.any(|kind| kind == tls) { tls } else { first }
    }

    /// Checks what options, environment and context can combine wrongly.
    pub(crate) fn check(&self) -> Result<(), Failed> {
        let first = self.transport();
        if self.addr.iter().any(|address| !Transport::of(address).is_like(first)) {
            return Err(Failed::usage("the addresses are of several kinds").hint(
                "give addresses of one kind: HOST:PORT, unix:PATH, or ws://… together with wss://…",
            ));
        }
        match first {
            Transport::Unix if self.tls => {
                return Err(Failed::usage("a Unix socket has no TLS").hint("leave out --tls"));
            }
            Transport::WebSocket { is_tls: false } if self.tls => {
                return Err(Failed::usage("an address with ws:// has no TLS")
                    .hint("write wss:// instead of ws://"));
            }
            Transport::WebSocket { .. } if self.tls_name.is_some() => {
                return Err(Failed::usage("--tls-name does not go with wss://")
                    .hint("the certificate has to have the host of the address"));
            }
            _ => {}
        }
        self.check_certificates(first)
    }

    fn check_certificates(&self, transport: Transport) -> Result<(), Failed> {
        let has_tls = self.tls || transport == Transport::WebSocket { is_tls: true };
        if !has_tls && (self.ca.is_some() || self.client_cert.is_some() || self.tls_name.is_some())
        {
            return Err(Failed::usage("there are options for TLS, and no TLS")
                .hint("add --tls, or leave them out: --ca, --client-cert, --tls-name"));
        }
        if self.client_cert.is_some() != self.client_key.is_some() {
            return Err(Failed::usage("a client's certificate and its key belong together")
                .hint("give both: --client-cert and --client-key"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(addresses: &[&str], tls: bool, ca: bool) -> bool {
        let addr = addresses.iter().map(|address| (*address).to_owned()).collect();
        let ca = ca.then(|| "ca.pem".into());
        Context { addr, tls, ca, ..Context::default() }.check().is_ok()
    }

    #[test]
    fn an_address_says_how_it_is_connected_to() {
        for (address, expected) in [
            ("localhost:7440", Transport::Tcp),
            ("unix:/run/socket", Transport::Unix),
            ("ws://offers.example/b", Transport::WebSocket { is_tls: false }),
            ("WSS://offers.example", Transport::WebSocket { is_tls: true }),
            ("http://offers.example", Transport::Tcp),
        ] {
            assert_eq!(Transport::of(address), expected, "{address}");
        }
    }

    #[test]
    fn addresses_are_of_one_kind_and_tls_goes_with_it() {
        assert!(check(&["a:1", "b:2"], true, true) && check(&["ws://a", "wss://b"], false, true));
        assert!(
            !check(&["a:1", "unix:/b"], false, false) && !check(&["a:1", "ws://b"], false, false)
        );
        assert!(!check(&["unix:/b"], true, false) && !check(&["ws://b"], true, false));
        assert!(!check(&["a:1"], false, true) && !check(&["ws://b"], false, true));
        assert!(check(&["wss://b"], true, false));
    }
}
