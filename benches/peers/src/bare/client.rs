//! The bare client: a slab of one-shot channels, with the request's id as the key.

use std::{net::SocketAddr, sync::Arc};

use anyhow::{Context, Result, ensure};
use bytes::{Bytes, BytesMut};
use parking_lot::Mutex;
use slab::Slab;
use tokio::{io::AsyncReadExt, net::tcp::OwnedReadHalf, sync::oneshot};

use crate::{
    bare::{
        self, CHUNK, line,
        writer::{Flush, Outbox},
    },
    load::{Call, Payload, to_payload},
};

type Pending = Arc<Mutex<Slab<oneshot::Sender<Bytes>>>>;

/// Sends many concurrent requests on one connection.
#[derive(Clone, Debug)]
pub struct Multiplexer {
    pending: Pending,
    outbox: Arc<Outbox>,
}

impl Multiplexer {
    pub async fn connect(address: SocketAddr, flush: Flush) -> Result<Self> {
        let (read, write) = bare::connect(address).await?.into_split();
        let pending = Pending::default();
        tokio::spawn(read_replies(read, pending.clone()));
        Ok(Self { pending, outbox: Outbox::start(write, flush) })
    }
}

impl Call for Multiplexer {
    async fn call(&self, payload: Payload) -> Result<Payload> {
        let (waiter, reply) = oneshot::channel();
        let id = self.pending.lock().insert(waiter);
        let mut digits = itoa::Buffer::new();
        let id = digits.format(id).as_bytes();
        self.outbox.push(|out| line::encode(out, id, b"echo", &payload));
        to_payload(&reply.await?)
    }
}

/// Takes the lock once for all replies of a read. A payload is a slice of the read.
async fn read_replies(mut socket: OwnedReadHalf, pending: Pending) -> Result<()> {
    let mut input = BytesMut::with_capacity(CHUNK);
    let mut due = Vec::new();
    loop {
        input.reserve(CHUNK / 4);
        ensure!(socket.read_buf(&mut input).await? > 0, "the server closed the connection");
        let Some(last) = memchr::memrchr(b'\n', &input) else { continue };
        let chunk = input.split_to(last + 1).freeze();
        take_due(&chunk, &pending, &mut due)?;
        for (waiter, payload) in due.drain(..) {
            // A caller that was dropped needs no reply.
            let _: Result<(), Bytes> = waiter.send(payload);
        }
    }
}

fn take_due(
    chunk: &Bytes,
    pending: &Pending,
    due: &mut Vec<(oneshot::Sender<Bytes>, Bytes)>,
) -> Result<()> {
    let mut pending = pending.lock();
    let mut start = 0;
    for end in memchr::memchr_iter(b'\n', chunk) {
        let (id, word, payload) = line::split(&chunk[start..end])?;
        ensure!(word == b"ok", "an error reply");
        let waiter = pending.try_remove(line::parse_id(id)?).context("a reply to no request")?;
        due.push((waiter, chunk.slice(end - payload.len()..end)));
        start = end + 1;
    }
    Ok(())
}
