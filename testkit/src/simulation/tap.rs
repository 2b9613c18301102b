//! The wire as the client's end sees it: a transport that records the lines that pass.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::recorder::Recorder;
use crate::{
    history::Line,
    lines::{LineReader, Way},
};

/// A client's transport. A written line is recorded before the server can get it, and a read line
/// before the client gets it.
pub(crate) struct Tapped<T> {
    io: T,
    to_server: LineReader,
    to_client: LineReader,
    recorder: Recorder,
    connection: u64,
}

impl<T> Tapped<T> {
    pub(crate) fn new(io: T, recorder: Recorder) -> Self {
        let (to_server, to_client) =
            (LineReader::new(Way::ToServer), LineReader::new(Way::ToClient));
        let connection = recorder.number();
        Self { io, to_server, to_client, recorder, connection }
    }
}

/// The client has dropped the connection, whatever is still in transit.
impl<T> Drop for Tapped<T> {
    fn drop(&mut self) {
        self.recorder.wire(self.connection, Line::Closed);
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Tapped<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        let (recorder, connection) = (&this.recorder, this.connection);
        this.to_client.pass(&buf.filled()[before..], |line| recorder.wire(connection, line));
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Tapped<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let count = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        let (recorder, connection) = (&this.recorder, this.connection);
        this.to_server.pass(&bytes[..count], |line| recorder.wire(connection, line));
        Poll::Ready(Ok(count))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
