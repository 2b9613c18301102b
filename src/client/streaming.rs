//! Streamed replies: a request line out, its items in, one by one.

use std::{
    fmt,
    future::{Future, poll_fn},
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;

use crate::{
    client::{
        Client, Decode,
        call::send_when_possible,
        core::body::Body,
        core::items::{Flow, Taken},
        retry::Patience,
        shared::{Shared, Timer},
        typed::decode,
    },
    coop::poll_budgeted,
    error::{CallError, NotSent, Unknown},
    protocol::{MAX_NUMBER, Method, RequestId, TraceParent},
    sync::Arc,
};

/// The credit of a request that names none, in items (PROTOCOL.md, section 7.8).
const DEFAULT_WINDOW: u64 = 32;

/// A streamed reply: a stream of its items. Nothing is sent before it is first polled.
///
/// Made by [`Client::stream`](crate::Client::stream). Implements PROTOCOL.md, section 7.8. The
/// stream ends with the reply. If the reply fails, its last item is a [`CallError`], after
/// everything that came before. A method that answers with one payload instead of a stream gives a
/// stream of that payload, if it is not empty.
///
/// The server sends no more items than there is credit for. Credit goes back as items are taken, by
/// the half window. With [`next_with_credit`](Self::next_with_credit) it goes back when the
/// application is done with an item. A reply that is not read costs the server only its place in
/// flight, and this side at most [`window`](Self::window) items. Calls and notifications go on
/// beside it. The stream keeps the connection open, as a [`Subscription`](crate::Subscription)
/// does. After the client is told to close, no more credit reaches the server, and the server cuts
/// the reply short.
///
/// ```
/// use bellwire::{CallError, Client};
///
/// async fn print_all(client: &Client) -> Result<(), CallError> {
///     let mut offers = client.stream("offers.list", "").window(8);
///     while let Some(offer) = offers.next().await {
///         println!("{}", String::from_utf8_lossy(&offer?));
///     }
///     Ok(())
/// }
/// ```
///
/// # Errors
/// The last item, as a [`Call`](crate::Call)'s: its variant tells whether the handler may have run.
///
/// # Cancel safety
/// It may be dropped at any point. If the request was sent and its reply has not ended, the server
/// is told to cancel it. Its place in flight becomes free when the server's terminal line arrives.
/// Dropping the future of [`next`](Self::next) loses nothing.
#[must_use = "a streamed call does nothing unless it is polled"]
pub struct Streaming {
    client: Client,
    state: State,
    window: u64,
    patience: Patience,
    timer: Option<Timer>,
}

enum State {
    New(Body),
    /// Waiting for a connection, for a place in flight, or for room to write.
    Waiting(Sending),
    Open(Open, Body),
    Over(Option<CallError>),
}

type Open = (RequestId, Arc<Flow>);
type Sending = Pin<Box<dyn Future<Output = Result<(Open, Body), NotSent>> + Send>>;

impl Streaming {
    pub(crate) fn new(client: Client, method: &str, payload: &[u8]) -> Self {
        match Method::new_word(method) {
            Ok(word) => Self::with_state(client, State::New(Body::new(word, payload))),
            Err(error) => Self::failed(client, NotSent::Name(error).into()),
        }
    }

    pub(crate) fn failed(client: Client, error: CallError) -> Self {
        Self::with_state(client, State::Over(Some(error)))
    }

    fn with_state(client: Client, state: State) -> Self {
        let patience = Patience::new(&client.shared().config);
        Self { client, state, window: DEFAULT_WINDOW, patience, timer: None }
    }

    /// Items that the server may send ahead of what was taken, 1 to
    /// [`MAX_NUMBER`](crate::protocol::MAX_NUMBER). Default 32. Without effect once it was polled.
    ///
    /// Worst case: this many payloads, each of up to [`ClientConfig::max_line`] bytes.
    ///
    /// [`ClientConfig::max_line`]: crate::ClientConfig::max_line
    pub fn window(mut self, items: usize) -> Self {
        self.window = u64::try_from(items).unwrap_or(MAX_NUMBER).clamp(1, MAX_NUMBER);
        self
    }

    /// Gives the whole reply this long, from the first poll; `None` for no limit but the server's own,
    /// from item to item. The server is told what is left when the line is sent. Default:
    /// [`ClientConfig::deadline`](crate::ClientConfig::deadline) until the request is sent, and no limit
    /// for the reply.
    ///
    /// Past it, the last item is [`Unknown::Deadline`] if the request was sent, and it is cancelled on
    /// the server; else [`NotSent::Deadline`]. Items that were not taken by then are dropped, unless the reply had
    /// ended by then.
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.patience.set_deadline(deadline.into());
        self
    }

    /// Fails at once while there is no connection, and is not sent again: as
    /// [`ClientConfig::fail_fast`](crate::ClientConfig::fail_fast), for this request.
    pub fn fail_fast(mut self) -> Self {
        self.patience.fail_fast = true;
        self
    }

    /// Sends a trace context with the request: on the server, the handler's span carries it, and the
    /// items are made within that span.
    pub fn trace(mut self, parent: TraceParent) -> Self {
        if let State::New(body) = &mut self.state
            && let Err(error) = body.attributes.push("trace", parent)
        {
            self.state = State::Over(Some(NotSent::Attribute(error).into()));
        }
        self
    }

    /// Sends an attribute of the application's own with the request: its key has a dot. The stream
    /// ends [`NotSent::Attribute`] if it cannot be written.
    pub fn attribute(mut self, key: &str, value: impl fmt::Display) -> Self {
        if let State::New(body) = &mut self.state
            && let Err(error) = body.attributes.push_application(key, value)
        {
            self.state = State::Over(Some(NotSent::Attribute(error).into()));
        }
        self
    }

    /// The next item; `None` after the last one.
    ///
    /// # Errors
    /// [`CallError`], once, as the last item.
    ///
    /// # Cancel safety
    /// Dropping it loses no item.
    pub async fn next(&mut self) -> Option<Result<Bytes, CallError>> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    /// The next item with its credit, which the server gets back only when the application drops
    /// it. `None` after the last one.
    ///
    /// This is to items what acks are to notifications. A reader that hands items to workers holds
    /// the credit until the work is done, so that at most a [`window`](Self::window) of items is in
    /// progress. Credit may be dropped in any order, in any task, and after the stream.
    ///
    /// ```
    /// use bellwire::{CallError, Client};
    ///
    /// # async fn resize(_: bytes::Bytes) {}
    /// async fn resize_all(client: &Client) -> Result<(), CallError> {
    ///     let mut photos = client.stream("photos", "").window(8);
    ///     while let Some(photo) = photos.next_with_credit().await {
    ///         let (photo, credit) = photo?;
    ///         tokio::spawn(async move {
    ///             resize(photo).await;
    ///             drop(credit);
    ///         });
    ///     }
    ///     Ok(())
    /// }
    /// ```
    ///
    /// # Errors
    /// [`CallError`], once, as the last item.
    ///
    /// # Cancel safety
    /// Dropping it loses no item.
    pub async fn next_with_credit(&mut self) -> Option<Result<(Bytes, ItemCredit), CallError>> {
        let item = poll_fn(|cx| self.poll_taken(cx, false)).await?;
        Some(item.map(|item| (item, self.item_credit())))
    }

    /// Of an item that was taken without giving it back.
    fn item_credit(&self) -> ItemCredit {
        ItemCredit(match &self.state {
            State::Open((id, flow), _) => Some((self.client.share(), *id, flow.clone())),
            State::New(_) | State::Waiting(_) | State::Over(_) => None,
        })
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CallError>>> {
        self.poll_taken(cx, true)
    }

    fn poll_taken(
        &mut self,
        cx: &mut Context<'_>,
        gives_back: bool,
    ) -> Poll<Option<Result<Bytes, CallError>>> {
        loop {
            match &mut self.state {
                State::New(_) => self.start(),
                State::Waiting(sent) => match sent.as_mut().poll(cx) {
                    Poll::Pending => return self.poll_deadline(cx),
                    Poll::Ready(Ok((open, body))) => {
                        // The deadline that all requests have is over with that.
                        self.timer = self.timer.take().filter(|_| self.patience.ttl().is_some());
                        self.state = State::Open(open, body);
                    }
                    Poll::Ready(Err(why)) => {
                        self.state = State::Over(Some(self.patience.last(why)));
                    }
                },
                State::Open((id, flow), _) => {
                    let (id, flow) = (*id, flow.clone());
                    // A reply that has ended was in time, however late it is read.
                    if !(self.timer.is_none() || flow.is_over())
                        && let late @ Poll::Ready(_) = self.poll_deadline(cx)
                    {
                        return late;
                    }
                    let taken = ready!(poll_budgeted(cx, |cx| flow.poll_next(cx, gives_back)));
                    if !self.sends_again(&taken) {
                        return Poll::Ready(self.hand_over(id, taken));
                    }
                }
                State::Over(error) => {
                    return poll_budgeted(cx, |_| Poll::Ready(error.take().map(Err)));
                }
            }
        }
    }

    fn start(&mut self) {
        let State::New(mut body) = std::mem::replace(&mut self.state, State::Over(None)) else {
            return;
        };
        let ttl = self.patience.ttl();
        if ttl.is_some_and(|ttl| ttl.is_zero()) {
            self.state = State::Over(Some(self.client.shared().out_of_time().into()));
            return;
        }
        self.patience.begin();
        self.timer = ttl.and_then(|ttl| self.client.shared().timer(ttl));
        let window = self.window;
        if window != DEFAULT_WINDOW
            && let Err(error) = body.attributes.push("window", window)
        {
            self.state = State::Over(Some(NotSent::Attribute(error).into()));
            return;
        }
        self.state = self.wait(body, Duration::ZERO);
    }

    fn wait(&mut self, body: Body, pause: Duration) -> State {
        let (client, window) = (self.client.clone(), self.window);
        self.timer = self.timer.take().or_else(|| self.patience.timer(client.shared()));
        let (expires, fail_fast) = (self.patience.ttl_expires(), self.patience.fail_fast);
        State::Waiting(Box::pin(async move {
            let shared = client.shared();
            if !pause.is_zero() {
                shared.pause(pause).await;
            }
            let send = |left, places: &_| shared.send_stream(&body, left, Some(places), window);
            let open = send_when_possible(shared, expires, fail_fast, send).await?;
            Ok((open, body))
        }))
    }

    /// Whether what was taken is no item and no end, since the request is sent again. A server that
    /// refuses what it has begun to answer proves nothing.
    fn sends_again(&mut self, taken: &Option<Result<Taken, CallError>>) -> bool {
        let (State::Open((id, flow), _), Some(Err(error))) = (&self.state, taken) else {
            return false;
        };
        if flow.has_begun() {
            return false;
        }
        let Some(pause) = self.patience.resend(self.client.shared(), *id, error) else {
            return false;
        };
        if let State::Open(_, body) = std::mem::replace(&mut self.state, State::Over(None)) {
            self.state = self.wait(body, pause);
        }
        true
    }

    fn hand_over(
        &mut self,
        id: RequestId,
        taken: Option<Result<Taken, CallError>>,
    ) -> Option<Result<Bytes, CallError>> {
        let Some(Ok(Taken { item, grant })) = taken else {
            self.state = State::Over(None);
            let last = |error| self.patience.last(error);
            return taken.map(|taken| taken.map(|Taken { item, .. }| item).map_err(last));
        };
        if grant > 0 {
            self.client.shared().give_credit(id, grant);
        }
        Some(Ok(item))
    }

    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CallError>>> {
        let Some(timer) = &mut self.timer else {
            return Poll::Pending;
        };
        ready!(timer.as_mut().poll(cx));
        Poll::Ready(Some(Err(match self.cancel() {
            true => self.patience.last(self.client.shared().out_of_time()),
            false => Unknown::Deadline.into(),
        })))
    }

    /// Gives it up; whether it is proven that it was not sent.
    fn cancel(&mut self) -> bool {
        let state = std::mem::replace(&mut self.state, State::Over(None));
        let State::Open((id, _flow), _) = state else { return true };
        self.client.shared().cancel(id)
    }
}

/// The credit of one item of a streamed reply, from
/// [`next_with_credit`](Streaming::next_with_credit). Dropping it allows the server to make one
/// more item.
///
/// The server is told by the half window, or at once if it has no credit left (PROTOCOL.md, section
/// 7.8). Credit does not keep the connection open. Credit that is never dropped, for example by
/// [`std::mem::forget`], makes the window smaller for the rest of the stream.
#[must_use = "dropping it gives the credit back at once"]
pub struct ItemCredit(Option<(Arc<Shared>, RequestId, Arc<Flow>)>);

impl Drop for ItemCredit {
    fn drop(&mut self) {
        let Some((shared, id, flow)) = self.0.take() else { return };
        let grant = flow.release();
        if grant > 0 {
            shared.give_credit(id, grant);
        }
    }
}

impl fmt::Debug for ItemCredit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ItemCredit")
    }
}

impl Stream for Streaming {
    type Item = Result<Bytes, CallError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_item(cx)
    }
}

/// A reply that was dropped takes its place with it until its terminal line (R5).
impl Drop for Streaming {
    fn drop(&mut self) {
        self.cancel();
    }
}

impl fmt::Debug for Streaming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streaming").field("window", &self.window).finish_non_exhaustive()
    }
}

/// A typed streamed reply: a stream of decoded items. Otherwise as [`Streaming`].
///
/// An item that cannot be decoded ends the stream with [`CallError::Decode`], and the request is
/// cancelled.
#[must_use = "a streamed call does nothing unless it is polled"]
pub struct TypedStreaming<C, R> {
    items: Streaming,
    codec: C,
    item: PhantomData<fn() -> R>,
}

impl<C: Decode<R>, R> TypedStreaming<C, R> {
    pub(crate) fn new(items: Streaming, codec: C) -> Self {
        Self { items, codec, item: PhantomData }
    }

    /// As [`Streaming::window`].
    pub fn window(mut self, items: usize) -> Self {
        self.items = self.items.window(items);
        self
    }

    /// As [`Streaming::deadline`].
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.items = self.items.deadline(deadline);
        self
    }

    /// As [`Streaming::fail_fast`].
    pub fn fail_fast(mut self) -> Self {
        self.items = self.items.fail_fast();
        self
    }

    /// As [`Streaming::trace`].
    pub fn trace(mut self, parent: TraceParent) -> Self {
        self.items = self.items.trace(parent);
        self
    }

    /// As [`Streaming::attribute`].
    pub fn attribute(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.items = self.items.attribute(key, value);
        self
    }

    /// As [`Streaming::next`].
    ///
    /// # Errors
    /// [`CallError`], once, as the last item.
    ///
    /// # Cancel safety
    /// Dropping it loses no item.
    pub async fn next(&mut self) -> Option<Result<R, CallError>> {
        poll_fn(|cx| self.poll_item(cx)).await
    }

    /// As [`Streaming::next_with_credit`].
    ///
    /// # Errors
    /// [`CallError`], once, as the last item.
    ///
    /// # Cancel safety
    /// Dropping it loses no item.
    pub async fn next_with_credit(&mut self) -> Option<Result<(R, ItemCredit), CallError>> {
        Some(match self.items.next_with_credit().await? {
            Ok((item, credit)) => self.decoded(&item).map(|item| (item, credit)),
            Err(error) => Err(error),
        })
    }

    /// What cannot be decoded is the last item.
    fn decoded(&mut self, item: &[u8]) -> Result<R, CallError> {
        decode(&self.codec, item).inspect_err(|_| {
            self.items.cancel();
        })
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<R, CallError>>> {
        let item = match ready!(self.items.poll_item(cx)) {
            None => return Poll::Ready(None),
            Some(Err(error)) => return Poll::Ready(Some(Err(error))),
            Some(Ok(item)) => self.decoded(&item),
        };
        Poll::Ready(Some(item))
    }
}

impl<C: Decode<R> + Unpin, R> Stream for TypedStreaming<C, R> {
    type Item = Result<R, CallError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.get_mut().poll_item(cx)
    }
}

impl<C, R> fmt::Debug for TypedStreaming<C, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TypedStreaming")
    }
}
