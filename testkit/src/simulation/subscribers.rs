//! The subscribers of a client. Each reads a topic in its own manner, leaves it, and subscribes
//! again.

use bellwire::{CallError, Delivery, Notification, Subscription, protocol::Position};
use fastrand::Rng;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until},
};

use super::{between, client::User, manner::Manner, recorder::Recorder};
use crate::{
    history::Event,
    recorder::{behind, number, told},
};

/// A live subscription.
struct Live {
    recorder: Recorder,
    number: u64,
    subscription: Subscription,
    is_over: bool,
    /// Notifications that still have to be acknowledged.
    unacked: Vec<Notification>,
}

impl Drop for Live {
    fn drop(&mut self) {
        if !self.is_over {
            self.recorder.record(Event::Left { subscription: self.number });
        }
    }
}

/// Subscribes again and again. After it left or was ended, it resumes or begins anew.
pub(crate) async fn listen(user: User, topic: &'static str, mut rng: Rng) {
    let (sender, mut wanted) = mpsc::unbounded_channel();
    user.desk.lock().unwrap().insert(topic.to_owned(), sender);
    let mut from = None;
    loop {
        sleep(between(&mut rng, 1..1_500)).await;
        let manner = Manner::draw(&mut rng);
        match begin(&user, topic, manner, from).await {
            Ok(mut live) => {
                live.follow(manner, &mut wanted, &mut rng).await;
                from = rng.bool().then(|| live.subscription.position());
            }
            Err(error) => user.recorder.note(format!("cannot listen to {topic}: {error}")),
        }
    }
}

async fn begin(
    user: &User,
    topic: &str,
    manner: Manner,
    from: Option<Position>,
) -> Result<Live, CallError> {
    let (recorder, number) = (user.recorder.clone(), user.recorder.number());
    let mut request = manner.request(user, topic, number);
    if let Some(from) = from {
        request = request.from(from);
    }
    let subscription = request.await?;
    let from = behind(subscription.position());
    let topic = topic.to_owned();
    recorder.record(Event::Subscribed { subscription: number, topic, from });
    Ok(Live { recorder, number, subscription, is_over: false, unacked: Vec::new() })
}

impl Live {
    /// Reads until the subscription ends or has to be left.
    async fn follow(
        &mut self,
        manner: Manner,
        wanted: &mut mpsc::UnboundedReceiver<Position>,
        rng: &mut Rng,
    ) {
        let leave = Instant::now() + between(rng, 1_000..60_000);
        loop {
            let may_leave = !self.recorder.is_over();
            tokio::select! { biased;
                () = sleep_until(leave), if may_leave => return,
                Some(position) = wanted.recv(), if !manner.resynchronises() => self.watch(position),
                delivery = self.subscription.next() => {
                    let Some(delivery) = delivery else { return };
                    self.take(&delivery, manner, rng);
                    // A subscription that ends with its first loss has ended when the loss is
                    // reported.
                    if let Delivery::Notification(_) = delivery {
                        self.rest(manner, rng).await;
                    }
                }
            }
        }
    }

    async fn rest(&self, manner: Manner, rng: &mut Rng) {
        if manner.pause > 0 && !self.recorder.is_over() {
            sleep(between(rng, 0..manner.pause)).await;
        }
    }

    fn take(&mut self, delivery: &Delivery, manner: Manner, rng: &mut Rng) {
        match delivery {
            Delivery::Notification(notification) if manner.by_hand => {
                self.keep(notification.clone(), manner, rng);
            }
            // Unacknowledged notifications before the gap hold the window for the gap, too.
            Delivery::Gap(_) => self.ack_all(rng),
            Delivery::End { .. } => self.is_over = true,
            _ => {}
        }
        if !manner.knows(delivery) {
            self.recorder.record(told(self.number, delivery));
        }
    }

    /// Acknowledges manually, in any order, half a window at a time.
    fn keep(&mut self, notification: Notification, manner: Manner, rng: &mut Rng) {
        self.unacked.push(notification);
        if self.unacked.len() as u64 >= manner.window.unwrap_or(1) / 2 {
            self.ack_all(rng);
        }
    }

    fn ack_all(&mut self, rng: &mut Rng) {
        rng.shuffle(&mut self.unacked);
        self.unacked.drain(..).for_each(|notification| notification.ack());
    }

    /// Waits until the position is seen, while another task reads.
    fn watch(&self, position: Position) {
        let (recorder, subscription) = (self.recorder.clone(), self.number);
        let seen = self.subscription.seen(position);
        tokio::spawn(async move {
            seen.await;
            let number = number(position.epoch, position.next - 1);
            recorder.record(Event::Seen { subscription, number });
        });
    }
}
