//! The store under test without its type, so that the cases are compiled once.

use std::{pin::Pin, time::Duration};

use crate::{
    sync::Arc,
    topic::{
        TopicStore,
        suite::under_test::{Capabilities, Limits, Options, StoreUnderTest},
    },
};

/// A future of a case, which stays on its thread.
pub(super) type Local<'a, T> = Pin<Box<dyn Future<Output = T> + 'a>>;

/// How a life of a durable store ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Clean,
    Kill,
}

pub(super) trait Harness: Send {
    fn capabilities(&self) -> Capabilities;
    fn options(&self) -> Options;
    fn open(&mut self, limits: Limits) -> Local<'_, Arc<dyn TopicStore>>;
    /// Ends the store, and opens it again. The case must not hold it any more.
    fn again(&mut self, ending: Ending) -> Local<'_, Arc<dyn TopicStore>>;
    fn advance(&mut self, time: Duration);
    /// Drops the store.
    fn end(&mut self);
}

pub(super) struct Erased<H: StoreUnderTest> {
    harness: H,
    store: Option<Arc<H::Store>>,
}

impl<H: StoreUnderTest> Erased<H> {
    pub(super) fn new(harness: H) -> Self {
        Self { harness, store: None }
    }

    fn keep(&mut self, store: H::Store) -> Arc<dyn TopicStore> {
        self.store.insert(Arc::new(store)).clone()
    }
}

impl<H: StoreUnderTest> Harness for Erased<H> {
    fn capabilities(&self) -> Capabilities {
        self.harness.capabilities()
    }

    fn options(&self) -> Options {
        self.harness.options()
    }

    fn open(&mut self, limits: Limits) -> Local<'_, Arc<dyn TopicStore>> {
        Box::pin(async move {
            self.store = None;
            let store = self.harness.open(limits).await;
            self.keep(store)
        })
    }

    fn again(&mut self, ending: Ending) -> Local<'_, Arc<dyn TopicStore>> {
        Box::pin(async move {
            let store = self.store.take().and_then(Arc::into_inner);
            let store = store.expect("an open store that the case has let go");
            let store = match ending {
                Ending::Clean => self.harness.reopen(store).await,
                Ending::Kill => self.harness.kill(store).await,
            };
            self.keep(store)
        })
    }

    fn advance(&mut self, time: Duration) {
        self.harness.advance(time);
    }

    fn end(&mut self) {
        self.store = None;
    }
}
