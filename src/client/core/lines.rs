//! What a connection does with each line of its server.

use std::{borrow::Cow, time::Duration};

use bytes::Bytes;

use crate::{
    client::{
        core::{
            Core,
            auth::Admission,
            connection::{Connection, Listing, broken_line},
            items::Overrun,
            link::UnmatchedReply,
            locked::Locked,
            requests::Key,
            state::State,
            step::Step,
            topics::Input,
            waiter::{CallResult, Reply, Waiter},
        },
        event::ConnectionEvent,
    },
    error::{CallError, ConnectionError, Unknown},
    guard::guarded,
    protocol::{
        Attributes, Code, Escaped, Incoming, Line, LineDecoder, LineTooLong, Mark, Notice, Outcome,
        Position, Reason, RequestId, SubscriptionEvent, VERSION, parse_notification, parse_number,
    },
    sync::MutexGuard,
};

/// Replies that are gathered before they are completed, about 100 bytes each beside their payload.
const BATCH: usize = 1_024;
/// Notifications that are handled under one lock: others wait for it meanwhile.
const ROW: usize = 64;
/// Renewals that may be unanswered at once. A slow reply must not make the next renewal late; a
/// server that answers none for the length of two leases gets no more of them.
const MAX_RENEWALS: usize = 4;

/// The core while notifications are handled, and how many were.
type Row<'a> = (MutexGuard<'a, Core>, usize);

/// Lines are taken in order. Replies are gathered, and completed in batches. What stands behind a
/// reply on the wire is handled behind it, so a batch ends where a line of the reserved channel
/// begins.
impl Connection {
    /// Handles all lines in `bytes`.
    pub(super) fn handle_lines(
        &mut self,
        lines: &mut LineDecoder,
        bytes: &mut &[u8],
    ) -> Result<(), ConnectionError> {
        let (locked, mut row) = (self.locked.clone(), None);
        let handled = self.handle_in_rows(&locked, &mut row, lines, bytes);
        self.end_row(&mut row);
        handled
    }

    /// Handles lines. Notifications in a row are handled under one lock.
    fn handle_in_rows<'a>(
        &mut self,
        locked: &'a Locked,
        row: &mut Option<Row<'a>>,
        lines: &mut LineDecoder,
        bytes: &mut &[u8],
    ) -> Result<(), ConnectionError> {
        let too_long = |error: LineTooLong| ConnectionError::Protocol(error.to_string());
        while let Some(line) = lines.next(bytes).map_err(too_long)? {
            let line = Line::parse(line).map_err(|fault| broken_line(&fault))?;
            if self.hello.is_some()
                && self.replies.is_empty()
                && let Some(notification) = notification(&line)
            {
                let (core, taken) = row.get_or_insert_with(|| (locked.lock(), 0));
                let Core { topics, links, .. } = &mut **core;
                let (link, topic, step) = (self.link, line.word.as_str(), &mut self.step);
                topics.on_notification(links, link, topic, notification, step);
                *taken += 1;
                if *taken == ROW {
                    self.end_row(row);
                }
            } else {
                self.end_row(row);
                self.line(line)?;
            }
        }
        Ok(())
    }

    /// Ends a row of notifications.
    fn end_row(&mut self, row: &mut Option<Row<'_>>) {
        if let Some((mut core, _)) = row.take() {
            core.settle(&mut self.step);
        }
    }

    /// Handles a line.
    fn line(&mut self, line: Line<'_>) -> Result<(), ConnectionError> {
        if !self.has_greeted() {
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
        self.set_state(match is_asked_for {
            true => State::Authenticating(hello),
            false => State::Greeted(hello),
        });
        Ok(())
    }

    fn set_state(&mut self, state: State) {
        let link = self.link;
        self.with(|core, _| {
            if let Some(link) = core.links.link(link) {
                link.state = state;
            }
        });
    }

    /// Opens the connection, if the server has admitted this client.
    pub(super) fn admit(&mut self) {
        if self.hello.is_none()
            && let State::Greeted(hello) = self.state()
        {
            self.hello = Some(hello.clone());
            let link = self.link;
            self.timers.on_hello(&hello, &self.locked.config, self.step.now);
            self.with(|core, step| core.open(link, hello, step));
        }
    }

    /// The server has answered `/auth`.
    fn on_admission(&mut self, result: CallResult) {
        match (result, self.state()) {
            (Ok(_), State::Authenticating(hello)) => self.set_state(State::Greeted(hello)),
            (Ok(_), _) => {}
            (Err(error), _) => {
                if let CallError::Refused { retry, .. } = error {
                    self.retry_after.give(retry, self.step.now);
                }
                self.not_admitted = Some(refused_credentials(error));
            }
        }
    }

    /// Completes the gathered replies.
    ///
    /// # Errors
    /// In strict mode, when one of them matches no request; and when one cannot be read.
    pub(super) fn complete(&mut self) -> Result<(), ConnectionError> {
        if self.replies.is_empty() {
            return Ok(());
        }
        let (mut others, mut completed) = (Vec::new(), Ok(()));
        let Self { locked, link, step, replies, .. } = self;
        locked.with(step, |core, step| {
            for (id, outcome, result) in replies.drain(..) {
                let Some(own) = core.links.link(*link) else { return };
                let waiter = match own.complete(id) {
                    Ok(waiter) => waiter,
                    Err(unmatched) => {
                        unmatched.report(id, step);
                        if core.links.config.strict {
                            completed = Err(unmatched.error(id));
                            return;
                        }
                        continue;
                    }
                };
                step.tally().outcome(outcome);
                match waiter {
                    Waiter::Request(key) | Waiter::List(key) => {
                        core.requests.finish(key, result, &mut core.links, step);
                    }
                    Waiter::Tombstone => {
                        step.tally().late_replies += 1;
                        step.emit(ConnectionEvent::LateReply(id));
                    }
                    other => others.push((other, result)),
                }
            }
            core.send_waiting(step);
        });
        self.completed += std::mem::take(&mut self.step.completed);
        for (waiter, result) in others {
            completed = completed.and(self.complete_control(waiter, result));
        }
        completed
    }

    fn complete_control(
        &mut self,
        waiter: Waiter,
        result: CallResult,
    ) -> Result<(), ConnectionError> {
        match waiter {
            Waiter::Auth => self.on_admission(result),
            Waiter::Quit => self.on_quit(),
            Waiter::Renew { in_pages } => self.renewed(in_pages, result),
            Waiter::Unsubscribe(topic) => self.move_topic(&topic, SubscriptionEvent::Left.into()),
            Waiter::Subscribe(topic) => {
                let input = subscribe_result(result).inspect_err(|error| {
                    // It left, so it is not "not sent" if it is never asked for again (R2).
                    let lost = Unknown::Lost(error.clone()).into();
                    self.with(|core, _| core.topics.failed(&topic, &lost));
                })?;
                self.move_topic(&topic, input);
            }
            Waiter::Ignored | Waiter::Request(_) | Waiter::List(_) | Waiter::Tombstone => {}
        }
        Ok(())
    }

    /// The reply to `/quit` came.
    fn on_quit(&mut self) {
        if let State::Quitting { bye, last, .. } = self.state() {
            self.set_state(State::Quitting { bye, last, is_answered: true });
        }
    }

    fn move_topic(&mut self, topic: impl AsRef<str>, input: Input<'_>) {
        let link = self.link;
        self.with(|core, step| {
            core.topics.on_line(&mut core.links, link, topic.as_ref(), input, step);
        });
    }

    /// An item of a streamed reply. If one line was expected, or the item came without credit, the
    /// request ends and is cancelled.
    fn more(&mut self, id: RequestId, item: &[u8]) -> Result<(), ConnectionError> {
        self.complete()?;
        let link = self.link;
        let is_listed = self.with(|core, step| {
            let Some(own) = core.links.link(link) else { return Ok(false) };
            match own.offered_waiter(id) {
                Some(Waiter::List(key)) => match core.requests.push_item(*key, item) {
                    true => Ok(false),
                    false => Err(broken_line(&"a list does not end")),
                },
                Some(Waiter::Request(key)) => {
                    let key = *key;
                    core.on_item(key, item, step);
                    Ok(false)
                }
                Some(Waiter::Renew { .. }) => Ok(true),
                Some(_) => Ok(false),
                None => {
                    let unmatched = own.unmatched(id);
                    unmatched.report(id, step);
                    match core.links.config.strict {
                        true => Err(unmatched.error(id)),
                        false => Ok(false),
                    }
                }
            }
        })?;
        if is_listed {
            self.listed(item);
        }
        Ok(())
    }

    fn notification(&mut self, line: &Line<'_>) -> Result<(), ConnectionError> {
        let Some((number, payload)) = parse_notification(line.rest) else {
            return Err(broken_line(&"notification without a number"));
        };
        self.step.tally().notifications += 1;
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

    /// The server is about to go, or, with `last`, has drawn the line. Before it has admitted this
    /// client, no request is in flight, and none will be.
    fn goodbye(
        &mut self,
        last: Option<u64>,
        retry: Option<Duration>,
        reason: Reason,
    ) -> Result<(), ConnectionError> {
        self.retry_after.give(retry, self.step.now);
        // A goodbye that comes with the hello in one read ends a connection that was there: else
        // what becomes of the client would depend on how the bytes were cut.
        self.admit();
        if self.hello.is_none() {
            return Err(ConnectionError::Bye(reason));
        }
        let link = self.link;
        self.with(|core, step| {
            core.on_bye(link, last, &reason, step);
            step.emit(match last {
                None => ConnectionEvent::Leaving(reason),
                Some(_) => ConnectionEvent::Bye(reason),
            });
        });
        self.timers.on_bye(last.is_some(), self.step.now);
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
        self.with(|_, step| step.emit(ConnectionEvent::ServerError { id, reason }));
        if fatal { Err(error) } else { Ok(()) }
    }

    /// Sends `/renew`, unless nothing is to be kept alive, or too many of them are not answered.
    pub(super) fn renew(&mut self, keep_alive: bool) {
        if self.renewals.pending >= MAX_RENEWALS {
            return;
        }
        let in_pages = self.renewals.listing == Listing::Pages;
        let (waiter, list) = (Waiter::Renew { in_pages }, if in_pages { ";list=more" } else { "" });
        let link = self.link;
        let is_sent = self.with(|core, step| {
            if !keep_alive && !core.topics.has_any_on(link) {
                return false;
            }
            let (head, arguments) = (format_args!("/renew{list}"), format_args!(""));
            core.links.send_control(link, waiter, head, arguments, step)
        });
        self.renewals.pending += usize::from(is_sent);
    }

    /// Sends a first line if there was none, so that the server knows what this side is.
    pub(super) fn say_something(&mut self) {
        let link = self.link;
        if !self.with(|core, _| core.links.link(link).is_some_and(|link| link.has_spoken())) {
            self.renew(true);
        }
    }

    fn renewed(&mut self, in_pages: bool, result: CallResult) {
        self.renewals.pending = self.renewals.pending.saturating_sub(1);
        match result {
            Ok(reply) => {
                self.listed(&reply.payload);
                let link = self.link;
                self.with(|core, step| core.topics.renewed(&mut core.links, link, step));
            }
            Err(error) => self.not_listed(in_pages, error),
        }
    }

    /// Where the server says that topics stand.
    fn listed(&mut self, list: &[u8]) {
        let text = String::from_utf8_lossy(list);
        let listed = text.split(' ').filter_map(listed_position);
        let link = self.link;
        self.with(|core, step| core.topics.listed(&mut core.links, link, listed, step));
    }

    /// A list that is too long for a line is asked for in several; a server that does not know that
    /// way is asked for no more than it knows.
    fn not_listed(&mut self, in_pages: bool, error: CallError) {
        let (CallError::Remote(reason) | CallError::Refused { reason, .. }) = error else { return };
        let is_too_long = !in_pages && reason.code == Code::TOO_LARGE;
        if is_too_long && self.renewals.listing != Listing::LineOnly {
            self.renewals.listing = Listing::Pages;
            return self.renew(false);
        }
        if in_pages && reason.code == Code::UNKNOWN_ATTRIBUTE {
            self.renewals.listing = Listing::LineOnly;
        }
        self.with(|_, step| step.emit(ConnectionEvent::RenewalFailed(reason)));
    }
}

impl Core {
    /// An item for a request.
    fn on_item(&mut self, key: Key, item: &[u8], step: &mut Step) {
        let end = match self.requests.stream(key) {
            None => Unknown::Streamed,
            Some(items) => match items.push(Bytes::copy_from_slice(item)) {
                Ok(reader) => return step.wake(reader),
                Err(Overrun) => {
                    step.tally().violations += 1;
                    Unknown::Overrun
                }
            },
        };
        self.requests.cancel_with(key, end, &mut self.links, step);
    }
}

impl UnmatchedReply {
    /// Counts and reports a line that matches no request.
    fn report(self, id: RequestId, step: &mut Step) {
        match self {
            Self::Doubled => step.tally().doubled_replies += 1,
            Self::Unasked => step.tally().unasked_replies += 1,
        }
        step.emit(match self {
            Self::Doubled => ConnectionEvent::DoubledReply(id),
            Self::Unasked => ConnectionEvent::UnaskedReply(id),
        });
    }

    fn error(self, id: RequestId) -> ConnectionError {
        ConnectionError::Protocol(match self {
            Self::Doubled => format!("a second reply to {id}"),
            Self::Unasked => format!("a reply to {id}, which was not sent"),
        })
    }
}

/// The number and the payload of a notification, if the line is one that is well-formed.
fn notification<'a>(line: &Line<'a>) -> Option<(u64, Cow<'a, [u8]>)> {
    let is_notification = line.mark == Mark::Reserved && !line.word.is_protocol();
    is_notification.then(|| parse_notification(line.rest)).flatten()
}

fn notice<'a>(line: &Line<'a>) -> Option<Notice<'a>> {
    line.word.is_protocol().then(|| Notice::parse(line)).flatten()
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

fn refused_credentials(error: CallError) -> ConnectionError {
    ConnectionError::AuthRefused(match error {
        CallError::Refused { reason, .. }
        | CallError::Remote(reason)
        | CallError::Unknown(Unknown::Cut(reason)) => reason,
        other => Reason::new(Code::UNAUTHENTICATED, other.to_string()),
    })
}
