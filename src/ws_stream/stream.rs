//! The byte stream of a WebSocket: lines in binary messages, over a transport.

use std::{
    fmt, io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};

use crate::{
    random::Random,
    sync::Arc,
    ws_stream::{
        decoder::{Decoder, Step},
        frame::{Fault, Opcode, Role},
        limits::WsConfig,
        opening::{Opened, Opening, poll_ignore},
        outgoing::{Outgoing, next_frame},
        overhead::Overhead,
    },
};

/// Reads without a payload byte in one poll, after which other tasks have their turn. A peer may
/// send any number of empty frames and pings.
const ROUNDS: usize = 8;
/// How long a peer that has broken the protocol has to close its direction. A transport that is
/// dropped with unread bytes may lose the close frame.
const LINGER: Duration = Duration::from_secs(1);
/// The code of a connection that ends in order.
const NORMAL: u16 = 1000;
/// The code of a peer that goes away, such as a page that is left.
const GOING_AWAY: u16 = 1001;

/// The byte stream of a WebSocket (docs/protocol/websocket.md, section 24).
///
/// Reading yields the payload of binary messages, as it arrives. Writing puts as many whole lines
/// as it is given into one message, in frames of at most 16 KiB. A line that is longer takes
/// several frames. Shutting down sends a close frame. Pings are answered while it is read or
/// written.
///
/// One task has to read and write it: of two tasks that wait, only one might be woken.
///
/// Nothing but unwritten frames is buffered: one frame, and 1 KiB of pongs.
pub struct WsStream<T> {
    io: T,
    /// Boxed, because an open connection spends nearly all its time idle.
    state: Box<State>,
}

struct State {
    role: Role,
    /// `None` once it is over.
    opening: Option<Opening>,
    decoder: Decoder,
    /// Bytes that came with the opening handshake.
    early: Vec<u8>,
    /// The last byte of the message that is being received.
    last_byte: Option<u8>,
    reading: Reading,
    overhead: Overhead,
    outgoing: Outgoing,
    /// Whether a message was begun and not ended.
    is_within_message: bool,
    /// Whether the close frame was queued. Nothing is sent behind it.
    is_closing: bool,
    /// Whether the transport was shut down.
    is_shut: bool,
    linger: Option<Pin<Box<Sleep>>>,
    /// The source of a client's masks.
    masks: Option<Random>,
}

/// What reading gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    Open,
    /// The peer has sent a close frame.
    Closed(Option<u16>),
    /// The transport has ended.
    Ended,
    /// The peer has broken the protocol.
    Failed(Fault),
}

impl<T> WsStream<T> {
    /// The server's end of a connection whose opening handshake is still to be read.
    pub(crate) fn accepting(io: T, config: Arc<WsConfig>) -> Self {
        let max_message = config.get_max_message();
        let mut stream = Self::opened(io, Role::Server, max_message, Vec::new());
        stream.state.opening = Some(Opening::new(config));
        stream
    }

    /// An end of a connection that is open. `early` was read with the opening handshake.
    pub(crate) fn opened(io: T, role: Role, max_message: u64, early: Vec<u8>) -> Self {
        let state = State {
            role,
            opening: None,
            decoder: Decoder::new(role, max_message),
            early,
            last_byte: None,
            reading: Reading::Open,
            overhead: Overhead::default(),
            outgoing: Outgoing::default(),
            is_within_message: false,
            is_closing: false,
            is_shut: false,
            linger: None,
            masks: None,
        };
        Self { io, state: Box::new(state) }
    }

    /// Sets the source of masks, which a client needs.
    pub(crate) fn with_masks(mut self, random: Random) -> Self {
        self.state.masks = Some(random);
        self
    }

    /// The transport.
    pub fn get_ref(&self) -> &T {
        &self.io
    }

    /// The transport, for its own handshake.
    pub(crate) fn transport(&mut self) -> &mut T {
        &mut self.io
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> WsStream<T> {
    /// Continues the opening handshake of a server.
    ///
    /// # Errors
    /// The transport's, or the [`Refusal`](crate::ws::Refusal), which was then written.
    pub(crate) fn poll_open(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(opening) = &mut self.state.opening else { return Poll::Ready(Ok(())) };
        let opened = ready!(opening.poll(&mut self.io, cx));
        let Opened { response, rest, max_message } = opened?;
        self.state.opening = None;
        self.state.early = rest;
        self.state.outgoing = Outgoing::raw(response);
        self.state.decoder = Decoder::new(self.state.role, max_message);
        Poll::Ready(Ok(()))
    }

    fn poll_outgoing(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let State { outgoing, masks, .. } = &mut *self.state;
        outgoing.poll_write(&mut self.io, cx, || next_mask(masks.as_ref()))
    }

    /// Writes what the transport takes. An error is found again by the next write.
    fn write_some(&mut self, cx: &mut Context<'_>) {
        if !self.state.outgoing.is_empty() && matches!(self.poll_outgoing(cx), Poll::Ready(Ok(())))
        {
            let _ = Pin::new(&mut self.io).poll_flush(cx);
        }
    }

    /// Reads once into `buffer`, and leaves the payload in it.
    fn poll_some(
        &mut self,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let begin = buffer.filled().len();
        let state = &mut *self.state;
        match state.early.is_empty() {
            true => {
                ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
                if buffer.filled().len() == begin {
                    state.reading = Reading::Ended;
                }
            }
            false => {
                let count = state.early.len().min(buffer.remaining());
                buffer.put_slice(state.early.get(..count).unwrap_or_default());
                state.early.drain(..count);
                if state.early.is_empty() {
                    state.early = Vec::new();
                }
            }
        }
        let bytes = buffer.filled_mut().get_mut(begin..).unwrap_or_default();
        let count = state.decode(bytes);
        state.overhead.count(bytes.len(), count);
        buffer.set_filled(begin + count);
        Poll::Ready(Ok(()))
    }

    /// What reading gives once nothing more comes.
    fn after_last(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let is_expected = self.state.is_closing;
        let is_client = self.state.role == Role::Client;
        match self.state.reading {
            Reading::Closed(_) if is_expected => Poll::Ready(Ok(())),
            Reading::Closed(code) => {
                self.state.close(code.unwrap_or(NORMAL));
                self.write_some(cx);
                match is_client && matches!(code, None | Some(NORMAL | GOING_AWAY)) {
                    true => Poll::Ready(Ok(())),
                    false => Poll::Ready(Err(closed_by_peer(code))),
                }
            }
            Reading::Failed(fault) if is_client => {
                self.state.close(fault.code());
                self.write_some(cx);
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, fault)))
            }
            // What was read before the fault is still answered.
            Reading::Failed(_) => Poll::Ready(Ok(())),
            Reading::Ended if is_client || is_expected => Poll::Ready(Ok(())),
            Reading::Ended | Reading::Open => Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
        }
    }

    /// Ignores what a peer still sends after a fault, until it closes or its time is over.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let linger = self.state.linger.get_or_insert_with(|| Box::pin(sleep(LINGER)));
        if linger.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        for _ in 0..ROUNDS {
            match ready!(poll_ignore(&mut self.io, cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl State {
    /// Decodes bytes, and moves the payload to their beginning. Returns its length.
    fn decode(&mut self, bytes: &mut [u8]) -> usize {
        let (mut at, mut payload) = (0, 0);
        while at < bytes.len() && self.reading == Reading::Open {
            let (taken, step) = match self.decoder.step(&mut bytes[at..]) {
                Ok(step) => step,
                Err(fault) => {
                    self.reading = Reading::Failed(fault);
                    break;
                }
            };
            match step {
                Step::Data { range, is_end, .. } => {
                    let range = at + range.start..at + range.end;
                    self.last_byte = bytes[range.clone()].last().copied().or(self.last_byte);
                    let length = range.len();
                    if !self.is_closing {
                        bytes.copy_within(range, payload);
                        payload += length;
                    }
                    if is_end && self.last_byte.take() != Some(b'\n') {
                        self.reading = Reading::Failed(Fault::PartialLine);
                    }
                }
                Step::Ping(ping) if !self.is_closing => {
                    let masks = self.masks.as_ref();
                    self.outgoing.pong(ping, || next_mask(masks));
                }
                Step::Close(code) => self.reading = Reading::Closed(code),
                Step::More | Step::Ping(_) | Step::Pong => {}
            }
            at += taken;
        }
        payload
    }

    /// Queues the close frame.
    fn close(&mut self, code: u16) {
        if !self.is_closing {
            self.is_closing = true;
            let mask = next_mask(self.masks.as_ref());
            self.outgoing.push(Opcode::Close, true, &code.to_be_bytes(), mask);
        }
    }

    /// Queues a data frame of as many whole lines as it may have. Returns how many bytes it takes.
    fn push(&mut self, bytes: &[u8]) -> usize {
        let (count, is_last) = next_frame(bytes);
        let opcode = if self.is_within_message { Opcode::Continuation } else { Opcode::Binary };
        let mask = next_mask(self.masks.as_ref());
        self.outgoing.push(opcode, is_last, bytes.get(..count).unwrap_or_default(), mask);
        self.is_within_message = !is_last;
        count
    }
}

/// The next mask of a client. A server has none.
fn next_mask(masks: Option<&Random>) -> Option<[u8; 4]> {
    let [a, b, c, d, ..] = masks?.next_u64().to_ne_bytes();
    Some([a, b, c, d])
}

fn closed_by_peer(code: Option<u16>) -> io::Error {
    let text = match code {
        Some(code) => format!("the peer closed the WebSocket, with the code {code}"),
        None => "the peer closed the WebSocket".to_owned(),
    };
    io::Error::new(io::ErrorKind::ConnectionAborted, text)
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for WsStream<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_open(cx))?;
        let begin = buffer.filled().len();
        for _ in 0..ROUNDS {
            if this.state.reading != Reading::Open {
                return this.after_last(cx);
            }
            let read = match this.state.overhead.poll_pause(cx) {
                Poll::Ready(()) => this.poll_some(cx, buffer)?,
                Poll::Pending => Poll::Pending,
            };
            this.write_some(cx);
            ready!(read);
            if buffer.filled().len() > begin {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncWrite for WsStream<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_open(cx))?;
        if this.state.is_closing {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // Only one data frame waits.
        ready!(this.poll_outgoing(cx))?;
        if bytes.is_empty() {
            return Poll::Ready(Ok(0));
        }
        let count = this.state.push(bytes);
        match this.poll_outgoing(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(count)),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_open(cx))?;
        ready!(this.poll_outgoing(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.state.is_shut {
            ready!(this.poll_open(cx))?;
            this.state.close(match this.state.reading {
                Reading::Failed(fault) => fault.code(),
                _ => NORMAL,
            });
            ready!(this.poll_outgoing(cx))?;
            ready!(Pin::new(&mut this.io).poll_shutdown(cx))?;
            this.state.is_shut = true;
        }
        if matches!(this.state.reading, Reading::Failed(_)) {
            ready!(this.poll_linger(cx));
        }
        Poll::Ready(Ok(()))
    }
}

impl<T> fmt::Debug for WsStream<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let State { role, reading, is_closing, .. } = &*self.state;
        f.debug_struct("WsStream")
            .field("role", role)
            .field("reading", reading)
            .field("is_closing", is_closing)
            .finish_non_exhaustive()
    }
}
