//! One direction of a connection. It takes bytes from one end and delivers them to the other, as
//! its script says, and passes the end of the stream on.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use fastrand::Rng;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::coop::has_budget_remaining,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    Direction,
    plan::{Fate, Hole, Script},
    wire::Opened,
};

/// The most bytes that are taken at once.
const CHUNK: usize = 4096;

/// The longest piece of a sliced stream.
const SLICE: usize = 7;

pub(super) struct Way {
    direction: Direction,
    script: Script,
    slicer: Option<Rng>,
    /// How many bytes were delivered.
    passed: usize,
    /// Bytes that were taken and not delivered.
    held: Vec<u8>,
    /// The rest of the current piece.
    piece: usize,
    /// Other tasks have to run first.
    gives_way: bool,
    /// No more bytes are taken.
    has_ended: bool,
    /// Ends to be passed on behind the held bytes, with the time at which each was seen.
    signs: VecDeque<(Sign, Instant)>,
    /// Nothing is passed on before this time.
    wait: Option<Pin<Box<Sleep>>>,
}

/// How the sender has ended.
#[derive(Clone, Copy)]
enum Sign {
    Eof,
    Reset,
}

/// An event of one direction that concerns both.
pub(super) enum Turn {
    Fate(Fate),
    /// The receiver accepts no more bytes.
    Lost,
}

impl Way {
    pub(super) fn new(direction: Direction, script: Script, slicer: Option<Rng>) -> Self {
        Self {
            direction,
            script,
            slicer,
            passed: 0,
            held: Vec::new(),
            piece: 0,
            gives_way: false,
            has_ended: false,
            signs: VecDeque::new(),
            wait: None,
        }
    }

    /// Whether everything was passed on, including the end.
    pub(super) fn is_over(&self) -> bool {
        self.has_ended && self.held.is_empty() && self.signs.is_empty()
    }

    /// Delivers nothing from now on.
    pub(super) fn darken(&mut self) {
        self.script.darken();
    }

    /// The sender has disappeared, because it did not take bytes of the other direction. The bytes
    /// that it sent before are still passed on.
    pub(super) fn lose_sender(&mut self) {
        self.signs.push_back((Sign::Reset, Instant::now()));
    }

    /// Passes on what may be passed on now.
    pub(super) fn poll(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
        opened: &Opened,
        cx: &mut Context<'_>,
    ) -> Poll<Turn> {
        loop {
            if let Some(fate) = self.script.take_fate(self.passed) {
                return Poll::Ready(Turn::Fate(fate));
            }
            match self.script.hole(self.passed) {
                Some(Hole::Blocks) => return Poll::Pending,
                Some(Hole::Swallows) => return self.poll_swallow(from, opened, cx),
                None => {}
            }
            ready!(self.poll_give_way(cx));
            ready!(self.poll_take(from, opened, cx));
            ready!(self.poll_wait(cx));
            let passed = match self.held.is_empty() {
                true => ready!(self.poll_sign(to, cx)),
                false => ready!(self.poll_deliver(to, opened, cx)),
            };
            if let Err(turn) = passed {
                return Poll::Ready(turn);
            }
        }
    }

    fn poll_give_way(&mut self, cx: &Context<'_>) -> Poll<()> {
        if std::mem::take(&mut self.gives_way) {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    /// Ready when there are bytes or an end to pass on.
    fn poll_take(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        opened: &Opened,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        if !self.held.is_empty() {
            return Poll::Ready(());
        }
        if !self.has_ended && self.poll_chunk(from, opened, cx).is_ready() {
            return Poll::Ready(());
        }
        // A sender that has disappeared sends nothing more. But without budget, pending does not
        // mean that there are no bytes.
        if self.signs.is_empty() || !has_budget_remaining() {
            return Poll::Pending;
        }
        Poll::Ready(())
    }

    fn poll_chunk(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        opened: &Opened,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let room = self.script.room(self.passed).min(CHUNK);
        match ready!(poll_read(from, room, cx)) {
            Ok(bytes) if bytes.is_empty() => self.end(Sign::Eof),
            Ok(bytes) => {
                opened.take(self.direction, &bytes);
                self.held = bytes;
            }
            Err(_) => self.end(Sign::Reset),
        }
        Poll::Ready(())
    }

    /// Never ready, because the end of a swallowed stream is not passed on either.
    fn poll_swallow(
        &mut self,
        from: &mut (impl AsyncRead + Unpin),
        opened: &Opened,
        cx: &mut Context<'_>,
    ) -> Poll<Turn> {
        loop {
            match ready!(poll_read(from, CHUNK, cx)) {
                Ok(bytes) if !bytes.is_empty() => opened.take(self.direction, &bytes),
                _ => return Poll::Pending,
            }
        }
    }

    fn poll_wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(wait) = &mut self.wait {
                ready!(wait.as_mut().poll(cx));
            }
            self.wait = self.next_wait().map(|until| Box::pin(sleep_until(until)));
            if self.wait.is_none() {
                return Poll::Ready(());
            }
        }
    }

    /// The time until which everything has to wait, for a stall that begins or a delayed end.
    fn next_wait(&mut self) -> Option<Instant> {
        let now = Instant::now();
        if let Some(stall) = self.script.take_stall(self.passed) {
            return Some(now + stall);
        }
        let (_, seen) = self.signs.front().filter(|_| self.held.is_empty())?;
        Some(*seen + self.script.slow_close).filter(|&due| due > now)
    }

    fn poll_deliver(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        opened: &Opened,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Turn>> {
        let length = self.next_piece();
        let piece = &self.held[..length];
        let write = || Pin::new(to).poll_write(cx, piece);
        let Ok(count @ 1..) = ready!(opened.poll_deliver(self.direction, piece, write)) else {
            return Poll::Ready(Err(self.lose_receiver()));
        };
        self.held.drain(..count);
        self.passed += count;
        self.piece -= count;
        self.gives_way = self.slicer.is_some();
        Poll::Ready(Ok(()))
    }

    /// How many bytes are written at once, up to the next fault.
    fn next_piece(&mut self) -> usize {
        if self.piece == 0 {
            self.piece = self.slicer.as_mut().map_or(CHUNK, |rng| rng.usize(1..=SLICE));
        }
        self.piece.min(self.held.len()).min(self.script.reach(self.passed))
    }

    fn poll_sign(
        &mut self,
        to: &mut (impl AsyncWrite + Unpin),
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Turn>> {
        match self.signs.front() {
            Some((Sign::Reset, _)) => return Poll::Ready(Err(Turn::Fate(Fate::Reset))),
            Some((Sign::Eof, _)) => {
                if ready!(Pin::new(to).poll_shutdown(cx)).is_err() {
                    return Poll::Ready(Err(self.lose_receiver()));
                }
                self.signs.pop_front();
            }
            None => {}
        }
        Poll::Ready(Ok(()))
    }

    fn end(&mut self, sign: Sign) {
        self.has_ended = true;
        self.signs.push_back((sign, Instant::now()));
    }

    fn lose_receiver(&mut self) -> Turn {
        self.has_ended = true;
        self.held.clear();
        self.signs.clear();
        Turn::Lost
    }
}

fn poll_read(
    from: &mut (impl AsyncRead + Unpin),
    room: usize,
    cx: &mut Context<'_>,
) -> Poll<io::Result<Vec<u8>>> {
    let mut chunk = [0; CHUNK];
    let mut buf = ReadBuf::new(&mut chunk[..room]);
    ready!(Pin::new(from).poll_read(cx, &mut buf))?;
    Poll::Ready(Ok(buf.filled().to_vec()))
}
