//! Captures logs in one test of a process that also runs other tests.

use std::sync::OnceLock;

use tracing::{
    Dispatch, Event, Metadata, Subscriber,
    span::{Attributes, Id, Record},
    subscriber::{self, DefaultGuard, Interest},
};

/// Makes `subscriber` the default of the calling thread until the guard is dropped.
///
/// `tracing` caches for the whole process whether any subscriber is interested in a callsite. With
/// only one subscriber, a thread without it may reach a callsite first, and then the cached answer
/// is no. So two subscribers that live for the whole process stay interested in everything.
pub fn capture(subscriber: impl Subscriber + Send + Sync + 'static) -> DefaultGuard {
    static INTERESTED: OnceLock<[Dispatch; 2]> = OnceLock::new();
    INTERESTED.get_or_init(|| [Dispatch::new(Interested), Dispatch::new(Interested)]);
    subscriber::set_default(subscriber)
}

/// It is never the default of a thread, so it is never called with a span or an event.
struct Interested;

impl Subscriber for Interested {
    fn register_callsite(&self, _: &'static Metadata<'static>) -> Interest {
        Interest::sometimes()
    }

    fn enabled(&self, _: &Metadata<'_>) -> bool {
        false
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, _: &Event<'_>) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}
