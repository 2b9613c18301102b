//! What a subscription does about what was lost: goes on, fails, or has the application resynchronise.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crate::{
    client::{
        inbox::{Delivery, Gap, GapCause},
        link::LinkId,
    },
    guard::{Guarded, Held},
    protocol::{Code, Position},
};

/// What a subscription missed, and where it goes on: see
/// [`Subscribe::resync`](crate::Subscribe::resync).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Loss {
    /// A [`Delivery::Gap`] or a [`Delivery::Reset`].
    pub missed: Delivery,
    /// The next number to be handed over, in its log: what is fetched from now on knows of all below.
    pub position: Position,
}

type Resyncing = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;
type Callback = Box<dyn FnMut(Loss) -> Resyncing + Send>;

/// What the application chose.
#[derive(Default)]
pub(crate) enum OnLoss {
    /// The loss is an item among others.
    #[default]
    GoOn,
    /// The loss is the last item but the end.
    Fail,
    /// The application fetches anew what it needs, before anything else is handed over.
    Resync { callback: Held<Callback>, under_way: Option<Box<UnderWay>>, panic: Option<String> },
}

/// A loss that is being made good.
pub(crate) struct UnderWay {
    loss: Loss,
    resyncing: Guarded<Resyncing>,
    /// The connection on which it began, or the one that was awaited.
    link: LinkId,
}

/// What is to be done with a delivery.
pub(crate) enum Judged {
    /// Hand it over.
    HandOver(Delivery),
    /// Hand it over, and end.
    Fail(Delivery),
    /// It is being resynchronised.
    Held,
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
        let callback: Callback = Box::new(callback);
        Self::Resync { callback: Held::new(callback), under_way: None, panic: None }
    }

    /// What becomes of a delivery. `link` is the current connection, or the next one.
    pub(crate) fn judge(&mut self, delivery: Delivery, link: impl FnOnce() -> LinkId) -> Judged {
        let Some(position) = delivery.loss() else { return Judged::HandOver(delivery) };
        match self {
            Self::GoOn => Judged::HandOver(delivery),
            Self::Fail => Judged::Fail(delivery),
            Self::Resync { callback, under_way, .. } => {
                let (loss, link) = (Loss { missed: delivery, position }, link());
                let resyncing = Guarded::new(|| callback(loss.clone()));
                *under_way = Some(Box::new(UnderWay { loss, resyncing, link }));
                Judged::Held
            }
        }
    }

    /// Waits for the application, if it resynchronises: the loss that is made good, or, with `false`,
    /// is not. What failed since its connection was lost begins again on the next.
    pub(crate) fn poll_resync(
        &mut self,
        cx: &mut Context<'_>,
        link: impl Fn() -> LinkId,
    ) -> Poll<Option<(Delivery, bool)>> {
        let Self::Resync { callback, under_way, panic } = self else { return Poll::Ready(None) };
        let Some(trial) = under_way else { return Poll::Ready(None) };
        loop {
            match ready!(Pin::new(&mut trial.resyncing).poll(cx)) {
                Ok(Ok(())) => break,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "subscription could not be resynchronised");
                }
                Err(message) => *panic = Some(message),
            }
            let before = std::mem::replace(&mut trial.link, link());
            if trial.link == before {
                return Poll::Ready(under_way.take().map(|failed| (failed.loss.missed, false)));
            }
            let loss = trial.loss.clone();
            trial.resyncing = Guarded::new(|| callback(loss));
        }
        Poll::Ready(under_way.take().map(|done| (done.loss.missed, true)))
    }
}

impl OnLoss {
    /// The message of a panic of the application's code, once.
    pub(crate) fn take_panic(&mut self) -> Option<String> {
        match self {
            Self::Resync { panic, .. } => panic.take(),
            Self::GoOn | Self::Fail => None,
        }
    }
}

impl Delivery {
    /// The position behind it, if it says that something was lost. What a subscription asked to be left
    /// out is none.
    fn loss(&self) -> Option<Position> {
        match self {
            Self::Gap(Gap { cause: GapCause::Server(code), .. }) if *code == Code::SLOW => None,
            Self::Gap(_) | Self::Reset { .. } => self.behind(),
            Self::Notification(_) | Self::End { .. } | Self::Lost { .. } => None,
        }
    }
}
