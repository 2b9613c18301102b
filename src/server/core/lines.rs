//! How a connection processes the lines that it reads.

use std::mem;

use crate::{
    protocol::{Code, Escaped, Line, LineTooLong, Malformed, Mark, RequestId, Time},
    server::{
        access::authorizer::{Action, Decision},
        core::{
            arguments::{Attributes, Refusal, application_attributes, unknown_method},
            connection::{Connection, Taken},
            parked::ParkedLine,
            requests::Work,
        },
        handlers::{extractors::RequestParts, router::Found, running::Started},
        keys::run::keyed_call,
    },
};

impl Connection {
    pub(super) fn on_bytes(&mut self, bytes: &[u8]) {
        self.heard = self.now;
        self.tiny_reads.count(bytes, self.now);
        self.active().tally.bytes_in += bytes.len() as u64;
        if self.allowance == usize::MAX {
            // Replies are about as long as requests, so this reserves room once instead of growing
            // often.
            self.out().reserve(bytes.len());
        }
        let left = self.obey(bytes);
        if !left.is_empty() {
            self.active().unread = left.to_vec();
        }
    }

    pub(super) fn go_on_with_unread(&mut self) {
        let Some(active) = &mut self.active else {
            return;
        };
        if active.held.is_none() && active.unread.is_empty() {
            return;
        }
        if let Some(line) = active.held.take()
            && self.on_line(&line) == Taken::No
        {
            self.active().held = Some(line);
            return;
        }
        let active = self.active();
        let (unread, at) = (mem::take(&mut active.unread), mem::take(&mut active.unread_at));
        let left = self.obey(&unread[at..]).len();
        if left > 0 {
            let active = self.active();
            active.unread_at = unread.len() - left;
            active.unread = unread;
        }
    }

    /// Processes the lines in `input`. Returns the bytes that are left when a line has to wait, or
    /// when the task has used up its budget: what handlers publish and wait for counts against it.
    fn obey<'a>(&mut self, mut input: &'a [u8]) -> &'a [u8] {
        // The lines borrow from the decoder while they are processed, so it is taken out.
        let mut lines = mem::take(&mut self.lines);
        let mut has_begun = lines.pending() > 0;
        while self.state.is_reading() && !self.is_stalled() && self.has_turn() {
            match lines.next(&mut input) {
                Ok(Some(line)) => {
                    has_begun = false;
                    self.lines_left -= 1;
                    if self.on_line(line) == Taken::No {
                        self.active().held = Some(line.to_vec());
                    }
                }
                Ok(None) => break,
                Err(error) => self.on_too_long(error),
            }
        }
        if lines.pending() > 0 && !has_begun && !self.state.is_first() {
            self.line_began = self.now;
        }
        if !self.state.is_reading() {
            // The beginning of an unfinished line is dropped, because reading has stopped.
            return &[];
        }
        self.lines = lines;
        input
    }

    fn on_line(&mut self, bytes: &[u8]) -> Taken {
        let taken = self.take_line(bytes);
        self.turn_away_banned();
        taken
    }

    /// Ends the connection after one violation too many.
    pub(super) fn turn_away_banned(&mut self) {
        if self.state.is_banned() && self.state.is_reading() {
            tracing::debug!("too many violations");
            self.turn_away(&Code::VIOLATIONS);
        }
    }

    fn take_line(&mut self, bytes: &[u8]) -> Taken {
        let line = match Line::parse_request(bytes) {
            Ok(line) => line,
            Err(fault) => return self.on_malformed(bytes, &fault),
        };
        if let Mark::Id(id) = line.mark
            && id.get() <= self.last_id
        {
            return self.on_id_order(id);
        }
        let taken = match line.word.is_protocol() {
            _ if self.is_barred(&line) => self.bar(line.mark),
            true if self.must_defer(&line) => self.defer(&line, bytes),
            true => match self.on_control(&line, bytes, self.state.is_first()) {
                // The `/subscribe` waits for the authorizer, and application lines after it are
                // processed.
                Taken::No if line.word.as_str() == "/subscribe" => self.defer(&line, bytes),
                taken => taken,
            },
            false => self.on_application(&line, bytes),
        };
        if taken == Taken::Yes {
            self.state.has_read();
            self.has_read(line.mark);
        }
        taken
    }

    fn has_read(&mut self, mark: Mark) {
        if let Mark::Id(id) = mark {
            self.last_id = id.get();
        }
    }

    /// Checks an application line, and starts or parks it.
    fn on_application(&mut self, line: &Line<'_>, bytes: &[u8]) -> Taken {
        let id = line.mark.id();
        if self.state.is_line_drawn() {
            return self.refuse_any(id, &Code::CLOSING, format_args!(""));
        }
        let (method, attributes) = match self.checked(line) {
            Ok(checked) => checked,
            Err((code, text)) => return self.refuse_any(id, &code, format_args!("{text}")),
        };
        if self.is_busy() {
            return self.refuse_any(id, &Code::BUSY, format_args!(""));
        }
        let until = self.end_of_ttl(attributes.ttl);
        if self.must_park() {
            let (is_publish, permission) = (false, None);
            let bytes = bytes.to_vec();
            return self.park(ParkedLine { id, bytes, until, is_publish, permission });
        }
        self.start_application(line, bytes, method, &attributes, until);
        Taken::Yes
    }

    /// Returns the method and the attributes.
    fn checked(&self, line: &Line<'_>) -> Result<(Found, Attributes), Refusal> {
        let method =
            self.environment.methods.find(line.word).ok_or_else(|| unknown_method(line))?;
        Ok((method, application_attributes(line, self.has_keys())?))
    }

    /// Starts an application request that was parked.
    pub(super) fn start_parked_application(&mut self, line: &Line<'_>, bytes: &[u8], until: Time) {
        let Ok((method, attributes)) = self.checked(line) else { return };
        match self.is_busy() {
            true => _ = self.refuse_any(line.mark.id(), &Code::BUSY, format_args!("")),
            false => self.start_application(line, bytes, method, &attributes, until),
        }
    }

    fn start_application(
        &mut self,
        line: &Line<'_>,
        raw: &[u8],
        method: Found,
        attributes: &Attributes,
        until: Time,
    ) {
        let window = attributes.window;
        let (id, bytes) = (line.mark.id(), line.rest.stuffed().len());
        let mut work = Work { id, cancel: id, until, window, bytes, method: Some(method) };
        if self.environment.hooks.authorizer.is_some() {
            match self.decision(Action::Call(line.word.as_str())) {
                Decision::Now(Ok(())) => {}
                Decision::Now(Err(rejection)) => return self.on_rejection(id, &rejection),
                Decision::Later(ruling) => {
                    work.bytes = raw.len();
                    let authorizing = self.authorizing(ruling, method, raw.to_vec());
                    return self.run(work, |_, _, _| Ok(Started::Made(authorizing)));
                }
            }
        }
        if attributes.has_key {
            let (environment, session, now) = (&self.environment, &self.session, Some(self.now));
            if let Some(call) = keyed_call(environment, session, line, raw, method, now) {
                return self.wait_for_run(work, call);
            }
        }
        self.run(work, |environment, session, waker| {
            let parts = RequestParts::new(line, session, &environment.publisher);
            environment.methods.start(method, &parts, Some(waker))
        });
    }

    fn on_id_order(&mut self, id: RequestId) -> Taken {
        let last = self.last_id;
        self.active().tally.malformed += 1;
        tracing::debug!(%id, last, "id is not above the last");
        self.notice_error(Some(id), &Code::ID_ORDER, format_args!("last is {last}"));
        Taken::Yes
    }

    fn on_malformed(&mut self, bytes: &[u8], fault: &Malformed) -> Taken {
        match self.is_stranger() {
            // The line may be an `/auth`, and its credentials must not be logged.
            true => tracing::debug!(%fault, "malformed line before /auth"),
            false => tracing::debug!(head = %Escaped(shown_head(bytes)), %fault, "malformed line"),
        }
        if let Some(id) = fault.id.filter(|id| !self.state.is_first() && id.get() <= self.last_id) {
            return self.on_id_order(id);
        }
        self.active().tally.malformed += 1;
        match fault.id {
            _ if self.state.is_first() => {
                self.state.ban();
                self.stop_reading(None);
            }
            Some(id) => {
                self.has_read(Mark::Id(id));
                self.refuse(id, &Code::MALFORMED, format_args!("{fault}"));
                self.violation();
            }
            None => self.notice_error(None, &Code::MALFORMED, format_args!("{fault}")),
        }
        Taken::Yes
    }

    fn on_too_long(&mut self, error: LineTooLong) {
        self.active().tally.malformed += 1;
        tracing::debug!(%error, "line too long");
        if !self.state.is_first() {
            let text = format_args!("max-line is {}", error.max_line);
            self.notice_error(None, &Code::LINE_TOO_LONG, text);
        }
        self.state.ban();
        self.stop_reading(None);
        self.bound_end();
    }
}

/// Mark and word of a malformed line. What follows them may be secret.
fn shown_head(line: &[u8]) -> &[u8] {
    let is_end = |byte: &u8| matches!(byte, b' ' | b';');
    let mark = line.iter().position(is_end).map_or(line.len(), |at| at + 1);
    let word = line[mark..].iter().position(is_end).unwrap_or(line.len() - mark);
    &line[..mark + word]
}
