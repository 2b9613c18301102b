//! Subscriptions: streams of deliveries that leave their topic when they are dropped.

use std::{
    fmt,
    future::{Future, IntoFuture, poll_fn},
    num::NonZeroU64,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;

use crate::{
    client::{
        core::{
            delivery::{Delivery, Gap, Notification},
            inbox::Inbox,
            reader::{Manner, Reader, Report},
            sift::sift,
            topics::{AfterReset, Wish},
        },
        event::ConnectionEvent,
        handle::Handle,
        loss::{Judged, Loss, OnLoss},
        progress::{Progress, Seen, Standing},
        shared::{Shared, within},
    },
    coop::{consume_budget, poll_budgeted},
    error::{CallError, ConnectionError, NotSent, Unknown},
    protocol::{Code, Epoch, InvalidName, MAX_NUMBER, Position, Slow, Topic},
    sync::{Arc, Mutex},
};

/// A request to subscribe, made by
/// [`Client::subscribe`](crate::Client::subscribe); `await` it for the [`Subscription`].
///
/// # Errors
/// [`CallError::Refused`] when the server refuses the topic, and as a call's otherwise.
///
/// # Cancel safety
/// Dropping it leaves no subscription behind.
///
/// # Example
/// Three settings decide how far an application may be behind without a gap. The server retains
/// [`ServerConfig::retained_bytes`](crate::ServerConfig::retained_bytes) of a topic. This client
/// holds [`ClientConfig::inbox_bytes`](crate::ClientConfig::inbox_bytes) of it. A
/// [`window`](Self::window) that fits into these two leaves on the server what is not handled.
/// Here, at most 100 notifications are unhandled, and a subscriber that is late gets only the
/// newest:
///
/// ```
/// # use bellwire::{Client, Delivery, Slow};
/// # async fn example(client: Client) -> Result<(), bellwire::CallError> {
/// let offers = client.subscribe("offers").window(100).slow(Slow::Latest).ack_by_hand();
/// let mut offers = offers.await?;
/// while let Some(delivery) = offers.next().await {
///     if let Delivery::Notification(offer) = delivery {
///         println!("{:?}", offer.payload);
///         offer.ack();
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing is subscribed unless it is awaited"]
pub struct Subscribe {
    client: Arc<Handle>,
    topic: Result<Topic, InvalidName>,
    wish: Wish,
    manner: Manner,
    on_loss: OnLoss,
    deadline: Option<Duration>,
}

impl Subscribe {
    pub(crate) fn new(client: Arc<Handle>, topic: &str) -> Self {
        let (topic, wish, on_loss) = (Topic::new(topic), Wish::default(), OnLoss::default());
        let config = &client.shared.config;
        let (deadline, within) = (config.deadline, config.ack_within);
        let manner = Manner { within, ..Manner::default() };
        Self { client, topic, wish, manner, on_loss, deadline }
    }

    /// The time until the server has accepted it, from when it is awaited; `None` for no limit.
    /// Default: [`ClientConfig::deadline`](crate::ClientConfig::deadline). An accepted subscription
    /// has no deadline.
    ///
    /// When it has passed, the result is [`NotSent::Deadline`], which says why there is no
    /// connection, or [`Unknown::Deadline`] if the request may have been sent. No subscription is
    /// left behind.
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.deadline = deadline.into();
        self
    }

    /// Begins at `position` instead of after the last notification. Notifications that were
    /// published since then are delivered first. Those that are no longer retained are reported as
    /// a [`Gap`], and a log that was replaced as a [`Delivery::Reset`].
    ///
    /// Refused with [`NotSent::AlreadySubscribed`] while this client has another subscription to
    /// the topic, because both share what the server sends.
    ///
    /// A [`Position`] can be stored as text (`Display` and `FromStr`), so that a program resumes
    /// after its own restart. A notification that was handled before its position was stored comes
    /// again:
    ///
    /// ```
    /// # use bellwire::Client;
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let offers = client.subscribe("offers");
    /// let mut offers = match tokio::fs::read_to_string("offers.position").await {
    ///     Ok(position) => offers.from(position.parse()?).await?,
    ///     Err(_) => offers.await?, // the first run
    /// };
    /// while let Some(delivery) = offers.next().await {
    ///     println!("{delivery:?}"); // handle it, then store the position
    ///     tokio::fs::write("offers.position", offers.position().to_string()).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// To read a topic from its oldest retained message without a known position, begin at number 1
    /// of an epoch that the server has never had. The protocol allows this (PROTOCOL.md, section
    /// 4). The first delivery is then a [`Delivery::Reset`], which means no loss here. A [`Gap`]
    /// follows if older messages are no longer retained. Do not combine such a position with
    /// [`resync`](Self::resync), [`fail_on_loss`](Self::fail_on_loss) or [`AfterReset::Head`].
    ///
    /// ```
    /// use bellwire::{Client, Delivery, Router, Server, protocol::{Epoch, Position}};
    ///
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = Server::bind("127.0.0.1:0").await?;
    /// # let (address, publisher) = (server.local_addr()?.to_string(), server.publisher());
    /// # tokio::spawn(server.serve(Router::<()>::new()).into_future());
    /// # let client = Client::connect(address).await?;
    /// publisher.publish("offers", "one").await?;
    /// let oldest = Position { epoch: Epoch::new("none").unwrap(), next: 1 };
    /// let mut offers = client.subscribe("offers").from(oldest).await?;
    /// assert!(matches!(offers.next().await, Some(Delivery::Reset { .. })));
    /// let Some(Delivery::Notification(first)) = offers.next().await else { panic!("retained") };
    /// assert_eq!((first.sequence, &first.payload[..]), (1, &b"one"[..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn from(mut self, position: Position) -> Self {
        (self.wish.from, self.wish.last) = (Some(position), None);
        self
    }

    /// Begins with the newest `messages`, or with all that the topic retains, if these are fewer.
    /// Later it resumes from its own position. For example, 1 gives a late subscriber the present
    /// state, if each message has all of it. 0 begins behind the newest message, which is the
    /// default.
    ///
    /// Replaces an earlier [`from`](Self::from), and is replaced by a later one. Refused with
    /// [`NotSent::AlreadySubscribed`] while this client has another subscription to the topic,
    /// because both share what the server sends. A server that does not know `last` refuses it with
    /// `unknown-attribute`.
    ///
    /// ```
    /// # use bellwire::{Client, Delivery, Router, Server};
    /// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = Server::bind("127.0.0.1:0").await?;
    /// # let (address, publisher) = (server.local_addr()?.to_string(), server.publisher());
    /// # tokio::spawn(server.serve(Router::<()>::new()).into_future());
    /// # let client = Client::connect(address).await?;
    /// for price in ["700", "710", "720"] {
    ///     publisher.publish("price", price).await?;
    /// }
    /// let mut prices = client.subscribe("price").last(1).await?;
    /// let Some(Delivery::Notification(now)) = prices.next().await else { panic!("retained") };
    /// assert_eq!((now.sequence, &now.payload[..]), (3, &b"720"[..]));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Implements docs/protocol/subscriptions.md, section 13.
    pub fn last(mut self, messages: u64) -> Self {
        (self.wish.from, self.wish.last) = (None, NonZeroU64::new(messages.min(MAX_NUMBER)));
        self
    }

    /// The number of notifications that may be unacknowledged, in transit or in the application; at
    /// least 1. When that many are unacknowledged, the server waits. Without a window, no acks are
    /// sent, and the server waits for none.
    ///
    /// A notification is acknowledged when it is handed over, by [`Subscription::next`] or as a
    /// stream's item. So is a gap, including what this client had to drop. The client sends an ack
    /// at every half window, so the server never waits for a reader that keeps up. If the window is
    /// above [`ClientConfig::inbox_items`](crate::ClientConfig::inbox_items), or its payloads above
    /// [`ClientConfig::inbox_bytes`](crate::ClientConfig::inbox_bytes), this client may drop what
    /// the server would have kept. The window belongs to a connection: on the next one,
    /// notifications that are still in the application do not count.
    ///
    /// Subscriptions of this client to one topic share one subscription on the wire. The first one
    /// sets the window and the policy. A later one that asks for others is refused with
    /// [`NotSent::AlreadySubscribed`], and one that asks for neither shares them. The slowest of
    /// the subscriptions with a window decides how far the topic is acknowledged. A subscription
    /// without a window does not hold up the others; its own queue drops what it does not read.
    ///
    /// Implements docs/protocol/acks.md, section 16.
    pub fn window(mut self, notifications: u64) -> Self {
        self.wish.terms.window = NonZeroU64::new(notifications.clamp(1, MAX_NUMBER));
        self
    }

    /// What the server does when this subscriber does not keep up. Default [`Slow::Gap`].
    ///
    /// Shared like the [`window`](Self::window). Implements docs/protocol/acks.md, section 16.
    pub fn slow(mut self, policy: Slow) -> Self {
        self.wish.terms.slow = policy;
        self
    }

    /// With a [`window`](Self::window), lets the application acknowledge what it has handled: with
    /// [`Notification::ack`], one by one and in any order, or with [`Subscription::ack`],
    /// everything below a position. Without a window it has no effect.
    ///
    /// An unacknowledged notification counts against the window, even if later ones are
    /// acknowledged. It is not delivered again, even on another connection, unless the subscription
    /// [redelivers](Self::redeliver). A gap is acknowledged when it is handed over.
    pub fn ack_by_hand(mut self) -> Self {
        self.manner.by_hand = true;
        self
    }

    /// Delivers again after a lost connection what the application has not acknowledged. Includes
    /// [`ack_by_hand`](Self::ack_by_hand), and needs a [`window`](Self::window).
    ///
    /// The subscription then resumes at the lowest number that is not acknowledged, and not where
    /// it had been interrupted. The same applies when it is resumed on the same connection, for
    /// example after its lease has expired. The numbers from there on come in order:
    ///
    /// - What was handed over and not acknowledged comes again, with
    ///   [`Notification::redelivered`] set. It may come any number of times, until it is
    ///   acknowledged.
    /// - What was acknowledged does not come again.
    /// - What waited in this client's queue is discarded when the resume is accepted, and comes
    ///   once more from the server. Until then the application may take it from the queue.
    ///
    /// What the topic does not retain any more cannot be delivered again. It is a [`Gap`], even if
    /// it was handed over before, and counts as acknowledged. A [`Delivery::Reset`] ends the
    /// redelivery of the old log: its unacknowledged notifications do not come again. The same
    /// applies to the position: an [`End`](Delivery::End) has the lowest position that is not
    /// acknowledged.
    ///
    /// [`Subscription::position`], [`seen`](Subscription::seen) and
    /// [`progress`](Subscription::progress) do not go back. They say what was handed over at least
    /// once. [`Subscription::acknowledged`] is the position from which a resume delivers.
    ///
    /// This setting is not shared: of several subscriptions of this client to the topic, each gets
    /// only what it has not acknowledged itself, and one without this setting gets nothing again.
    /// The window has to be the same for all.
    ///
    /// After a restart of the application, begin at the position that was stored:
    ///
    /// ```
    /// # use bellwire::{Client, Delivery};
    /// # async fn example(client: Client) -> Result<(), Box<dyn std::error::Error>> {
    /// let jobs = client.subscribe("jobs").window(100).redeliver();
    /// let mut jobs = match tokio::fs::read_to_string("jobs.position").await {
    ///     Ok(position) => jobs.from(position.parse()?).await?,
    ///     Err(_) => jobs.await?, // the first run
    /// };
    /// while let Some(delivery) = jobs.next().await {
    ///     if let Delivery::Notification(job) = delivery {
    ///         // `redelivered` is not set for what an earlier process was handed.
    ///         println!("{} again: {}", job.sequence, job.redelivered);
    ///         tokio::spawn(async move { job.ack() }); // in any order
    ///     }
    ///     tokio::fs::write("jobs.position", jobs.acknowledged().to_string()).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Implements docs/protocol/acks.md, section 16.
    ///
    /// # Errors
    /// [`NotSent::NoWindow`] without a window.
    pub fn redeliver(mut self) -> Self {
        (self.manner.by_hand, self.manner.redelivers) = (true, true);
        self
    }

    /// How long a notification may stay unacknowledged before
    /// [`ConnectionEvent::Unacknowledged`] reports it; at least 1 ms, and `None` for no limit.
    /// Default: [`ClientConfig::ack_within`](crate::ClientConfig::ack_within), which is `None`.
    ///
    /// The time counts from when the notification was first handed over. The event reports the
    /// lowest unacknowledged notification of this subscription, once for each number. When that one
    /// is acknowledged, the next one follows, if its time has passed, too. Nothing else happens: the
    /// notification stays unacknowledged, and comes again only with [`redeliver`](Self::redeliver).
    /// If notifications were handed over shortly after each other, the event may come later, by up
    /// to a sixteenth of the limit.
    ///
    /// Without [`ack_by_hand`](Self::ack_by_hand) and a window there is no such event. Costs 3 KiB
    /// at most.
    pub fn ack_within(mut self, limit: impl Into<Option<Duration>>) -> Self {
        self.manner.within = limit.into().map(|limit| limit.max(Duration::from_millis(1)));
        self
    }

    /// Where the subscription goes on when the topic has a new log, because the server was
    /// restarted, or another server has its own log. Default [`AfterReset::Start`].
    ///
    /// By default the whole new log is delivered, because the log of a restarted server contains
    /// only messages that this subscriber has missed. After a failover to a server that has been in
    /// use, the log may also contain many older messages. For a subscriber that does not need them
    /// there is [`AfterReset::Head`]: this client then leaves the topic, and subscribes again after
    /// the last message. In both cases the position of [`Delivery::Reset`] names the next number
    /// that is delivered. A log that the subscription has left before is not new: the subscription
    /// goes on at the position where it left that log.
    ///
    /// This setting is shared like the [`window`](Self::window): a later subscription that asks for
    /// the other value is refused. Implements docs/protocol/reconnecting.md, section 14.
    pub fn after_reset(mut self, go_on: AfterReset) -> Self {
        self.wish.after_reset = Some(go_on);
        self
    }

    /// Ends the subscription when something is lost: after the [`Delivery::Gap`] or
    /// [`Delivery::Reset`] comes a [`Delivery::End`] with the reason `lost`. Without this, the
    /// stream goes on.
    ///
    /// What [`Slow::Latest`] leaves out is not a loss, because it was asked for.
    pub fn fail_on_loss(mut self) -> Self {
        self.on_loss = OnLoss::Fail;
        self
    }

    /// Registers a callback that fetches the state again after a loss. The stream then does not
    /// yield the gap or the reset. Instead, `resync` is called with the [`Loss`], and nothing is
    /// handed over until its future has ended.
    ///
    /// The position is known before the state is fetched. So the state includes everything that was
    /// published below the position, and the stream has everything from there on. (The state may
    /// include some of that, too.) Meanwhile live items wait in the queue, as many as
    /// [`ClientConfig::inbox_items`](crate::ClientConfig::inbox_items) and
    /// [`inbox_bytes`](crate::ClientConfig::inbox_bytes) allow. If items are dropped then, that is
    /// a further loss, for which `resync` is called next. The future is polled where the stream is
    /// polled.
    ///
    /// A call within [`reconnect_stable`](crate::ClientConfig::reconnect_stable) of the last one
    /// waits for a pause first (docs/protocol/reconnecting.md, section 14). So a server that resets
    /// a log again and again is not flooded.
    ///
    /// What [`Slow::Latest`] leaves out is not a loss, because it was asked for.
    ///
    /// `resync` is not called at the start. For the first state, subscribe, then fetch once, then
    /// read. The state may include items that the stream also has, so remove duplicates by an id of
    /// your own. A closure has to name its error type: `Ok::<(), CallError>(())`.
    ///
    /// ```
    /// # use bellwire::{CallError, Client};
    /// # async fn example(client: Client) -> Result<(), CallError> {
    /// let asking = client.clone();
    /// let offers = client.subscribe("offers").resync(move |loss| {
    ///     let client = asking.clone();
    ///     async move {
    ///         let all = client.call("offers.list", "").await?;
    ///         println!("{} bytes, as of {} or later", all.len(), loss.position);
    ///         Ok::<(), CallError>(())
    ///     }
    /// });
    /// let offers = offers.await?;
    /// # drop(offers);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// If the future fails, the subscription fails, as with [`fail_on_loss`](Self::fail_on_loss).
    /// If the connection was lost or left since the future began, `resync` is called again instead,
    /// with the same loss, and its calls wait for the next connection. A panic of `resync` or of
    /// its future counts as a failure, and emits
    /// [`ConnectionEvent::ResyncPanicked`](crate::ConnectionEvent::ResyncPanicked).
    ///
    /// # Cancel safety
    /// If a future of [`Subscription::next`] is dropped, the next one continues it. Dropping the
    /// subscription drops it.
    pub fn resync<F, Fut, E>(mut self, resync: F) -> Self
    where
        F: FnMut(Loss) -> Fut + Send + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        self.on_loss = OnLoss::resync(resync);
        self
    }

    async fn subscribe(self) -> Result<Subscription, CallError> {
        let Self { client, topic, wish, manner, on_loss, deadline } = self;
        let topic = topic.map_err(NotSent::Name)?;
        if manner.redelivers && wish.terms.window.is_none() {
            return Err(NotSent::NoWindow.into());
        }
        let shared = &client.shared;
        let (_, expires) = shared.clock.now_and_expiry(deadline);
        let left = || expires.and_then(|expires| shared.timer_until(expires));
        let inbox = Arc::new(Inbox::new(shared.config.inbox_items, shared.config.inbox_bytes));
        let reader = wish.terms.window.map(|window| {
            let report = reporting(shared.clone(), topic.clone(), inbox.clone());
            Arc::new(Reader::new(window, manner, report))
        });
        let joined = shared.in_turn(|core, step| {
            let stream = (inbox.clone(), reader.as_ref());
            core.topics.join(&mut core.links, &topic, wish, stream, step)
        });
        let Some(joined) = within(left(), joined).await else {
            return Err(shared.look(|core| core.links.out_of_time()).into());
        };
        let joined = joined?;
        // From here on, dropping the future leaves the topic, even if the server has not accepted
        // it yet.
        let standing = Arc::new(Standing::new(inbox.clone()));
        let timer = left();
        let membership = Membership { client, topic, inbox, reader, standing };
        let shared = &membership.client.shared;
        let Some(joined) = within(timer, joined).await else {
            let Membership { topic, inbox, .. } = &membership;
            return Err(shared.look(|core| core.topics.why_late(&core.links, topic, inbox)));
        };
        let lost = || Unknown::Lost(shared.refusal().unwrap_or(ConnectionError::Closed));
        let start = joined.map_err(|_| CallError::from(lost()))??;
        membership.begin(wish.from.unwrap_or(start));
        let (on_loss, rest, end) = (Mutex::new(on_loss), None, None);
        Ok(Subscription { membership, on_loss, rest, end, start })
    }
}

impl fmt::Debug for Subscribe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl IntoFuture for Subscribe {
    type Output = Result<Subscription, CallError>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output> + Send>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(async {
            let subscribed = self.subscribe().await;
            if subscribed.is_err() {
                // The subscription may fail at once, before anything is sent.
                consume_budget().await;
            }
            subscribed
        })
    }
}

/// The membership of a stream in its topic. Dropping it leaves the topic.
struct Membership {
    client: Arc<Handle>,
    topic: Topic,
    inbox: Arc<Inbox>,
    /// Set if the subscription has a window.
    reader: Option<Arc<Reader>>,
    standing: Arc<Standing>,
}

impl Membership {
    /// Leaves the topic. A second call has no effect.
    pub(crate) fn leave(&self) {
        self.client.shared.act(|core, step| {
            core.topics.leave(&mut core.links, &self.topic, &self.inbox, step);
        });
    }

    fn begin(&self, position: Position) {
        self.standing.advance(position);
        self.reader.iter().for_each(|reader| reader.begin(position));
    }

    /// The reader, if it is handed again what it has not acknowledged.
    fn redelivers(&self) -> Option<&Arc<Reader>> {
        self.reader.as_ref().filter(|reader| reader.redelivers())
    }

    pub(crate) fn emit(&self, event: ConnectionEvent) {
        self.client.shared.emit(event);
    }

    /// Hands over a delivery: updates the position and the acks.
    fn hand_over(&self, delivery: &mut Delivery) {
        match delivery.behind() {
            Some(position) => self.standing.advance(position),
            None => self.standing.end(),
        }
        let Some(reader) = &self.reader else { return };
        match delivery {
            Delivery::Notification(Notification { epoch, sequence, ack, .. }) => {
                *ack = reader.handle();
                reader.hand_over(*epoch, *sequence, *sequence, || self.client.shared.now());
            }
            Delivery::Gap(Gap { epoch, first, last, .. }) => {
                reader.hand_over_gap(*epoch, *first, *last);
            }
            Delivery::Reset { position, .. } => reader.reset(*position),
            Delivery::End { .. } | Delivery::Lost { .. } => {}
        }
    }

    /// Takes in that the application has handled the numbers from `first` to `last`.
    fn ack(&self, epoch: Epoch, first: u64, last: u64) {
        self.reader.iter().for_each(|reader| reader.ack(epoch, first, last));
    }
}

/// Returns a function that reports to a topic what its reader has handled, and when it has to be
/// looked at.
fn reporting(shared: Arc<Shared>, topic: Topic, inbox: Arc<Inbox>) -> impl Fn(Report) {
    move |report| {
        shared.act(|core, step| match report {
            Report::Handled(position) => {
                core.topics.handled(&mut core.links, &topic, &inbox, position, step);
            }
            Report::Watch(at) => core.topics.watch(&topic, &inbox, at),
        });
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        self.leave();
        self.standing.end();
    }
}

/// A subscription: a stream of [`Delivery`]s. Dropping it leaves the topic.
///
/// The client renews the lease; the application only has to read. A subscription survives the loss
/// of a connection: on the next one it resumes from its own position, and what was missed comes
/// first. Notifications come in the order of their numbers. Every number that is not delivered is
/// reported: by the server in a gap, as a [`Delivery::Reset`] when the topic has a new log, or by
/// this client when its queue overflows because the stream is read too slowly
/// ([`ClientConfig::inbox_bytes`](crate::ClientConfig::inbox_bytes)). Several subscriptions of a
/// client to one topic share one on the wire.
///
/// Implements PROTOCOL.md, section 4.
///
/// ```
/// # use bellwire::{Client, Delivery};
/// # async fn example(client: Client) -> Result<(), bellwire::CallError> {
/// let mut offers = client.subscribe("offers").await?;
/// while let Some(delivery) = offers.next().await {
///     match delivery {
///         Delivery::Notification(offer) => println!("{}: {:?}", offer.sequence, offer.payload),
///         Delivery::Gap(gap) => println!("missed {} to {}", gap.first, gap.last),
///         other => println!("{other:?}"),
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "dropping a subscription leaves its topic"]
pub struct Subscription {
    membership: Membership,
    /// The lock is never contended. It makes the subscription `Sync`, although the callback's
    /// future need not be.
    on_loss: Mutex<OnLoss>,
    /// The rest of a gap of which only a part was handed over.
    rest: Option<Delivery>,
    /// Set after a failure: the end of the subscription, until it is handed over.
    end: Option<Option<Delivery>>,
    /// The position where it began.
    start: Position,
}

impl Subscription {
    /// The topic.
    pub fn topic(&self) -> &Topic {
        &self.membership.topic
    }

    /// The position of the application: everything below it was handed over or named in a gap.
    ///
    /// Subscribing [`from`](Subscribe::from) it later resumes without loss. What comes again
    /// ([`redeliver`](Subscribe::redeliver)) does not lower it.
    pub fn position(&self) -> Position {
        self.membership.standing.position().unwrap_or(self.start)
    }

    /// The position below which everything is acknowledged: the lowest number that is not. A gap
    /// counts as acknowledged.
    ///
    /// Subscribing [`from`](Subscribe::from) it later brings everything again that was not
    /// acknowledged, and also what was acknowledged above it. It is the [`position`](Self::position)
    /// if the subscription is not acknowledged [by hand](Subscribe::ack_by_hand), or has no window.
    pub fn acknowledged(&self) -> Position {
        let reader = self.membership.reader.as_ref().filter(|reader| reader.is_by_hand());
        reader.and_then(|reader| reader.floor()).unwrap_or_else(|| self.position())
    }

    /// Waits until the application has seen everything below `position`, which names the *next*
    /// number: until this stream has handed it over or named it in a gap. The result is `true`
    /// then. It is `false` if that can no longer happen, because the log was reset or the
    /// subscription has ended.
    ///
    /// Use it to wait for the effect of your own call: a reply may say where that is
    /// ([`Replied::after`](crate::Replied::after)). It does not read the stream; another task has
    /// to. If that task owns the subscription, wait on its [`progress`](Self::progress). If the
    /// position is in a log that this subscription has not reached yet, it waits for that log.
    ///
    /// Implements docs/protocol/after.md, section 17.
    ///
    /// ```
    /// # use bellwire::{CallError, Client};
    /// # async fn example(client: Client) -> Result<(), CallError> {
    /// let mut offers = client.subscribe("offers").await?;
    /// let reply = client.call("offers.add", r#"{"id":44}"#).replied().await?;
    /// if let Some(after) = reply.after {
    ///     let mut seen = std::pin::pin!(offers.seen(after.position));
    ///     while futures::poll!(seen.as_mut()).is_pending() {
    ///         println!("{:?}", offers.next().await);
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub fn seen(&self, position: Position) -> Seen {
        Seen::new(self.membership.standing.clone(), position)
    }

    /// Returns a handle that shows other tasks how far this stream was read. It does not keep the
    /// subscription alive.
    pub fn progress(&self) -> Progress {
        Progress::new(self.membership.standing.clone(), self.start)
    }

    /// Acknowledges everything that was handed over below `position`, which names the *next*
    /// number: after a notification with number 7, acknowledge 8. Use [`position`](Self::position)
    /// for everything.
    ///
    /// For subscriptions that are acknowledged [by hand](Subscribe::ack_by_hand); otherwise it has
    /// no effect. What was not handed over stays unacknowledged. A position in another log, or with
    /// a `next` of 0, is ignored. See [`Notification::ack`] for a single notification.
    pub fn ack(&self, position: Position) {
        // No number is below 1. A position with 0 is not valid and acknowledges nothing.
        if let Some(last) = position.next.checked_sub(1) {
            self.membership.ack(position.epoch, 1, last);
        }
    }

    /// The next delivery; `None` after [`Delivery::End`].
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Option<Delivery> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Subscription {
    type Item = Delivery;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        let this = self.get_mut();
        let polled = poll_budgeted(cx, |cx| this.poll_delivery(cx));
        if let Some(message) = this.on_loss.get_mut().take_panic() {
            let topic = this.topic().clone();
            this.membership.emit(ConnectionEvent::ResyncPanicked { topic, message });
        }
        polled
    }
}

impl Subscription {
    fn poll_delivery(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        loop {
            if let Some(end) = &mut self.end {
                return Poll::Ready(end.take());
            }
            let shared = &self.membership.client.shared;
            let resynced = ready!(self.on_loss.get_mut().poll_resync(cx, shared));
            if let Some((loss, is_made_good)) = resynced {
                match is_made_good {
                    true => self.membership.hand_over(&mut loss.clone()),
                    false => return Poll::Ready(Some(self.fail(loss))),
                }
            }
            let Some(mut delivery) = ready!(self.poll_wanted(cx)) else {
                self.membership.standing.end();
                return Poll::Ready(None);
            };
            match self.on_loss.get_mut().judge(&delivery) {
                Judged::HandOver => {
                    self.membership.hand_over(&mut delivery);
                    return Poll::Ready(Some(delivery));
                }
                Judged::Fail => return Poll::Ready(Some(self.fail(delivery))),
                Judged::Resync(position) => {
                    let shared = &self.membership.client.shared;
                    self.on_loss.get_mut().hold(delivery, position, shared);
                }
            }
        }
    }

    /// The next delivery of the queue, without what the application has acknowledged.
    fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        let Self { membership, rest, .. } = self;
        let Some(reader) = membership.redelivers() else { return membership.inbox.poll_next(cx) };
        loop {
            let next = match rest.take() {
                Some(rest) => rest,
                None => match ready!(membership.inbox.poll_next(cx)) {
                    Some(next) => next,
                    None => return Poll::Ready(None),
                },
            };
            let (wanted, left) = sift(reader, next);
            *rest = left;
            if wanted.is_some() {
                return Poll::Ready(wanted);
            }
        }
    }

    /// Leaves the topic after a loss, and hands over the loss.
    fn fail(&mut self, mut loss: Delivery) -> Delivery {
        self.membership.hand_over(&mut loss);
        self.membership.leave();
        self.membership.standing.end();
        let position = match self.membership.redelivers() {
            Some(_) => self.acknowledged(),
            None => self.position(),
        };
        let (topic, position) = (self.topic().clone(), Some(position));
        self.end = Some(Some(Delivery::End { topic, reason: Code::LOST, position }));
        loss
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription")
            .field("topic", self.topic())
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}

/// All notifications of a client, of every topic that it is subscribed to:
/// [`Client::notifications`](crate::Client::notifications).
///
/// A topic is included while a [`Subscription`] to it lives. Each stream has its own queue, with
/// the same bounds as a subscription's. It names what it drops, for up to
/// [`ClientConfig::missed_topics`](crate::ClientConfig::missed_topics) topics; what it drops of
/// further topics is one [`Delivery::Lost`].
#[must_use = "streams do nothing unless they are polled"]
pub struct Notifications {
    inbox: Arc<Inbox>,
}

impl Notifications {
    pub(crate) fn new(shared: &Shared) -> Self {
        let config = &shared.config;
        let (items, bytes, topics) = (config.inbox_items, config.inbox_bytes, config.missed_topics);
        let inbox = Arc::new(Inbox::of_topics(items, bytes, topics));
        shared.look(|core| core.topics.join_all(&inbox));
        Self { inbox }
    }

    /// The next delivery of any topic; `None` once the client has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost when it is dropped.
    pub async fn next(&mut self) -> Option<Delivery> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }
}

impl Stream for Notifications {
    type Item = Delivery;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Delivery>> {
        poll_budgeted(cx, |cx| self.inbox.poll_next(cx))
    }
}

impl fmt::Debug for Notifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Notifications")
    }
}
