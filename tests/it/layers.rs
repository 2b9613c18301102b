//! Layers around handlers: their order, what they may do, and what they may not break.
// SECURITY.md, threats 8 and 26.

use std::{
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bellwire::{
    Failure, Router, blocking, handler,
    protocol::Code,
    server::{FromRequest, HandlerFuture, Layer, Next, Rejection, Reply, RequestParts},
};
use bellwire_testkit::{PipeServer, RawPeer};
use tokio::sync::Notify;

type Log = Arc<Mutex<Vec<String>>>;

/// Writes down when it is called, and when the reply passes.
struct Named(&'static str, Log);

impl Layer for Named {
    fn call(&self, request: &RequestParts<'_>, next: Next<'_>) -> Result<HandlerFuture, Rejection> {
        let Self(name, log) = self;
        log.lock().unwrap().push(format!("{name} {}", request.method()));
        let (name, log, handler) = (*name, log.clone(), next.run()?);
        Ok(Box::pin(async move {
            let reply = handler.await;
            log.lock().unwrap().push(format!("{name} {}", reply.outcome()));
            reply
        }))
    }
}

#[cfg(feature = "tower")]
async fn panics() {
    panic!("as it is told to");
}

async fn peer_of(router: Router) -> (PipeServer, RawPeer<tokio::io::DuplexStream>) {
    let server = PipeServer::start(router);
    let peer = server.connect().await;
    (server, peer)
}

/// This does not depend on when a method was added. Protocol methods, and requests refused earlier,
/// pass through no layer.
#[tokio::test(start_paused = true)]
async fn the_first_layer_added_is_outermost() {
    let log = Log::default();
    let seen = log.clone();
    let router = Router::new()
        .layer(Named("a", log.clone()))
        .method("m", move || {
            seen.lock().unwrap().push("handler".into());
            async {}
        })
        .layer(Named("b", log.clone()));
    let (_server, mut peer) = peer_of(router).await;
    peer.ask("1 m\n", "1 ok\n").await;
    assert_eq!(*log.lock().unwrap(), ["a m", "b m", "handler", "b ok", "a ok"]);
    log.lock().unwrap().clear();
    peer.ask("2 /renew\n", "2 ok;lease=60\n").await;
    peer.ask("3 nosuch\n", "3 no unknown-method no method \"nosuch\"; ask /methods\n").await;
    peer.ask("4 m;ttl=0\n", "4 no bad-attribute ttl\n").await;
    assert!(log.lock().unwrap().is_empty());
}

/// A layer sees the request, may refuse it before its handler is started, and may answer for it.
#[tokio::test(start_paused = true)]
async fn a_layer_may_refuse_and_answer() {
    let started = Arc::new(AtomicUsize::new(0));
    let count = started.clone();
    let layer = |request: &RequestParts<'_>, next: Next<'_>| -> Result<HandlerFuture, Rejection> {
        assert_eq!(request.session().peer().to_string(), "pipe");
        match (request.attributes().get("app.who"), &request.payload()[..]) {
            (None, _) => Err(Rejection::forbidden("who?")),
            (Some(_), b"known") => Ok(Box::pin(async { Reply::ok("by heart") })),
            (Some(_), _) => next.run(),
        }
    };
    let method = move |payload: String| {
        count.fetch_add(1, Ordering::Relaxed);
        async move { payload }
    };
    let (_server, mut peer) = peer_of(Router::new().method("m", method).layer(layer)).await;
    peer.ask("1 m a\n", "1 no forbidden who?\n").await;
    peer.ask("* m a\n", "* /error forbidden who?\n").await;
    peer.ask("2 m;app.who=me known\n", "2 ok by heart\n").await;
    peer.ask(b"3 m;app.who=me \xff\n", "3 no bad-arguments payload is not UTF-8\n").await;
    assert_eq!(started.load(Ordering::Relaxed), 0);
    peer.ask("4 m;app.who=me a\n", "4 ok a\n").await;
}

/// Refuses what is not `ready`, and says when it may be.
struct Ready;

impl<S> FromRequest<S> for Ready {
    fn from_request(request: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        match &request.payload()[..] {
            b"ready" => Ok(Self),
            text => {
                let text = String::from_utf8_lossy(text);
                Err(Rejection::too_many(text).retry(Duration::from_micros(1_500)))
            }
        }
    }
}

/// A refusal may have a retry hint, whichever layer refuses. A one-way request gets no answer.
#[tokio::test(start_paused = true)]
async fn a_refusal_of_a_layer_may_have_a_retry_hint() {
    let layer = |request: &RequestParts<'_>, next: Next<'_>| match &request.payload()[..] {
        b"" => Err(Rejection::busy("").retry(Duration::from_secs(2)).retry(Duration::ZERO)),
        _ => next.run(),
    };
    for router in [Router::new(), Router::new().layer(layer)] {
        let router = router
            .method("inline", async |_: Ready| ())
            .method("spawned", handler(async |_: Ready| ()).spawned());
        let (_server, mut peer) = peer_of(router).await;
        peer.ask("1 inline not yet\n", "1 no;retry=2 too-many not yet\n").await;
        peer.ask("2 spawned a\x10Jb\n", "2 no;retry=2 too-many a\x10Jb\n").await;
        peer.ask("3 inline ready\n", "3 ok\n").await;
        peer.ask("* inline no\n4 inline ready\n", "4 ok\n").await;
    }
    let (_server, mut peer) = peer_of(Router::new().method("m", async || ()).layer(layer)).await;
    peer.ask("1 m\n* m\n", "1 no;retry=1 busy\n* /error busy\n").await;
}

/// [S3.8] The text is truncated, not the retry hint.
#[tokio::test(start_paused = true)]
async fn an_overlong_refusal_loses_text_and_not_the_hint() {
    let router = Router::new().method("m", async |_: Ready| ());
    let (_server, mut peer) = peer_of(router).await;
    peer.ask("1 /hello;version=1;max-line=1024\n", "1 ok;version=1\n").await;
    peer.send(format!("2 m {}\n", "x".repeat(2_000))).await;
    let line = peer.line().await.unwrap();
    assert!(line.starts_with("2 no;retry=2 too-many xxx") && line.len() == 1_024, "{line}");
}

/// A panic in a layer, in its future, or in a task within it, affects only its own request.
/// SECURITY.md, threat 26.
#[tokio::test(start_paused = true)]
async fn a_panic_within_layers_affects_only_its_request() {
    let layer = |request: &RequestParts<'_>, next: Next<'_>| -> Result<HandlerFuture, Rejection> {
        let attribute = |key| request.attributes().get(key).is_some();
        assert!(!attribute("in.call"), "as it is told to");
        let (in_future, handler) = (attribute("in.future"), next.run()?);
        Ok(Box::pin(async move {
            assert!(!in_future, "as it is told to");
            handler.await
        }))
    };
    let fails = async |payload: String| assert!(payload.is_empty(), "as it is told to");
    let router = Router::new()
        .method("inline", fails)
        .method("spawned", handler(fails).spawned())
        .method("blocking", blocking(|payload: String| assert!(payload.is_empty(), "told to")))
        .layer(layer);
    let (_server, mut peer) = peer_of(router).await;
    let mut id = 0;
    for method in ["inline", "spawned", "blocking"] {
        for request in [";in.call=1", ";in.future=1", " x"] {
            id += 1;
            peer.ask(format!("{id} {method}{request}\n"), format!("{id} err internal\n")).await;
        }
        id += 1;
        peer.ask(format!("{id} {method}\n"), format!("{id} ok\n")).await;
    }
}

/// [S3.5] A blocking handler whose layer timed out or that was cancelled keeps its request and its
/// place in flight until it has ended. SECURITY.md, threat 8.
#[tokio::test]
async fn a_task_within_layers_keeps_its_place_until_it_ends() {
    let (entered, gate) = (Arc::new(Notify::new()), Arc::new((Mutex::new(0), Condvar::new())));
    let (told, passed) = (entered.clone(), gate.clone());
    let work = move || {
        told.notify_one();
        let (open, changed) = &*passed;
        // Bounded, so that a test that fails does not hang its runtime's shutdown.
        let bound = Duration::from_secs(30);
        let waited = changed.wait_timeout_while(open.lock().unwrap(), bound, |open| *open == 0);
        let mut open = waited.unwrap().0;
        *open -= 1;
    };
    let gives_up = Arc::new(Notify::new());
    let give_up = gives_up.clone();
    let layer = move |request: &RequestParts<'_>, next: Next<'_>| {
        let is_impatient = request.attributes().get("app.impatient").is_some();
        let (handler, give_up) = (next.run()?, give_up.clone());
        let future: HandlerFuture = Box::pin(async move {
            tokio::select! {
                reply = handler => reply,
                () = give_up.notified(), if is_impatient => {
                    Reply::err(Failure::new(Code::from_static("gave-up"), ""))
                }
            }
        });
        Ok::<_, Rejection>(future)
    };
    let (_server, mut peer) = peer_of(Router::new().method("m", blocking(work)).layer(layer)).await;
    let open = || {
        *gate.0.lock().unwrap() += 1;
        gate.1.notify_one();
    };
    for (request, then, end) in [
        ("1 m;app.impatient=1\n", "", "1 err gave-up\n"),
        ("2 m\n", "* /cancel 2\n", "2 cut cancelled\n"),
    ] {
        peer.send(request).await;
        entered.notified().await;
        peer.send(then).await;
        if then.is_empty() {
            gives_up.notify_one();
        }
        peer.expect_silence().await;
        open();
        peer.expect(end).await;
    }
    peer.send("3 m\n").await;
    entered.notified().await;
    open();
    peer.expect("3 ok\n").await;
}

#[cfg(feature = "tower")]
mod stack {
    use bellwire::server::{HandlerCall, HandlerService, Request};
    use tower::{
        Service, ServiceBuilder, limit::GlobalConcurrencyLimitLayer, load_shed::LoadShedLayer,
    };

    use super::*;

    /// [S3.4] A timeout of a handler that may have run is `cut`. A timeout of a request that never
    /// started is `no`.
    #[tokio::test(start_paused = true)]
    async fn a_timeout_reports_whether_the_handler_may_have_run() {
        let stack = ServiceBuilder::new()
            .timeout(Duration::from_secs(2))
            .layer(GlobalConcurrencyLimitLayer::new(1));
        let started = Arc::new(AtomicUsize::new(0));
        let count = started.clone();
        let method = move || {
            count.fetch_add(1, Ordering::Relaxed);
            std::future::pending::<()>()
        };
        let router = Router::new().method("stall", method).method("quick", async || "q");
        let (_server, mut peer) = peer_of(router.tower(stack)).await;
        peer.ask("1 quick\n", "1 ok q\n").await;
        // Within the limit, and waiting for it.
        peer.send("2 stall\n").await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        peer.send("3 stall\n").await;
        peer.expect("2 cut deadline\n").await;
        // Waiting for its turn does not count.
        peer.expect("3 cut deadline\n").await;
        assert_eq!(started.load(Ordering::Relaxed), 2);
    }

    /// [S3.4] A request that a stack still held when its time was over was not started.
    #[tokio::test(start_paused = true)]
    async fn a_request_still_held_by_a_tower_stack_was_not_started() {
        let hold = tower::layer::layer_fn(|_: HandlerService| {
            tower::service_fn(|call: HandlerCall| async move {
                std::future::pending::<()>().await;
                drop(call);
                Ok::<_, std::convert::Infallible>(Reply::ok(""))
            })
        });
        let stack = ServiceBuilder::new().timeout(Duration::from_secs(2)).layer(hold);
        let (_server, mut peer) =
            peer_of(Router::new().method("m", async || ()).tower(stack)).await;
        peer.ask("1 m\n", "1 no deadline\n").await;
        peer.ask("2 m\n* /cancel 2\n", "2 cut cancelled\n").await;
    }

    /// If a stack refuses because it is full, the answer is `no busy`, across all connections.
    #[tokio::test(start_paused = true)]
    async fn load_shedding_is_answered_busy() {
        let stack = ServiceBuilder::new()
            .layer(LoadShedLayer::new())
            .layer(GlobalConcurrencyLimitLayer::new(1));
        let router = Router::new().method("stall", async || std::future::pending::<()>().await);
        let (server, mut peer) = peer_of(router.tower(stack)).await;
        let mut other = server.connect().await;
        peer.send("1 stall\n").await;
        peer.expect_silence().await;
        other.ask("1 stall\n* stall\n", "1 no busy\n* /error busy\n").await;
        peer.ask("* /cancel 1\n", "1 cut cancelled\n").await;
        other.send("2 stall\n").await;
        other.expect_silence().await;
    }

    /// Arguments are extracted behind the stack, and may be refused there. Every mode of handler
    /// passes through.
    #[tokio::test(start_paused = true)]
    async fn requests_pass_through_a_tower_stack_unchanged() {
        let whole = async |request: Request| {
            let tenant = request.attributes.as_attributes().get("app.t").unwrap_or("-").to_owned();
            [tenant.as_bytes(), b" ", &request.payload[..]].concat()
        };
        let router = Router::new()
            .method("whole", whole)
            .method("text", handler(async |text: String| text).spawned())
            .method("len", blocking(|text: String| text.len().to_string()))
            .method("panic", panics)
            .tower(ServiceBuilder::new().timeout(Duration::from_secs(2)));
        let (_server, mut peer) = peer_of(router).await;
        peer.ask(b"1 whole;app.t=x a\x10Jb\n", "1 ok x a\x10Jb\n").await;
        peer.ask("2 text abc\n", "2 ok abc\n").await;
        peer.ask(b"3 text \xff\n", "3 no bad-arguments payload is not UTF-8\n").await;
        peer.ask(b"* text \xff\n", "* /error bad-arguments payload is not UTF-8\n").await;
        peer.ask("4 len abcd\n", "4 ok 4\n").await;
        peer.ask("5 panic\n", "5 err internal\n").await;
    }

    /// Holds its calls back, even if their requests have ended.
    #[derive(Clone)]
    struct Hoard {
        inner: HandlerService,
        held: Arc<Mutex<Vec<(HandlerService, HandlerCall)>>>,
    }

    impl Service<HandlerCall> for Hoard {
        type Response = Reply;
        type Error = std::io::Error;
        type Future = std::future::Ready<Result<Reply, std::io::Error>>;

        fn poll_ready(
            &mut self,
            _: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Result<(), std::io::Error>> {
            std::task::Poll::Ready(Ok(()))
        }

        fn call(&mut self, call: HandlerCall) -> Self::Future {
            assert_eq!(call.request().method, "m");
            self.held.lock().unwrap().push((self.inner.clone(), call));
            std::future::ready(Err(std::io::Error::other("no room")))
        }
    }

    /// [S3.4] A request that was answered `no` is never started, although the stack still holds it.
    #[tokio::test(start_paused = true)]
    async fn a_refused_call_is_never_started() {
        let held: Arc<Mutex<Vec<(HandlerService, HandlerCall)>>> = Arc::default();
        let hoard = held.clone();
        let stack = tower::layer::layer_fn(move |inner| Hoard { inner, held: Arc::clone(&hoard) });
        let started = Arc::new(AtomicUsize::new(0));
        let count = started.clone();
        let method = move || {
            count.fetch_add(1, Ordering::Relaxed);
            async {}
        };
        let router = Router::new().method("m", method).tower(stack);
        let (_server, mut peer) = peer_of(router).await;
        peer.ask("1 m\n", "1 no busy\n").await;
        let calls = std::mem::take(&mut *held.lock().unwrap());
        assert_eq!(calls.len(), 1);
        for (mut service, call) in calls {
            let reply = service.call(call).await.unwrap();
            assert_eq!(reply.outcome().as_str(), "cut");
        }
        assert_eq!(started.load(Ordering::Relaxed), 0);
    }
}

/// `examples/tower_layers.rs`, as a process of its own.
#[cfg(feature = "tower")]
#[tokio::test]
async fn the_tower_example_runs() {
    let deps = std::env::current_exe().unwrap();
    let program = deps.ancestors().nth(2).unwrap().join("examples/tower_layers");
    let output = tokio::process::Command::new(program).kill_on_drop(true).output().await;
    let output = output.expect("is it built? cargo build --examples");
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "quick: worked 10 ms",
            "slow: outcome unknown: the server stopped the request: deadline",
            "eight calls at once: 2 ran at the same time"
        ]
    );
}
