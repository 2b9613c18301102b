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
            router::Found,
            running::Running,
        },
        mailbox::{Mailbox, Whom},
        user_code::UserCode,
    },
    sync::Arc,
};

/// A deadline that never comes.
pub(super) const NEVER: Time = Time::from_millis(u64::MAX);

/// A slab of running handlers. Each slot has a waker that is reused by the next request in that
/// slot. A waker that an earlier request left behind then causes one needless poll, which is
/// harmless.
#[derive(Default)]
pub(super) struct InFlight {
    slots: Vec<UserCode<Kept>>,
    free: Vec<usize>,
    /// The bytes of all payloads in flight.
    bytes: usize,
    /// The id in each slot, or 0 if there is none to cancel. A separate list, because `/cancel`
    /// searches it.
    ids: Vec<u64>,
    /// Slots with streams that may be polled, in the order of their turns. Each slot is in it once.
    ready: VecDeque<usize>,
}

/// A slot, its waker and a small handler's future, in bytes.
const SLOT: usize = 256;

/// A request in flight whose handler has not ended.
struct Kept {
    id: Option<RequestId>,
    running: Running,
    deadline: Time,
    /// How long the handler may take. For a stream, how long each item may take.
    limit: Duration,
    /// The deadline once the call is allowed. While the authorizer decides, the deadline may be
    /// earlier.
    once_allowed: Time,
    /// The bytes of its payload.
    bytes: usize,
    /// Why the request was ended, while its task still runs.
    ending: Option<Code>,
    /// How many further items the client takes, if the reply is a stream.
    credit: u64,
    /// The end of its `ttl`. It bounds a stream that waits for credit.
    until: Time,
    /// Whether its slot is in `ready`.
    is_ready: bool,
    /// The method of the application; `None` for a `/publish`.
    method: Option<Found>,
}

/// The limits of a request in flight.
pub(super) struct Bounds {
    pub(super) begun: Time,
    /// How long the handler may take. For a stream, how long each item may take. [`Duration::MAX`]
    /// for no limit.
    pub(super) limit: Duration,
    /// How long a handler without a limit of its own may take.
    pub(super) usual: Duration,
    /// The end of its `ttl`, or [`NEVER`].
    pub(super) until: Time,
    /// The credit, in items.
    pub(super) credit: u64,
    /// The bytes of its payload, as received.
    pub(super) bytes: usize,
}

/// A request that has ended, and is to be answered if it has an id.
pub(super) struct Over {
    pub(super) id: Option<RequestId>,
    /// The method of the application; `None` for a `/publish`.
    pub(super) method: Option<Found>,
    pub(super) how: How,
}

pub(super) enum How {
    Ended(Ended),
    /// It was ended by the connection after it had started.
    Cut(Code),
    /// It was ended by the connection before it started.
    NotStarted(Code),
}

/// The result of polling the stream whose turn it was.
pub(super) enum Turn {
    /// Nothing yet.
    Nothing,
    /// An item. Its credit is spent.
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
    /// Whether the call was allowed and the handler constructed.
    fn has_begun(&self) -> bool {
        self.running.has_started()
    }
}

impl InFlight {
    /// Requests in flight.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Bytes of payload in flight, as received.
    pub(super) fn payload_bytes(&self) -> usize {
        self.bytes
    }

    /// The bytes of the table and of the payloads.
    pub(super) fn bytes(&self) -> usize {
        self.slots.len() * SLOT + self.bytes
    }

    /// The waker for the first poll of a request. The next call of [`keep`](Self::keep) puts it
    /// into the same slot.
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
    /// Returns its deadline.
    ///
    /// `cancel` is the id that `/cancel` names, if the request can be cancelled.
    pub(super) fn keep(
        &mut self,
        id: Option<RequestId>,
        cancel: Option<RequestId>,
        method: Option<Found>,
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
            method,
        });
        if is_stream {
            self.make_ready(slot);
        }
        deadline
    }

    /// Polls the handler in `slot`, which was woken. A stream is not polled here, but put in the
    /// queue of `ready`.
    pub(super) fn poll(&mut self, slot: usize) -> Option<Over> {
        // A waker may outlive an earlier table, which may have had more slots than this one.
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

    /// Ends the request `id`, if it is in flight, because the client cancelled it.
    pub(super) fn cancel(&mut self, id: RequestId) -> Option<Over> {
        let slot = self.ids.iter().position(|&known| known == id.get())?;
        self.end(slot, &Code::CANCELLED)
    }

    /// Ends the requests whose deadline has passed. A slot that a task still holds is woken when
    /// the task has ended.
    pub(super) fn expire(&mut self, now: Time) -> Vec<Over> {
        for kept in self.slots.iter_mut().filter_map(|slot| slot.kept.as_mut()) {
            if kept.deadline <= now && kept.deadline < kept.once_allowed && kept.has_begun() {
                kept.deadline = kept.once_allowed;
            }
        }
        let is_due = |kept: &Kept| kept.ending.is_none() && kept.deadline <= now;
        self.end_where(is_due, &Code::DEADLINE)
    }

    /// Ends all requests at once, whether or not their tasks have ended, because the connection
    /// ends.
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
                // The future around the task is dropped in the next poll.
                self.slots[slot].waker().wake_by_ref();
                None
            }
            false => self.remove(slot, None),
        }
    }

    /// Frees the slot, and drops what is left of the handler.
    fn remove(&mut self, slot: usize, ended: Option<Ended>) -> Option<Over> {
        let kept = self.slots[slot].kept.take()?;
        let Kept { id, running, bytes, ending, is_ready, method, .. } = kept;
        self.bytes -= bytes;
        self.ids[slot] = 0;
        self.free.push(slot);
        if is_ready {
            // Removed at once, because many requests and cancels would otherwise make the queue
            // grow.
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
        Some(Over { id, method, how })
    }

    /// The earliest deadline of the requests that were not ended.
    pub(super) fn earliest_deadline(&self) -> Option<Time> {
        let kept = self.slots.iter().filter_map(|slot| slot.kept.as_ref());
        let earliest = kept.filter(|kept| kept.ending.is_none()).map(|kept| kept.deadline).min();
        earliest.filter(|&deadline| deadline < NEVER)
    }
}
