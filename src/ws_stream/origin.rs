//! Which web pages may connect.
//!
//! A browser lets every page open a WebSocket to every host, and says in the header `Origin` where
//! the page came from. Only the server can refuse it.

/// Which origins a server accepts. Requests without an `Origin`, which do not come from a browser's
/// page, always pass.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origins {
    /// Pages of the same origin: host and port of `Origin` are those of `Host`. The default.
    ///
    /// A proxy in front of the server has to pass the `Host` of the browser on.
    Same,
    /// Pages of the same origin, and of these. Make it with [`Origins::list`].
    Listed(Vec<String>),
    /// All pages, also those without an origin of their own, which say `null`. With credentials
    /// that a browser adds by itself, this would let every page act for its visitor. bellwire has
    /// none: every client authenticates by `/auth`.
    Any,
}

impl Origins {
    /// Pages of the same origin, and of these origins, such as `https://offers.example` or
    /// `http://localhost:3000`. The text is compared with the header, without regard to case: it has
    /// no path and no `/` at its end, and leaves out the ports 80 for `http` and 443 for `https`.
    /// `*` in the list is the same as [`Origins::Any`].
    pub fn list(origins: impl IntoIterator<Item = impl Into<String>>) -> Self {
        let origins: Vec<String> = origins.into_iter().map(Into::into).collect();
        match origins.iter().any(|origin| origin == "*") {
            true => Self::Any,
            false => Self::Listed(origins),
        }
    }

    /// Whether a page of `origin` may connect to `host`, which are the values of the headers.
    pub(crate) fn allow(&self, origin: &[u8], host: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Same => is_same(origin, host),
            Self::Listed(origins) => {
                let is_listed = |listed: &String| origin.eq_ignore_ascii_case(listed.as_bytes());
                is_same(origin, host) || origins.iter().any(is_listed)
            }
        }
    }
}

/// Whether an origin has this host and port. Either may leave out the port of the origin's scheme.
fn is_same(origin: &[u8], host: &[u8]) -> bool {
    let schemes: [(&[u8], &[u8]); 2] = [(b"http://", b":80"), (b"https://", b":443")];
    schemes.iter().any(|(scheme, port)| {
        let Some(authority) = strip_prefix_ignoring_case(origin, scheme) else { return false };
        let bare = |authority: &'_ [u8]| authority.strip_suffix(*port).map(<[u8]>::len);
        let authority = &authority[..bare(authority).unwrap_or(authority.len())];
        let host = &host[..bare(host).unwrap_or(host.len())];
        !authority.is_empty() && authority.eq_ignore_ascii_case(host)
    })
}

fn strip_prefix_ignoring_case<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (start, rest) = text.split_at_checked(prefix.len())?;
    start.eq_ignore_ascii_case(prefix).then_some(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_origin_has_the_same_host_and_port() {
        for (origin, host) in [
            ("http://offers.example", "offers.example"),
            ("https://offers.example", "offers.example:443"),
            ("http://offers.example:80", "OFFERS.example"),
            ("HTTPS://offers.example:8443", "offers.example:8443"),
            ("http://[::1]:8080", "[::1]:8080"),
        ] {
            assert!(Origins::Same.allow(origin.as_bytes(), host.as_bytes()), "{origin} {host}");
        }
        for (origin, host) in [
            ("http://evil.example", "offers.example"),
            ("http://offers.example:8080", "offers.example"),
            ("https://offers.example:80", "offers.example"),
            ("http://offers.example.evil.example", "offers.example"),
            ("http://", ""),
            ("null", "null"),
            ("", ""),
            ("file://offers.example", "offers.example"),
        ] {
            assert!(!Origins::Same.allow(origin.as_bytes(), host.as_bytes()), "{origin} {host}");
        }
    }

    #[test]
    fn a_list_adds_to_the_same_origin() {
        let origins = Origins::list(["https://app.example"]);
        assert!(origins.allow(b"https://APP.example", b"offers.example"));
        assert!(origins.allow(b"https://offers.example", b"offers.example"));
        assert!(!origins.allow(b"http://app.example", b"offers.example"));
        assert!(!origins.allow(b"null", b"offers.example"));
        assert_eq!(Origins::list(["https://app.example", "*"]), Origins::Any);
        assert!(Origins::Any.allow(b"null", b"offers.example"));
    }
}
