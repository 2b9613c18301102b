//! The opening handshake, as a server reads it from a transport and answers it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    sync::Arc,
    ws_stream::{
        head::{Head, Read},
        limits::WsConfig,
        outgoing::Outgoing,
        request::{Refusal, check_request},
    },
};

/// The most bytes that are read, and ignored, after a request was refused. A transport that is
/// dropped with unread bytes may lose the response.
const MAX_IGNORED: usize = 64 * 1024;

/// A handshake in progress.
#[derive(Debug)]
pub(super) struct Opening {
    config: Arc<WsConfig>,
    head: Head,
    refused: Option<Refused>,
}

/// A request whose refusal is being written.
#[derive(Debug)]
struct Refused {
    refusal: Refusal,
    response: Outgoing,
    is_shut: bool,
    ignored: usize,
}

/// An accepted handshake.
pub(super) struct Opened {
    /// The response, which has to be written first.
    pub(super) response: Vec<u8>,
    /// What the client has sent behind its request.
    pub(super) rest: Vec<u8>,
    pub(super) max_message: u64,
}

impl Opening {
    pub(super) fn new(config: Arc<WsConfig>) -> Self {
        Self { config, head: Head::new(b"GET "), refused: None }
    }

    /// Reads the request and checks it. A refusal is written and then returned as an error.
    pub(super) fn poll<T: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Opened>> {
        loop {
            if let Some(refused) = &mut self.refused {
                ready!(refused.poll(io, cx))?;
                return Poll::Ready(Err(io::Error::other(refused.refusal)));
            }
            let max_head = self.config.get_max_head();
            let checked = match ready!(self.head.poll_read(max_head, io, cx))? {
                Read::TooLong => Err(Refusal::TooLong),
                Read::Foreign => Err(Refusal::Malformed),
                Read::Whole { head, rest } => {
                    check_request(&head, &self.config).map(|accepted| (accepted, rest))
                }
            };
            match checked {
                Ok((accepted, rest)) => {
                    let response = accepted.response().into_bytes();
                    let max_message = self.config.get_max_message();
                    return Poll::Ready(Ok(Opened { response, rest, max_message }));
                }
                Err(refusal) => self.refused = Some(Refused::new(refusal)),
            }
        }
    }
}

impl Refused {
    fn new(refusal: Refusal) -> Self {
        let response = Outgoing::raw(refusal.response().into_bytes());
        Self { refusal, response, is_shut: false, ignored: 0 }
    }

    /// Writes the response, and then ignores what the client sends until it closes.
    fn poll<T: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        io: &mut T,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.is_shut {
            ready!(self.response.poll_write(io, cx, || None))?;
            ready!(Pin::new(&mut *io).poll_shutdown(cx))?;
            self.is_shut = true;
        }
        let count = ready!(poll_ignore(io, cx))?;
        self.ignored = if count == 0 { MAX_IGNORED } else { self.ignored + count };
        match self.ignored < MAX_IGNORED {
            true => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            false => Poll::Ready(Ok(())),
        }
    }
}

/// Reads and ignores some bytes. Returns their number.
pub(super) fn poll_ignore<T: AsyncRead + Unpin>(
    io: &mut T,
    cx: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    let mut ignored = [0; 1024];
    let mut ignored = ReadBuf::new(&mut ignored);
    ready!(Pin::new(&mut *io).poll_read(cx, &mut ignored))?;
    Poll::Ready(Ok(ignored.filled().len()))
}
