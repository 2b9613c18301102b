//! What a subscription does about what was lost: goes on, fails, or has the application resynchronise.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll, ready},
};

use crate::{
    client::inbox::{Delivery, Gap, GapCause},
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
    Resync { callback: Callback, under_way: Option<(Delivery, Resyncing)> },
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
        Self::Resync { callback: Box::new(callback), under_way: None }
    }

    pub(crate) fn judge(&mut self, delivery: Delivery) -> Judged {
        let Some(position) = delivery.loss() else { return Judged::HandOver(delivery) };
        match self {
            Self::GoOn => Judged::HandOver(delivery),
            Self::Fail => Judged::Fail(delivery),
            Self::Resync { callback, under_way } => {
                let resyncing = callback(Loss { missed: delivery.clone(), position });
                *under_way = Some((delivery, resyncing));
                Judged::Held
            }
        }
    }

    /// Waits for the application, if it resynchronises: the loss that is made good, or, with `false`,
    /// is not.
    pub(crate) fn poll_resync(&mut self, cx: &mut Context<'_>) -> Poll<Option<(Delivery, bool)>> {
        let Self::Resync { under_way, .. } = self else { return Poll::Ready(None) };
        let Some((_, resyncing)) = under_way else { return Poll::Ready(None) };
        let done = ready!(resyncing.as_mut().poll(cx));
        if let Err(error) = &done {
            tracing::debug!(%error, "subscription could not be resynchronised");
        }
        Poll::Ready(under_way.take().map(|(loss, _)| (loss, done.is_ok())))
    }
}

impl Delivery {
    /// The position behind it, if it says that something was lost. What a subscription asked to be left
    /// out is none.
    fn loss(&self) -> Option<Position> {
        match self {
            Self::Gap(Gap { cause: GapCause::Server(code), .. }) if *code == Code::SLOW => None,
            Self::Gap(_) | Self::Reset { .. } => self.behind(),
            Self::Notification(_) | Self::End { .. } => None,
        }
    }
}
