//! When to stop: Ctrl-C, or SIGTERM.

use std::io;

use tokio::signal::unix::{SignalKind, signal};

/// Ends at the first of these signals from now on, which then no longer end the process.
pub(crate) fn stop() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut interrupted = signal(SignalKind::interrupt())?;
    let mut terminated = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupted.recv() => {}
            _ = terminated.recv() => {}
        }
    })
}
