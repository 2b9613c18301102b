//! What the client does with each line: replies to their callers, notifications to their streams.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;
use tracing::Span;

use crate::{
    client::{
        core::auth::{Admission, Ways},
        core::items::{Flow, Overrun},
        core::link::{LinkId, Stray},
        core::retry_after::Hint,
        core::topics::{Input, Told},
        core::waiter::{CallResult, Reply, Waiter},
        event::ConnectionEvent,
        shared::{Shared, wake},
        stats::Tally,
    },
    error::{CallError, ConnectionError, Unknown},
    guard::{Held, guarded},
    protocol::{
        Attributes, Code, Escaped, Hello, Incoming, Line, Notice, Outcome, Position, Reason,
        RequestId, SubscriptionEvent, VERSION, parse_notification, parse_number,
    },
    sync::{Arc, oneshot},
};

/// The most bytes a list of the protocol's own may take, with [`PER_ITEM`] for each of its items:
/// `/methods` of a large server fits.
const MAX_LIST: usize = 4 * 1024 * 1024;
const PER_ITEM: usize = 64;
/// Replies that are gathered before they are completed, about 100 bytes each beside their payload.
const BATCH: usize = 1_024;
/// Renewals that may be unanswered at once. A slow reply must not make the next renewal late; a
/// server that answers none for the length of two leases gets no more of them.
const MAX_RENEWALS: usize = 4;

/// How the list in the reply to `/renew` is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Listing {
    /// In one line, which every server knows.
    #[default]
    Line,
    /// In lines of its own, since one line was too long.
    Pages,
    /// In one line, too long or not: the server knows no other way.
    LineOnly,
}

/// Takes lines in, in order. Replies are gathered and completed in batches, so that the table of
/// pending calls is locked once per batch; whatever stands behind a reply on the wire is handled
/// behind it, so a batch ends where a line of the reserved channel begins.
pub(crate) struct Reader {
    pub(crate) shared: Arc<Shared>,
    pub(crate) link: LinkId,
    /// The credentials, by scheme.
    pub(crate) ways: Ways,
    /// The connection's span. It has no parent, because it outlives the task that connects. Its
    /// session is known from the hello on.
    pub(crate) span: Held<Span>,
    /// The server's first line, once it is there.
    pub(crate) hello: Option<Hello>,
    /// The id above which the server said it executes nothing.
    pub(crate) last_executed: Option<u64>,
    /// The reply to `/quit` came: there is nothing more to come.
    pub(crate) has_quit: bool,
    /// Calls completed since the last write: as many callers may be about to call again.
    pub(crate) completed: usize,
    /// What this poll has to count.
    pub(crate) tally: Tally,
    bye: Option<Reason>,
    /// The server has said goodbye.
    pub(crate) has_left: bool,
    pub(crate) hint: Arc<Hint>,
    replies: Vec<(RequestId, Outcome, CallResult)>,
    callers: Vec<(oneshot::Sender<CallResult>, CallResult)>,
    /// What there is to tell of topics, and when to ask for which again.
    pub(crate) told: Told,
    /// Renewals sent and not answered.
    renewals: usize,
    listing: Listing,
    /// The server's first line, while it has not said whether it knows this client, or not been heard
    /// out.
    pub(crate) unadmitted: Option<Hello>,
    /// It knows this client, or need not.
    pub(crate) is_admitted: bool,
    /// What is to be written before all else.
    pub(crate) first_lines: Vec<u8>,
    /// Why the server does not admit this client.
    pub(crate) not_admitted: Option<ConnectionError>,
}

impl Reader {
    pub(crate) fn new(shared: Arc<Shared>, link: LinkId, ways: Ways) -> Self {
        let span = guarded(
            || tracing::info_span!(parent: None, "client", session = tracing::field::Empty),
        );
        Self {
            shared,
            link,
            ways,
            span: Held::new(span.unwrap_or_else(Span::none)),
            hello: None,
            last_executed: None,
            has_quit: false,
            completed: 0,
            tally: Tally::default(),
            bye: None,
            has_left: false,
            hint: Arc::default(),
            replies: Vec::new(),
            callers: Vec::new(),
            told: Told::default(),
            renewals: 0,
            listing: Listing::default(),
            unadmitted: None,
            is_admitted: false,
            first_lines: Vec::new(),
            not_admitted: None,
        }
    }

    /// Handles a line, given without its LF.
    pub(crate) fn line(&mut self, line: &[u8]) -> Result<(), ConnectionError> {
        let line = Line::parse(line).map_err(|fault| broken_line(&fault))?;
        if self.hello.is_none() && self.unadmitted.is_none() {
            return self.first_line(&line);
        }
        match Incoming::from(line) {
            Incoming::Reply(id, Outcome::More, line) => self.more(id, &line.rest.plain()),
            Incoming::Reply(id, outcome, line) => {
                let result = result(outcome, &line)
                    .ok_or_else(|| broken_line(&format_args!("{outcome} without a code")))?;
                self.replies.push((id, outcome, result));
                if self.replies.len() < BATCH { Ok(()) } else { self.complete() }
            }
            Incoming::Notification(line) => {
                self.complete()?;
                self.notification(&line)
            }
            Incoming::Notice(line) => {
                self.complete()?;
                self.notice(&line)
            }
            Incoming::Unknown(id) => Err(broken_line(&format_args!("reply {id} has no outcome"))),
        }
    }

    /// Completes the gathered replies, and wakes the tasks concerned.
    ///
    /// # Errors
    /// In strict mode, when one of them had no waiter.
    pub(crate) fn finish_batch(&mut self) -> Result<(), ConnectionError> {
        let completed = self.complete();
        self.open();
        self.shared.counters.fold(&mut self.tally);
        self.told.tell_all(&self.shared);
        completed
    }

    fn first_line(&mut self, line: &Line<'_>) -> Result<(), ConnectionError> {
        let Some(Notice::Hello(hello)) = notice(line) else {
            return Err(broken_line(&"the first line is not a valid /hello"));
        };
        if hello.version != VERSION {
            return Err(ConnectionError::Version(hello.version));
        }
        guarded(|| self.span.record("session", tracing::field::display(hello.session)).is_none());
        guarded(|| tracing::debug!("connected"));
        let Admission { lines, is_asked_for } = self.admission(&hello)?;
        self.first_lines = lines;
        (self.unadmitted, self.is_admitted) = (Some(hello), !is_asked_for);
        Ok(())
    }

    /// Opens the gates, if the server knows this client.
    fn open(&mut self) {
        if let Some(hello) = self.unadmitted.take_if(|_| self.is_admitted) {
            self.hello = Some(hello.clone());
            self.shared.open(self.link, hello, &mut self.told);
        }
    }

    fn complete(&mut self) -> Result<(), ConnectionError> {
        if self.replies.is_empty() {
            return Ok(());
        }
        let mut places = 0;
        let mut others = Vec::new();
        let mut completed = Ok(());
        let mut links = self.shared.links.lock();
        let Some(link) = links.link(self.link) else { return Ok(()) };
        for (id, outcome, result) in self.replies.drain(..) {
            let waiter = match link.complete(id) {
                Ok(entry) => entry.waiter,
                Err(stray) => {
                    others.push((id, Err(stray), result));
                    if self.shared.config.strict {
                        completed = Err(stray.error(id));
                        break;
                    }
                    continue;
                }
            };
            self.tally.outcome(outcome);
            places += usize::from(waiter.holds_place());
            match waiter {
                Waiter::Call(caller) => self.callers.push((caller, result)),
                other => others.push((id, Ok(other), result)),
            }
        }
        let semaphore = link.places.clone();
        let has_control_room = link.take_control_room(self.shared.config.control_requests);
        drop(links);
        self.completed += self.callers.len();
        let is_late = |(_, waiter, _): &&(_, Result<Waiter, Stray>, _)| {
            matches!(waiter, Ok(Waiter::Tombstone))
        };
        self.tally.late_replies += others.iter().filter(is_late).count() as u64;
        self.shared.counters.fold(&mut self.tally);
        if places > 0 {
            guarded(|| semaphore.add_permits(places));
        }
        if has_control_room {
            guarded(|| self.shared.drained.notify_waiters());
        }
        // Before callers: what one is told of a topic may be of the log that it has just come to.
        for (id, waiter, result) in others {
            match waiter {
                Ok(waiter) => completed = completed.and(self.complete_other(id, waiter, result)),
                Err(stray) => self.report(stray, id),
            }
        }
        for (caller, result) in self.callers.drain(..) {
            guarded(|| drop(caller.send(result)));
        }
        completed
    }

    /// Counts and reports a line without a waiter.
    fn report(&mut self, stray: Stray, id: RequestId) {
        let (count, event) = match stray {
            Stray::Doubled => (&mut self.tally.doubled_replies, ConnectionEvent::DoubledReply(id)),
            Stray::Unasked => (&mut self.tally.unasked_replies, ConnectionEvent::UnaskedReply(id)),
        };
        *count += 1;
        self.shared.counters.fold(&mut self.tally);
        self.shared.events.emit(event);
    }

    fn complete_other(
        &mut self,
        id: RequestId,
        waiter: Waiter,
        result: CallResult,
    ) -> Result<(), ConnectionError> {
        match waiter {
            Waiter::Call(_) | Waiter::Hello => {}
            Waiter::Stream(flow) => {
                let (last, end) = match result {
                    Ok(reply) => (Some(reply.payload).filter(|last| !last.is_empty()), Ok(())),
                    Err(error) => (None, Err(error)),
                };
                wake(flow.finish(last, end));
            }
            Waiter::Auth => self.on_admission(result),
            Waiter::Quit => self.has_quit = true,
            Waiter::Tombstone => self.shared.events.emit(ConnectionEvent::LateReply(id)),
            Waiter::List { items, caller, .. } => {
                guarded(|| drop(caller.send(result.map(|_| items))));
            }
            Waiter::Renew { in_pages } => self.renewed(in_pages, result),
            Waiter::Unsubscribe(topic) => self.move_topic(&topic, SubscriptionEvent::Left.into()),
            Waiter::Subscribe(topic) => {
                let input = subscribe_result(result).inspect_err(|error| {
                    // It left, so it is not "not sent" if it is never asked for again (R2).
                    let lost = Unknown::Lost(error.clone()).into();
                    self.shared.topics.lock().failed(&topic, &lost);
                })?;
                self.move_topic(&topic, input);
            }
        }
        Ok(())
    }

    fn move_topic(&mut self, topic: impl AsRef<str>, input: Input<'_>) {
        let mut topics = self.shared.topics.lock();
        topics.on_line(&self.shared, self.link, topic.as_ref(), input, &mut self.told);
    }

    /// An item of a streamed reply. If one line was expected, or the item came without credit, the
    /// call ends and is cancelled.
    fn more(&mut self, id: RequestId, item: &[u8]) -> Result<(), ConnectionError> {
        self.complete()?;
        let mut links = self.shared.links.lock();
        let Some(link) = links.link(self.link) else { return Ok(()) };
        match link.offered_waiter(id) {
            Some(Waiter::List { items, bytes, .. }) if *bytes < MAX_LIST => {
                *bytes += item.len() + PER_ITEM;
                items.push(Bytes::copy_from_slice(item));
                Ok(())
            }
            Some(Waiter::List { .. }) => Err(broken_line(&"a list does not end")),
            Some(waiter @ Waiter::Call(_)) => {
                let caller = std::mem::replace(waiter, Waiter::Tombstone);
                let driver = link.append_cancel(id);
                drop(links);
                wake(driver);
                caller.fail(Unknown::Streamed.into());
                Ok(())
            }
            Some(Waiter::Stream(flow)) => {
                let flow = flow.clone();
                drop(links);
                self.push(id, &flow, item);
                Ok(())
            }
            Some(Waiter::Renew { .. }) => {
                drop(links);
                self.listed(item);
                Ok(())
            }
            Some(_) => Ok(()),
            None => {
                let stray = link.stray(id);
                drop(links);
                self.report(stray, id);
                if self.shared.config.strict { Err(stray.error(id)) } else { Ok(()) }
            }
        }
    }

    fn push(&mut self, id: RequestId, flow: &Flow, item: &[u8]) {
        match flow.push(Bytes::copy_from_slice(item)) {
            Ok(reader) => wake(reader),
            Err(Overrun) => {
                self.tally.violations += 1;
                self.shared.counters.fold(&mut self.tally);
                self.shared.cancel(id);
                wake(flow.finish(None, Err(Unknown::Overrun.into())));
            }
        }
    }

    fn notification(&mut self, line: &Line<'_>) -> Result<(), ConnectionError> {
        let Some((number, payload)) = parse_notification(line.rest) else {
            return Err(broken_line(&"notification without a number"));
        };
        self.tally.notifications += 1;
        let event = SubscriptionEvent::Notification(number);
        self.move_topic(line.word.as_str(), Input { payload, ..event.into() });
        Ok(())
    }

    fn notice(&mut self, line: &Line<'_>) -> Result<(), ConnectionError> {
        // A second one says nothing, whatever stands in it.
        if line.word.as_str() == "/hello" {
            return Ok(());
        }
        let Some(notice) = notice(line) else {
            let word = Escaped(line.word.as_bytes());
            return Err(broken_line(&format_args!("{word} has wrong arguments")));
        };
        match notice {
            Notice::Gap { topic, epoch, first, last, reason } => {
                let event = SubscriptionEvent::Gap { epoch, first, last };
                self.move_topic(topic, Input { code: reason, ..event.into() });
            }
            Notice::Reset { topic, position } => {
                self.move_topic(topic, SubscriptionEvent::Reset(position).into());
            }
            Notice::End { topic, reason, position, head } => {
                let is_resumed = [Code::EXPIRED, Code::SHUTDOWN].contains(&reason);
                let event = match is_resumed {
                    true => SubscriptionEvent::Expired(position),
                    false => SubscriptionEvent::Ended,
                };
                let tail = head.map(|head| Position { next: head + 1, ..position });
                self.move_topic(topic, Input { code: reason, tail, ..event.into() });
            }
            Notice::Error { id, reason } => return self.server_error(id, reason),
            Notice::Bye { last, retry, reason } => {
                return self.goodbye(last, retry.map(Duration::from_millis), reason);
            }
            // That something came is all that `/hold` says.
            Notice::Hello(_) | Notice::Hold | Notice::Unknown => {}
        }
        Ok(())
    }

    /// The server is about to go, or, with `last`, has drawn the line. Before it has accepted the
    /// credentials, no request is in flight, and none will be.
    fn goodbye(
        &mut self,
        last: Option<u64>,
        hint: Option<Duration>,
        reason: Reason,
    ) -> Result<(), ConnectionError> {
        self.bye = Some(reason.clone());
        self.has_left = true;
        self.hint.give(hint);
        let error = ConnectionError::Bye(reason.clone());
        // A goodbye that comes with the hello in one read ends a connection that was there: else
        // what becomes of the client would depend on how the bytes were cut.
        self.open();
        if self.hello.is_none() {
            self.unadmitted = None;
            return Err(error);
        }
        match last {
            None => {
                self.shared.leave(self.link, error);
                self.shared.events.emit(ConnectionEvent::Leaving(reason));
            }
            Some(_) => {
                // What an earlier line took, no later one takes back.
                self.last_executed = last.max(self.last_executed);
                self.shared.refuse(self.link, error);
                self.shared.events.emit(ConnectionEvent::Bye(reason));
            }
        }
        Ok(())
    }

    /// A fault of this side's lines. One in the order of ids means that the two ends no longer
    /// agree on which requests there are.
    fn server_error(
        &mut self,
        id: Option<RequestId>,
        reason: Reason,
    ) -> Result<(), ConnectionError> {
        let fatal = reason.code == Code::ID_ORDER || reason.code == Code::LINE_TOO_LONG;
        let error = ConnectionError::Protocol(reason.to_string());
        self.shared.events.emit(ConnectionEvent::ServerError { id, reason });
        if fatal { Err(error) } else { Ok(()) }
    }

    /// Sends `/renew`, unless nothing is to be kept alive, or too many of them are not answered.
    pub(crate) fn renew(&mut self, keep_alive: bool) {
        let is_idle = || !keep_alive && !self.shared.topics.lock().has_any_on(self.link);
        if self.renewals >= MAX_RENEWALS || is_idle() {
            return;
        }
        let in_pages = self.listing == Listing::Pages;
        let (waiter, list) = (Waiter::Renew { in_pages }, if in_pages { ";list=more" } else { "" });
        let (head, arguments) = (format_args!("/renew{list}"), format_args!(""));
        let sent = self.shared.send_control(self.link, waiter, head, arguments);
        // The driver itself is running: it writes next, and needs no waking.
        self.renewals += usize::from(sent.is_some());
    }

    /// Sends a first line if there was none, so that the server knows what this side is.
    pub(crate) fn say_something(&mut self) {
        if !self.shared.has_spoken(self.link) {
            self.renew(true);
        }
    }

    /// When what was refused for now is to be asked for again.
    pub(crate) fn take_again(&mut self) -> Option<Instant> {
        self.told.again.take()
    }

    pub(crate) fn ask_again(&mut self) {
        self.shared.topics.lock().ask_again(&self.shared, Instant::now(), &mut self.told);
        self.told.tell_all(&self.shared);
    }

    fn renewed(&mut self, in_pages: bool, result: CallResult) {
        self.renewals = self.renewals.saturating_sub(1);
        match result {
            Ok(reply) => {
                self.listed(&reply.payload);
                let mut topics = self.shared.topics.lock();
                topics.renewed(&self.shared, self.link, &mut self.told);
            }
            Err(error) => self.not_listed(in_pages, error),
        }
    }

    /// Where the server says that topics stand.
    fn listed(&mut self, list: &[u8]) {
        let text = String::from_utf8_lossy(list);
        let listed = text.split(' ').filter_map(listed_position);
        let mut topics = self.shared.topics.lock();
        topics.listed(&self.shared, self.link, listed, &mut self.told);
    }

    /// A list that is too long for a line is asked for in several; a server that does not know that
    /// way is asked for no more than it knows.
    fn not_listed(&mut self, in_pages: bool, error: CallError) {
        let (CallError::Remote(reason) | CallError::Refused { reason, .. }) = error else { return };
        let is_too_long = !in_pages && reason.code == Code::TOO_LARGE;
        if is_too_long && self.listing != Listing::LineOnly {
            self.listing = Listing::Pages;
            return self.renew(false);
        }
        if in_pages && reason.code == Code::UNKNOWN_ATTRIBUTE {
            self.listing = Listing::LineOnly;
        }
        self.shared.events.emit(ConnectionEvent::RenewalFailed(reason));
    }

    /// Why the server ended the stream. One that never said hello may be no server of this kind.
    pub(crate) fn closed_by_peer(&mut self) -> ConnectionError {
        match self.end_of_stream() {
            ConnectionError::ClosedByPeer if self.hello.is_none() && self.unadmitted.is_none() => {
                broken_line(&"it closed before it said hello; does it expect TLS?")
            }
            error => error,
        }
    }

    /// Why the stream ended.
    pub(crate) fn end_of_stream(&mut self) -> ConnectionError {
        if let Err(fault) = self.complete() {
            return fault;
        }
        match self.bye.take() {
            _ if self.has_quit => ConnectionError::Closed,
            Some(reason) => ConnectionError::Bye(reason),
            None => ConnectionError::ClosedByPeer,
        }
    }

    /// Why the transport failed: a server that said goodbye may reset what it no longer reads.
    pub(crate) fn broken(&mut self, error: ConnectionError) -> ConnectionError {
        match self.end_of_stream() {
            ConnectionError::ClosedByPeer => error,
            known => known,
        }
    }
}

impl Stray {
    fn error(self, id: RequestId) -> ConnectionError {
        ConnectionError::Protocol(match self {
            Self::Doubled => format!("a second reply to {id}"),
            Self::Unasked => format!("a reply to {id}, which was not sent"),
        })
    }
}

fn notice<'a>(line: &Line<'a>) -> Option<Notice<'a>> {
    line.word.is_protocol().then(|| Notice::parse(line)).flatten()
}

fn broken_line(what: &dyn std::fmt::Display) -> ConnectionError {
    ConnectionError::Protocol(what.to_string())
}

/// The outcome of a call by its terminal line; `None` if that is malformed.
fn result(outcome: Outcome, line: &Line<'_>) -> Option<CallResult> {
    if outcome == Outcome::Ok {
        let payload = match line.rest.plain() {
            Cow::Borrowed(payload) => Bytes::copy_from_slice(payload),
            Cow::Owned(payload) => payload.into(),
        };
        return Some(Ok(Reply { attributes: line.attributes.to_list(), payload }));
    }
    let reason = Reason::parse(line.rest)?;
    Some(Err(match outcome {
        Outcome::Err => CallError::Remote(reason),
        Outcome::No => CallError::Refused { reason, retry: retry_hint(line.attributes) },
        _ => CallError::Unknown(Unknown::Cut(reason)),
    }))
}

/// The retry hint of a `no`. A malformed one, or 0, is treated as absent.
fn retry_hint(attributes: Attributes<'_>) -> Option<Duration> {
    let millis = parse_number(attributes.get("retry")?.as_bytes()).filter(|&millis| millis > 0)?;
    Some(Duration::from_millis(millis))
}

/// `TOPIC:EPOCH:NEXT`, as the reply to `/renew` lists a subscription.
fn listed_position(item: &str) -> Option<(&str, Position)> {
    let (topic, position) = item.split_once(':')?;
    Some((topic, position.parse().ok()?))
}

fn subscribe_result(result: CallResult) -> Result<Input<'static>, ConnectionError> {
    let reply = match result {
        Ok(reply) => reply,
        Err(error) => {
            let code = error.code().cloned().unwrap_or(Code::LOST);
            let refused = SubscriptionEvent::Refused.into();
            return Ok(Input { code, failure: Some(error), ..refused });
        }
    };
    let attribute = |key| reply.attributes.as_attributes().get(key).unwrap_or_default();
    let position = format!("{}:{}", attribute("epoch"), attribute("next"));
    let unreadable = |_| broken_line(&"the ok of a /subscribe names no epoch and next");
    Ok(SubscriptionEvent::Accepted(position.parse().map_err(unreadable)?).into())
}
