//! A task that reads a subscription and records what it sees.

use bellwire::{Delivery, Seen, Subscribe, Subscription, protocol::Position};
use tokio::{
    sync::{mpsc, oneshot},
    task::JoinHandle,
};

use crate::{
    history::Event,
    recorder::{Process, behind, number},
};

/// Reads a subscription until it unsubscribes.
pub(super) struct Listener {
    process: Process,
    subscription: u64,
    pub(super) begun: Position,
    questions: mpsc::UnboundedSender<Question>,
    reader: JoinHandle<Subscription>,
}

/// A request to be told when all numbers below a position are seen.
type Question = (Position, oneshot::Sender<Seen>);

impl Listener {
    /// Subscribes, from a position or from the head on, and reads.
    pub(super) async fn start(
        process: &Process,
        subscription: u64,
        subscribe: Subscribe,
        from: Option<Position>,
    ) -> Self {
        let subscribe = from.into_iter().fold(subscribe, Subscribe::from);
        let accepted = subscribe.await.expect("nobody refuses a subscription");
        let topic = accepted.topic().to_string();
        let begun = from.unwrap_or(accepted.position());
        let from = behind(begun);
        process.record(Event::Subscribed { subscription, topic, from });
        let (questions, asked) = mpsc::unbounded_channel();
        let reader = tokio::spawn(read(process.clone(), subscription, accepted, asked));
        Self { process: process.clone(), subscription, begun, questions, reader }
    }

    /// Waits until all numbers below this position are seen.
    pub(super) async fn seen(&self, position: Position) {
        let (answer, answered) = oneshot::channel();
        self.questions.send((position, answer)).expect("it reads");
        answered.await.expect("it reads").await;
        let (subscription, seen) = (self.subscription, number(position.epoch, position.next - 1));
        self.process.record(Event::Seen { subscription, number: seen });
    }

    /// Leaves the topic. Returns the application's position.
    pub(super) async fn leave(self) -> Position {
        drop(self.questions);
        let left = self.reader.await.expect("no panic");
        self.process.record(Event::Left { subscription: self.subscription });
        left.position()
    }
}

async fn read(
    process: Process,
    subscription: u64,
    mut accepted: Subscription,
    mut asked: mpsc::UnboundedReceiver<Question>,
) -> Subscription {
    loop {
        tokio::select! {
            biased;
            delivery = accepted.next() => {
                let delivery = delivery.expect("it goes on");
                process.deliver(subscription, &delivery);
                assert!(!matches!(delivery, Delivery::End { .. }), "{delivery:?}");
            }
            question = asked.recv() => match question {
                Some((position, answer)) => drop(answer.send(accepted.seen(position))),
                None => return accepted,
            },
        }
    }
}
