//! The server: it accepts connections, runs handlers, and delivers notifications to subscribers.

mod access;
mod buffered;
mod builder;
mod config;
pub(crate) mod core;
pub(crate) mod driver;
mod ending;
mod handle;
mod handlers;
pub mod keys;
mod mailbox;
mod peer_addr;
mod publishing;
mod session;
mod sessions;
mod stats;
#[cfg(feature = "stats-method")]
mod stats_method;
mod stopping;
mod user_code;
mod waiting_tasks;

#[cfg(feature = "tower")]
pub use self::handlers::tower::{HandlerCall, HandlerReply, HandlerService};
#[cfg(feature = "stats-method")]
pub use self::stats_method::STATS_METHOD;
pub use self::{
    access::{
        authenticator::{Authenticator, Denied, TokenAuthenticator},
        authorizer::{Action, Authorizer, Verdict},
        principal::Principal,
    },
    builder::Server,
    config::ServerConfig,
    driver::{
        accept::Serve,
        both::{Both, Either},
        listener::Listener,
    },
    handle::ServerHandle,
    handlers::{
        extractors::{FromRequest, Request, RequestParts, State},
        function::{Arguments, AsyncFunction, Function},
        handler::{BlockingHandler, Endpoint, Handler, IntoEndpoint, blocking, handler},
        layers::{HandlerFuture, Layer, Next},
        reply::{Failure, IntoReply, Rejection, Reply},
        router::Router,
        streamed::Streamed,
        test_request::TestRequest,
    },
    peer_addr::PeerAddr,
    session::{Session, SessionStats},
    stats::ServerStats,
    stopping::Stopping,
};
