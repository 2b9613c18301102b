//! Who gets the outcome of a request.

use bytes::Bytes;

use crate::{
    client::core::{
        items::ItemQueue,
        outcome::{Listed, Sent},
    },
    sync::{Arc, oneshot},
};

/// Who gets the outcome.
#[derive(Debug)]
pub(crate) enum Caller {
    /// A call. Its outcome goes into the cell.
    Call,
    Stream(Arc<ItemQueue>),
    /// `/methods`.
    List(Box<ListCaller>),
    /// A one-way request: its outcome is that its line waits to be written.
    OneWay(oneshot::Sender<Sent>),
}

/// The caller of a list, and what the list has brought so far.
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
