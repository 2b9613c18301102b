//! A client whose connection is driven by hand: without a runtime, a transport or a clock.

#![cfg_attr(
    not(feature = "unstable-core"),
    allow(unreachable_pub, dead_code, reason = "public with `unstable-core`")
)]

use crate::{
    client::{Client, ClientConfig, Handle, core::connection::Connection, shared::Shared},
    protocol::Time,
    sync::{Arc, AtomicU64},
};

/// Returns a client, and its one connection, which has to be driven. Its time begins at 0 and is the
/// one that the connection was told last.
///
/// The client's futures can be polled by any executor, or by hand. Deadlines that a request is given
/// itself need timers of tokio and do not pass here; that of the configuration does.
///
/// ```
/// use std::{pin::pin, task::{Context, Poll, Waker}};
///
/// use bellwire::{ClientConfig, protocol::Time, unstable::client::{Output, by_hand}};
///
/// let (client, mut connection) = by_hand(ClientConfig::new());
/// let (now, waker) = (Time::from_millis(1), Waker::noop());
/// let mut call = pin!(client.call("random", "6"));
/// assert!(call.as_mut().poll(&mut Context::from_waker(waker)).is_pending());
///
/// let hello = b"* /hello;version=1;session=00000000-0000-4000-8000-000000000001;max-line=65535;\
/// in-flight=1024;lease=60 bellwire\n";
/// connection.handle_input(hello, now)?;
/// connection.finish_input()?;
/// assert_eq!(connection.poll_output(false, waker, now)?, Output::Write);
/// assert_eq!(connection.output(), b"1 random 6\n");
/// connection.handle_written(connection.output().len(), now);
/// connection.handle_flushed();
///
/// connection.handle_input(b"1 ok 4\n", now)?;
/// connection.finish_input()?;
/// let reply = call.as_mut().poll(&mut Context::from_waker(waker));
/// assert!(matches!(reply, Poll::Ready(Ok(number)) if number == "4"));
/// # Ok::<(), bellwire::ConnectionError>(())
/// ```
pub fn by_hand(config: ClientConfig) -> (Client, Connection) {
    let (time, credentials) = (Arc::<AtomicU64>::default(), config.auth.clone());
    let greeting = Time::default().after(config.connect_timeout);
    let shared = Arc::new(Shared::by_hand(config, time.clone()));
    let locked = shared.locked.clone();
    let mut connection = Connection::new(locked, credentials, Some(greeting), Time::default());
    connection.time = Some(time);
    (Client { handle: Arc::new(Handle { shared }) }, connection)
}
