//! The processing of the lines that a connection receives.

use std::{borrow::Cow, time::Duration};

use crate::{
    client::{
        core::{
            Core,
            auth::Admission,
            cell::RequestCell,
            connection::{Connection, Listing, Terminal, broken_line},
            items::Overrun,
            key::{Key, LinkId},
            link::UnmatchedReply,
            locked::Locked,
            outcome::{CallResult, KeptResult, Reply},
            payloads::{Payloads, Run},
            state::DriverState,
            step::Step,
            topics::Input,
            waiter::Waiter,
        },
        event::ConnectionEvent,
    },
    error::{CallError, ConnectionError, Unknown},
    guard::guarded,
    protocol::{
        Attributes, Code, Escaped, Incoming, Line, LineDecoder, LineTooLong, Notice, Outcome,
        Position, Reason, RequestId, SubscriptionEvent, VERSION, parse_notification, parse_number,
    },
    sync::{Arc, MutexGuard},
};

/// The number of lines that are processed under one lock. Other tasks wait for it meanwhile.
const ROW: usize = 64;
/// Renewals that may be unanswered at once. There are several, because a slow reply must not delay
/// the next renewal. A server that answers none for the length of two leases gets no further
/// renewal.
const MAX_RENEWALS: usize = 4;

/// The locked core, and the number of notifications and items processed under this lock.
type Row<'a> = (MutexGuard<'a, Core>, usize);

/// What remains to be done for a line once the lock is released.
enum Remainder<'a> {
    Nothing,
    /// A call has its reply.
    Call(Arc<RequestCell>),
    /// A request of the protocol itself has its terminal line.
    Control(Waiter, CallResult),
    /// An item of the list that `/renew` asked for.
    Listed(Cow<'a, [u8]>),
}

impl Connection {
    /// Processes all lines in `bytes`, in their order. Consecutive terminal lines share one lock,
    /// and so do consecutive notifications and items.
    pub(super) fn handle_lines(
        &mut self,
        lines: &mut LineDecoder,
        bytes: &mut &[u8],
    ) -> Result<(), ConnectionError> {
        let (locked, mut row) = (self.locked.clone(), None);
        let handled = self.handle_in_rows(&locked, &mut row, lines, bytes);
        self.end_row(&mut row);
        let completed = self.complete();
        self.completed += std::mem::take(&mut self.step.completed);
        completed.and(handled)
    }

    fn handle_in_rows<'a>(
        &mut self,
        locked: &'a Locked,
        row: &mut Option<Row<'a>>,
        lines: &mut LineDecoder,
        bytes: &mut &[u8],
    ) -> Result<(), ConnectionError> {
        let mut payloads = Payloads::new();
        let too_long = |error: LineTooLong| ConnectionError::Protocol(error.to_string());
        while let Some(line) = lines.next(bytes).map_err(too_long)? {
            let line = Line::parse(line).map_err(|fault| broken_line(&fault))?;
            if let DriverState::Connected = self.state {
                self.first_line(&line)?;
                continue;
            }
            let incoming = Incoming::from(line);
            if let Incoming::Reply(id, outcome, line) = incoming
                && outcome.is_terminal()
            {
                self.end_row(row);
                let result = result(outcome, &line, &mut payloads)
                    .ok_or_else(|| broken_line(&format_args!("{outcome} without a code")))?;
                self.terminals.push(Terminal { id, outcome, result: Some(result), call: None });
                if self.terminals.len() == ROW {
                    self.complete()?;
                }
                continue;
            }
            self.complete()?;
            if let Incoming::Notice(line) = incoming {
                self.end_row(row);
                self.notice(&line)?;
                continue;
            }
            let (core, taken) = row.get_or_insert_with(|| (locked.lock(), 0));
            let rest = core.on_incoming(self.link, incoming, &mut payloads, &mut self.step)?;
            *taken += 1;
            if *taken == ROW || matches!(rest, Remainder::Listed(_)) {
                self.end_row(row);
            }
            if let Remainder::Listed(items) = rest {
                self.listed(&items);
            }
        }
        Ok(())
    }

    /// Processes the terminal lines so far. The outcomes of calls are set once the lock is
    /// released. By then the events of the lines before them are queued.
    fn complete(&mut self) -> Result<(), ConnectionError> {
        if self.terminals.is_empty() {
            return Ok(());
        }
        let (locked, mut terminals) = (self.locked.clone(), std::mem::take(&mut self.terminals));
        let completed = self.complete_in_order(&locked, &mut terminals);
        for Terminal { result, call, .. } in terminals.drain(..) {
            if let (Some(result), Some(call)) = (result, call) {
                self.step.wake(call.set(result));
            }
        }
        self.terminals = terminals;
        completed
    }

    fn complete_in_order(
        &mut self,
        locked: &Locked,
        terminals: &mut [Terminal],
    ) -> Result<(), ConnectionError> {
        let mut row = None;
        for terminal in terminals {
            let (core, _) = row.get_or_insert_with(|| (locked.lock(), 0));
            let rest = core.on_terminal(self.link, terminal, &mut self.step);
            match rest.inspect_err(|_| self.end_row(&mut row))? {
                Remainder::Call(call) => terminal.call = Some(call),
                Remainder::Control(waiter, result) => {
                    self.end_row(&mut row);
                    self.complete_control(waiter, result)?;
                }
                Remainder::Nothing | Remainder::Listed(_) => {}
            }
        }
        self.end_row(&mut row);
        Ok(())
    }

    /// Releases the core. Requests that waited for a place in flight are sent first.
    fn end_row(&mut self, row: &mut Option<Row<'_>>) {
        if let Some((mut core, _)) = row.take() {
            core.send_waiting(&mut self.step);
            core.settle(&mut self.step);
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
        self.state = match is_asked_for {
            true => DriverState::Authenticating(hello),
            false => DriverState::Greeted(hello),
        };
        Ok(())
    }

    /// Opens the connection, if the server has accepted this client.
    ///
    /// # Errors
    /// If the server has refused the credentials.
    pub(super) fn admit(&mut self) -> Result<(), ConnectionError> {
        if let Some(hello) = self.state.admit()? {
            let link = self.link;
            self.timers.on_hello(&hello, &self.locked.config, self.step.now);
            self.with(|core, step| core.open(link, hello, step));
        }
        Ok(())
    }

    /// Takes in the reply to `/auth`.
    fn on_admission(&mut self, result: CallResult) {
        let DriverState::Authenticating(hello) = &self.state else { return };
        self.state = match result {
            Ok(_) => DriverState::Greeted(hello.clone()),
            Err(error) => {
                if let CallError::Refused { retry, .. } = error {
                    self.retry_after.give(retry, self.step.now);
                }
                DriverState::Rejected(refused_credentials(error))
            }
        };
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
                    // The `/subscribe` was sent. So its outcome is not "not sent", even if it is
                    // never repeated (guarantee "one outcome").
                    let lost = Unknown::Lost(error.clone()).into();
                    self.with(|core, _| core.topics.failed(&topic, &lost));
                })?;
                self.move_topic(&topic, input);
            }
            Waiter::Ignored | Waiter::Request(_) | Waiter::List(_) | Waiter::Tombstone => {}
        }
        Ok(())
    }

    /// Takes in the reply to `/quit`.
    fn on_quit(&mut self) {
        let link = self.link;
        self.with(|core, _| {
            core.links.link(link).into_iter().for_each(|link| link.state.on_quit_answered());
        });
    }

    fn move_topic(&mut self, topic: impl AsRef<str>, input: Input<'_>) {
        let link = self.link;
        self.with(|core, step| {
            core.topics.on_line(&mut core.links, link, topic.as_ref(), input, step);
        });
    }

    fn notice(&mut self, line: &Line<'_>) -> Result<(), ConnectionError> {
        // A second `/hello` has no effect, even if it is malformed.
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
            // A `/hold` only shows that the server is alive.
            Notice::Hello(_) | Notice::Hold | Notice::Unknown => {}
        }
        Ok(())
    }

    /// Takes in a `/bye`. Before the server has accepted this client, no request is in flight, and
    /// the `/bye` ends the connection.
    fn goodbye(
        &mut self,
        last: Option<u64>,
        retry: Option<Duration>,
        reason: Reason,
    ) -> Result<(), ConnectionError> {
        self.retry_after.give(retry, self.step.now);
        // Opens the connection first, even if the `/bye` came in one read with the `/hello`: else
        // what becomes of the client would depend on how the bytes were cut.
        self.admit()?;
        if !self.state.on_bye() {
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

    /// Takes in an `/error`. After `id-order` and `line-too-long`, the two ends may disagree on
    /// which requests there are, so the connection ends.
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

    /// Sends `/renew`, unless there is nothing to keep alive, or too many renewals are unanswered.
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

    /// Sends a first line if there was none, because a server closes connections without one.
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

    /// Takes in a part of the list of a `/renew`: the position of each topic.
    fn listed(&mut self, list: &[u8]) {
        let text = String::from_utf8_lossy(list);
        let listed = text.split(' ').filter_map(listed_position);
        let link = self.link;
        self.with(|core, step| core.topics.listed(&mut core.links, link, listed, step));
    }

    /// If the list is too long for one line, asks again with `list=more`. If the server does not
    /// support that, goes on without it.
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
    /// Processes an item, a notification, or a reply with an unknown word.
    ///
    /// # Errors
    /// If the line is malformed; in strict mode also if it matches no request.
    fn on_incoming<'a>(
        &mut self,
        link: LinkId,
        incoming: Incoming<'a>,
        payloads: &mut Payloads,
        step: &mut Step,
    ) -> Result<Remainder<'a>, ConnectionError> {
        match incoming {
            Incoming::Reply(id, Outcome::More, line) => {
                self.on_item(link, id, line.rest.plain(), payloads, step)
            }
            Incoming::Notification(line) => {
                let notification = parse_notification(line.rest)
                    .ok_or_else(|| broken_line(&"notification without a number"))?;
                let (topics, links) = (&mut self.topics, &mut self.links);
                let topic = line.word.as_str();
                topics.on_notification(links, link, topic, notification, payloads, step);
                Ok(Remainder::Nothing)
            }
            Incoming::Unknown(id) => Err(broken_line(&format_args!("reply {id}: unknown word"))),
            Incoming::Reply(..) | Incoming::Notice(_) => Ok(Remainder::Nothing),
        }
    }

    /// Takes in the terminal line of a request.
    ///
    /// # Errors
    /// In strict mode, if it matches no request.
    fn on_terminal(
        &mut self,
        link: LinkId,
        terminal: &mut Terminal,
        step: &mut Step,
    ) -> Result<Remainder<'static>, ConnectionError> {
        let Terminal { id, outcome, result, .. } = terminal;
        let Some(own) = self.links.link(link) else { return Ok(Remainder::Nothing) };
        let waiter = match own.complete(*id) {
            Ok(waiter) => waiter,
            Err(unmatched) => return self.on_unmatched(unmatched, *id, step),
        };
        step.tally().outcome(*outcome);
        if let (Waiter::Request(key), Outcome::Ok) = (&waiter, *outcome)
            && let Some(call) = self.requests.take_call(*key, step)
        {
            return Ok(Remainder::Call(call));
        }
        let Some(result) = result.take() else { return Ok(Remainder::Nothing) };
        let result = result.map_err(|error| *error);
        match waiter {
            Waiter::Request(key) | Waiter::List(key) => {
                self.requests.finish(key, result, &mut self.links, step);
            }
            Waiter::Tombstone => {
                step.tally().late_replies += 1;
                step.emit(ConnectionEvent::LateReply(*id));
            }
            control => return Ok(Remainder::Control(control, result)),
        }
        Ok(Remainder::Nothing)
    }

    /// Takes in a `more` line. If the request expected one reply, or the server had no credit, the
    /// request ends and is cancelled.
    fn on_item<'a>(
        &mut self,
        link: LinkId,
        id: RequestId,
        item: Cow<'a, [u8]>,
        payloads: &mut Payloads,
        step: &mut Step,
    ) -> Result<Remainder<'a>, ConnectionError> {
        let Some(own) = self.links.link(link) else { return Ok(Remainder::Nothing) };
        match own.offered_waiter(id) {
            Some(Waiter::List(key)) => {
                if !self.requests.push_item(*key, &item) {
                    return Err(broken_line(&"a list is too long"));
                }
            }
            Some(Waiter::Request(key)) => {
                let key = *key;
                self.on_streamed(key, &item, payloads, step);
            }
            Some(Waiter::Renew { .. }) => return Ok(Remainder::Listed(item)),
            Some(_) => {}
            None => {
                let unmatched = own.unmatched(id);
                return self.on_unmatched(unmatched, id, step);
            }
        }
        Ok(Remainder::Nothing)
    }

    /// Takes in an item of a streamed reply.
    fn on_streamed(&mut self, key: Key, item: &[u8], payloads: &mut Payloads, step: &mut Step) {
        let end = match self.requests.stream(key) {
            None => Unknown::Streamed,
            Some(items) => match items.push(payloads.copy(Run::Replies, item)) {
                Ok(reader) => return step.wake(reader),
                Err(Overrun) => {
                    step.tally().violations += 1;
                    Unknown::Overrun
                }
            },
        };
        self.requests.cancel_with(key, end, &mut self.links, step);
    }

    fn on_unmatched(
        &self,
        unmatched: UnmatchedReply,
        id: RequestId,
        step: &mut Step,
    ) -> Result<Remainder<'static>, ConnectionError> {
        unmatched.report(id, step);
        match self.links.config.strict {
            true => Err(unmatched.error(id)),
            false => Ok(Remainder::Nothing),
        }
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

fn notice<'a>(line: &Line<'a>) -> Option<Notice<'a>> {
    line.word.is_protocol().then(|| Notice::parse(line)).flatten()
}

/// The outcome of a call from its terminal line; `None` if the line is malformed.
fn result(outcome: Outcome, line: &Line<'_>, payloads: &mut Payloads) -> Option<KeptResult> {
    if outcome == Outcome::Ok {
        let payload = match line.rest.plain() {
            Cow::Borrowed(payload) => payloads.copy(Run::Replies, payload),
            Cow::Owned(payload) => payload.into(),
        };
        return Some(Ok(Reply { attributes: line.attributes.to_list(), payload }));
    }
    let reason = Reason::parse(line.rest)?;
    Some(Err(Box::new(match outcome {
        Outcome::Err => CallError::Remote(reason),
        Outcome::No => CallError::Refused { reason, retry: retry_hint(line.attributes) },
        _ => CallError::Unknown(Unknown::Cut(reason)),
    })))
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
