//! The requests of one connection whose handlers run.

mod streams;

use std::{
    collections::VecDeque,
    task::{Poll, Waker},
    time::Duration,
};

use bytes::Bytes;

use crate::{
    protocol::{Code, Outcome, RequestId, Time},
    server::{
        handlers::{
            reply::{Answer, Ended, Reply},
            running::Running,
        },
        mailbox::{Mailbox, Whom},
        user_code::UserCode,
    },
    sync::Arc,
};

/// A deadline that never comes.
pub(super) const NEVER: Time = Time::from_millis(u64::MAX);

/// A slab of running handlers. A slot keeps its waker for the next request that takes it: a waker
/// left behind by an earlier one then causes a poll for nothing, which is harmless.
#[derive(Default)]
pub(super) struct InFlight {
    slots: Vec<UserCode<Kept>>,
    free: Vec<usize>,
    /// Bytes of all their payloads.
    bytes: usize,
    /// The id in each slot; 0 where there is none to cancel. Apart, since `/cancel` searches it.
    ids: Vec<u64>,
    /// Slots with streams that may be polled, in the order of their turns; each once.
    ready: VecDeque<usize>,
}

/// A slot, its waker and a small handler's future, in bytes.
const SLOT: usize = 256;

/// A handler that was not ready at once.
struct Kept {
    id: Option<RequestId>,
    running: Running,
    deadline: Time,
    /// How long it may take, or, of a stream, each item.
    limit: Duration,
    /// Its deadline once it is allowed; the authoriser may take less time than the handler.
    once_allowed: Time,
    /// Of its payload.
    bytes: usize,
    /// Why it was told to end, while its task has not.
    ending: Option<Code>,
    /// Items that the client takes, should it answer with a stream.
    credit: u64,
    /// The end of its `ttl`: what bounds a stream while no item is due.
    until: Time,
    /// Its stream stands among those that are ready.
    is_ready: bool,
}

/// What bounds a request that is kept.
pub(super) struct Bounds {
    pub(super) begun: Time,
    /// How long it may take, or, of a stream, each item; [`Duration::MAX`] for ever.
    pub(super) limit: Duration,
    /// How long a handler may take that has no limit of its own.
    pub(super) usual: Duration,
    /// The end of its `ttl`, or [`NEVER`].
    pub(super) until: Time,
    /// Items that the client takes.
    pub(super) credit: u64,
    /// Of its payload, stuffed.
    pub(super) bytes: usize,
}

/// A request that is over: to be answered, if it has an id.
pub(super) struct Over {
    pub(super) id: Option<RequestId>,
    pub(super) how: How,
}

pub(super) enum How {
    Ended(Ended),
    /// It was told to end, and has.
    Cut(Code),
    /// It was told to end before it began.
    NotStarted(Code),
}

/// What the stream whose turn it was brought.
pub(super) enum Turn {
    /// Nothing yet.
    Nothing,
    /// An item; its credit is used.
    Item {
        slot: usize,
        id: RequestId,
        payload: Bytes,
    },
    Over(Over),
}

impl How {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Ended(Ended::Replied(reply)) => reply.outcome(),
            Self::Ended(Ended::Panicked) => Outcome::Err,
            Self::Ended(Ended::Refused(_)) | Self::NotStarted(_) => Outcome::No,
            Self::Ended(Ended::Starved | Ended::Aborted { .. }) | Self::Cut(_) => Outcome::Cut,
        }
    }
}

impl Kept {
    /// Whether it is allowed, and its handler was made.
    fn has_begun(&self) -> bool {
        self.running.has_started()
    }
}

impl InFlight {
    /// Requests in flight.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Bytes of payload in flight, as they stood on the wire.
    pub(super) fn payload_bytes(&self) -> usize {
        self.bytes
    }

    /// What the table takes, with these payloads.
    pub(super) fn bytes(&self) -> usize {
        self.slots.len() * SLOT + self.bytes
    }

    /// The waker for the first poll of the request that [`keep`](Self::keep) would keep next.
    pub(super) fn next_waker(&mut self, mailbox: &Arc<Mailbox>) -> &Waker {
        if self.free.is_empty() {
            let slot = self.slots.len();
            self.slots.push(UserCode::new(None, mailbox, Whom::Handler(slot)));
            self.ids.push(0);
            self.free.push(slot);
        }
        let slot = self.free.last().copied().unwrap_or_default();
        self.slots[slot].waker()
    }

    /// Keeps a request whose first poll, with [`next_waker`](Self::next_waker), was pending.
    ///
    /// `cancel` is the id that `/cancel` finds it under, if it may be cancelled. Its deadline.
    pub(super) fn keep(
        &mut self,
        id: Option<RequestId>,
        cancel: Option<RequestId>,
        running: Running,
        Bounds { begun, limit, usual, until, credit, bytes }: Bounds,
    ) -> Time {
        let Some(slot) = self.free.pop() else { return NEVER };
        self.bytes += bytes;
        self.ids[slot] = cancel.map_or(0, RequestId::get);
        let is_stream = matches!(running, Running::Stream(_));
        let once_allowed = begun.after(limit).min(until);
        let deadline = match running.has_started() {
            true => once_allowed,
            false => once_allowed.min(begun.after(usual)),
        };
        self.slots[slot].kept = Some(Kept {
            id,
            running,
            deadline,
            limit,
            once_allowed,
            bytes,
            ending: None,
            credit,
            until,
            is_ready: false,
        });
        if is_stream {
            self.make_ready(slot);
        }
        deadline
    }

    /// Polls the handler in `slot`, which was woken; a stream gets its turn among the others.
    pub(super) fn poll(&mut self, slot: usize) -> Option<Over> {
        // A waker may outlive the table its slot stood in, and this one may be shorter.
        let code = self.slots.get_mut(slot)?;
        code.take_queued();
        let request = code.kept.as_ref()?;
        if matches!(request.running, Running::Stream(_)) && request.ending.is_none() {
            self.make_ready(slot);
            return None;
        }
        let ended = match code.poll(|request, cx| request.running.poll(cx)) {
            Some(Poll::Pending) => return None,
            Some(Poll::Ready(Ended::Replied(Reply(Answer::Stream(items))))) => {
                return self.begin_stream(slot, items);
            }
            Some(Poll::Ready(ended)) => ended,
            None => Ended::Panicked,
        };
        self.remove(slot, Some(ended))
    }

    /// Ends the request `id`, if it is in flight: the caller cancelled it.
    pub(super) fn cancel(&mut self, id: RequestId) -> Option<Over> {
        let slot = self.ids.iter().position(|&known| known == id.get())?;
        self.end(slot, &Code::CANCELLED)
    }

    /// Ends what is past its deadline; the slots that a task still holds wake when it has ended.
    pub(super) fn expire(&mut self, now: Time) -> Vec<Over> {
        for kept in self.slots.iter_mut().filter_map(|slot| slot.kept.as_mut()) {
            if kept.deadline <= now && kept.deadline < kept.once_allowed && kept.has_begun() {
                kept.deadline = kept.once_allowed;
            }
        }
        let is_due = |kept: &Kept| kept.ending.is_none() && kept.deadline <= now;
        self.end_where(is_due, &Code::DEADLINE)
    }

    /// Ends everything now, tasks too, whether they have ended or not: the server stops.
    pub(super) fn cut_all(&mut self) -> Vec<Over> {
        let mut over = self.end_where(|kept| kept.ending.is_none(), &Code::CLOSING);
        for slot in 0..self.slots.len() {
            over.extend(self.remove(slot, None));
        }
        over
    }

    fn end_where(&mut self, which: impl Fn(&Kept) -> bool, code: &Code) -> Vec<Over> {
        let slots = 0..self.slots.len();
        slots
            .filter_map(|slot| {
                let kept = self.slots[slot].kept.as_ref()?;
                which(kept).then(|| self.end(slot, code))?
            })
            .collect()
    }

    fn end(&mut self, slot: usize, code: &Code) -> Option<Over> {
        let kept = self.slots[slot].kept.as_mut()?;
        if kept.ending.is_some() {
            return None;
        }
        kept.ending = Some(code.clone());
        match kept.running.abort() {
            true => {
                // What is around the task is dropped when it is polled.
                self.slots[slot].waker().wake_by_ref();
                None
            }
            false => self.remove(slot, None),
        }
    }

    /// Frees the slot, dropping what is left of the handler.
    fn remove(&mut self, slot: usize, ended: Option<Ended>) -> Option<Over> {
        let Kept { id, running, bytes, ending, is_ready, .. } = self.slots[slot].kept.take()?;
        self.bytes -= bytes;
        self.ids[slot] = 0;
        self.free.push(slot);
        if is_ready {
            // Not left for later: a flood of requests and cancels would pile them up.
            self.ready.retain(|&other| other != slot);
        }
        let has_started = running.has_started();
        let (dropped_well, items) = running.end();
        let how = match (ending, ended) {
            (Some(code), _) if !has_started => How::NotStarted(code),
            (Some(code), Some(Ended::Aborted { started: false })) => How::NotStarted(code),
            (Some(code), _) => How::Cut(code),
            (None, Some(ended)) if dropped_well => How::Ended(ended),
            (None, _) => How::Ended(Ended::Panicked),
        };
        if let Some(mut items) = items {
            items.over(how.outcome());
        }
        Some(Over { id, how })
    }

    /// The earliest deadline of those that were not told to end.
    pub(super) fn earliest_deadline(&self) -> Option<Time> {
        let kept = self.slots.iter().filter_map(|slot| slot.kept.as_ref());
        let earliest = kept.filter(|kept| kept.ending.is_none()).map(|kept| kept.deadline).min();
        earliest.filter(|&deadline| deadline < NEVER)
    }
}
