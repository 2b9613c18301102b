//! When a request is sent again although it may have run: it has a key, or is idempotent
//! (docs/protocol/keyed.md, section 23).

use crate::{
    error::{CallError, NotSent, Unknown},
    protocol::{Code, Epoch, KeyWindow, Repeats, Time},
};

/// What the application says about running a request twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Repetition {
    /// It has a key, so the server runs it at most once.
    pub(crate) has_key: bool,
    /// It may run twice.
    pub(crate) is_idempotent: bool,
}

/// The attempts of a request that was sent and has not ended.
#[derive(Debug, Default)]
pub(super) struct Attempts {
    /// How often the request was refused in such a way that it is sent again.
    pub(super) times: Repeats,
    /// The last such refusal. The request ends with it if its deadline passes before it is sent
    /// again.
    pub(super) refusal: Option<CallError>,
    /// Where a request with a key may be sent again, from its first sending on.
    window: Option<Repeatable>,
    /// The first outcome that was unknown. The request may have run, whatever becomes of the
    /// attempts after it.
    unknown: Option<Unknown>,
}

/// The table of keys that knows a request, and how long.
#[derive(Clone, Copy, Debug)]
struct Repeatable {
    store: Epoch,
    until: Time,
}

impl Attempts {
    /// Notes that a request with a key is sent to a server with this table.
    pub(super) fn on_sent(&mut self, keys: Option<KeyWindow>, now: Time) {
        if self.window.is_none() {
            let open = |keys: KeyWindow| Repeatable {
                store: keys.store,
                until: now.after(keys.repeats()),
            };
            self.window = keys.map(open);
        }
    }

    /// Notes that the request was proven not executed, and is sent again.
    pub(super) fn on_not_run(&mut self, error: &CallError) {
        if matches!(error, CallError::Refused { .. }) {
            self.refusal = Some(error.clone());
        }
        if self.unknown.is_none() {
            self.window = None;
        }
    }

    /// Notes that the request may have run, and is sent again.
    pub(super) fn on_unknown(&mut self, unknown: &Unknown) {
        self.unknown.get_or_insert_with(|| unknown.clone());
    }

    /// Until when a request that may have run may be sent again, because of its key.
    pub(super) fn until(&self) -> Option<Time> {
        self.window.filter(|_| self.unknown.is_some()).map(|window| window.until)
    }

    /// Why a request with a key must not be sent to a server with this table any more: it may have
    /// run, and this server does not know it.
    pub(super) fn fault(&self, keys: Option<KeyWindow>, now: Time) -> Option<Unknown> {
        let is_known = |window: Repeatable| {
            now < window.until && keys.is_some_and(|keys| keys.store == window.store)
        };
        self.unknown.clone().filter(|_| !self.window.is_some_and(is_known))
    }

    /// The outcome of the request over all attempts, of which the last one ended with `error`
    /// (guarantee "one outcome").
    pub(super) fn outcome(&mut self, error: CallError) -> CallError {
        match (error, self.unknown.take()) {
            (CallError::NotSent(_) | CallError::Refused { .. }, Some(unknown)) => unknown.into(),
            // It was refused before, so it has been sent.
            (error @ CallError::NotSent(_), None) => self.refusal.take().unwrap_or(error),
            (error, _) => error,
        }
    }
}

impl Repetition {
    /// Whether a request that ended with `unknown` may be sent again.
    pub(super) fn allows(self, unknown: &Unknown, attempts: Option<&Attempts>, now: Time) -> bool {
        let is_lost = matches!(unknown, Unknown::Lost(_));
        let was_cut = matches!(unknown, Unknown::Cut(reason) if reason.code == Code::CLOSING);
        let in_time = || attempts.and_then(|it| it.window).is_some_and(|it| now < it.until);
        (self.is_idempotent && (is_lost || was_cut)) || (self.has_key && is_lost && in_time())
    }

    /// Why a request cannot be sent to a server with this table of keys.
    pub(super) fn fault(self, keys: Option<KeyWindow>) -> Option<NotSent> {
        (self.has_key && keys.is_none()).then_some(NotSent::NoKeys)
    }
}
