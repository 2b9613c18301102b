//! The socket options that both ends set: no delay, how soon a lost peer is noticed, and how many
//! unsent bytes the system may hold.

use std::{error::Error, fmt, io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;
#[cfg(unix)]
use tokio::net::UnixStream;

/// The least timeout, in seconds. The keep-alive interval is a quarter of it, and must be at least
/// one whole second.
const LEAST: u64 = 4;
/// The longest timeout, in seconds. Half of it is the longest keep-alive time that Linux accepts.
const LONGEST: u64 = 2 * 32_767;

/// How long a client's host may be gone from the network before an idle connection ends.
const CLIENT: Duration = Duration::from_secs(20);

/// The most unsent bytes that the system holds for one connection, by default.
pub(crate) const UNSENT: usize = 64 * 1024;

/// Puts `address` before the error's text.
pub(crate) fn at(address: impl fmt::Display, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), AtAddress { address: address.to_string(), error })
}

/// An error of the system, with the address that it belongs to.
#[derive(Debug)]
pub(crate) struct AtAddress {
    address: String,
    error: io::Error,
}

impl AtAddress {
    pub(crate) fn into_inner(self) -> io::Error {
        self.error
    }
}

impl fmt::Display for AtAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.error)
    }
}

impl Error for AtAddress {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.error)
    }
}

/// Prepares a client's socket as [`prepare`] does, but the system does not drop a server that
/// answers and takes no bytes. The server may have stopped reading on purpose
/// (docs/protocol/limits.md, section 20), and the client has its own probe.
///
/// # Errors
/// Those of [`prepare`].
pub(crate) fn prepare_client(stream: &TcpStream) -> io::Result<()> {
    let set = stream.set_nodelay(true);
    set.and(SockRef::from(stream).set_tcp_keepalive(&probes(CLIENT)))
}

/// Prepares a socket. Written bytes are sent at once, because drivers write whole batches. A peer
/// that is gone from the network is noticed within `timeout`, whether or not there are bytes to
/// send. With `None`, the times of the system apply.
///
/// Linux also drops a peer that answers, but takes none of the waiting bytes for that time.
///
/// # Errors
/// The first error of the system. All options are tried even after an error.
pub(crate) fn prepare(stream: &TcpStream, timeout: Option<Duration>) -> io::Result<()> {
    let set = stream.set_nodelay(true);
    match timeout {
        Some(timeout) => set.and(watch(stream, timeout)),
        None => set,
    }
}

fn watch(stream: &TcpStream, timeout: Duration) -> io::Result<()> {
    let timeout = Duration::from_secs(timeout.as_secs().clamp(LEAST, LONGEST));
    let socket = SockRef::from(stream);
    socket.set_tcp_keepalive(&probes(timeout)).and(set_user_timeout(&socket, timeout))
}

/// An idle connection is probed after half of the timeout, and again after each further quarter.
fn probes(timeout: Duration) -> TcpKeepalive {
    let probes = TcpKeepalive::new().with_time(timeout / 2);
    #[cfg(any(
        target_os = "android",
        target_os = "freebsd",
        target_os = "illumos",
        target_os = "ios",
        target_os = "linux",
        target_os = "macos",
        target_os = "netbsd",
        target_os = "windows",
    ))]
    let probes = probes.with_interval(timeout / 4).with_retries(2);
    probes
}

/// Limits how long sent bytes may stay unacknowledged. Where the system has this option, it also
/// limits how long an idle connection may fail to answer probes.
#[cfg(any(target_os = "android", target_os = "linux"))]
fn set_user_timeout(socket: &SockRef<'_>, timeout: Duration) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(timeout))
}

#[cfg(not(any(target_os = "android", target_os = "linux")))]
fn set_user_timeout(_: &SockRef<'_>, _: Duration) -> io::Result<()> {
    Ok(())
}

/// Limits the unsent bytes that the system holds. The socket accepts no more bytes while it holds
/// `bytes` of them, and is writable again at half of that.
///
/// Without the limit, Linux buffers several megabytes for a peer that does not read. These bytes
/// are outside all limits of the connection, and each later line waits behind them. The socket is
/// writable again only when a third of them is sent, so a slow reader would look like a peer that
/// takes nothing.
///
/// # Errors
/// The system's.
#[cfg(any(target_os = "android", target_os = "linux"))]
pub(crate) fn limit_unsent(stream: &TcpStream, bytes: usize) -> io::Result<()> {
    SockRef::from(stream).set_tcp_notsent_lowat(option(bytes))
}

#[cfg(not(any(target_os = "android", target_os = "linux")))]
pub(crate) fn limit_unsent(_: &TcpStream, _: usize) -> io::Result<()> {
    Ok(())
}

/// As [`limit_unsent`], for a Unix socket. Its send buffer is the only buffer between the two ends.
///
/// # Errors
/// The system's.
#[cfg(unix)]
pub(crate) fn limit_unsent_unix(stream: &UnixStream, bytes: usize) -> io::Result<()> {
    // Linux doubles the value, to have room for its own bookkeeping.
    let doubled = usize::from(cfg!(any(target_os = "android", target_os = "linux")));
    let socket = SockRef::from(stream);
    if socket.send_buffer_size()? <= bytes {
        return Ok(());
    }
    socket.set_send_buffer_size(bytes >> doubled)
}

/// A number of bytes as the option's value, which is signed. The value 0 would select the system's
/// default.
#[cfg(any(target_os = "android", target_os = "linux"))]
fn option(bytes: usize) -> u32 {
    u32::try_from(bytes.clamp(1, i32::MAX as usize)).unwrap_or(u32::MAX)
}

#[cfg(all(test, any(target_os = "android", target_os = "linux")))]
pub(crate) mod tests {
    use socket2::Socket;
    use tokio::net::TcpListener;

    use super::*;

    /// The user timeout of a socket, its keep-alive time and its keep-alive interval; `None` if
    /// none is set.
    pub(crate) fn watched(socket: &Socket) -> Option<[Duration; 3]> {
        let timeout = socket.tcp_user_timeout().unwrap();
        assert_eq!(socket.keepalive().unwrap(), timeout.is_some());
        let [idle, interval] = [socket.tcp_keepalive_time(), socket.tcp_keepalive_interval()];
        Some([timeout?, idle.unwrap(), interval.unwrap()])
    }

    #[tokio::test]
    async fn socket_options_are_set() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        for (timeout, seconds) in [
            (Duration::from_secs(20), [20, 10, 5]),
            (Duration::from_millis(7_900), [7, 3, 1]),
            (Duration::ZERO, [4, 2, 1]),
            (Duration::MAX, [65_534, 32_767, 16_383]),
        ] {
            let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            prepare(&stream, None).unwrap();
            let socket = SockRef::from(&stream);
            assert!(stream.nodelay().unwrap());
            assert_eq!(watched(&socket), None);
            prepare(&stream, Some(timeout)).unwrap();
            assert_eq!(watched(&socket), Some(seconds.map(Duration::from_secs)), "{timeout:?}");
            assert_eq!(socket.tcp_keepalive_retries().unwrap(), 2);
        }
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        prepare_client(&stream).unwrap();
        let socket = SockRef::from(&stream);
        assert!(stream.nodelay().unwrap() && socket.keepalive().unwrap());
        assert_eq!(socket.tcp_keepalive_time().unwrap(), CLIENT / 2);
        assert_eq!(socket.tcp_user_timeout().unwrap(), None);
    }

    #[tokio::test]
    async fn kernel_unsent_bytes_are_limited() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (unix, _peer) = UnixStream::pair().unwrap();
        for (bytes, option) in [(UNSENT, 65_536), (0, 1), (usize::MAX, i32::MAX as u32)] {
            limit_unsent(&stream, bytes).unwrap();
            assert_eq!(SockRef::from(&stream).tcp_notsent_lowat().unwrap(), option);
        }
        for (bytes, buffer) in [(usize::MAX, 200_000), (UNSENT, 65_536), (UNSENT, 65_536)] {
            limit_unsent_unix(&unix, bytes).unwrap();
            let size = SockRef::from(&unix).send_buffer_size().unwrap();
            assert!(if bytes == UNSENT { size == buffer } else { size > buffer }, "{size}");
        }
    }
}
