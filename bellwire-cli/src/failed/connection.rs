//! Why there is no connection: what happened, and what to do.

use std::{error::Error, io::ErrorKind};

use bellwire::{
    Cause, ConnectionError,
    protocol::Code,
    tls::rustls::{self, AlertDescription, CertificateError},
};

use crate::{
    failed::{Exit, Failed, of_reason, without_number},
    target::Target,
    transport::{Transport, UNIX},
};

/// What happened, and what to do.
type Text = (String, Option<String>);

impl Failed {
    /// Why the client of `target` did not connect.
    pub(crate) fn connecting(error: &ConnectionError, target: &Target) -> Self {
        let exit = match error {
            // No server was asked: the command line, the environment or the context is wrong.
            ConnectionError::Address { .. } => Exit::Usage,
            _ => Exit::NotSent,
        };
        let (what, hint) = match error {
            ConnectionError::Address { address, reason } => of_address(address, reason),
            ConnectionError::Io { kind, cause } => of_io(error, *kind, cause, target),
            ConnectionError::Tls(cause) => of_tls(error, cause, target),
            ConnectionError::ConnectTimeout => no_answer(target),
            ConnectionError::TlsTimeout => no_handshake(target),
            ConnectionError::HandshakeTimeout => no_hello(target),
            ConnectionError::Protocol(what) => foreign(what, target),
            ConnectionError::Version(_) => {
                (error.to_string(), Some("use a command of the same version as the server".into()))
            }
            other => (of_connection(other), hint_of_connection(other)),
        };
        Self { exit, what: format!("no connection to {}: {what}", target.place), hint }
    }
}

/// A connection's error as text, with the reasons of the server in full.
pub(crate) fn of_connection(error: &ConnectionError) -> String {
    match error {
        ConnectionError::AuthRequired { offered } => {
            format!("the server requires credentials ({}), and there are none", names(offered))
        }
        ConnectionError::NoCommonScheme { offered } => {
            format!("the server takes no tokens, but {}", names(offered))
        }
        ConnectionError::AuthRefused(reason) => {
            format!("the server refused the credentials: {}", of_reason(reason))
        }
        ConnectionError::Bye(reason) => {
            format!("the server has ended the connection: {}", of_reason(reason))
        }
        ConnectionError::Io { cause, .. } => {
            format!("the connection failed: {}", without_number(cause.as_str()))
        }
        other => other.to_string(),
    }
}

pub(crate) fn hint_of_connection(error: &ConnectionError) -> Option<String> {
    let hint = match error {
        ConnectionError::Io { .. } | ConnectionError::ConnectTimeout => {
            "is the server running, and does the network work?"
        }
        ConnectionError::AuthRequired { .. } => {
            "give it a token: --token-file FILE, BELLWIRE_TOKEN, or a context with a token file"
        }
        ConnectionError::AuthRefused(_) => {
            "is the token right, and still valid? It comes from --token-file, BELLWIRE_TOKEN, \
             BELLWIRE_TOKEN_FILE or the context"
        }
        ConnectionError::NoCommonScheme { .. } => {
            "this command knows only tokens; use a client that knows the server's scheme"
        }
        ConnectionError::Bye(reason) if reason.code == Code::BUSY => "it is full; try again later",
        ConnectionError::Bye(_) | ConnectionError::ClosedByPeer => {
            "the server stops, or does not accept clients now; try again later"
        }
        _ => return None,
    };
    Some(hint.into())
}

fn names(codes: &[Code]) -> String {
    codes.iter().map(Code::as_str).collect::<Vec<_>>().join(", ")
}

fn of_address(address: &str, reason: &str) -> Text {
    let hint = match address.split_once("://") {
        Some(("http", rest)) => format!("a WebSocket is ws://{rest}"),
        Some(("https", rest)) => format!("a WebSocket over TLS is wss://{rest}"),
        _ if reason.contains("credentials") => "a token comes from --token-file FILE".into(),
        _ => "an address is HOST:PORT, unix:PATH, ws://HOST[:PORT]/PATH or wss://…".into(),
    };
    let what = match reason.split_once(": credentials") {
        Some((what, _)) => format!("the address is invalid: {what}"),
        None => format!("the address is invalid: {reason}"),
    };
    (what, Some(hint))
}

fn of_io(error: &ConnectionError, kind: ErrorKind, cause: &Cause, target: &Target) -> Text {
    let text = without_number(cause.as_str());
    // With one address, its place is said already.
    let text = match &target.settings.addr[..] {
        [address] => {
            let address = address.strip_prefix(UNIX).unwrap_or(address);
            let named = text.strip_prefix(address).and_then(|rest| rest.strip_prefix(": "));
            named.unwrap_or(text).to_owned()
        }
        _ => text.to_owned(),
    };
    let is_of_system = error.source().is_some();
    let hint = match (kind, target.settings.transport()) {
        (_, Transport::WebSocket { is_tls: false }) if text.contains("not speak HTTP") => {
            "is the port right? If it expects TLS, write wss:// instead of ws://; a plain server of \
             bellwire is HOST:PORT"
        }
        (_, Transport::WebSocket { .. }) if !is_of_system => {
            "is there a WebSocket of bellwire, and is the path right? A plain server of bellwire is \
             HOST:PORT"
        }
        (ErrorKind::NotFound, Transport::Unix) => {
            "start the server, or correct the path; it is relative to this folder"
        }
        (ErrorKind::ConnectionRefused, _) => {
            "nothing listens there: start the server, or correct the address"
        }
        (ErrorKind::PermissionDenied, _) => "this user may not use the socket",
        (ErrorKind::UnexpectedEof, _) if has_tls(target) => {
            let what = "the server closed the connection in the handshake of TLS";
            return (what.into(), Some(without_tls(target)));
        }
        (ErrorKind::TimedOut | ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable, _) => {
            "does the network reach this host, and does a firewall let the port through?"
        }
        _ if text.contains("lookup") => "is the name of the host right, and does DNS work here?",
        _ => "is the server running, and is the address right?",
    };
    (text, Some(hint.into()))
}

fn no_answer(target: &Target) -> Text {
    let what = format!("no answer within {:?}", target.connect_timeout);
    let hint = "does the network reach this host, and does a firewall let the port through? \
                --connect-timeout waits longer";
    (what, Some(hint.into()))
}

/// TLS, or a WebSocket, was not there in time.
fn no_handshake(target: &Target) -> Text {
    match target.settings.transport() {
        Transport::WebSocket { is_tls: false } => (
            "it has accepted the connection, and does not open a WebSocket".into(),
            Some("is the port right? If it expects TLS, write wss:// instead of ws://".into()),
        ),
        _ => ("the handshake of TLS did not end in time".into(), Some(without_tls(target))),
    }
}

/// It has accepted the connection, and says nothing.
fn no_hello(target: &Target) -> Text {
    let what = "it has accepted the connection, and does not answer as a server of bellwire";
    let hint = match (target.settings.transport(), has_tls(target)) {
        (Transport::Tcp, false) => {
            "if it expects TLS, add --tls; if it is a web server, write ws://HOST:PORT/PATH; \
             otherwise is the port right?"
        }
        _ => "is it a server of bellwire, and is it overloaded?",
    };
    (what.into(), Some(hint.into()))
}

/// What has answered is something else.
fn foreign(what: &str, target: &Target) -> Text {
    let what = what.split("; does it").next().unwrap_or(what);
    let hint = match (target.settings.transport(), has_tls(target)) {
        (Transport::Tcp, false) => {
            "is the port right? If it expects TLS, add --tls; if it is a web server, write \
             ws://HOST:PORT/PATH"
        }
        _ => "is the address right?",
    };
    (format!("it is not a server of bellwire: {what}"), Some(hint.into()))
}

fn has_tls(target: &Target) -> bool {
    target.settings.tls || target.settings.transport() == Transport::WebSocket { is_tls: true }
}

fn without_tls(target: &Target) -> String {
    match target.settings.transport() {
        Transport::WebSocket { .. } => "if it does not use TLS, write ws:// instead of wss://",
        _ => "if it does not use TLS, leave out --tls",
    }
    .into()
}

fn of_tls(error: &ConnectionError, cause: &Cause, target: &Target) -> Text {
    let fault = error.source().and_then(|source| source.downcast_ref::<rustls::Error>());
    let trust = "--ca FILE trusts the certificates in a PEM file: that of its issuer, or its own";
    let (what, hint) = match fault {
        Some(rustls::Error::InvalidMessage(_)) => {
            return ("the server does not speak TLS".into(), Some(without_tls(target)));
        }
        Some(rustls::Error::InvalidCertificate(fault)) => match fault {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                ("the certificate of the server has an unknown issuer".into(), trust.into())
            }
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                (of_names(fault), hint_of_name(target))
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
                format!("the certificate of the server has expired: {fault}"),
                "renew it; or is the clock of this machine wrong?".into(),
            ),
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
                format!("the certificate of the server is not valid yet: {fault}"),
                "is the clock of this machine right?".into(),
            ),
            CertificateError::Revoked => (
                "the certificate of the server was revoked".into(),
                "do not trust it; ask whoever runs the server".into(),
            ),
            _ => ("the certificate of the server is not trusted".into(), trust.into()),
        },
        Some(rustls::Error::AlertReceived(alert)) => of_alert(*alert),
        _ if cause.as_str().contains("CaUsedAsEndEntity") => (
            "the certificate of the server is that of an issuer (CA:TRUE)".into(),
            "a server needs one that is not; with openssl req -x509 add \
             -addext basicConstraints=critical,CA:FALSE"
                .into(),
        ),
        _ => (format!("TLS failed: {cause}"), "is it the right server, and port?".into()),
    };
    (what, Some(hint))
}

fn of_names(fault: &CertificateError) -> String {
    match fault {
        CertificateError::NotValidForNameContext { expected, presented } => format!(
            "the certificate of the server is not for {}, but for {}",
            expected.to_str(),
            presented.iter().map(|name| bare(name)).collect::<Vec<_>>().join(", ")
        ),
        _ => "the certificate of the server is for another name".into(),
    }
}

/// The name in `DnsName("offers.example")`.
fn bare(name: &str) -> &str {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

fn hint_of_name(target: &Target) -> String {
    match target.settings.transport() {
        Transport::WebSocket { .. } => "connect to a name that the certificate has".into(),
        _ => "--tls-name NAME expects another name, if it is the right server".into(),
    }
}

fn of_alert(alert: AlertDescription) -> (String, String) {
    let own = "--client-cert FILE and --client-key FILE have the certificate of this client";
    match alert {
        AlertDescription::CertificateRequired => {
            ("the server requires a certificate of the client".into(), own.into())
        }
        AlertDescription::BadCertificate
        | AlertDescription::UnknownCA
        | AlertDescription::CertificateUnknown
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateRevoked => {
            (format!("the server refuses the certificate of this client: {alert:?}"), own.into())
        }
        other => (
            format!("the server has ended the handshake of TLS: {other:?}"),
            "the log of the server may say why".into(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::Context;

    fn explained(address: &str, tls: bool, error: ConnectionError) -> (String, String) {
        let settings = Context { addr: vec![address.into()], tls, ..Context::default() };
        let mut target = Target::of(address.into());
        target.settings = settings;
        let failed = Failed::connecting(&error, &target);
        (failed.what, failed.hint.unwrap_or_default())
    }

    fn io(kind: ErrorKind, text: &str) -> ConnectionError {
        std::io::Error::new(kind, text).into()
    }

    #[test]
    fn hints_fit_the_address() {
        let refused = || io(ErrorKind::ConnectionRefused, "a:1: Connection refused (os error 111)");
        let (what, hint) = explained("a:1", false, refused());
        assert_eq!(what, "no connection to a:1: Connection refused");
        assert!(hint.contains("nothing listens"), "{hint}");
        let (_, hint) = explained("a:1", false, ConnectionError::HandshakeTimeout);
        assert!(hint.contains("add --tls") && hint.contains("ws://"), "{hint}");
        let (_, hint) = explained("a:1", true, ConnectionError::HandshakeTimeout);
        assert!(!hint.contains("add --tls"), "{hint}");
        let (_, hint) = explained("ws://a/", false, ConnectionError::TlsTimeout);
        assert!(hint.contains("wss://"), "{hint}");
        let (_, hint) = explained("wss://a/", false, ConnectionError::TlsTimeout);
        assert!(hint.contains("ws:// instead of wss://"), "{hint}");
    }

    #[test]
    fn certificates_are_explained() {
        let invalid = |fault| {
            std::io::Error::new(ErrorKind::InvalidData, rustls::Error::InvalidCertificate(fault))
                .into()
        };
        let (what, hint) = explained("a:1", true, invalid(CertificateError::UnknownIssuer));
        assert!(what.contains("unknown issuer") && hint.contains("--ca"), "{what}: {hint}");
        let context = CertificateError::NotValidForNameContext {
            expected: rustls::pki_types::ServerName::try_from("a").unwrap(),
            presented: vec!["DnsName(\"b.example\")".into()],
        };
        let (what, hint) = explained("a:1", true, invalid(context));
        assert!(what.ends_with("not for a, but for b.example"), "{what}");
        assert!(hint.contains("--tls-name"), "{hint}");
        let (what, _) =
            explained("a:1", true, invalid(CertificateError::UnhandledCriticalExtension));
        assert!(what.ends_with("is not trusted"), "{what}");
    }
}
