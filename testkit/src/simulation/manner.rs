//! How a subscriber reads a topic: on which terms, how fast, and what it does about a loss.

use std::time::Duration;

use bellwire::{Delivery, Gap, GapCause, Slow, Subscribe};
use fastrand::Rng;

use super::{callers::ask, client::User};
use crate::recorder::told;

#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// How long the application takes for each notification, at most, in milliseconds.
    pub(crate) pause: u64,
    pub(crate) window: Option<u64>,
    pub(crate) by_hand: bool,
    slow: Slow,
    on_loss: OnLoss,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum OnLoss {
    GoOn,
    Fail,
    /// Something is fetched by a call, before anything else is handed over.
    Resync,
}

impl Manner {
    pub(crate) fn draw(rng: &mut Rng) -> Self {
        let on_loss = [OnLoss::GoOn, OnLoss::GoOn, OnLoss::Fail, OnLoss::Resync][rng.usize(..4)];
        Self {
            pause: [0, 0, 50, 600, 1_500][rng.usize(..5)],
            window: rng.bool().then(|| rng.u64(2..12)),
            // A subscriber that resynchronises gets no gaps for numbers held up by missing acks.
            by_hand: rng.bool() && on_loss != OnLoss::Resync,
            slow: [Slow::Gap, Slow::Gap, Slow::Latest, Slow::Close][rng.usize(..4)],
            on_loss,
        }
    }

    /// The request of a subscription that is to have this number.
    pub(crate) fn request(self, user: &User, topic: &str, number: u64) -> Subscribe {
        let mut request = user.client.subscribe(topic).slow(self.slow);
        if let Some(window) = self.window {
            request = request.window(window);
        }
        if self.by_hand {
            request = request.ack_by_hand();
        }
        match self.on_loss {
            OnLoss::GoOn => request,
            OnLoss::Fail => request.fail_on_loss(),
            OnLoss::Resync => resync(request, user.clone(), number),
        }
    }

    /// Whether it is told of a loss before the subscription stands behind that: what it has seen
    /// meanwhile is not judged.
    pub(crate) fn resynchronises(self) -> bool {
        self.on_loss == OnLoss::Resync
    }

    /// Whether the application was told of this before it comes as a delivery: it was to
    /// resynchronise, and could not.
    pub(crate) fn knows(self, delivery: &Delivery) -> bool {
        let is_loss = match delivery {
            // It was asked for.
            Delivery::Gap(Gap { cause: GapCause::Server(code), .. }) => code.as_str() != "slow",
            Delivery::Gap(_) | Delivery::Reset { .. } => true,
            _ => false,
        };
        self.on_loss == OnLoss::Resync && is_loss
    }
}

fn resync(request: Subscribe, user: User, number: u64) -> Subscribe {
    let mut known = None;
    request.resync(move |loss| {
        let user = user.clone();
        // It comes again if its connection was lost meanwhile.
        if known.replace(loss.clone()) != Some(loss.clone()) {
            user.recorder.record(told(number, &loss.missed));
        }
        async move { ask(&user, "brief", Some(Duration::from_secs(1))).await.map(drop) }
    })
}
