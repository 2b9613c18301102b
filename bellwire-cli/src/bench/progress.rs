//! The progress bar.

use std::{
    io::{IsTerminal, stderr, stdout},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressStyle};
use tokio::{task::JoinHandle, time::interval};

use crate::bench::args::Args;

const REDRAW: Duration = Duration::from_millis(100);

/// A bar over the measured time, until it is dropped; nothing without a terminal.
#[derive(Debug)]
pub(crate) struct Progress(Option<(ProgressBar, JoinHandle<()>)>);

impl Progress {
    pub(crate) fn start(args: &Args) -> Self {
        let is_watched = !args.json && stdout().is_terminal() && stderr().is_terminal();
        Self(is_watched.then(|| {
            let bar = new_bar(args);
            let task = tokio::spawn(advance(bar.clone()));
            (bar, task)
        }))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((bar, task)) = self.0.take() {
            task.abort();
            bar.finish_and_clear();
        }
    }
}

/// The number of completed requests is known only at the end, so a run with `--requests` shows no
/// percentage.
fn new_bar(args: &Args) -> ProgressBar {
    if args.requests.is_some() {
        return ProgressBar::new_spinner().with_message("calling");
    }
    let style = ProgressStyle::with_template("{bar:40} {elapsed} of {msg}");
    ProgressBar::new(args.duration().as_millis() as u64)
        .with_style(style.expect("the template is a constant"))
        .with_message(format!("{} s", args.duration().as_secs_f64()))
}

async fn advance(bar: ProgressBar) {
    let mut ticks = interval(REDRAW);
    loop {
        ticks.tick().await;
        match bar.length() {
            Some(length) => bar.set_position(length.min(bar.elapsed().as_millis() as u64)),
            None => bar.tick(),
        }
    }
}
