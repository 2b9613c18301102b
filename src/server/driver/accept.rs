//! The accept loop and the graceful shutdown.

use std::{
    collections::VecDeque,
    fmt,
    future::poll_fn,
    io,
    ops::ControlFlow,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet, yield_now},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::Instrument;

use crate::{
    coop::consume_budget,
    guard::{Guarded, Held, caught, guarded},
    protocol::Escaped,
    server::{
        access::limits::Limits,
        core::closing::LAST_WRITE,
        driver::serving::Serving,
        driver::socket::Driver,
        driver::{
            clock::Clock,
            handshake::ConnectionTask,
            listener::{Listener, is_of_one_connection},
            prepared::prepared,
            runs::drive,
            spanned::Spanned,
        },
        keys::runs::DetachedRun,
        mailbox::{CUT, DRAIN, LAST, LINE},
        peer_addr::PeerAddr,
        session::Session,
    },
    sync::Arc,
    topic::Publisher,
};

/// The first pause after an error of `accept` that concerns more than one connection, such as
/// running out of file descriptors. It doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(50);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// How long a connection over the limit has to read its `/bye`.
const REFUSAL: Duration = Duration::from_secs(1);

type BoxedSignal = Pin<Box<dyn Future<Output = ()> + Send>>;

/// A server that is ready to serve: await it, or first give it a signal to stop.
///
/// It accepts connections until the signal. No error of a connection or of accepting ends it.
/// Dropping the future drops all connections and their handlers.
///
/// The result is `Ok` when the server has stopped after its signal. This version never returns
/// `Err`, which is there for later ones.
///
/// `tokio::spawn` takes a future, so convert it:
///
/// ```
/// use bellwire::{Router, Server};
///
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let signal = async { stopped.await.unwrap_or_default() };
/// let server = Server::bind("127.0.0.1:0").await?;
/// let serve = server.serve(Router::<()>::new()).with_graceful_shutdown(signal);
/// let serving = tokio::spawn(serve.into_future());
///
/// stop.send(()).unwrap();
/// serving.await??;
/// # Ok(())
/// # }
/// ```
#[must_use = "a server serves only when awaited"]
pub struct Serve<L> {
    listener: L,
    serving: Arc<Serving>,
    /// Keyed runs that have not ended at once.
    runs: mpsc::UnboundedReceiver<DetachedRun>,
    signal: BoxedSignal,
}

impl<L: Listener> Serve<L> {
    pub(in crate::server) fn new(
        listener: L,
        serving: Serving,
        runs: mpsc::UnboundedReceiver<DetachedRun>,
    ) -> Self {
        let signal = Box::pin(std::future::pending());
        Self { listener, serving: Arc::new(serving), runs, signal }
    }

    /// Stops when `signal` ends, in two steps (docs/protocol/leaving.md, section 18).
    ///
    /// 1. No connection is accepted any more. Each client is sent `/bye`, and its connection goes
    ///    on as before for the [`grace`](crate::ServerConfig::grace).
    /// 2. Then the line is drawn: later requests are refused, what is in flight is finished and
    ///    answered, and the connection is closed. What outlasts the
    ///    [`drain`](crate::ServerConfig::drain) time is answered `cut closing`, and the connection
    ///    ends at most 1 s later.
    ///
    /// Subscribers stay until no request is in flight on any connection and they have been given
    /// all that was published. From then on [`Publisher::publish`](crate::Publisher::publish)
    /// fails. If a subscriber has not taken everything when the drain time is over, an `/end` names
    /// the rest to it.
    ///
    /// Handlers learn of the stop from [`Stopping`](crate::server::Stopping). An endless stream
    /// that does not end on it holds up the server for the whole drain time.
    ///
    /// This future does not wait for a [`blocking`](crate::blocking) handler that still runs after
    /// that. The handler keeps its thread, and a runtime that is dropped waits for it;
    /// `Runtime::shutdown_timeout` does not.
    pub fn with_graceful_shutdown(
        mut self,
        signal: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        self.signal = Box::pin(signal);
        self
    }

    async fn run(self) {
        let Self { listener, serving, runs, signal } = self;
        let mut listener = Held::new(listener);
        let mut signal = pin!(raised(signal));
        warn_of_strangers(&*listener, &serving);
        let is_file = matches!(local_addr(&*listener), Ok(PeerAddr::Tcp(_) | PeerAddr::Unix(_)));
        let limits = Limits::new(&serving.environment.config, is_file);
        let config = serving.environment.config.clone().connections(limits.connections);
        let (connections, worst_case_bytes) = (config.connections, config.worst_case_bytes());
        let _ended = ShutOnDrop(serving.environment.publisher.clone());
        tracing::info!(connections, worst_case_bytes, "serving");
        let mut crew = Crew::new(serving, limits, runs);
        let mut pause = MIN_PAUSE;
        loop {
            match crew.accept(&mut *listener, signal.as_mut()).await {
                ControlFlow::Break(()) => break,
                ControlFlow::Continue(Ok((io, peer))) => {
                    pause = MIN_PAUSE;
                    let preparing = prepared::<L>(io, crew.serving.clone());
                    match crew.until(preparing, signal.as_mut()).await {
                        ControlFlow::Break(()) => break,
                        ControlFlow::Continue(None) => {}
                        ControlFlow::Continue(Some(io)) => crew.welcome::<L>(io, peer),
                    }
                    consume_budget().await;
                }
                ControlFlow::Continue(Err(error)) if is_of_one_connection(&error) => {
                    tracing::debug!(%error, "connection failed before it was accepted");
                    // A listener that always fails must not occupy the thread.
                    yield_now().await;
                }
                ControlFlow::Continue(Err(error)) => {
                    tracing::error!(%error, ?pause, "cannot accept, pausing");
                    if crew.until(sleep(pause), signal.as_mut()).await.is_break() {
                        break;
                    }
                    pause = MAX_PAUSE.min(pause * 2);
                }
            }
        }
        drop(listener);
        crew.drain().await;
    }
}

impl<L: Listener> IntoFuture for Serve<L> {
    type Output = io::Result<()>;
    type IntoFuture = Pin<Box<dyn Future<Output = io::Result<()>> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async {
            self.run().await;
            consume_budget().await;
            Ok(())
        })
    }
}

/// Closes the publisher of a server that has ended or is dropped.
struct ShutOnDrop(Publisher);

impl Drop for ShutOnDrop {
    fn drop(&mut self) {
        self.0.shut();
    }
}

impl<L> fmt::Debug for Serve<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Serve")
    }
}

/// Logs a warning if every client from anywhere may connect and call.
fn warn_of_strangers<L: Listener>(listener: &L, serving: &Serving) {
    let is_exposed = guarded(|| listener.is_exposed()).unwrap_or_default();
    if !is_exposed || serving.environment.hooks.authenticator.is_some() {
        return;
    }
    if let Ok(address) = local_addr(listener) {
        tracing::warn!(
            %address,
            "listening beyond loopback with neither TLS nor an authenticator: \
             every client that reaches this address may call and listen",
        );
    }
}

/// The address of a listener. The listener is user code, so this is guarded.
fn local_addr<L: Listener>(listener: &L) -> io::Result<PeerAddr> {
    caught(|| listener.local_addr()).unwrap_or_else(|panic| Err(panicked(&panic)))
}

/// Ends when the signal to stop does. If the signal panics, it cannot come later, so the server
/// stops.
async fn raised(signal: BoxedSignal) {
    if let Err(panic) = Guarded::new(|| signal).await {
        tracing::error!(%panic, "the signal to stop panicked: stopping");
    }
}

/// A panic of a listener, as an error that concerns more than one connection.
fn panicked(panic: &str) -> io::Error {
    io::Error::other(format!("the listener panicked: {}", Escaped(panic.as_bytes())))
}

/// The instant after `time`. If that is out of range, a day in the far future.
fn after(time: Duration) -> Instant {
    const AGES: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);
    Instant::now() + time.min(AGES)
}

/// The tasks of the connections, and the clock that runs for them.
struct Crew {
    serving: Arc<Serving>,
    limits: Limits,
    tasks: JoinSet<()>,
    /// The tasks of connections over the limit, the oldest first.
    refused: VecDeque<AbortHandle>,
    /// Keyed runs that get a task each.
    runs: mpsc::UnboundedReceiver<DetachedRun>,
    /// Whether the keyed runs have to end.
    cut: watch::Sender<bool>,
    _clock: Clock,
}

impl Crew {
    fn new(
        serving: Arc<Serving>,
        limits: Limits,
        runs: mpsc::UnboundedReceiver<DetachedRun>,
    ) -> Self {
        let (tasks, refused, cut) = (JoinSet::new(), VecDeque::new(), watch::Sender::new(false));
        let clock = Clock::start(&serving);
        Self { serving, limits, tasks, refused, runs, cut, _clock: clock }
    }

    /// Waits for the next connection; `Break` at the signal to stop.
    async fn accept<L: Listener>(
        &mut self,
        listener: &mut L,
        signal: Pin<&mut (dyn Future<Output = ()> + Send)>,
    ) -> ControlFlow<(), io::Result<(L::Io, PeerAddr)>> {
        let accepting = Guarded::new(|| Box::pin(listener.accept()));
        let accepted = async { accepting.await.unwrap_or_else(|panic| Err(panicked(&panic))) };
        self.until(accepted, signal).await
    }

    /// Waits for `event`; `Break` at the signal to stop.
    async fn until<T>(
        &mut self,
        event: impl Future<Output = T>,
        mut signal: Pin<&mut (dyn Future<Output = ()> + Send)>,
    ) -> ControlFlow<(), T> {
        let mut event = pin!(event);
        poll_fn(|cx| {
            self.poll(cx);
            if signal.as_mut().poll(cx).is_ready() {
                return Poll::Ready(ControlFlow::Break(()));
            }
            event.as_mut().poll(cx).map(ControlFlow::Continue)
        })
        .await
    }

    /// Starts the tasks of keyed runs, and removes the tasks that have ended.
    fn poll(&mut self, cx: &mut Context<'_>) {
        while let Poll::Ready(Some(run)) = self.runs.poll_recv(cx) {
            self.tasks.spawn(drive(run, self.serving.clone(), self.cut.subscribe()));
        }
        while let Poll::Ready(Some(ended)) = self.tasks.poll_join_next(cx) {
            if let Err(error) = ended
                && !error.is_cancelled()
            {
                tracing::error!(%error, "connection's task failed");
            }
        }
    }

    fn welcome<L: Listener>(&mut self, io: L::Io, peer: PeerAddr) {
        let id = self.serving.random.next_uuid();
        // Escaped, because a peer chooses the name of its Unix socket.
        let shown = |peer: &PeerAddr| peer.to_string();
        let span = tracing::info_span!(
            "connection",
            session = %id,
            peer = %Escaped(shown(&peer).as_bytes()),
        );
        let serving = self.serving.clone();
        let open = serving.environment.sessions.len();
        let place = self.limits.admit(open, &peer);
        let session = serving.environment.session(id, peer, serving.timers.now());
        let Ok(place) = place else {
            span.in_scope(|| tracing::debug!(open, "refused: too many connections"));
            let refused = Driver::refused(io, serving, session);
            return self.refuse(async { drop(timeout(REFUSAL, refused).await) }.instrument(span));
        };
        span.in_scope(|| tracing::debug!("open"));
        serving.environment.let_in(&session);
        let connection = ConnectionTask::<L>::new(io, serving, session);
        match place {
            None => self.tasks.spawn(Spanned::new(connection, span)),
            Some(place) => {
                let connection = async {
                    connection.await;
                    drop(place);
                };
                self.tasks.spawn(connection.instrument(span))
            }
        };
    }

    /// Refuses a connection over the limit. If too many are being refused, the oldest is dropped:
    /// its `/bye` has been sent unless its peer does not read.
    fn refuse(&mut self, refused: impl Future<Output = ()> + Send + 'static) {
        self.refused.push_back(self.tasks.spawn(refused));
        if self.refused.len() > self.limits.refusals {
            self.refused.retain(|refused| !refused.is_finished());
        }
        if self.refused.len() > self.limits.refusals
            && let Some(oldest) = self.refused.pop_front()
        {
            oldest.abort();
        }
    }

    /// The graceful shutdown: sends `/bye`, then `/bye;last=N`, lets the last messages be
    /// delivered, then cuts what still runs. Each step applies to the connections that are still
    /// open. Keyed runs without callers have the same time.
    async fn drain(mut self) {
        let (grace, drain) =
            (self.serving.environment.config.grace, self.serving.environment.config.drain);
        self.raise(DRAIN);
        if self.all_ended_by(after(grace)).await {
            return;
        }
        self.raise(LINE);
        let end = after(drain);
        let serving = self.serving.clone();
        let all_published = async {
            serving.environment.publishing.done().await;
            serving.environment.publisher.finish().await;
        };
        if self.happens_by(end, all_published).await {
            self.raise(LAST);
            if self.all_ended_by(end).await {
                return;
            }
        }
        self.serving.environment.publisher.shut();
        self.raise(CUT);
        self.cut.send_replace(true);
        self.all_ended_by(after(LAST_WRITE)).await;
        self.tasks.shutdown().await;
    }

    /// In the order of the sessions' ids, so that the order does not depend on the table's.
    fn raise(&self, flag: u8) {
        let mut sessions = self.serving.environment.sessions.all();
        sessions.sort_unstable_by_key(Session::id);
        sessions.iter().for_each(|session| session.mailbox().raise(flag));
    }

    async fn all_ended_by(&mut self, deadline: Instant) -> bool {
        self.happens_by(deadline, std::future::pending()).await || self.is_idle()
    }

    /// Whether there is neither a connection nor a keyed run.
    fn is_idle(&self) -> bool {
        self.tasks.is_empty() && self.runs.is_empty()
    }

    /// Waits for `event`, while there are connections or keyed runs and until `deadline`. Returns whether it
    /// happened.
    async fn happens_by(&mut self, deadline: Instant, event: impl Future<Output = ()>) -> bool {
        let (mut timeout, mut event) = (pin!(sleep_until(deadline)), pin!(event));
        poll_fn(|cx| {
            self.poll(cx);
            if event.as_mut().poll(cx).is_ready() {
                return Poll::Ready(true);
            }
            match self.is_idle() {
                true => Poll::Ready(false),
                false => timeout.as_mut().poll(cx).map(|()| false),
            }
        })
        .await
    }
}

#[cfg(all(test, any(target_os = "android", target_os = "linux")))]
mod tests {
    use socket2::{SockRef, Socket};
    use tokio::{
        io::AsyncReadExt,
        net::{TcpListener, TcpStream},
        sync::mpsc,
    };

    use super::*;
    use crate::{
        server::{Router, Server, ServerConfig},
        tcp::tests::watched,
    };

    /// Sends a second handle of each socket that it accepts.
    struct Shown(TcpListener, mpsc::UnboundedSender<Socket>);

    impl Listener for Shown {
        type Io = TcpStream;

        async fn accept(&mut self) -> io::Result<(TcpStream, PeerAddr)> {
            let (io, peer) = Listener::accept(&mut self.0).await?;
            let _ = self.1.send(SockRef::from(&io).try_clone()?);
            Ok((io, peer))
        }

        fn local_addr(&self) -> io::Result<PeerAddr> {
            Listener::local_addr(&self.0)
        }

        fn prepare(io: &TcpStream, timeout: Option<Duration>) -> io::Result<()> {
            TcpListener::prepare(io, timeout)
        }

        fn limit_unsent(io: &TcpStream, bytes: usize) -> io::Result<()> {
            TcpListener::limit_unsent(io, bytes)
        }
    }

    /// The times, in seconds, that a server over `listen` sets on the sockets it accepts. Also
    /// checks that the limit on unsent bytes is as configured.
    async fn served<L: Listener>(
        listen: impl FnOnce(Shown) -> L,
        config: ServerConfig,
    ) -> Option<[u64; 3]> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (show, mut shown) = mpsc::unbounded_channel();
        let unsent = config.unsent_bytes.unwrap_or_default();
        let server = Server::new(listen(Shown(listener, show))).config(config);
        let handle = server.handle();
        let serving = tokio::spawn(server.serve(Router::new()).into_future());
        let _peer = TcpStream::connect(address).await.unwrap();
        let socket = shown.recv().await.unwrap();
        while handle.sessions().is_empty() || !socket.tcp_nodelay().unwrap() {
            yield_now().await;
        }
        assert!(socket.tcp_nodelay().unwrap());
        assert_eq!(socket.tcp_notsent_lowat().unwrap() as usize, unsent);
        serving.abort();
        watched(&socket).map(|times| times.map(|time| time.as_secs()))
    }

    /// The system watches accepted sockets as the configuration says. SECURITY.md, threat 23.
    #[tokio::test]
    async fn accepted_sockets_detect_a_vanished_peer() {
        let config = ServerConfig::new;
        let plain = |listener| listener;
        assert_eq!(served(plain, config()).await, Some([20, 10, 5]));
        let short = config().tcp_user_timeout(Duration::from_secs(8));
        assert_eq!(served(plain, short).await, Some([8, 4, 2]));
        assert_eq!(served(plain, config().tcp_user_timeout(None)).await, None);
        let unlimited = config().unsent_bytes(None);
        assert_eq!(served(plain, unlimited).await, Some([20, 10, 5]));
        assert_eq!(served(plain, config().unsent_bytes(8_192)).await, Some([20, 10, 5]));
    }

    #[cfg(feature = "tls")]
    #[tokio::test]
    async fn tls_sockets_detect_a_vanished_peer() {
        use crate::tls::{TlsListener, rustls};

        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ServerConfig::builder_with_provider(provider);
        let tls = tls.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        let tls =
            tls.with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        let listen = |listener| TlsListener::new(listener, Arc::new(tls));
        assert_eq!(served(listen, ServerConfig::new()).await, Some([20, 10, 5]));
    }

    /// A connection is served even if its transport cannot be prepared, or its listener panics.
    #[tokio::test]
    async fn a_connection_is_served_though_its_socket_setup_fails() {
        struct Fails(TcpListener);

        impl Listener for Fails {
            type Io = TcpStream;

            async fn accept(&mut self) -> io::Result<(TcpStream, PeerAddr)> {
                Listener::accept(&mut self.0).await
            }

            fn local_addr(&self) -> io::Result<PeerAddr> {
                Listener::local_addr(&self.0)
            }

            fn prepare(_: &TcpStream, timeout: Option<Duration>) -> io::Result<()> {
                assert!(timeout.is_some(), "as it is told to");
                Err(io::ErrorKind::InvalidInput.into())
            }

            fn limit_unsent(_: &TcpStream, _: usize) -> io::Result<()> {
                panic!("as it is told to")
            }
        }

        for timeout in [None, Some(Duration::from_secs(20))] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let config = ServerConfig::new().tcp_user_timeout(timeout);
            let server = Server::new(Fails(listener)).config(config);
            let serving = tokio::spawn(server.serve(Router::new()).into_future());
            let mut hello = [0; 18];
            let mut peer = TcpStream::connect(address).await.unwrap();
            peer.read_exact(&mut hello).await.unwrap();
            assert_eq!(&hello, b"* /hello;version=1");
            serving.abort();
        }
    }
}
