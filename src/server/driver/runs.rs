//! The tasks of the keyed runs, which belong to the server and to no connection.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use tokio::sync::watch;

use crate::{
    protocol::Time,
    server::{driver::serving::Serving, keys::runs::DetachedRun},
    sync::Arc,
};

/// Drives a run to its end. When `cut` becomes true, the run is told to end.
pub(in crate::server) async fn drive(
    mut run: DetachedRun,
    serving: Arc<Serving>,
    mut cut: watch::Receiver<bool>,
) {
    let mut cut = pin!(async {
        if cut.wait_for(|is_cut| *is_cut).await.is_err() {
            // The server is dropped, and this task with it.
            std::future::pending::<()>().await;
        }
    });
    let (mut is_cut, mut timer) = (false, RunTimer { serving: &serving, set: None });
    poll_fn(|cx| {
        if !is_cut && cut.as_mut().poll(cx).is_ready() {
            is_cut = true;
            run.end();
        }
        loop {
            if run.poll(cx, serving.timers.now()).is_ready() {
                return Poll::Ready(());
            }
            let Some(at) = run.next_timeout() else { return Poll::Pending };
            if timer.poll(at, cx).is_pending() {
                return Poll::Pending;
            }
        }
    })
    .await;
}

type Sleeping<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// The timer of a run, which is set to another time with each stage of the run.
struct RunTimer<'a> {
    serving: &'a Serving,
    set: Option<(Time, Sleeping<'a>)>,
}

impl RunTimer<'_> {
    /// Ready at the time `at`.
    fn poll(&mut self, at: Time, cx: &mut Context<'_>) -> Poll<()> {
        if self.set.as_ref().is_none_or(|(set, _)| *set != at) {
            self.set = Some((at, Box::pin(self.serving.timers.sleep_until(at))));
        }
        let Some((_, sleep)) = &mut self.set else { return Poll::Pending };
        let polled = sleep.as_mut().poll(cx);
        if polled.is_ready() {
            self.set = None;
        }
        polled
    }
}
