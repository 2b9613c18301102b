//! TLS: what the client trusts, and its own certificate.

use std::{io, path::Path, sync::Arc};

use bellwire::tls::rustls::{
    self, ClientConfig, RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};

use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    context::Context,
    failed::{Failed, of_file},
};

/// The name that the certificate must have, and the configuration.
pub(crate) fn of_client(
    settings: &Context,
) -> Result<(ServerName<'static>, Arc<ClientConfig>), Failed> {
    Ok((name(settings)?, config(settings)?))
}

/// What a client trusts, and its own certificate.
pub(crate) fn config(settings: &Context) -> Result<Arc<ClientConfig>, Failed> {
    let trusting = ClientConfig::builder().with_root_certificates(roots(settings.ca.as_deref())?);
    let config = match (&settings.client_cert, &settings.client_key) {
        (Some(cert), Some(key)) => trusting
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|error| of_file("use the client's certificate in", cert, error))?,
        _ => trusting.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

/// The handshake on a stream that is connected.
pub(crate) async fn connect(
    settings: &Context,
    stream: TcpStream,
) -> io::Result<TlsStream<TcpStream>> {
    let (name, config) = of_client(settings).map_err(|failed| io::Error::other(failed.text()))?;
    TlsConnector::from(config).connect(name, stream).await
}

/// The configuration of a server with this certificate.
pub(crate) fn of_server(cert: &Path, key: &Path) -> Result<Arc<ServerConfig>, Failed> {
    let config = ServerConfig::builder().with_no_client_auth();
    let config = config.with_single_cert(certificates(cert)?, private_key(key)?);
    config.map(Arc::new).map_err(|error| of_file("use the certificate in", cert, error))
}

fn name(settings: &Context) -> Result<ServerName<'static>, Failed> {
    let mut hosts = settings.addr.iter().map(|address| host(address));
    let first = hosts.next().unwrap_or_default();
    let name = match &settings.tls_name {
        Some(name) => name.clone(),
        None if hosts.all(|host| host == first) => first.to_owned(),
        None => {
            return Err(Failed::usage(
                "the addresses have several hosts, and the certificates one",
            )
            .hint("--tls-name NAME says which name all their certificates have"));
        }
    };
    ServerName::try_from(name.clone()).map_err(|_| {
        Failed::usage(format!("{name:?} is no name of a certificate"))
            .hint("--tls-name sets the name, as in --tls-name offers.example")
    })
}

/// The host of HOST:PORT, without the brackets of an IPv6 address.
fn host(address: &str) -> &str {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, Failed> {
    let mut roots = RootCertStore::empty();
    let Some(ca) = ca else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        return match roots.is_empty() {
            true => Err(Failed::other("this system has no trusted certificates")
                .hint("--ca FILE trusts those in a PEM file")),
            false => Ok(roots),
        };
    };
    for certificate in certificates(ca)? {
        roots.add(certificate).map_err(|error| of_file("trust the certificates in", ca, error))?;
    }
    Ok(roots)
}

/// What the files of certificates are.
const PEM: &str = "it has to be a PEM file, with BEGIN CERTIFICATE";

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, Failed> {
    let read = |error: rustls::pki_types::pem::Error| {
        of_file("read the certificates in", path, error).hint(PEM)
    };
    let found = CertificateDer::pem_file_iter(path).map_err(read)?;
    let found = found.collect::<Result<Vec<_>, _>>().map_err(read)?;
    match found.is_empty() {
        true => Err(of_file("read the certificates in", path, "there is none").hint(PEM)),
        false => Ok(found),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, Failed> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        of_file("read the key in", path, error).hint("it has to be a PEM file, with a PRIVATE KEY")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_is_the_name_of_the_certificate() {
        for (address, expected) in
            [("offers.example:7440", "offers.example"), ("[::1]:7440", "::1"), ("x", "x")]
        {
            assert_eq!(host(address), expected);
        }
    }
}
