//! A transport that prints the lines that pass.

use std::{
    io::{self, IsTerminal},
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Passes bytes on, and prints each whole line: `C:` if written, `S:` if read.
pub(crate) struct Wire<T> {
    io: T,
    written: Lines,
    read: Lines,
}

impl<T> Wire<T> {
    pub(crate) fn new(io: T) -> Self {
        let lines = |mark, color| Lines { mark, color, unfinished: Vec::new() };
        Self { io, written: lines("C:", "36"), read: lines("S:", "32") }
    }
}

/// The lines of one direction.
struct Lines {
    mark: &'static str,
    color: &'static str,
    unfinished: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8]) {
        self.unfinished.extend_from_slice(bytes);
        while let Some(end) = self.unfinished.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.unfinished.drain(..=end).collect();
            println!("   {} {}", paint(self.color, self.mark), shown(&line[..end]));
        }
    }
}

/// Makes text of a peer safe for a terminal, and keeps JSON readable.
fn shown(line: &[u8]) -> String {
    let mut shown = String::new();
    for char in String::from_utf8_lossy(line).chars() {
        match char.is_control() {
            true => shown.extend(char.escape_default()),
            false => shown.push(char),
        }
    }
    shown
}

/// Text in an ANSI color, on a terminal.
pub(crate) fn paint(color: &str, text: &str) -> String {
    static COLORS: LazyLock<bool> = LazyLock::new(|| {
        io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty())
    });
    match *COLORS {
        true => format!("\x1b[{color}m{text}\x1b[0m"),
        false => text.to_owned(),
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Wire<T> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.io).poll_read(cx, buf))?;
        this.read.feed(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Wire<T> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = ready!(Pin::new(&mut this.io).poll_write(cx, bytes))?;
        this.written.feed(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().io).poll_shutdown(cx)
    }
}
