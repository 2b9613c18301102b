//! Payloads: from the command line or stdin in, to stdout out.

use std::io::{IsTerminal, Read, Write, stdin, stdout};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use tokio::task::spawn_blocking;

use crate::{escape, failed::Failed, print::write_bytes};

/// More than any line of a server takes.
const MAX_STDIN: u64 = 64 << 20;

/// The payload of the command line: `-` is all of stdin, to the byte; `None` is no payload.
pub(crate) async fn read(argument: Option<String>) -> Result<Vec<u8>, Failed> {
    match argument.as_deref() {
        None => Ok(Vec::new()),
        Some("-") => spawn_blocking(read_stdin).await.map_err(Failed::other)?,
        Some(text) => Ok(text.as_bytes().to_vec()),
    }
}

fn read_stdin() -> Result<Vec<u8>, Failed> {
    let mut bytes = Vec::new();
    let read = stdin().lock().take(MAX_STDIN + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failed::other(format!("cannot read the payload from stdin: {error}")))?;
    match bytes.len() as u64 > MAX_STDIN {
        true => Err(Failed::usage("the payload on stdin is over 64 MiB").hint(
            "a line of the protocol is 64 KiB by default; send large data in parts, or by a file",
        )),
        false => Ok(bytes),
    }
}

/// How a payload is printed.
#[derive(Clone, Copy)]
pub(crate) enum Printed {
    /// To the byte, with nothing added.
    Raw,
    /// With a line feed behind it. On a terminal control characters are escaped.
    Line,
    /// As JSON, over several lines.
    PrettyJson,
    /// As JSON, on one line.
    JsonLine,
}

/// Prints a payload.
pub(crate) fn print(payload: &[u8], printed: Printed) -> Result<(), Failed> {
    match printed {
        Printed::Raw => write_bytes(payload),
        Printed::Line if stdout().is_terminal() => {
            println!("{}", escape::shown(payload, &['\n', '\t']));
        }
        Printed::Line => write_bytes(&[payload, b"\n"].concat()),
        Printed::PrettyJson => println!("{:#}", json(payload)?),
        Printed::JsonLine => println!("{}", json(payload)?),
    }
    Ok(())
}

/// An absent payload is `null`.
fn json(payload: &[u8]) -> Result<serde_json::Value, Failed> {
    let text = if payload.is_empty() { b"null" } else { payload };
    serde_json::from_slice(text).map_err(|error| {
        let shown = escape::cut(payload, 200);
        Failed::other(format!("the reply is not JSON: {error}: {shown}"))
            .hint("the method ran; call it without --json to see its reply")
    })
}

/// Checks the payload of a request that is to be JSON.
pub(crate) fn check_json(payload: &[u8]) -> Result<(), Failed> {
    if payload.is_empty() {
        return Ok(());
    }
    serde_json::from_slice::<serde::de::IgnoredAny>(payload).map(drop).map_err(|error| {
        Failed::usage(format!("the payload is not JSON: {error}")).hint(
            "quote it for the shell, as in '{\"id\":43}'; a JSON text needs its own quotes: '\"text\"'",
        )
    })
}

/// Waits until the reader of stdout has gone, as after `| head -1`. A command that writes seldom would
/// notice it only at its next write.
pub(crate) async fn reader_gone() {
    // The thread ends with the process.
    if !spawn_blocking(wait_for_reader_to_go).await.unwrap_or_default() {
        std::future::pending().await
    }
}

/// Returns whether the reader has gone. A file has none, so this never ends.
fn wait_for_reader_to_go() -> bool {
    let stdout = stdout();
    // Without events to wait for, only errors end it.
    let mut polled = [PollFd::new(&stdout, PollFlags::empty())];
    loop {
        match poll(&mut polled, None) {
            Ok(_) => return polled[0].revents().intersects(PollFlags::ERR | PollFlags::HUP),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Writes what is buffered on stdout.
pub(crate) fn flush() {
    if let Err(error) = stdout().flush() {
        crate::print::fail(&error);
    }
}
