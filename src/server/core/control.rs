//! The protocol's own methods (docs/protocol/reference.md, section 21).

use crate::{
    coop::spend_message,
    guard::guarded,
    protocol::{
        Begin, Code, LeaseEvent, Line, MIN_MAX_LINE, Mark, Position, RequestId, Terms, Time,
        parse_number,
    },
    server::{
        core::{
            access::Permission,
            arguments::{
                DEFAULT_WINDOW, Publish, Refusal, SUBSCRIBE_USAGE, UNSUBSCRIBE_USAGE,
                check_attributes, no_arguments, no_attributes, only_topic, publish_arguments,
                unknown_method,
            },
            connection::{Connection, Taken},
            parked::ParkedLine,
            requests::Work,
            source::Source,
            subscriptions::{OpenError, Opened, Opening},
        },
        handlers::{
            reply,
            running::{Running, Started},
        },
    },
    topic::Unavailable,
};

type Done = Result<Taken, Refusal>;

impl Connection {
    /// Processes a line with a method of the protocol.
    pub(super) fn on_control(&mut self, line: &Line<'_>, bytes: &[u8], is_first: bool) -> Taken {
        let done = match line.mark {
            Mark::Id(id) => self.on_control_request(id, line, bytes, is_first),
            Mark::Reserved => self.on_control_one_way(line),
        };
        match (done, line.mark) {
            (Ok(taken), _) => taken,
            (Err((code, text)), Mark::Id(id)) => {
                self.refuse(id, &code, format_args!("{text}"));
                Taken::Yes
            }
            (Err((code, text)), Mark::Reserved) => {
                self.notice_error(None, &code, format_args!("{text}"));
                Taken::Yes
            }
        }
    }

    fn on_control_request(
        &mut self,
        id: RequestId,
        line: &Line<'_>,
        bytes: &[u8],
        is_first: bool,
    ) -> Done {
        let word = line.word.as_str();
        if self.state.is_line_drawn() && matches!(word, "/subscribe" | "/publish") {
            return Err((Code::CLOSING, String::new()));
        }
        match word {
            "/subscribe" => self.subscribe(id, line),
            "/unsubscribe" => self.unsubscribe(id, line),
            "/renew" => self.renew(id, line),
            "/ack" => self.ack(line),
            "/publish" => self.publish(id, line, bytes),
            "/methods" => self.methods(id, line),
            "/hello" => self.hello(id, line, is_first),
            "/quit" => self.quit(id, line),
            "/auth" if self.has_auth() => self.auth(id, line),
            "/cancel" | "/more" => Err((Code::BAD_FORM, format!("{word} is one-way"))),
            _ => Err(unknown_method(line)),
        }
    }

    fn on_control_one_way(&mut self, line: &Line<'_>) -> Done {
        match line.word.as_str() {
            "/cancel" => self.cancel(line),
            "/auth" if self.has_auth() => Err((Code::BAD_FORM, "/auth needs an id".into())),
            "/ack" => self.ack(line),
            "/more" => {
                no_attributes(line)?;
                self.more(line)
            }
            word @ ("/subscribe" | "/unsubscribe" | "/renew" | "/publish" | "/methods"
            | "/hello" | "/quit") => Err((Code::BAD_FORM, format!("{word} needs an id"))),
            _ => Err(unknown_method(line)),
        }
    }

    fn subscribe(&mut self, id: RequestId, line: &Line<'_>) -> Done {
        let (mut begin, mut terms) = (Begin::default(), Terms::default());
        check_attributes(
            line,
            |key, value| match key {
                "from" | "last" => begin.read(key, value),
                _ => terms.read(key, value),
            },
            &["from", "last", "window", "slow"],
        )?;
        let topic = only_topic(line.rest, SUBSCRIBE_USAGE)?;
        let subscriptions = self.subscriptions.get_or_insert_default();
        if subscriptions.contains(topic.as_str()) {
            return Err((Code::ALREADY_SUBSCRIBED, topic.to_string()));
        }
        if subscriptions.len() >= self.environment.config.subscriptions {
            return Err((Code::TOO_MANY, String::new()));
        }
        if let Err(taken) = self.may_subscribe(id, &topic) {
            return Ok(taken);
        }
        if !guarded(|| self.environment.publisher.store().has_room_for(&topic)).unwrap_or_default()
        {
            return Err((Code::BUSY, "too many topics".into()));
        }
        let number = self.subscriptions.get_or_insert_default().next_number();
        let publisher = &self.environment.publisher;
        let source = Source::open(publisher, &topic, number, self.session.mailbox());
        let confirmations = publisher.confirmations().clone();
        let source = source.map_err(|error| self.unavailable(&error))?;
        let deadline = self.now.after(self.environment.config.handler_time);
        let opening = Opening { id, topic, begin, terms, source, confirmations, deadline };
        self.subscriptions.get_or_insert_default().open(opening);
        self.poll_opening();
        self.check_opening();
        Ok(Taken::Yes)
    }

    /// Refuses a `/subscribe` if its store has taken too long. Otherwise sets the deadline again.
    pub(super) fn check_opening(&mut self) {
        let deadline = self.subscriptions.as_ref().and_then(|list| list.opening_deadline());
        let Some(deadline) = deadline else { return };
        if self.now < deadline {
            return self.set_timeout(deadline);
        }
        tracing::error!("subscription refused: the topic store did not answer in time");
        self.give_up_opening(&Code::BUSY);
    }

    /// Refuses the `/subscribe` that waits for its store, if there is one.
    pub(super) fn give_up_opening(&mut self, code: &Code) {
        let id = self.subscriptions.as_mut().and_then(|list| list.give_up_opening());
        if let Some(id) = id {
            self.refuse(id, code, format_args!(""));
        }
    }

    /// Answers a `/subscribe` whose store has answered. The reply precedes every line of the
    /// subscription.
    pub(super) fn poll_opening(&mut self) {
        let Some(subscriptions) = &mut self.subscriptions else {
            return;
        };
        let std::task::Poll::Ready(Some(Opened { id, result })) = subscriptions.poll_open() else {
            return;
        };
        match result {
            Ok((window, cursor)) => {
                self.lease_event(LeaseEvent::Renewed);
                let Position { epoch, next } = cursor.position;
                let (head, lease) = (window.head(), self.environment.config.lease.as_secs());
                let attributes =
                    format_args!(";epoch={epoch};next={next};head={head};lease={lease}");
                self.answer_ok(id, attributes);
            }
            Err(OpenError::BadPosition(next)) => {
                self.refuse(id, &Code::BAD_POSITION, format_args!("next is {next}"));
            }
            Err(OpenError::Unavailable(error)) => {
                let (code, text) = self.unavailable(&error);
                self.refuse(id, &code, format_args!("{text}"));
            }
        }
    }

    /// Refuses with `busy`. The store's error text goes to the log, and not to the peer.
    fn unavailable(&mut self, error: &Unavailable) -> Refusal {
        tracing::error!(%error, "subscription refused");
        self.active().tally.store_failures += 1;
        (Code::BUSY, String::new())
    }

    fn unsubscribe(&mut self, id: RequestId, line: &Line<'_>) -> Done {
        no_attributes(line)?;
        let topic = only_topic(line.rest, UNSUBSCRIBE_USAGE)?;
        let subscriptions = self.subscriptions.as_mut();
        let Some(next) = subscriptions.and_then(|list| list.remove(topic.as_str())) else {
            return Err((Code::NOT_SUBSCRIBED, topic.to_string()));
        };
        if self.subscriptions.as_ref().is_none_or(|list| list.is_empty()) {
            self.lease_event(LeaseEvent::Emptied);
        }
        self.answer_ok(id, format_args!(";next={next}"));
        Ok(Taken::Yes)
    }

    /// Checks a `/publish`, and starts or parks it. It needs a place in flight, and keeps its order
    /// among the application's lines (docs/protocol/calls.md, section 12).
    fn publish(&mut self, id: RequestId, line: &Line<'_>, bytes: &[u8]) -> Done {
        let arguments = publish_arguments(line, self.has_keys())?;
        if self.environment.hooks.authorizer.is_none() && !self.environment.config.allow_publish {
            return Err((Code::FORBIDDEN, String::new()));
        }
        let until = self.end_of_ttl(arguments.ttl);
        let permission = match self.must_park() {
            _ if self.is_busy() => return Err((Code::BUSY, String::new())),
            true => None,
            false => match self.start_publish(id, &arguments, until, None)? {
                None => return Ok(Taken::Yes),
                permission => permission,
            },
        };
        let (id, bytes) = (Some(id), bytes.to_vec());
        Ok(self.park(ParkedLine { id, bytes, until, is_publish: true, permission }))
    }

    /// Publishes to the topic if the authorizer allows it. Returns the open decision if the
    /// authorizer takes time.
    pub(super) fn start_publish(
        &mut self,
        id: RequestId,
        arguments: &Publish<'_>,
        until: Time,
        permission: Option<Permission>,
    ) -> Result<Option<Permission>, Refusal> {
        if self.is_busy() {
            return Err((Code::BUSY, String::new()));
        }
        match self.may_publish(&arguments.topic, permission) {
            Ok(None) => {}
            Ok(Some(waits)) => return Ok(Some(waits)),
            Err(rejection) => {
                self.on_rejection(Some(id), &rejection);
                return Ok(None);
            }
        }
        let payload = arguments.payload.plain();
        if self.environment.publisher.check_size(&arguments.topic, &payload).is_err() {
            return Err((Code::TOO_LARGE, String::new()));
        }
        let (bytes, window) = (arguments.bytes, DEFAULT_WINDOW);
        let work = Work { id: Some(id), cancel: None, until, window, bytes, method: None };
        if let Some(key) = arguments.key {
            self.publish_keyed(work, key, arguments, &payload);
            return Ok(None);
        }
        let (topic, payload) = (&arguments.topic, payload.into_owned().into());
        self.run(work, |environment, _, _| {
            // `append` is called here, and not in the future, because messages are numbered in line
            // order.
            let appended = environment.publisher.store().append(topic, payload);
            spend_message(bytes);
            let future = async move { reply::of_publish(appended.await) };
            Ok(Started::Made(Running::Inline(Box::pin(Some(future)))))
        });
        Ok(None)
    }

    /// The order of lines and the version are checked before the other attributes.
    fn hello(&mut self, id: RequestId, line: &Line<'_>, is_first: bool) -> Done {
        if !is_first {
            return Err((Code::OUT_OF_ORDER, "/hello must come first".into()));
        }
        match line.attributes.get("version") {
            Some("1") => {}
            Some(_) => return Err((Code::BAD_VERSION, "this server speaks 1".into())),
            None => return Err((Code::BAD_ATTRIBUTE, "version".into())),
        }
        let mut max_line = None;
        let least = MIN_MAX_LINE as u64;
        let read = |key: &str, value: &str| {
            if key == "max-line" {
                max_line = Some(parse_number(value.as_bytes()).filter(|&max| max >= least)?);
            }
            Some(())
        };
        check_attributes(line, read, &["version", "max-line"])?;
        no_arguments(line)?;
        self.answer_ok(id, format_args!(";version=1"));
        if let Some(max_line) = max_line {
            let limit = self.environment.config.max_line;
            self.client_max_line = usize::try_from(max_line).map_or(limit, |max| max.min(limit));
        }
        Ok(Taken::Yes)
    }

    fn quit(&mut self, id: RequestId, line: &Line<'_>) -> Done {
        no_attributes(line)?;
        no_arguments(line)?;
        self.stop_reading(Some(id));
        Ok(Taken::Yes)
    }

    /// Whether `/auth` is a method of this server.
    fn has_auth(&self) -> bool {
        self.environment.hooks.authenticator.is_some()
    }

    fn cancel(&mut self, line: &Line<'_>) -> Done {
        no_attributes(line)?;
        let id = parse_number(&line.rest.plain()).and_then(RequestId::new);
        let id = id.ok_or((Code::BAD_ARGUMENTS, "usage: /cancel ID".to_owned()))?;
        self.cancel_request(id);
        Ok(Taken::Yes)
    }
}
