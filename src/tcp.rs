//! What both ends set on a TCP socket: no delay, and how soon a peer that is gone is noticed.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// The least timeout, in seconds: a quarter of it is a time of keep-alive's, and those are whole
/// seconds, at least one.
const LEAST: u64 = 4;
/// The longest, in seconds: half of it is the longest time that Linux takes for keep-alive.
const LONGEST: u64 = 2 * 32_767;

/// How long a client's host may be gone from the network before an idle connection ends.
const CLIENT: Duration = Duration::from_secs(20);

/// Prepares a client's socket: as [`prepare`], but a server that answers and takes nothing is none of
/// the system's affair. It may have its reasons (PROTOCOL.md, section 12), and the client probes it.
///
/// # Errors
/// As of [`prepare`].
pub(crate) fn prepare_client(stream: &TcpStream) -> io::Result<()> {
    let set = stream.set_nodelay(true);
    set.and(SockRef::from(stream).set_tcp_keepalive(&probes(CLIENT)))
}

/// Prepares a socket: what is written leaves at once, since drivers write whole batches; and a peer
/// that is gone from the network is noticed within `timeout`, whether or not there is something to
/// tell it. With `None`, the system's own times hold.
///
/// Linux takes for gone, too, who answers and takes nothing of what is to be sent for so long.
///
/// # Errors
/// The first of the system's; all else was tried nevertheless.
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

/// An idle connection is probed after half the time, and again after each quarter.
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

/// How long what was sent may stay without an answer. Where there is such an option, it decides
/// about an idle connection too, once that is probed.
#[cfg(any(target_os = "android", target_os = "linux"))]
fn set_user_timeout(socket: &SockRef<'_>, timeout: Duration) -> io::Result<()> {
    socket.set_tcp_user_timeout(Some(timeout))
}

#[cfg(not(any(target_os = "android", target_os = "linux")))]
fn set_user_timeout(_: &SockRef<'_>, _: Duration) -> io::Result<()> {
    Ok(())
}

#[cfg(all(test, any(target_os = "android", target_os = "linux")))]
pub(crate) mod tests {
    use socket2::Socket;
    use tokio::net::TcpListener;

    use super::*;

    /// The user timeout of a socket, and the times after which it is probed, where it is watched.
    pub(crate) fn watched(socket: &Socket) -> Option<[Duration; 3]> {
        let timeout = socket.tcp_user_timeout().unwrap();
        assert_eq!(socket.keepalive().unwrap(), timeout.is_some());
        let [idle, interval] = [socket.tcp_keepalive_time(), socket.tcp_keepalive_interval()];
        Some([timeout?, idle.unwrap(), interval.unwrap()])
    }

    #[tokio::test]
    async fn a_socket_is_prepared() {
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
}
