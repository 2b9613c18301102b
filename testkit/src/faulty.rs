//! A transport that fails at a chosen byte, or stutters all the time.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker, ready},
};

use bellwire::{Listener, server::PeerAddr};
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf},
    sync::mpsc,
};

/// What happens once this many bytes have passed, counting both directions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing.
    None,
    /// Reads and writes fail.
    Reset,
    /// Writes take nothing, and reads return the end of the stream.
    Zero,
    /// Reads and writes are pending for ever, and wake no task.
    Stuck,
}

/// The most polls of its transport that a connection may need for one session of these tests. A
/// connection with more polls wakes itself without a reason.
const PATIENCE: usize = 100_000;

/// A pipe with a fault.
pub struct FaultyIo {
    io: DuplexStream,
    fault: Fault,
    /// Bytes that pass before the fault.
    left: usize,
    /// Passes one byte at a time, interrupts every third attempt, and defers every fifth.
    stutters: bool,
    attempts: usize,
    polls: Arc<AtomicUsize>,
    /// The task that waits to read. It is woken when a write breaks the transport.
    reader: Option<Waker>,
}

impl FaultyIo {
    pub fn new(io: DuplexStream, fault: Fault, at: usize) -> Self {
        let polls = Arc::default();
        Self { io, fault, left: at, stutters: false, attempts: 0, polls, reader: None }
    }

    pub fn stuttering(mut self) -> Self {
        self.stutters = true;
        self
    }

    /// A counter of the polls.
    pub fn polls(&self) -> Arc<AtomicUsize> {
        self.polls.clone()
    }

    /// Whether it gets stuck.
    pub fn is_stuck(&self) -> bool {
        self.fault == Fault::Stuck
    }

    /// How many bytes may pass now, or an error or a wait of the transport itself.
    fn admit(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let polls = self.polls.fetch_add(1, Ordering::Relaxed);
        assert!(polls < PATIENCE, "the connection is polled without end");
        self.attempts += 1;
        match self.fault {
            Fault::Reset if self.left == 0 => {
                Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
            }
            Fault::Zero if self.left == 0 => Poll::Ready(Ok(0)),
            Fault::Stuck if self.left == 0 => Poll::Pending,
            _ if !self.stutters => Poll::Ready(Ok(self.left)),
            _ if self.attempts.is_multiple_of(3) => {
                Poll::Ready(Err(io::ErrorKind::Interrupted.into()))
            }
            _ if self.attempts.is_multiple_of(5) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            _ => Poll::Ready(Ok(self.left.min(1))),
        }
    }

    fn pass(&mut self, bytes: usize) {
        if self.fault == Fault::None {
            return;
        }
        self.left -= bytes;
        if self.left == 0
            && self.fault != Fault::Stuck
            && let Some(reader) = self.reader.take()
        {
            reader.wake();
        }
    }
}

impl AsyncRead for FaultyIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        this.reader = Some(cx.waker().clone());
        let room = ready!(this.admit(cx))?.min(buf.remaining());
        if room == 0 {
            return Poll::Ready(Ok(()));
        }
        let mut some = buf.take(room);
        ready!(Pin::new(&mut this.io).poll_read(cx, &mut some))?;
        let read = some.filled().len();
        buf.advance(read);
        this.pass(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for FaultyIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let room = ready!(this.admit(cx))?.min(bytes.len());
        if room == 0 {
            return Poll::Ready(Ok(0));
        }
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, &bytes[..room]))?;
        this.pass(written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.fault {
            Fault::Stuck if self.left == 0 => Poll::Pending,
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.fault {
            Fault::Stuck if self.left == 0 => Poll::Pending,
            _ => Pin::new(&mut self.get_mut().io).poll_shutdown(cx),
        }
    }
}

/// Such transports, which a test creates.
pub struct Faulty(pub mpsc::UnboundedReceiver<FaultyIo>);

impl Listener for Faulty {
    type Io = FaultyIo;

    async fn accept(&mut self) -> io::Result<(FaultyIo, PeerAddr)> {
        match self.0.recv().await {
            Some(io) => Ok((io, PeerAddr::Other("faulty".into()))),
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<PeerAddr> {
        Ok(PeerAddr::Other("faulty".into()))
    }
}
