//! Streamed replies: a request line out, its items in, one by one.

use std::{
    borrow::Borrow,
    fmt,
    future::poll_fn,
    marker::PhantomData,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_core::Stream;

use crate::{
    client::{
        codecs::{Decode, decode},
        core::{
            caller::Caller,
            cell::RequestCell,
            items::{ItemQueue, Taken},
            key::Key,
        },
        exchange::Exchange,
        handle::Handle,
        shared::Shared,
    },
    coop::poll_budgeted,
    error::{CallError, NotSent},
    protocol::{MAX_NUMBER, Method, TraceParent},
    sync::Arc,
};

/// The credit of a request without `window`, in items (docs/protocol/streams.md, section 15).
const DEFAULT_WINDOW: u64 = 32;

/// A streamed reply: a stream of its items. Nothing is sent before it is first polled.
///
/// Made by [`Client::stream`](crate::Client::stream). Implements docs/protocol/streams.md, section
/// 15. The stream ends with the reply. If the reply fails, its last item is a [`CallError`], after
/// everything that came before. A method that answers with one payload instead of a stream gives a
/// stream of that payload, if it is not empty.
///
/// The server sends no more items than there is credit for. Credit goes back by the half window, as
/// items are taken. With [`next_with_credit`](Self::next_with_credit) it goes back when the
/// application is done with an item. A reply that is not read costs the server only its place in
/// flight, and this side at most [`window`](Self::window) items. It does not delay calls and
/// notifications. Once the client is closing, no more credit reaches the server, and the server
/// cuts the reply short.
///
/// It owns a clone of its client, so that it keeps the connection open, as a
/// [`Subscription`](crate::Subscription) does, and can be spawned or stored. A
/// [`Call`](crate::Call) borrows its client instead.
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
/// It may be dropped at any point. If the request was sent and its reply has not ended, the client
/// cancels it on the server. Its place in flight becomes free when the server's terminal line
/// arrives. Dropping the future of [`next`](Self::next) loses nothing.
#[must_use = "a streamed call does nothing unless it is polled"]
pub struct Streaming {
    exchange: Exchange<Arc<Handle>>,
    window: u64,
    /// Set at the first poll.
    items: Option<Arc<ItemQueue>>,
}

impl Borrow<Shared> for Arc<Handle> {
    fn borrow(&self) -> &Shared {
        &self.shared
    }
}

impl Streaming {
    pub(crate) fn new(client: Arc<Handle>, method: &str, payload: &[u8]) -> Self {
        let word = Method::new_word(method).map_err(|error| NotSent::Name(error).into());
        Self::with_cell(client, word.map(|word| RequestCell::new(word, payload)))
    }

    pub(crate) fn failed(client: Arc<Handle>, error: CallError) -> Self {
        Self::with_cell(client, Err(error))
    }

    fn with_cell(client: Arc<Handle>, cell: Result<Arc<RequestCell>, CallError>) -> Self {
        Self { exchange: Exchange::new(client, cell), window: DEFAULT_WINDOW, items: None }
    }

    /// Gives the whole reply this long, from its first poll; `None` for no limit but the server's
    /// own, from item to item. The line carries the remaining time as `ttl`. Default:
    /// [`ClientConfig::deadline`](crate::ClientConfig::deadline) until the request is sent, and no
    /// limit for the reply.
    ///
    /// When it has passed, the stream ends with [`Unknown::Deadline`](crate::Unknown::Deadline) if
    /// the request was sent, and the request is cancelled on the server. If it was not sent, the
    /// stream ends with [`NotSent::Deadline`], which says why there is no connection. Items that
    /// were not taken by then are dropped, unless the reply had already ended. The timer belongs to
    /// the same runtime as [that of a call](crate::Call::deadline).
    pub fn deadline(mut self, deadline: impl Into<Option<Duration>>) -> Self {
        self.exchange.set_deadline(deadline.into());
        self
    }

    /// Fails at once while there is no connection, and is not sent again: as
    /// [`ClientConfig::fail_fast`](crate::ClientConfig::fail_fast), for this request.
    pub fn fail_fast(mut self) -> Self {
        self.exchange.fail_fast = true;
        self
    }

    /// Sends a trace context with the request. The handler's span on the server carries it, and the
    /// items are made within that span.
    pub fn trace(mut self, parent: TraceParent) -> Self {
        self.exchange.push(|attributes| attributes.push("trace", parent));
        self
    }

    /// Sends an attribute of the application with the request; its key has a dot. If it cannot be
    /// written, the stream ends with [`NotSent::Attribute`].
    pub fn attribute(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.exchange.push(|attributes| attributes.push_application(key, value));
        self
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

    /// Creates the credit of an item that was taken without giving the credit back.
    fn item_credit(&self) -> ItemCredit {
        let credit = self.key().zip(self.items.clone());
        ItemCredit(credit.map(|(key, items)| (self.exchange.client().shared.clone(), key, items)))
    }

    fn poll_item(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, CallError>>> {
        self.poll_taken(cx, true)
    }

    fn poll_taken(
        &mut self,
        cx: &mut Context<'_>,
        gives_back: bool,
    ) -> Poll<Option<Result<Bytes, CallError>>> {
        let (true, Some(items)) = (self.begin(), &self.items) else {
            let exchange = &mut self.exchange;
            return poll_budgeted(cx, |_| Poll::Ready(exchange.take_error().map(Err)));
        };
        // A reply that ended before its deadline stays valid when it is read later.
        if self.exchange.has_timer()
            && !items.is_over()
            && let Poll::Ready(error) = self.exchange.poll_deadline_to_send(cx)
        {
            return Poll::Ready(Some(Err(error)));
        }
        let taken = ready!(poll_budgeted(cx, |cx| items.poll_next(cx, gives_back)));
        let Some(Ok(Taken { item, grant })) = taken else {
            self.exchange.finish();
            return Poll::Ready(taken.map(|taken| taken.map(|Taken { item, .. }| item)));
        };
        if grant > 0
            && let Some(key) = self.key()
        {
            give_credit(self.exchange.shared(), key, grant);
        }
        Poll::Ready(Some(Ok(item)))
    }

    /// The key of the request, which is known once there is an item.
    fn key(&self) -> Option<Key> {
        self.exchange.under_way().and_then(RequestCell::key)
    }

    fn begin(&mut self) -> bool {
        let Self { exchange, window, items } = self;
        if items.is_none() && *window != DEFAULT_WINDOW {
            exchange.push(|attributes| attributes.push("window", *window));
        }
        exchange.begin(|| {
            let queue = Arc::new(ItemQueue::new(*window));
            *items = Some(queue.clone());
            Caller::Stream(queue)
        })
    }

    fn cancel(&mut self) {
        self.exchange.cancel();
    }
}

fn give_credit(shared: &Shared, key: Key, items: u64) {
    shared.act(|core, step| core.requests.give_credit(key, items, &mut core.links, step));
}

/// The credit of one item of a streamed reply, from
/// [`next_with_credit`](Streaming::next_with_credit). Dropping it allows the server to make one
/// more item.
///
/// The credit is given back by the half window, or at once if the server has none left
/// (docs/protocol/streams.md, section 15). Credit does not keep the connection open. Credit that is
/// never dropped, for example because of [`std::mem::forget`], makes the window smaller for the
/// rest of the stream.
#[must_use = "dropping it gives the credit back at once"]
pub struct ItemCredit(Option<(Arc<Shared>, Key, Arc<ItemQueue>)>);

impl Drop for ItemCredit {
    fn drop(&mut self) {
        let Some((shared, key, items)) = self.0.take() else { return };
        let grant = items.release();
        if grant > 0 {
            give_credit(&shared, key, grant);
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

    /// As [`Streaming::window`].
    pub fn window(mut self, items: usize) -> Self {
        self.items = self.items.window(items);
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

    /// Decodes an item. If that fails, the error is the last item.
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
