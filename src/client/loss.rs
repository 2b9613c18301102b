//! What a subscription does after a loss: it goes on, fails, or lets the application resynchronise.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crate::{
    client::{
        core::{delivery::Delivery, key::LinkId},
        shared::Shared,
        timer::Timer,
    },
    guard::{Guarded, Held, guarded},
    protocol::{Position, Repeats, Time},
};

/// What a subscription missed, and where it goes on: see
/// [`Subscribe::resync`](crate::Subscribe::resync).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// A [`Delivery::Gap`] or a [`Delivery::Reset`].
    pub missed: Delivery,
    /// The next number that is handed over, in its log. State that is fetched from now on includes
    /// everything below it.
    pub position: Position,
}

impl Loss {
    /// Creates a loss, for tests of [`resync`](crate::Subscribe::resync) callbacks.
    pub fn new(missed: Delivery, position: Position) -> Self {
        Self { missed, position }
    }
}

type Resyncing = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
type Callback = Box<dyn FnMut(Loss) -> Resyncing + Send>;

/// The reaction that the application has chosen.
#[derive(Default)]
pub(crate) enum OnLoss {
    /// The loss is handed over, and the subscription goes on.
    #[default]
    GoOn,
    /// The loss is handed over, and the subscription ends.
    Fail,
    /// The application fetches its state again, and nothing is handed over meanwhile.
    Resync(Box<Resync>),
}

/// The application's callback, and its state.
pub(crate) struct Resync {
    callback: Held<Callback>,
    under_way: Option<UnderWay>,
    panic: Option<String>,
    /// When the callback was last called, and how often in a row (docs/protocol/reconnecting.md,
    /// section 14).
    called: Option<Time>,
    repeats: Repeats,
}

/// A loss for which the callback is running or will be called.
struct UnderWay {
    loss: Loss,
    pause: Option<Timer>,
    /// The running callback, once the pause is over, and the link that was current when it began.
    resyncing: Option<(Guarded<Resyncing>, LinkId)>,
}

/// What to do with a delivery.
pub(crate) enum Judged {
    /// Hand it over.
    HandOver,
    /// Hand it over, and end.
    Fail,
    /// Let the application resynchronise. The subscription goes on at this position.
    Resync(Position),
}

impl OnLoss {
    pub(crate) fn resync<F, Fut, E>(mut callback: F) -> Self
    where
        F: FnMut(Loss) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        let callback = move |loss| -> Resyncing {
            let resyncing = callback(loss);
            Box::pin(async move { resyncing.await.map_err(|error| error.to_string()) })
        };
        let callback = Held::new(Box::new(callback) as Callback);
        let (under_way, panic, called, repeats) = (None, None, None, Repeats::default());
        Self::Resync(Box::new(Resync { callback, under_way, panic, called, repeats }))
    }

    /// Decides what to do with a delivery.
    pub(crate) fn judge(&self, delivery: &Delivery) -> Judged {
        match (delivery.loss(), self) {
            (None, _) | (Some(_), Self::GoOn) => Judged::HandOver,
            (Some(_), Self::Fail) => Judged::Fail,
            (Some(position), Self::Resync(_)) => Judged::Resync(position),
        }
    }

    /// Begins to resynchronise after a loss. The subscription goes on at `position`.
    pub(crate) fn hold(&mut self, missed: Delivery, position: Position, shared: &Shared) {
        if let Self::Resync(resync) = self {
            let (loss, pause) = (Loss { missed, position }, resync.pause(shared));
            resync.under_way = Some(UnderWay { loss, pause, resyncing: None });
        }
    }

    /// Waits until the application has resynchronised. Returns the loss, and whether it succeeded.
    /// If the callback fails and its connection was lost meanwhile, it is called again.
    pub(crate) fn poll_resync(
        &mut self,
        cx: &mut Context<'_>,
        shared: &Shared,
    ) -> Poll<Option<(Delivery, bool)>> {
        match self {
            Self::Resync(resync) => resync.poll(cx, shared),
            Self::GoOn | Self::Fail => Poll::Ready(None),
        }
    }
}

impl Resync {
    fn poll(&mut self, cx: &mut Context<'_>, shared: &Shared) -> Poll<Option<(Delivery, bool)>> {
        loop {
            let Some(trial) = &mut self.under_way else { return Poll::Ready(None) };
            if let Some(pause) = &mut trial.pause {
                // Once the client has ended, the runtime of the timer may be gone.
                if shared.refusal().is_none() {
                    ready!(pause.poll(cx));
                }
                trial.pause = None;
            }
            let (resyncing, link) = trial.resyncing.get_or_insert_with(|| {
                self.called = Some(shared.now());
                (Guarded::new(|| (self.callback)(trial.loss.clone())), shared.current_link())
            });
            match ready!(Pin::new(resyncing).poll(cx)) {
                Ok(Ok(())) => break,
                Ok(Err(error)) => {
                    guarded(|| tracing::debug!(%error, "subscription could not be resynchronised"));
                }
                Err(message) => self.panic = Some(message),
            }
            if *link == shared.current_link() {
                return Poll::Ready(
                    self.under_way.take().map(|failed| (failed.loss.missed, false)),
                );
            }
            let pause = self.pause(shared);
            if let Some(trial) = &mut self.under_way {
                (trial.pause, trial.resyncing) = (pause, None);
            }
        }
        Poll::Ready(self.under_way.take().map(|done| (done.loss.missed, true)))
    }

    /// The pause before the next call, if the last one was recent.
    fn pause(&mut self, shared: &Shared) -> Option<Timer> {
        let config = &shared.config;
        let since = self.called?.until(shared.now());
        self.repeats.lasted(since, config.backoff());
        if since >= config.reconnect_stable {
            return None;
        }
        shared.timer(self.repeats.pause(config.backoff(), config.random.next_u64()))
    }
}

impl OnLoss {
    /// The message of a panic of the callback, once.
    pub(crate) fn take_panic(&mut self) -> Option<String> {
        match self {
            Self::Resync(resync) => resync.panic.take(),
            Self::GoOn | Self::Fail => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::config::ClientConfig;

    /// After a time without a loss, the callback is called at once, and the pauses begin with the
    /// first window.
    #[tokio::test(start_paused = true)]
    async fn backoff_restarts_after_a_time_without_a_loss() {
        let shared = Shared::of_one(ClientConfig::new());
        let OnLoss::Resync(mut resync) = OnLoss::resync(async |_| Ok::<_, String>(())) else {
            panic!("it resynchronises")
        };
        assert!(resync.pause(&shared).is_none(), "it was never called");
        resync.called = Some(shared.now());
        for level in 1..4 {
            assert!(resync.pause(&shared).is_some());
            assert_eq!(resync.repeats.level(), level);
        }
        tokio::time::advance(shared.config.reconnect_stable).await;
        assert!(resync.pause(&shared).is_none());
        assert_eq!(resync.repeats.level(), 0);
    }
}
