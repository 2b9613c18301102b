//! A subscription of the client under test: its deliveries, and what it is told to do.

use std::sync::{Arc, OnceLock};

use bellwire::{Client, Delivery, Progress, Slow, Subscription, protocol::Position};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::client_testee::{
    command::Command,
    report,
    session::{tell_of_failure, with_payload},
};

/// What a subscription is told.
pub(super) enum Order {
    Ack(Position),
    Pause,
    Resume,
    Leave,
}

pub(super) struct Subscribing {
    orders: UnboundedSender<Order>,
    progress: Arc<OnceLock<Progress>>,
}

impl Subscribing {
    pub(super) fn begin(client: Client, tag: String, mut command: Command) -> Result<Self, String> {
        let mut request = client.subscribe(&command.next()?);
        if let Some(from) = command.option("from") {
            request = request.from(from.parse().map_err(|_| "no position")?);
        }
        if let Some(window) = command.number("window")? {
            request = request.window(window);
        }
        if let Some(slow) = command.option("slow") {
            request = request.slow(match slow {
                "latest" => Slow::Latest,
                "close" => Slow::Close,
                _ => Slow::Gap,
            });
        }
        if command.option("ack").is_some() {
            request = request.ack_by_hand();
        }
        if command.option("redeliver").is_some() {
            request = request.redeliver();
        }
        let (orders, to_obey) = unbounded_channel();
        let progress = Arc::new(OnceLock::new());
        let known = progress.clone();
        tokio::spawn(async move {
            match request.await {
                Ok(subscription) => {
                    report(format!("{tag} subscribed {}", subscription.position()).as_bytes());
                    // It is set once.
                    let _ = known.set(subscription.progress());
                    read(subscription, &tag, to_obey).await;
                }
                Err(error) => tell_of_failure(&tag, &error),
            }
        });
        Ok(Self { orders, progress })
    }

    pub(super) fn order(&self, order: Order) {
        // One that has ended obeys nothing.
        let _ = self.orders.send(order);
    }

    pub(super) fn progress(&self) -> Option<Progress> {
        self.progress.get().cloned()
    }
}

async fn read(mut subscription: Subscription, tag: &str, mut orders: UnboundedReceiver<Order>) {
    let mut is_paused = false;
    loop {
        let delivery = tokio::select! {
            biased;
            Some(order) = orders.recv() => {
                match order {
                    Order::Ack(position) => subscription.ack(position),
                    Order::Pause => is_paused = true,
                    Order::Resume => is_paused = false,
                    Order::Leave => {
                        drop(subscription);
                        return report(format!("{tag} left").as_bytes());
                    }
                }
                continue;
            }
            delivery = subscription.next(), if !is_paused => delivery,
        };
        match delivery {
            Some(delivery) => tell(tag, delivery),
            None => return,
        }
    }
}

fn tell(tag: &str, delivery: Delivery) {
    match delivery {
        Delivery::Notification(one) => {
            let word = if one.redelivered { "again" } else { "message" };
            report(&with_payload(&format!("{tag} {word} {}", one.sequence), &one.payload));
        }
        Delivery::Gap(gap) => {
            let (first, last, cause) = (gap.first, gap.last, gap.cause);
            report(format!("{tag} gap {first} {last} {cause}").as_bytes());
        }
        Delivery::Reset { position, .. } => report(format!("{tag} reset {position}").as_bytes()),
        Delivery::End { reason, position, .. } => {
            let at = position.map(|position| format!(" {position}")).unwrap_or_default();
            report(format!("{tag} ended {reason}{at}").as_bytes());
        }
        _ => {}
    }
}
