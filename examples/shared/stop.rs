//! When to stop: Ctrl-C, or SIGTERM.

use std::io;

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

/// The signals that stop a program. While this exists, they do not end the program by themselves.
pub(crate) struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    pub(crate) fn new() -> io::Result<Self> {
        let (interrupt, terminate) = (SignalKind::interrupt(), SignalKind::terminate());
        Ok(Self { interrupt: signal(interrupt)?, terminate: signal(terminate)? })
    }

    /// Waits for the next signal. The first one asks a program to end, the second to end without
    /// waiting.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }

    /// Waits for the first signal, which drops `drain`, and then for the second.
    #[allow(dead_code, reason = "for servers")]
    pub(crate) async fn until_second(mut self, drain: oneshot::Sender<()>) {
        self.next().await;
        drop(drain);
        self.next().await;
    }
}
