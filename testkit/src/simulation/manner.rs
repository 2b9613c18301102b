//! How a subscriber reads a topic: its terms, its speed, and its reaction to a loss.

use std::time::Duration;

use bellwire::{Delivery, Gap, GapCause, Slow, Subscribe};
use fastrand::Rng;

use super::{callers::ask, client::User};
use crate::recorder::told;

#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// The longest time that the application takes for a notification, in milliseconds.
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
    /// The application fetches the state by a call before the next delivery.
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

    /// The request of a subscription with this number.
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

    /// Whether the application learns of a loss before the subscription stands behind the loss.
    /// What it has seen by then is not judged.
    pub(crate) fn resynchronises(self) -> bool {
        self.on_loss == OnLoss::Resync
    }

    /// Whether the application learned of this before it is delivered: it had to resynchronise, and
    /// could not.
    pub(crate) fn knows(self, delivery: &Delivery) -> bool {
        let is_loss = match delivery {
            // The subscriber asked for it.
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
        // The loss is reported again if the connection was lost meanwhile.
        if known.replace(loss.clone()) != Some(loss.clone()) {
            user.recorder.record(told(number, &loss.missed));
        }
        async move { ask(&user, "brief", Some(Duration::from_secs(1))).await.map(drop) }
    })
}
