//! A peer made of raw bytes: it writes and reads lines as they stand in a test.

#![allow(dead_code, reason = "each test crate uses its part")]

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};

/// How long a line may take: far above what any takes, on the real clock or a paused one.
const PATIENCE: Duration = Duration::from_secs(120);

type Io = Box<dyn Transport>;

trait Transport: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Transport for T {}

/// One end of a connection, by hand.
pub(crate) struct RawPeer {
    read: ReadHalf<Io>,
    write: WriteHalf<Io>,
    unread: Vec<u8>,
}

impl RawPeer {
    pub(crate) fn new(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Self {
        let (read, write) = tokio::io::split(Box::new(io) as Io);
        Self { read, write, unread: Vec::new() }
    }

    /// Writes a line, LF added, in one write.
    pub(crate) async fn send(&mut self, line: &str) {
        self.send_bytes(format!("{line}\n").as_bytes()).await;
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.write.write_all(bytes).await.unwrap();
        self.write.flush().await.unwrap();
    }

    /// Ends this side's direction of the stream.
    pub(crate) async fn finish(&mut self) {
        self.write.shutdown().await.unwrap();
    }

    /// The next line, without its LF.
    pub(crate) async fn line(&mut self) -> String {
        self.next_line().await.expect("the peer closed instead of writing a line")
    }

    /// The next line must be this one.
    #[track_caller]
    pub(crate) fn expect(&mut self, line: &str) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let got = self.next_line().await;
            assert_eq!(got.as_deref(), Some(line), "expected at {caller}");
        }
    }

    /// The next `count` bytes.
    pub(crate) async fn bytes(&mut self, count: usize) -> Vec<u8> {
        while self.unread.len() < count {
            assert!(self.fill().await, "the peer closed");
        }
        self.unread.drain(..count).collect()
    }

    /// The peer has closed, and wrote nothing before that.
    pub(crate) async fn expect_closed(&mut self) {
        let got = self.next_line().await;
        assert_eq!((got, self.unread.len()), (None, 0), "the peer did not just close");
    }

    /// Nothing is there to be read, once every other task has had its turns.
    pub(crate) async fn expect_silence(&mut self) {
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        let mut byte = [0];
        let read = self.read.read(&mut byte);
        let read = futures::poll!(std::pin::pin!(read));
        assert!(read.is_pending() && self.unread.is_empty(), "the peer wrote {byte:?}");
    }

    async fn next_line(&mut self) -> Option<String> {
        loop {
            if let Some(lf) = self.unread.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=lf).take(lf).collect();
                return Some(String::from_utf8(line).unwrap());
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    /// Reads what is there; whether the stream goes on.
    async fn fill(&mut self) -> bool {
        let read = self.read.read_buf(&mut self.unread);
        let read = tokio::time::timeout(PATIENCE, read).await;
        // A peer that closes with bytes of ours unread resets the connection.
        read.expect("the peer wrote nothing").is_ok_and(|count| count > 0)
    }
}
