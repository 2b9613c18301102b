//! The recipients of the outcome of a request.

use bytes::Bytes;

use crate::{
    client::core::{
        items::ItemQueue,
        outcome::{Listed, Sent},
    },
    sync::{Arc, oneshot},
};

/// The recipient of the outcome.
#[derive(Debug)]
pub(crate) enum Caller {
    /// A call. The outcome is stored in its cell.
    Call,
    Stream(Arc<ItemQueue>),
    /// `/methods`.
    List(Box<ListCaller>),
    /// A one-way request. Its outcome is that its line waits to be written.
    OneWay(oneshot::Sender<Sent>),
}

/// The caller of a list, and the items that have arrived so far.
#[derive(Debug)]
pub(crate) struct ListCaller {
    pub(super) caller: oneshot::Sender<Listed>,
    pub(super) items: Vec<Bytes>,
    pub(super) item_bytes: usize,
}

impl Caller {
    pub(crate) fn list(caller: oneshot::Sender<Listed>) -> Self {
        Self::List(Box::new(ListCaller { caller, items: Vec::new(), item_bytes: 0 }))
    }
}
