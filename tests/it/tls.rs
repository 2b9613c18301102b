//! TLS from the first byte, on both sides, and what happens where only one side speaks it.
// SECURITY.md, threat 20.
#![cfg(feature = "tls")]

use std::{io, sync::Arc, time::Duration};

use bellwire::{
    Client, ClientConfig, ConnectionError, Delivery, Listener, Publisher, Router, Server,
    ServerConfig, ServerHandle,
    protocol::Code,
    server::{Denied, PeerAddr, Principal, TokenAuthenticator},
    tls::{
        TlsListener,
        rustls::{
            self, RootCertStore,
            crypto::ring::default_provider,
            pki_types::{CertificateDer, PrivateKeyDer, ServerName},
            server::WebPkiClientVerifier,
        },
    },
};
use bellwire_testkit::RawPeer;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyPair};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    net::TcpListener,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, advance, timeout},
};
use tokio_rustls::{TlsConnector, client::TlsStream};

/// A certificate, signed by its own key, and the key.
struct Identity {
    certificate: CertificateDer<'static>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn new(name: &str, usage: ExtendedKeyUsagePurpose) -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![usage];
        let certificate = params.self_signed(&key).expect("signed").der().clone();
        Self { certificate, key: PrivateKeyDer::Pkcs8(key.serialize_der().into()) }
    }

    fn server() -> Self {
        Self::new("bellwire.test", ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn client(name: &str) -> Self {
        Self::new(name, ExtendedKeyUsagePurpose::ClientAuth)
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).expect("a root");
        roots
    }

    fn chain(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (vec![self.certificate.clone()], self.key.clone_key())
    }
}

fn name() -> ServerName<'static> {
    "bellwire.test".try_into().expect("a name")
}

fn plain_server(identity: &Identity) -> rustls::ServerConfig {
    let (chain, key) = identity.chain();
    let builder = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    builder.with_no_client_auth().with_single_cert(chain, key).expect("a pair")
}

/// Clients may have a certificate of `known`.
fn mutual_server(identity: &Identity, known: &Identity) -> rustls::ServerConfig {
    let provider = Arc::new(default_provider());
    let roots = Arc::new(known.roots());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider.clone())
        .allow_unauthenticated()
        .build()
        .expect("a verifier");
    let (chain, key) = identity.chain();
    let builder = rustls::ServerConfig::builder_with_provider(provider);
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    builder.with_client_cert_verifier(verifier).with_single_cert(chain, key).expect("a pair")
}

/// A client that trusts `server`, and has the certificate `own`, if any.
fn client_config(server: &Identity, own: Option<&Identity>) -> Arc<rustls::ClientConfig> {
    let builder = rustls::ClientConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_safe_default_protocol_versions().expect("versions");
    let builder = builder.with_root_certificates(server.roots());
    Arc::new(match own.map(Identity::chain) {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key).expect("a pair"),
        None => builder.with_no_client_auth(),
    })
}

fn router() -> Router {
    Router::new()
        .method("echo", async |payload: bytes::Bytes| payload)
        .method("whoami", async |who: Principal| who.name().unwrap_or("nobody").to_owned())
}

/// A server in memory; it ends when dropped.
struct Pipe {
    connect: mpsc::UnboundedSender<DuplexStream>,
    publisher: Publisher,
    handle: ServerHandle,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<io::Result<()>>,
}

struct Pipes(mpsc::UnboundedReceiver<DuplexStream>);

impl Listener for Pipes {
    type Io = DuplexStream;

    async fn accept(&mut self) -> io::Result<(DuplexStream, PeerAddr)> {
        match self.0.recv().await {
            Some(io) => Ok((io, PeerAddr::Other("pipe".into()))),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("pipe".into()))
    }
}

impl Pipe {
    /// `listen` puts TLS over pipes, or does not; `build` sets the rest up.
    fn start<L: Listener>(
        listen: impl FnOnce(Pipes) -> L,
        build: impl FnOnce(Server<L>) -> Server<L>,
    ) -> Self {
        let (connect, pipes) = mpsc::unbounded_channel();
        let server = build(Server::new(listen(Pipes(pipes))));
        let (stop, stopped) = oneshot::channel::<()>();
        Self {
            connect,
            publisher: server.publisher(),
            handle: server.handle(),
            stop: Some(stop),
            task: tokio::spawn(
                server
                    .serve(router())
                    .with_graceful_shutdown(async { drop(stopped.await) })
                    .into_future(),
            ),
        }
    }

    fn tls(config: rustls::ServerConfig) -> Self {
        Self::start(|pipes| TlsListener::new(pipes, Arc::new(config)), |server| server)
    }

    fn connect(&self) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        self.connect.send(theirs).expect("server serves");
        ours
    }

    async fn connect_tls(
        &self,
        config: &Arc<rustls::ClientConfig>,
    ) -> io::Result<RawPeer<TlsStream<DuplexStream>>> {
        let connector = TlsConnector::from(config.clone());
        connector.connect(name(), self.connect()).await.map(RawPeer::new)
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// No wait without an end; over sockets the clock is real.
async fn soon<T>(event: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), event).await.expect("it ends")
}

/// [S11.1] All of it, over sockets.
#[tokio::test]
async fn calls_and_subscriptions_work_over_tls() {
    let identity = Identity::server();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = Server::new(TlsListener::new(listener, Arc::new(plain_server(&identity))));
    let publisher = server.publisher();
    let serving = tokio::spawn(server.serve(router()).into_future());

    let tls = client_config(&identity, None);
    let config = ClientConfig::new();
    let client =
        soon(Client::connect_tls_with(address, name(), tls, config)).await.expect("connected");
    let payload = vec![b'x'; 40_000];
    assert_eq!(soon(client.call("echo", &payload)).await.expect("answered"), payload);
    let mut news = soon(client.subscribe("news").into_future()).await.expect("subscribed");
    publisher.publish("news", "it rains").await.expect("published");
    let first = soon(news.next()).await;
    assert!(matches!(first, Some(Delivery::Notification(one)) if &one.payload[..] == b"it rains"));
    soon(client.close()).await.expect("in order");

    // A client that is not trusted.
    let stranger = client_config(&Identity::server(), None);
    let error = soon(Client::connect_tls(address, name(), stranger)).await;
    assert!(matches!(error, Err(ConnectionError::Tls(_))), "{error:?}");
    serving.abort();
}

/// Each connection has its own handshake, so a reconnected client is as private as before.
#[tokio::test]
async fn a_client_reconnects_over_tls() {
    let identity = Identity::server();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    let server = Server::new(TlsListener::new(listener, Arc::new(plain_server(&identity))));
    let (publisher, handle) = (server.publisher(), server.handle());
    let serving = tokio::spawn(server.serve(router()).into_future());

    let tls = client_config(&identity, None);
    let builder = Client::builder().address(address).tls(name(), tls);
    let client = soon(builder.connect()).await.expect("connected");
    let mut news = soon(client.subscribe("news").into_future()).await.expect("subscribed");
    for session in handle.sessions() {
        session.close(Code::from_static("maintenance"));
    }
    publisher.publish("news", "it rains").await.expect("published");
    let first = soon(news.next()).await;
    assert!(matches!(first, Some(Delivery::Notification(one)) if &one.payload[..] == b"it rains"));
    assert_eq!(client.stats().connections, 2);
    soon(client.close()).await.expect("in order");
    serving.abort();
}

/// [S11.1] A client with TLS connects to a server without. SECURITY.md, threat 20.
#[tokio::test]
async fn a_tls_client_gets_an_error_from_a_plain_server() {
    let server = Server::bind("127.0.0.1:0").await.expect("a free port");
    let Ok(PeerAddr::Tcp(address)) = server.local_addr() else { panic!("no TCP") };
    let handle = server.handle();
    let serving = tokio::spawn(server.serve(router()).into_future());
    let tls = client_config(&Identity::server(), None);
    let error = soon(Client::connect_tls(address, name(), tls)).await;
    let Err(ConnectionError::Tls(text)) = error else { panic!("{error:?}") };
    assert!(text.as_str().ends_with("does the server speak TLS?"), "{text}");
    // The server has seen its last of it.
    soon(async {
        while handle.stats().connections > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    serving.abort();
}

/// A client without TLS connects to a TLS server: neither end waits forever, and other connections
/// are not delayed. SECURITY.md, threat 20.
#[tokio::test(start_paused = true)]
async fn a_plain_client_gets_an_error_from_a_tls_server() {
    let identity = Identity::server();
    let server = Pipe::tls(plain_server(&identity));
    let begin = Instant::now();
    let patient = ClientConfig::new().connect_timeout(Duration::from_secs(20));
    let (client, connection) = Client::new(server.connect(), patient);
    let driver = tokio::spawn(connection);
    let waiting = client.clone();
    let call = tokio::spawn(async move { waiting.call("echo", "x").await });
    tokio::task::yield_now().await;
    // The accept loop goes on meanwhile.
    let mut peer = server.connect_tls(&client_config(&identity, None)).await.expect("connected");
    peer.hello().await;
    peer.ask("1 whoami\n", "1 ok nobody\n").await;
    assert_eq!(begin.elapsed(), Duration::ZERO);
    let error = driver.await.expect("no panic").expect_err("no hello comes");
    let text =
        "the server broke the protocol: it closed before it sent /hello; does it expect TLS?";
    assert_eq!(error.to_string(), text);
    let waited = begin.elapsed();
    assert!((10_000..10_050).contains(&waited.as_millis()), "{waited:?}");
    assert!(call.await.expect("no panic").is_err_and(|error| error.is_safe_to_retry()));
    assert_eq!(server.handle.stats().connections, 1);
}

/// A peer that sends anything but TLS first is closed at once, and none of its lines is processed.
/// SECURITY.md, threat 20.
#[tokio::test(start_paused = true)]
async fn a_tls_server_runs_no_plain_requests() {
    let server = Pipe::tls(plain_server(&Identity::server()));
    for bytes in ["1 echo x\n2 echo y\n", "GET / HTTP/1.1\r\n\r\n", "* echo x\n\n\n\n\n\n"] {
        let mut io = server.connect();
        io.write_all(bytes.as_bytes()).await.expect("written");
        let mut answer = Vec::new();
        io.read_to_end(&mut answer).await.expect("read");
        // At most an alert of TLS.
        assert!(answer.len() <= 7 && !answer.starts_with(b"*"), "{answer:?}");
    }
    assert_eq!(server.handle.stats().connections, 0);
}

#[tokio::test(start_paused = true)]
async fn handshake_time_is_configurable() {
    let tls = plain_server(&Identity::server());
    let config = ServerConfig::new().handshake_time(Duration::from_secs(2));
    let server =
        Pipe::start(|pipes| TlsListener::new(pipes, Arc::new(tls)), |server| server.config(config));
    let mut io = RawPeer::new(server.connect());
    io.expect_silence().await;
    advance(Duration::from_millis(1_980)).await;
    io.expect_silence().await;
    assert_eq!(server.handle.stats().connections, 1);
    advance(Duration::from_millis(40)).await;
    io.expect_closed().await;
}

/// A handshake does not delay the end of the server, nor its own.
#[tokio::test(start_paused = true)]
async fn a_handshake_ends_with_the_server() {
    let mut server = Pipe::tls(plain_server(&Identity::server()));
    let begin = Instant::now();
    let mut one = RawPeer::new(server.connect());
    one.expect_silence().await;
    for session in server.handle.sessions() {
        session.close(Code::from_static("banned"));
    }
    one.expect_closed().await;
    let mut two = RawPeer::new(server.connect());
    two.expect_silence().await;
    server.stop.take();
    two.expect_closed().await;
    (&mut server.task).await.expect("no panic").expect("no error");
    assert_eq!(begin.elapsed(), Duration::ZERO);
}

/// Knows clients by their certificate: `fingerprint` is ada's.
fn identify(
    fingerprint: CertificateDer<'static>,
) -> impl Fn(&[CertificateDer<'_>]) -> Result<Principal, Denied> + Send + Sync {
    move |chain| match chain.first() {
        Some(certificate) if *certificate == fingerprint => Ok(Principal::new("ada")),
        _ => Err(Denied::Credentials),
    }
}

/// A certificate names the principal. A client without one must authenticate.
#[tokio::test(start_paused = true)]
async fn a_certificate_names_the_principal() {
    let (identity, ada) = (Identity::server(), Identity::client("ada.test"));
    let tls = mutual_server(&identity, &ada);
    let listen =
        |pipes| TlsListener::new(pipes, Arc::new(tls)).identify(identify(ada.certificate.clone()));
    let tokens = TokenAuthenticator::new().token("secret", Principal::new("bob"));
    let server = Pipe::start(listen, |server| server.authenticator(tokens));

    let mut peer =
        server.connect_tls(&client_config(&identity, Some(&ada))).await.expect("connected");
    assert!(!peer.hello().await.contains(";auth="));
    peer.ask("1 whoami\n", "1 ok ada\n").await;
    peer.ask("2 /auth token secret\n", "2 no out-of-order authenticated already\n").await;
    assert_eq!(server.handle.sessions_of("ada").len(), 1);

    let mut peer = server.connect_tls(&client_config(&identity, None)).await.expect("connected");
    assert!(peer.hello().await.contains(";auth=token"));
    peer.ask("1 whoami\n", "1 no unauthenticated\n").await;
    peer.ask("2 /auth token secret\n3 whoami\n", "2 ok\n3 ok bob\n").await;
    server.publisher.publish("t", "x").await.expect("published");
}

/// An unknown certificate, a certificate that the hook denies, and a hook that panics.
#[tokio::test(start_paused = true)]
async fn an_invalid_client_certificate_ends_the_connection() {
    let (identity, ada) = (Identity::server(), Identity::client("ada.test"));
    let mallory = Identity::client("mallory.test");
    let listen = |known: &Identity, hook: Hook| {
        let tls = Arc::new(mutual_server(&identity, known));
        Pipe::start(|pipes| TlsListener::new(pipes, tls).identify(hook), |server| server)
    };
    type Hook = fn(&[CertificateDer<'_>]) -> Result<Principal, Denied>;
    for (known, hook) in [
        (&ada, (|_| Ok(Principal::new("ada"))) as Hook),
        (&mallory, |_| Err(Denied::Credentials)),
        (&mallory, |_| panic!("as it is told to")),
    ] {
        let server = listen(known, hook);
        let config = client_config(&identity, Some(&mallory));
        let stream = TlsConnector::from(config).connect(name(), server.connect()).await;
        // To the client it is over before the server has looked at the certificate.
        let stream = stream.expect("connected");
        let (client, connection) = Client::new(stream, ClientConfig::new());
        let error = connection.await.expect_err("no hello comes");
        let is_clear = matches!(error, ConnectionError::Tls(_) | ConnectionError::Io { .. });
        assert!(is_clear, "{error:?}");
        drop(client);
        assert_eq!(server.handle.stats().connections, 0);
    }
}
