//! One connection: a hand-written future that reads, obeys, copies and writes.
//!
//! Each poll goes through the same short steps: take the mail, poll the handlers that were woken,
//! read all there is and obey it line by line, copy from the topics, write once. Nothing waits for
//! anything else: what cannot go on says where it stands, and its waker brings the next poll.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncWrite};

use crate::{
    io::{Scratch, WriteBuffer},
    protocol::{
        Code, Escaped, Hello, Lease, LeaseEvent, Line, LineDecoder, LineTooLong, Malformed, Mark,
        Outcome, RequestId, Time, encode, encode_bye, encode_error, strip_cr,
    },
    server::{
        Shared,
        control::unknown_method,
        extract::RequestParts,
        handler::{Ended, Running},
        in_flight::{How, InFlight, Over, guarded},
        mailbox::{ALARM, CUT, DRAIN, NEWS},
        reply::{Answer, Rejection, Reply},
        session::Session,
        subscriptions::Subscriptions,
    },
    sync::Arc,
    topic::Room,
};

/// Reads per round: everything that is there is read before anything is written, within reason.
const READS: usize = 4;
/// Rounds per poll, after which other tasks of the runtime have their turn.
const ROUNDS: usize = 4;
/// How long a connection that was closed is read on, so that the peer gets the last lines: closing
/// a socket with unread bytes resets it, and what was written may be lost.
const LINGER: Duration = Duration::from_secs(1);

/// The driver of one connection. It ends when the connection is closed.
pub(super) struct Connection<T> {
    io: T,
    pub(super) shared: Arc<Shared>,
    pub(super) session: Session,
    lines: LineDecoder,
    /// The longest line to be written, LF included.
    pub(super) client_max_line: usize,
    /// The last id read.
    last_id: u64,
    /// No line was read yet.
    is_first: bool,
    is_draining: bool,
    phase: Phase,
    lease: Lease,
    /// The earliest alarm registered with the wheel.
    alarm: Option<Time>,
    /// The time of this poll, once it was asked for.
    now: Option<Time>,
    /// What an idle connection does without.
    active: Option<Box<Active>>,
    pub(super) subscriptions: Option<Box<Subscriptions>>,
}

/// What a connection owns while something is under way.
#[derive(Default)]
struct Active {
    out: WriteBuffer,
    in_flight: InFlight,
    /// Slots whose handlers were woken and are still to be polled.
    woken: Vec<usize>,
    /// A line that waits for a place in flight.
    parked: Option<Vec<u8>>,
    /// What was read behind it, and from where on it is still to be looked at.
    unread: Vec<u8>,
    unread_at: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Open,
    /// No line is looked at any more; what runs is finished, then `/quit` is answered.
    Finishing {
        quit: Option<RequestId>,
        eof: bool,
    },
    /// Everything is written.
    Closing {
        eof: bool,
    },
    /// Closed in our direction; what still comes is thrown away.
    Lingering {
        until: Time,
    },
}

/// Whether a line was obeyed, or has to wait for a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Yes,
    No,
}

/// A request to be run.
pub(super) struct Work {
    pub(super) id: Option<RequestId>,
    /// The id `/cancel` finds it under.
    pub(super) cancel: Option<RequestId>,
    /// Its own deadline, in milliseconds from now.
    pub(super) ttl: Option<u64>,
}

enum Started {
    Ended(Ended),
    Running(Running),
}

impl<T: AsyncRead + AsyncWrite + Unpin> Future for Connection<T> {
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = self.get_mut();
        this.now = None;
        this.poll_rounds(cx).map(|closed| match closed {
            Ok(()) => tracing::debug!("closed"),
            Err(error) => tracing::debug!(%error, "connection lost"),
        })
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> Connection<T> {
    pub(super) fn new(io: T, shared: Arc<Shared>, session: Session) -> Self {
        let config = &shared.config;
        let mut connection = Self {
            io,
            lines: LineDecoder::new(config.max_line),
            client_max_line: config.max_line.min(crate::protocol::DEFAULT_MAX_LINE),
            last_id: 0,
            is_first: true,
            is_draining: false,
            phase: Phase::Open,
            lease: Lease::Idle,
            alarm: None,
            now: None,
            active: None,
            subscriptions: None,
            shared,
            session,
        };
        connection.say_hello();
        connection
    }

    /// A connection that is one too many: told so, and closed.
    pub(super) fn refused(io: T, shared: Arc<Shared>, session: Session) -> Self {
        let mut connection = Self::new(io, shared, session);
        let head = format_args!("/bye;last=0;retry=1000");
        encode::display(connection.out(), Mark::Reserved, head, format_args!("busy"));
        connection.stop_reading(None);
        connection
    }

    fn say_hello(&mut self) {
        let config = &self.shared.config;
        let hello = Hello {
            session: self.session.id(),
            max_line: config.max_line,
            in_flight: config.in_flight,
            lease: config.lease.as_secs(),
            ..Hello::default()
        };
        hello.encode(self.out());
    }

    fn poll_rounds(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Phase::Closing { .. } | Phase::Lingering { .. } = self.phase {
            return self.poll_close(cx);
        }
        self.take_mail(cx);
        for _ in 0..ROUNDS {
            self.poll_handlers();
            let more_input = self.poll_input(cx)?;
            self.poll_subscriptions();
            self.answer_quit();
            self.poll_write(cx)?;
            if self.is_finished() {
                return self.poll_close(cx);
            }
            if !more_input && !self.can_go_on() {
                self.rest();
                return Poll::Pending;
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn take_mail(&mut self, cx: &mut Context<'_>) {
        let mailbox = self.session.mailbox();
        let flags = match &mut self.active {
            Some(active) => mailbox.take(cx.waker(), &mut active.woken),
            // Without anything active no handler can be woken.
            None => mailbox.take(cx.waker(), &mut Vec::new()),
        };
        if flags & ALARM != 0 {
            self.on_alarm();
        }
        if flags & DRAIN != 0 {
            self.draw_the_line();
        }
        if flags & CUT != 0 {
            self.cut();
        }
        if flags & NEWS != 0 {
            self.on_news();
        }
    }

    fn on_alarm(&mut self) {
        self.alarm = None;
        let now = self.now();
        if let Some(active) = &mut self.active {
            let over = active.in_flight.expire(now);
            let deadline = active.in_flight.earliest_deadline();
            over.into_iter().for_each(|over| self.finish(over));
            deadline.into_iter().for_each(|at| self.set_alarm(at));
        }
        self.lease_event(LeaseEvent::Tick);
    }

    fn draw_the_line(&mut self) {
        if self.phase == Phase::Open {
            self.is_draining = true;
            let last = self.last_id;
            encode_bye(self.out(), last, &Code::SHUTDOWN);
        }
    }

    fn cut(&mut self) {
        if let Some(active) = &mut self.active {
            let over = active.in_flight.cut_all();
            over.into_iter().for_each(|over| self.finish(over));
        }
        if self.phase == Phase::Open {
            self.stop_reading(None);
        }
    }

    fn on_news(&mut self) {
        if let Some(subscriptions) = &mut self.subscriptions {
            subscriptions.look();
        }
        self.poll_opening();
    }

    /// Polls what was woken, unless the peer does not read what is finished.
    fn poll_handlers(&mut self) {
        let mut polled = 0;
        while let Some(active) = &mut self.active {
            let is_full = active.out.len() >= self.shared.config.reply_mark;
            let Some(&slot) = active.woken.get(polled).filter(|_| !is_full) else {
                active.woken.drain(..polled);
                return;
            };
            polled += 1;
            if let Some(over) = active.in_flight.poll(slot) {
                self.finish(over);
            }
        }
    }

    /// Reads and obeys; whether there may be more to read.
    fn poll_input(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        self.go_on_with_unread();
        for _ in 0..READS {
            if self.phase != Phase::Open || self.is_stalled() {
                return Ok(false);
            }
            let mut scratch = Scratch::take();
            match scratch.poll_read(&mut self.io, cx)? {
                Poll::Pending => return Ok(false),
                Poll::Ready([]) => self.on_eof(),
                Poll::Ready(bytes) => self.on_bytes(bytes),
            }
        }
        Ok(true)
    }

    fn on_eof(&mut self) {
        self.stop_reading(None);
        if let Phase::Finishing { eof, .. } = &mut self.phase {
            *eof = true;
        }
    }

    fn on_bytes(&mut self, bytes: &[u8]) {
        // Replies are about as long as requests: one growth instead of many.
        self.out().reserve(bytes.len());
        let left = self.obey(bytes);
        if !left.is_empty() {
            self.active().unread = left.to_vec();
        }
    }

    fn go_on_with_unread(&mut self) {
        let Some(active) = &mut self.active else {
            return;
        };
        if let Some(line) = active.parked.take()
            && self.on_line(&line) == Taken::No
        {
            self.active().parked = Some(line);
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

    /// Obeys the lines in `input`; what is left of it when a line has to wait.
    fn obey<'a>(&mut self, mut input: &'a [u8]) -> &'a [u8] {
        // The lines are borrowed out of the decoder while they are obeyed.
        let mut lines = mem::take(&mut self.lines);
        while self.phase == Phase::Open && !self.is_stalled() {
            match lines.next(&mut input) {
                Ok(Some(line)) => {
                    let line = strip_cr(line);
                    if self.on_line(line) == Taken::No {
                        self.active().parked = Some(line.to_vec());
                    }
                }
                Ok(None) => break,
                Err(error) => self.on_too_long(error),
            }
        }
        self.lines = lines;
        match self.phase {
            Phase::Open => input,
            _ => &[],
        }
    }

    fn on_line(&mut self, bytes: &[u8]) -> Taken {
        let line = match Line::parse(bytes) {
            Ok(line) => line,
            Err(fault) => return self.on_malformed(bytes, &fault),
        };
        if let Mark::Id(id) = line.mark
            && id.get() <= self.last_id
        {
            return self.on_id_order(id);
        }
        let taken = match line.word.is_protocol() {
            true => self.on_control(&line, self.is_first),
            false => self.on_application(&line, bytes),
        };
        if taken == Taken::Yes {
            self.is_first = false;
            self.has_read(line.mark);
        }
        taken
    }

    fn has_read(&mut self, mark: Mark) {
        if let Mark::Id(id) = mark {
            self.last_id = id.get();
        }
    }

    fn on_application(&mut self, line: &Line<'_>, bytes: &[u8]) -> Taken {
        let id = match line.mark {
            Mark::Id(id) => Some(id),
            Mark::Reserved => None,
        };
        if self.is_draining {
            return self.refuse_any(id, &Code::CLOSING, format_args!(""));
        }
        let Some(method) = self.shared.methods.find(line.word.as_str()) else {
            return self.on_unknown(id, line, bytes);
        };
        let ttl = match self.application_attributes(line) {
            Ok(ttl) => ttl,
            Err((code, key)) => return self.refuse_any(id, &code, format_args!("{key}")),
        };
        if !self.has_place() {
            return Taken::No;
        }
        let work = Work { id, cancel: id, ttl };
        self.run(work, |shared, session| {
            let parts = RequestParts {
                id,
                method: line.word.as_str(),
                attributes: line.attributes,
                rest: line.rest,
                session,
                publisher: &shared.publisher,
            };
            shared.methods.start(method, &parts)
        });
        Taken::Yes
    }

    fn on_unknown(&mut self, id: Option<RequestId>, line: &Line<'_>, bytes: &[u8]) -> Taken {
        if Outcome::from_word(line.word).is_some() {
            let at = bytes.iter().position(|&byte| byte == b' ').map_or(0, |at| at + 1);
            let what = "not a method";
            return self.on_malformed(bytes, &Malformed { at, what, id });
        }
        let (code, text) = unknown_method(line);
        self.refuse_any(id, &code, format_args!("{text}"))
    }

    /// Starts a handler and polls it once; keeps it if it is not ready.
    pub(super) fn run(
        &mut self,
        work: Work,
        start: impl FnOnce(&Shared, &Session) -> Result<Running, Rejection>,
    ) {
        let (shared, session) = (&*self.shared, &self.session);
        let active = self.active.get_or_insert_default();
        let cx = &mut Context::from_waker(active.in_flight.next_waker(session.mailbox()));
        let started = guarded(|| {
            let mut running = start(shared, session)?;
            Ok(match running.poll(cx) {
                Poll::Ready(ended) => Started::Ended(ended),
                Poll::Pending => Started::Running(running),
            })
        });
        match started {
            Some(Ok(Started::Running(running))) => self.keep(work, running),
            Some(Ok(Started::Ended(ended))) => self.finish_ended(work.id, ended),
            Some(Err(rejection)) => self.on_rejection(work.id, &rejection),
            None => self.finish_ended(work.id, Ended::Panicked),
        }
    }

    fn on_rejection(&mut self, id: Option<RequestId>, rejection: &Rejection) {
        let Rejection { code, text } = rejection;
        self.refuse_any(id, code, format_args!("{text}"));
    }

    fn keep(&mut self, work: Work, running: Running) {
        let limit = self.shared.config.handler_time;
        let time = work.ttl.map_or(limit, |ttl| limit.min(Duration::from_millis(ttl)));
        let deadline = self.now().after(time);
        self.active().in_flight.keep(work.id, work.cancel, running, deadline);
        self.set_alarm(deadline);
    }

    pub(super) fn cancel_request(&mut self, id: RequestId) {
        let active = self.active.as_mut();
        if let Some(over) = active.and_then(|active| active.in_flight.cancel(id)) {
            self.finish(over);
        }
    }

    fn finish(&mut self, Over { id, how }: Over) {
        match (id, how) {
            (id, How::Ended(ended)) => self.finish_ended(id, ended),
            (Some(id), How::Cut(code)) => {
                self.answer_failure(id, Outcome::Cut, &code, format_args!(""));
            }
            (Some(id), How::NotStarted(code)) => self.refuse(id, &code, format_args!("")),
            (None, _) => {}
        }
    }

    fn finish_ended(&mut self, id: Option<RequestId>, ended: Ended) {
        if let Ended::Panicked = ended {
            tracing::error!(?id, "handler panicked");
        }
        let Some(id) = id else { return };
        match ended {
            Ended::Replied(Reply(answer)) => self.finish_answer(id, answer),
            Ended::Panicked => {
                self.answer_failure(id, Outcome::Err, &Code::INTERNAL, format_args!(""));
            }
            Ended::Aborted { .. } => {
                self.answer_failure(id, Outcome::Cut, &Code::LOST, format_args!(""));
            }
        }
    }

    fn finish_answer(&mut self, id: RequestId, answer: Answer) {
        match answer {
            Answer::Ok(payload) => self.answer(id, |out| encode::ok(out, id, &payload)),
            Answer::Published(published) => {
                let (epoch, sequence) = (published.epoch, published.sequence);
                let head = format_args!("ok;epoch={epoch};seq={sequence}");
                encode::display(self.out(), Mark::Id(id), head, format_args!(""));
            }
            Answer::Err(failure) => {
                let text = format_args!("{}", failure.text);
                self.answer_failure(id, Outcome::Err, &failure.code, text);
            }
            Answer::No(rejection) => self.refuse(id, &rejection.code, format_args!("")),
            Answer::Cut(code) => {
                self.answer_failure(id, Outcome::Cut, &code, format_args!(""));
            }
        }
    }

    /// Appends an answer; `err too-large` in its place if it is over the client's limit.
    pub(super) fn answer(&mut self, id: RequestId, encode: impl FnOnce(&mut Vec<u8>)) {
        let max_line = self.client_max_line;
        let out = self.out();
        let begin = out.len();
        encode(out);
        if out.len() - begin > max_line {
            out.truncate(begin);
            let text = format_args!("max-line is {max_line}");
            self.answer_failure(id, Outcome::Err, &Code::TOO_LARGE, text);
        }
    }

    /// Refuses a request, or names a one-way's fault where the protocol lists its code.
    fn refuse_any(
        &mut self,
        id: Option<RequestId>,
        code: &Code,
        text: std::fmt::Arguments<'_>,
    ) -> Taken {
        match id {
            Some(id) => self.refuse(id, code, text),
            None => self.notice_error(None, code, text),
        }
        Taken::Yes
    }

    fn on_id_order(&mut self, id: RequestId) -> Taken {
        let last = self.last_id;
        tracing::debug!(%id, last, "id is not above the last");
        self.notice_error(Some(id), &Code::ID_ORDER, format_args!("last is {last}"));
        Taken::Yes
    }

    fn on_malformed(&mut self, bytes: &[u8], fault: &Malformed) -> Taken {
        tracing::debug!(line = %Escaped(bytes), %fault, "malformed line");
        match fault.id {
            _ if self.is_first => self.stop_reading(None),
            Some(id) if id.get() <= self.last_id => return self.on_id_order(id),
            Some(id) => {
                self.has_read(Mark::Id(id));
                self.refuse(id, &Code::MALFORMED, format_args!("{fault}"));
            }
            None => self.notice_error(None, &Code::MALFORMED, format_args!("{fault}")),
        }
        Taken::Yes
    }

    fn on_too_long(&mut self, error: LineTooLong) {
        tracing::debug!(%error, "line too long");
        if !self.is_first {
            let text = format_args!("max-line is {}", error.max_line);
            self.notice_error(None, &Code::LINE_TOO_LONG, text);
        }
        self.stop_reading(None);
    }

    /// Appends `* /error`, for the codes that it is for; other refusals of one-ways pass in silence.
    pub(super) fn notice_error(
        &mut self,
        id: Option<RequestId>,
        code: &Code,
        text: std::fmt::Arguments<'_>,
    ) {
        const LISTED: [Code; 10] = [
            Code::MALFORMED,
            Code::ID_ORDER,
            Code::LINE_TOO_LONG,
            Code::UNKNOWN_METHOD,
            Code::UNKNOWN_ATTRIBUTE,
            Code::BAD_ATTRIBUTE,
            Code::BAD_ARGUMENTS,
            Code::BAD_FORM,
            Code::BUSY,
            Code::FORBIDDEN,
        ];
        if LISTED.contains(code) {
            let max_line = self.client_max_line;
            let out = self.out();
            let begin = out.len();
            encode_error(out, id, code, text);
            cut_text(out, begin, max_line);
        }
    }

    fn poll_subscriptions(&mut self) {
        let Some(subscriptions) = self.subscriptions.as_mut().filter(|list| list.is_ready()) else {
            return;
        };
        let mark = self.shared.config.notification_mark;
        let active = self.active.get_or_insert_default();
        let bytes = mark.saturating_sub(active.out.len());
        if bytes > 0 {
            let room = Room { bytes, max_line: self.client_max_line };
            subscriptions.copy(room, active.out.bytes());
        }
    }

    /// Drives the lease; past its end, every subscription is told so.
    pub(super) fn lease_event(&mut self, event: LeaseEvent) {
        let (now, length) = (self.now(), self.shared.config.lease);
        let (lease, has_expired) = self.lease.on(event, now, length);
        self.lease = lease;
        if let Some(deadline) = lease.deadline() {
            self.set_alarm(deadline);
        }
        if has_expired && let Some(subscriptions) = &mut self.subscriptions {
            let active = self.active.get_or_insert_default();
            subscriptions.end_all(&Code::EXPIRED, active.out.bytes());
        }
    }

    /// Looks at no further line.
    pub(super) fn stop_reading(&mut self, quit: Option<RequestId>) {
        self.phase = Phase::Finishing { quit, eof: false };
        self.lines = LineDecoder::default();
        self.subscriptions = None;
        self.lease = Lease::Idle;
        if let Some(active) = &mut self.active {
            active.parked = None;
            active.unread = Vec::new();
        }
    }

    /// The last line of the connection, once all others are there.
    fn answer_quit(&mut self) {
        if let Phase::Finishing { quit, .. } = &mut self.phase
            && self.active.as_ref().is_none_or(|active| active.in_flight.len() == 0)
            && let Some(id) = quit.take()
        {
            encode::ok(self.out(), id, b"");
        }
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match &mut self.active {
            Some(active) if !active.out.is_empty() => match active.out.poll_write(&mut self.io, cx)
            {
                Poll::Ready(written) => written,
                Poll::Pending => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// Whether all is done that this connection will do.
    fn is_finished(&self) -> bool {
        let is_ending = self.phase != Phase::Open || self.is_draining && !self.is_stalled();
        let is_done = |active: &Active| active.in_flight.len() == 0 && active.out.is_empty();
        is_ending && self.active.as_deref().is_none_or(is_done)
    }

    /// Closes our direction, then reads on for a while unless the peer has closed its own.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let until = match self.phase {
            Phase::Lingering { until } => until,
            Phase::Open => self.begin_closing(false),
            Phase::Finishing { eof, .. } | Phase::Closing { eof } => self.begin_closing(eof),
        };
        if let Phase::Closing { eof } = self.phase {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            if eof {
                return Poll::Ready(Ok(()));
            }
            self.phase = Phase::Lingering { until };
        }
        self.poll_linger(cx, until)
    }

    fn begin_closing(&mut self, eof: bool) -> Time {
        if !matches!(self.phase, Phase::Closing { .. }) {
            self.stop_reading(None);
            self.phase = Phase::Closing { eof };
            self.active = None;
        }
        self.now().after(LINGER)
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>, until: Time) -> Poll<io::Result<()>> {
        let flags = self.session.mailbox().take(cx.waker(), &mut Vec::new());
        if flags & ALARM != 0 {
            self.alarm = None;
        }
        if flags & CUT != 0 || self.now() >= until {
            return Poll::Ready(Ok(()));
        }
        self.set_alarm(until);
        let mut scratch = Scratch::take();
        for _ in 0..READS {
            if ready!(scratch.poll_read(&mut self.io, cx))?.is_empty() {
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Whether another round would do something that no waker announces.
    fn can_go_on(&self) -> bool {
        let Some(active) = &self.active else {
            return false;
        };
        let config = &self.shared.config;
        let has_lines = active.parked.is_some() || !active.unread.is_empty();
        let can_copy = active.out.len() < config.notification_mark
            && self.subscriptions.as_ref().is_some_and(|list| list.is_ready());
        let can_poll = active.out.len() < config.reply_mark && !active.woken.is_empty();
        has_lines && !self.is_opening() && self.has_place() || can_copy || can_poll
    }

    /// Gives back what an idle connection does without.
    fn rest(&mut self) {
        let is_idle = |active: &mut Box<Active>| {
            active.out.is_empty()
                && active.in_flight.len() == 0
                && active.parked.is_none()
                && active.unread.is_empty()
        };
        if self.active.take_if(is_idle).is_some() {
            self.session.mailbox().shrink();
        }
        self.subscriptions.take_if(|list| list.is_empty());
    }

    /// Whether lines have to wait: for a place, or for a store to open a topic.
    fn is_stalled(&self) -> bool {
        self.is_opening() || self.active.as_ref().is_some_and(|active| active.parked.is_some())
    }

    fn is_opening(&self) -> bool {
        self.subscriptions.as_ref().is_some_and(|list| list.is_opening())
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Whether another application request may be started.
    pub(super) fn has_place(&self) -> bool {
        let config = &self.shared.config;
        self.active.as_ref().is_none_or(|active| {
            active.in_flight.len() < config.in_flight && active.out.len() < config.reply_mark
        })
    }

    fn active(&mut self) -> &mut Active {
        self.active.get_or_insert_default()
    }

    /// Where lines to the client are appended.
    pub(super) fn out(&mut self) -> &mut Vec<u8> {
        self.active().out.bytes()
    }

    fn now(&mut self) -> Time {
        *self.now.get_or_insert_with(|| self.shared.wheel.now())
    }

    fn set_alarm(&mut self, deadline: Time) {
        if self.alarm.is_none_or(|alarm| deadline < alarm) {
            self.alarm = Some(deadline);
            self.shared.wheel.register(deadline, self.session.mailbox().clone());
        }
    }
}

impl<T> Drop for Connection<T> {
    fn drop(&mut self) {
        self.shared.sessions.remove(&self.session.id());
    }
}

/// Cuts the line that begins at `begin` to `max_line` bytes, at its text, LF included.
pub(super) fn cut_text(out: &mut Vec<u8>, begin: usize, max_line: usize) {
    if out.len() - begin > max_line {
        out.truncate(begin + max_line - 1);
        // Neither half of a stuffed pair nor half of a character may stand at the end.
        while out.last().is_some_and(|byte| !byte.is_ascii() || *byte == 0x10) {
            out.pop();
        }
        out.push(b'\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_connection_is_small() {
        let size = size_of::<Connection<()>>();
        assert!(size <= 256, "{size} bytes");
    }

    #[test]
    fn a_cut_line_ends_at_a_whole_character() {
        for (line, max, cut) in [
            (&b"1 no x abc\n"[..], 11, &b"1 no x abc\n"[..]),
            (b"1 no x abc\n", 10, b"1 no x ab\n"),
            (b"1 no x a\x10J\n", 10, b"1 no x a\n"),
            ("1 no x a\u{e9}\n".as_bytes(), 10, b"1 no x a\n"),
        ] {
            let mut out = line.to_vec();
            cut_text(&mut out, 0, max);
            assert_eq!(out, cut);
        }
    }
}
