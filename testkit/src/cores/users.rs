//! The users of a client: calls, streams, one-way requests, publishing, subscriptions.

use std::{collections::HashSet, future::Future, pin::pin, time::Duration};

use bellwire::{
    CallError, Client, Delivery, Notification, Slow, Subscription,
    protocol::{Epoch, Position},
};
use futures::future::{Either, join_all, select};

use super::{TOPICS, world::World};
use crate::{
    history::{Event, Outcome},
    recorder::{behind, failed, number, outcome, told},
};

/// One user of a client.
#[derive(Clone)]
pub(super) struct User {
    pub(super) client: Client,
    pub(super) world: World,
    pub(super) name: String,
    pub(super) index: usize,
    /// Whether its calls may have their own deadline.
    pub(super) is_hasty: bool,
}

/// A call in progress, as its caller sees it.
struct Calling<'a> {
    user: &'a User,
    number: u64,
    has_ended: bool,
}

impl<'a> Calling<'a> {
    fn begin(user: &'a User) -> Self {
        Self::begin_with(user, |_| None)
    }

    /// A call whose key is its number.
    fn begin_keyed(user: &'a User) -> Self {
        Self::begin_with(user, |number| Some(number.to_string()))
    }

    fn begin_with(user: &'a User, key: impl FnOnce(u64) -> Option<String>) -> Self {
        let number = user.world.number();
        user.record(Event::Called { call: number, key: key(number) });
        user.world.set_open(user.index, number, true);
        Self { user, number, has_ended: false }
    }

    fn end(mut self, outcome: Outcome) {
        self.has_ended = true;
        self.user.record(Event::Ended { call: self.number, outcome });
    }
}

impl Drop for Calling<'_> {
    fn drop(&mut self) {
        self.user.world.set_open(self.user.index, self.number, false);
        if !self.has_ended {
            self.user.record(Event::GivenUp { call: self.number });
        }
    }
}

impl User {
    fn record(&self, event: Event) {
        self.world.record(&self.name, event);
    }

    fn topic(&self) -> &'static str {
        TOPICS[self.world.below(TOPICS.len())]
    }

    async fn pause(&self, millis: u64) {
        self.world.pause(self.index, millis).await;
    }

    /// Performs a few acts, one after the other.
    pub(super) async fn act_on(self) {
        for _ in 0..1 + self.world.below(5) {
            match self.world.below(8) {
                0 => self.pause(1 + self.world.below(3_000) as u64).await,
                1 => self.within(self.act()).await,
                _ => self.act().await,
            }
        }
    }

    /// Drops `future` after a while, possibly before it is polled again.
    async fn within(&self, future: impl Future<Output = ()>) {
        let limit = self.world.sleep(self.world.below(4) as u64 * 500);
        match select(pin!(future), pin!(limit)).await {
            Either::Left(_) | Either::Right(_) => {}
        }
    }

    async fn act(&self) {
        match self.world.below(16) {
            0 => self.ask("slow").await,
            1 => self.ask("never").await,
            2 => self.ask(["fail", "panic", "refuse", "nosuch"][self.world.below(4)]).await,
            3 | 4 => self.stream().await,
            5 => self.post().await,
            6 | 7 => self.publish().await,
            8 => self.one_way().await,
            9 => drop(join_all((0..2 + self.world.below(6)).map(|_| self.ask("echo"))).await),
            10 => self.long().await,
            11 => self.ask("brief").await,
            12 => self.ask_once(["echo", "slow", "fail", "panic"][self.world.below(4)]).await,
            _ => self.ask("echo").await,
        }
    }

    async fn ask(&self, method: &str) {
        let calling = Calling::begin(self);
        let mut call = self.client.call(method, calling.number.to_string());
        if self.is_hasty && self.world.chance(3) {
            let limit = self.world.below(2_000) as u64;
            call = call.deadline(Duration::from_millis(limit));
        }
        calling.end(outcome(&call.await));
    }

    /// Calls with a key, which the client may send again after a lost connection.
    async fn ask_once(&self, method: &str) {
        let calling = Calling::begin_keyed(self);
        let payload = calling.number.to_string();
        let mut call = self.client.call(method, &payload).key(&payload);
        if self.is_hasty && self.world.chance(3) {
            call = call.deadline(Duration::from_millis(self.world.below(9_000) as u64));
        }
        calling.end(outcome(&call.await));
    }

    /// Calls with a payload that is too long to be sent in one piece.
    async fn long(&self) {
        let calling = Calling::begin(self);
        let text = "x".repeat(self.world.below(2_000));
        let result = self.client.call("echo", format!("{} {text}", calling.number)).await;
        calling.end(outcome(&result));
    }

    /// A streamed reply names the call if all its items do, in order.
    async fn stream(&self) {
        let calling = Calling::begin(self);
        let count = self.world.below(6);
        let request = format!("{} {count}", calling.number);
        let window = 1 + self.world.below(3);
        let mut items = self.client.stream("count", request).window(window);
        let (mut names, mut next) = (calling.number, 0);
        let give_up = self.world.below(4 * count + 4);
        while let Some(item) = items.next().await {
            match item {
                Ok(item) if item == format!("{} {next}", calling.number) => next += 1,
                Ok(_) => names = 0,
                Err(error) => return calling.end(failed(&error)),
            }
            if next == give_up {
                return;
            }
            if self.world.chance(4) {
                self.pause(self.world.below(100) as u64).await;
            }
        }
        names = if next == count { names } else { 0 };
        calling.end(Outcome::Ok { names });
    }

    /// Publishes by a call.
    async fn post(&self) {
        let calling = Calling::begin(self);
        let request = format!("{} {}", calling.number, self.topic());
        let replied = self.client.call("post", request).replied().await;
        calling.end(outcome(&replied.map(|replied| replied.value)));
    }

    async fn publish(&self) {
        let (topic, payload) = (self.topic().to_owned(), format!("c{}", self.world.number()));
        self.record(Event::Publishing { topic: topic.clone(), payload: payload.clone() });
        match self.client.publish(&topic, &payload).await {
            Ok(published) => {
                let number = number(published.epoch, published.sequence);
                self.record(Event::Published { topic, number, payload });
            }
            Err(CallError::NotSent(_) | CallError::Refused { .. }) => {
                self.record(Event::Unpublished { topic, payload });
            }
            Err(_) => {}
        }
    }

    async fn one_way(&self) {
        let one_way = self.world.number();
        self.record(Event::Told { one_way });
        if self.client.one_way("note", one_way.to_string()).await.is_err() {
            self.record(Event::Untold { one_way });
        }
    }
}

/// A live subscription.
struct Live<'a> {
    user: &'a User,
    number: u64,
    subscription: Subscription,
    is_over: bool,
    unacked: Vec<Notification>,
    /// What was acknowledged, if the subscription redelivers.
    acked: Option<HashSet<(Epoch, u64)>>,
    /// The position after the last delivery.
    reached: Position,
}

impl Drop for Live<'_> {
    fn drop(&mut self) {
        let (user, position) = (self.user, self.subscription.position());
        user.world.set_standing(user.index, self.number, None);
        user.world.set_position(self.subscription.topic().as_str(), position);
        if !self.is_over {
            user.record(Event::Left { subscription: self.number });
        }
    }
}

impl User {
    /// Subscribes to a topic, a few times.
    pub(super) async fn listen(self, topic: &'static str) {
        let times = 1 + self.world.below(3);
        for time in 1..=times {
            let leaves = (time < times || self.world.chance(4)).then(|| 1 + self.world.below(6));
            self.follow(topic, leaves).await;
            self.pause(self.world.below(1_000) as u64).await;
        }
    }

    /// Reads until the subscription ends, or until it is left after `leaves` deliveries.
    async fn follow(&self, topic: &str, leaves: Option<usize>) {
        let world = &self.world;
        let window = (!world.chance(3)).then(|| 2 + world.below(6) as u64);
        let is_by_hand = world.below(2) == 1;
        let slow = [Slow::Gap, Slow::Gap, Slow::Latest, Slow::Close][world.below(4)];
        let mut request = self.client.subscribe(topic).slow(slow);
        if let Some(window) = window {
            request = request.window(window);
        }
        if is_by_hand {
            request = request.ack_by_hand();
        }
        // Not a decision of its own, so that the runs of clients with one connection stay the same.
        let redelivers = self.is_hasty && is_by_hand && window.is_some_and(|size| size % 2 == 0);
        if redelivers {
            request = request.redeliver();
        }
        if let Some(from) = world.position(topic).filter(|_| world.below(2) == 0) {
            request = request.from(from);
        }
        let Ok(subscription) = request.await else { return };
        let mut live = Live::begin(self, subscription, redelivers);
        for count in 1.. {
            let Some(delivery) = live.subscription.next().await else { return };
            live.take(&delivery, is_by_hand, window.unwrap_or(1));
            if leaves.is_some_and(|leaves| leaves <= count) {
                return;
            }
            if !live.is_over && world.chance(6) {
                self.pause(world.below(1_500) as u64).await;
            }
        }
    }
}

impl<'a> Live<'a> {
    fn begin(user: &'a User, subscription: Subscription, redelivers: bool) -> Self {
        let number = user.world.number();
        let (topic, from) = (subscription.topic().to_string(), behind(subscription.position()));
        user.record(Event::Subscribed { subscription: number, topic, from });
        let acked = redelivers.then(HashSet::new);
        let (reached, unacked) = (subscription.position(), Vec::new());
        let live = Self { user, number, subscription, is_over: false, unacked, acked, reached };
        live.stand();
        live
    }

    fn stand(&self) {
        let at = (self.subscription.topic().as_str(), behind(self.subscription.position()));
        self.user.world.set_standing(self.user.index, self.number, Some(at));
    }

    fn take(&mut self, delivery: &Delivery, is_by_hand: bool, window: u64) {
        let news = self.news(delivery);
        match delivery {
            Delivery::Notification(notification) if is_by_hand => {
                self.unacked.push(notification.clone());
                if self.unacked.len() as u64 >= window / 2 {
                    self.ack_all();
                }
            }
            Delivery::Gap(_) => self.ack_all(),
            Delivery::End { .. } => self.is_over = true,
            _ => {}
        }
        if let Some(news) = news {
            self.user.record(told(self.number, &news));
        }
        self.reached = self.subscription.position();
        match self.is_over {
            true => self.user.world.set_standing(self.user.index, self.number, None),
            false => self.stand(),
        }
    }

    /// What is recorded of a delivery: what has not come before. What comes again is checked here.
    fn news(&self, delivery: &Delivery) -> Option<Delivery> {
        let Some(acked) = &self.acked else { return Some(delivery.clone()) };
        let mut news = delivery.clone();
        match &mut news {
            Delivery::Notification(one) => {
                let is_old = one.epoch == self.reached.epoch && one.sequence < self.reached.next;
                assert_eq!(one.redelivered, is_old, "{one:?} at {}", self.reached);
                assert!(!acked.contains(&(one.epoch, one.sequence)), "{one:?} was acknowledged");
                (!is_old).then_some(news)
            }
            Delivery::Gap(gap) if gap.epoch == self.reached.epoch => {
                gap.first = gap.first.max(self.reached.next);
                (gap.first <= gap.last).then_some(news)
            }
            Delivery::End { position, .. } => {
                let lowest = position.replace(self.reached).expect("it has begun");
                assert!(lowest.epoch != self.reached.epoch || lowest.next <= self.reached.next);
                Some(news)
            }
            _ => Some(news),
        }
    }

    /// Acknowledges manually, in any order.
    fn ack_all(&mut self) {
        while !self.unacked.is_empty() {
            let at = self.user.world.below(self.unacked.len());
            let one = self.unacked.swap_remove(at);
            one.ack();
            if let Some(acked) = &mut self.acked {
                acked.insert((one.epoch, one.sequence));
            }
        }
    }
}
