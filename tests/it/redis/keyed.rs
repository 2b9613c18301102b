//! A topic whose messages have keys, under the faults of `faults`: only what was replaced is called
//! so.

use std::{
    collections::{HashMap, HashSet},
    ops::RangeInclusive,
    sync::{Arc, Mutex, atomic::Ordering},
    time::Duration,
};

use bellwire::{
    Delivery, Gap, GapCause, PublishError, Publisher,
    protocol::{Code, Epoch},
};
use bellwire_testkit::{
    bound::bounded,
    history::Event,
    recorder::{Process, number},
};
use tokio::time::interval;

use super::faults::Done;

pub(super) const KEYED: &str = "keyed";

/// What is known of the topic.
#[derive(Default)]
pub(super) struct Keys(Mutex<Known>);

#[derive(Default)]
struct Known {
    /// The key of each message.
    keys: HashMap<(Epoch, u64), String>,
    /// Keys of messages that may have been published, under numbers that nobody knows.
    unknown: HashSet<String>,
    replaced: Vec<(Epoch, RangeInclusive<u64>)>,
    /// Gaps with other reasons.
    losses: usize,
}

impl Known {
    /// Whether a later message may have replaced this one.
    fn may_be_replaced(&self, epoch: Epoch, number: u64) -> bool {
        let Some(key) = self.keys.get(&(epoch, number)) else { return true };
        let is_later = |(&(of, at), other): (&(Epoch, u64), &String)| {
            of == epoch && at > number && other == key
        };
        self.unknown.contains(key) || self.keys.iter().any(is_later)
    }
}

impl Keys {
    /// A subscriber got this.
    pub(super) fn told(&self, delivery: &Delivery) {
        let mut known = self.0.lock().unwrap();
        match delivery {
            Delivery::Notification(one) => {
                let text = String::from_utf8_lossy(&one.payload);
                let key = text.split(' ').next().unwrap_or_default().to_owned();
                known.keys.insert((one.epoch, one.sequence), key);
            }
            Delivery::Gap(Gap { epoch, first, last, cause, .. }) => match cause {
                GapCause::Server(reason) if *reason == Code::REPLACED => {
                    known.replaced.push((*epoch, *first..=*last));
                }
                _ => known.losses += 1,
            },
            _ => {}
        }
    }

    /// Publishes messages of keys. Some have a key of their own, so that they are never replaced.
    pub(super) async fn publish(
        self: Arc<Self>,
        (publisher, name): (Publisher, usize),
        process: Process,
        done: Arc<Done>,
    ) {
        let mut pauses = interval(Duration::from_millis(5));
        for n in 0_u64.. {
            if done.is_over.load(Ordering::Relaxed) {
                return;
            }
            pauses.tick().await;
            let key = format!("{name}.{}", if n.is_multiple_of(3) { n } else { n % 10 });
            self.publish_one(&publisher, &process, key, n, &done).await;
        }
    }

    async fn publish_one(
        &self,
        publisher: &Publisher,
        process: &Process,
        key: String,
        n: u64,
        done: &Done,
    ) {
        let (topic, payload) = (KEYED.to_owned(), format!("{key} {n}"));
        process.record(Event::Publishing { topic: topic.clone(), payload: payload.clone() });
        let publishing = publisher.publish_latest(KEYED, key.clone(), payload.clone());
        let count = match bounded("publishing", publishing).await {
            Ok(published) => {
                let number = number(published.epoch, published.sequence);
                process.record(Event::Published { topic, number, payload });
                self.0.lock().unwrap().keys.insert((published.epoch, published.sequence), key);
                &done.confirmed
            }
            Err(PublishError::Busy(_)) => {
                process.record(Event::Unpublished { topic, payload });
                &done.refused
            }
            Err(PublishError::Unavailable(_)) => {
                self.0.lock().unwrap().unknown.insert(key);
                &done.refused
            }
            Err(error) => panic!("{error}"),
        };
        count.fetch_add(1, Ordering::Relaxed);
    }

    /// Checks that all that was called replaced has a later message of its key.
    pub(super) fn check(&self) {
        let known = self.0.lock().unwrap();
        for (epoch, numbers) in &known.replaced {
            let wrong = numbers.clone().find(|&number| !known.may_be_replaced(*epoch, number));
            assert_eq!(wrong, None, "{epoch}:{numbers:?} were called replaced");
        }
    }

    /// The gaps with other reasons.
    pub(super) fn losses(&self) -> usize {
        self.0.lock().unwrap().losses
    }
}
