//! A reader of the store under test, and what it reads.

use std::{
    borrow::Cow,
    future::poll_fn,
    mem,
    task::{Context, Poll, Wake, Waker},
};

use crate::{
    protocol::{Code, Cursor, Line, Position, Topic, Window, parse_notification},
    sync::{Arc, AtomicUsize, Mutex, Ordering},
    topic::{
        Read, Room, TopicReader, TopicStore, Unavailable, check_read, check_window,
        suite::check::{Checked, Failure, require},
    },
};

/// Room for all that a case reads.
pub(super) const ALL: Room = Room::new(1 << 26, u64::MAX, 1 << 20);

/// What the buffer of a reader has before it reads. The reader must keep it.
const BEFORE: &[u8] = b"* other 1 before\n";

/// What a reader gets, one number or fact after the other.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Item {
    Message(u64, Vec<u8>),
    /// The number was named in a gap with this reason.
    Gone(u64, Code),
    Reset(Position),
    Closed,
}

impl std::fmt::Debug for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Message(number, payload) if payload.len() > 40 => {
                let start = payload.get(..16).unwrap_or_default().escape_ascii();
                write!(f, "{number} \"{start}\"… of {} bytes", payload.len())
            }
            Self::Message(number, payload) => write!(f, "{number} \"{}\"", payload.escape_ascii()),
            Self::Gone(number, reason) => write!(f, "{number} gone ({reason})"),
            Self::Reset(to) => write!(f, "a reset to {to}"),
            Self::Closed => f.write_str("the end of a closed log"),
        }
    }
}

/// Counts how often a reader is woken, and wakes the case.
#[derive(Default)]
pub(super) struct Woken {
    count: AtomicUsize,
    case: Mutex<Option<Waker>>,
}

impl Woken {
    pub(super) fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub(super) fn reset(&self) {
        self.count.store(0, Ordering::Release);
    }

    /// Waits until it was woken since the last reset.
    pub(super) async fn wait(&self) {
        poll_fn(|cx| {
            let before = self.case.lock().replace(cx.waker().clone());
            drop(before);
            if self.count() > 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.count.fetch_add(1, Ordering::AcqRel);
        let case = self.case.lock().take();
        if let Some(case) = case {
            case.wake();
        }
    }
}

/// A reader with its cursor. Like a server, it is polled again only after it was woken.
pub(super) struct Probe {
    topic: Topic,
    reader: Box<dyn TopicReader>,
    woken: Arc<Woken>,
    pub(super) position: Option<Position>,
}

impl Probe {
    pub(super) fn open(store: &dyn TopicStore, topic: &Topic) -> Self {
        let reader = store.open(topic);
        Self { topic: topic.clone(), reader, woken: Arc::default(), position: None }
    }

    /// Later polls register this waker instead of the one before, which is returned.
    pub(super) fn wake(&mut self, another: Arc<Woken>) -> Arc<Woken> {
        mem::replace(&mut self.woken, another)
    }

    pub(super) fn woken(&self) -> Arc<Woken> {
        self.woken.clone()
    }

    pub(super) async fn window(&mut self) -> Checked<Window> {
        loop {
            self.woken.reset();
            let waker = Waker::from(self.woken.clone());
            let polled = self.reader.poll_window(&mut Context::from_waker(&waker));
            if let Poll::Ready(window) = polled {
                let window = window?;
                return Ok(check_window(window, None).map(|()| window)?);
            }
            self.woken.wait().await;
        }
    }

    /// One step from the cursor on; nothing if the reader has to wait.
    pub(super) fn poll(&mut self, room: Room) -> Checked<Option<Vec<Item>>> {
        Ok(self.poll_raw(room)??)
    }

    /// As `poll`; the store's own failure is apart.
    pub(super) fn poll_raw(
        &mut self,
        room: Room,
    ) -> Checked<Result<Option<Vec<Item>>, Unavailable>> {
        let position = self.position.expect("a position to read from");
        let mut out = BEFORE.to_vec();
        self.woken.reset();
        let waker = Waker::from(self.woken.clone());
        let cx = &mut Context::from_waker(&waker);
        let read = match self.reader.poll_read(cx, Cursor { position }, room, &mut out) {
            Poll::Pending => {
                require(out == BEFORE, || "a reader that waits changed the buffer".into())?;
                return Ok(Ok(None));
            }
            Poll::Ready(Err(unavailable)) => return Ok(Err(unavailable)),
            Poll::Ready(Ok(read)) => read,
        };
        let lines = out.strip_prefix(BEFORE);
        let lines = lines.ok_or_else(|| Failure("a reader changed what the buffer held".into()))?;
        check_read(&read, &self.topic, position, room, lines, false)?;
        Ok(Ok(Some(self.moved(position, read, lines))))
    }

    /// Moves the cursor by a step that was checked.
    fn moved(&mut self, at: Position, read: Read, lines: &[u8]) -> Vec<Item> {
        let (next, items) = match read {
            Read::Copied { last } => (Position { next: last + 1, ..at }, messages(lines)),
            Read::Gap { last, reason } => {
                let gone = |number| Item::Gone(number, reason.clone());
                (Position { next: last + 1, ..at }, (at.next..=last).map(gone).collect())
            }
            Read::Reset(to) => (to, vec![Item::Reset(to)]),
            Read::Closed => (at, vec![Item::Closed]),
        };
        self.position = Some(next);
        items
    }

    /// The next step, once there is one.
    pub(super) async fn next(&mut self, room: Room) -> Checked<Vec<Item>> {
        loop {
            if let Some(items) = self.poll(room)? {
                return Ok(items);
            }
            self.woken.wait().await;
        }
    }

    /// All from the cursor on, up to the number before `next`, or to a reset or the end.
    pub(super) async fn read_to(&mut self, next: u64, room: Room) -> Checked<Vec<Item>> {
        let mut items = Vec::new();
        while self.position.is_some_and(|at| at.next < next) {
            items.extend(self.next(room).await?);
            if let Some(Item::Reset(_) | Item::Closed) = items.last() {
                break;
            }
        }
        Ok(items)
    }
}

/// The messages in lines that were checked.
fn messages(lines: &[u8]) -> Vec<Item> {
    let lines = lines.split_inclusive(|&byte| byte == b'\n');
    let messages = lines.filter_map(|line| {
        let line = Line::parse(line.strip_suffix(b"\n")?).ok()?;
        let (number, payload) = parse_notification(line.rest)?;
        Some(Item::Message(number, Cow::into_owned(payload)))
    });
    messages.collect()
}

/// Messages with these payloads, numbered from `first` on.
pub(super) fn numbered<T: AsRef<[u8]>>(
    first: u64,
    payloads: impl IntoIterator<Item = T>,
) -> Vec<Item> {
    let payloads = payloads.into_iter();
    (first..).zip(payloads).map(|(n, it)| Item::Message(n, it.as_ref().to_vec())).collect()
}
