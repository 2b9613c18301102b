//! The addresses of clients: `ws://HOST[:PORT]/PATH`, and `wss://…`.

/// The parts of an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WsUrl<'a> {
    /// Whether the address begins with `wss`.
    pub(crate) is_tls: bool,
    /// Host and port as the address has them.
    pub(crate) authority: &'a str,
    /// The host, with the brackets of an IPv6 address.
    pub(crate) host: &'a str,
    pub(crate) port: u16,
    /// The path and the query. At least `/`.
    pub(crate) target: String,
}

impl<'a> WsUrl<'a> {
    /// Takes an address apart.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn parse(address: &'a str) -> Result<Self, String> {
        let form = "it is not ws://HOST[:PORT]/PATH, as in ws://offers.example/bellwire";
        let (scheme, rest) = address.split_once("://").ok_or(form)?;
        let is_tls = match scheme {
            _ if scheme.eq_ignore_ascii_case("ws") => false,
            _ if scheme.eq_ignore_ascii_case("wss") => true,
            _ => return Err(form.into()),
        };
        if rest.contains('#') {
            return Err("it has a fragment, which begins with #".into());
        }
        let (authority, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("it has a user: credentials belong into ClientConfig::auth".into());
        }
        let (host, port) = split_port(authority).ok_or(form)?;
        let port = match port {
            Some(port) => port,
            None => {
                if is_tls {
                    443
                } else {
                    80
                }
            }
        };
        let is_visible = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        if host.is_empty() || !is_visible(target) || !host.bytes().all(is_of_host) {
            return Err(form.into());
        }
        let slash = if target.starts_with('/') { "" } else { "/" };
        Ok(Self { is_tls, authority, host, port, target: format!("{slash}{target}") })
    }

    /// The host without brackets.
    #[cfg(feature = "tls")]
    pub(crate) fn name(&self) -> &'a str {
        self.host.trim_start_matches('[').trim_end_matches(']')
    }

    /// `HOST:PORT`, to be looked up.
    pub(crate) fn host_and_port(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

fn is_of_host(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~%[]:".contains(&byte)
}

/// Splits an authority into the host and the port.
fn split_port(authority: &str) -> Option<(&str, Option<u16>)> {
    let after_host = match authority.starts_with('[') {
        true => authority.find(']')? + 1,
        false => authority.find(':').unwrap_or(authority.len()),
    };
    let (host, port) = authority.split_at(after_host);
    match port.strip_prefix(':') {
        None if port.is_empty() => Some((host, None)),
        Some(port) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some((host, Some(port.parse().ok()?)))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_host_a_port_and_a_target() {
        for (address, is_tls, lookup, target) in [
            ("ws://offers.example", false, "offers.example:80", "/"),
            ("wss://offers.example/b", true, "offers.example:443", "/b"),
            ("WS://127.0.0.1:7441/a/b?c=d", false, "127.0.0.1:7441", "/a/b?c=d"),
            ("ws://[::1]:7441?x", false, "[::1]:7441", "/?x"),
            ("ws://[::1]/", false, "[::1]:80", "/"),
        ] {
            let url = WsUrl::parse(address).expect(address);
            assert_eq!(
                (url.is_tls, url.host_and_port(), &*url.target),
                (is_tls, lookup.into(), target)
            );
        }
    }

    #[test]
    fn invalid_addresses_are_refused() {
        for address in [
            "",
            "offers.example:7440",
            "http://offers.example",
            "ws://",
            "ws:///b",
            "ws://:80/",
            "ws://a:port/",
            "ws://a:65536/",
            "ws://a:+80/",
            "ws://[::1/",
            "ws://::1/",
            "ws://ada:secret@a/",
            "ws://a/#part",
            "ws://a/b c",
            "ws://a/b\r\nX: y",
            "ws://a b/",
        ] {
            assert!(WsUrl::parse(address).is_err(), "{address}");
        }
    }
}
