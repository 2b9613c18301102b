//! The bare servers. The usual one calls a plain function for each request and writes once for each
//! read. The other one is for handlers that are not ready at once.

use std::{ops::Range, sync::Arc};

use anyhow::{Result, ensure};
use bytes::{Bytes, BytesMut};
use futures::{FutureExt, future::BoxFuture};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    bare::{
        CHUNK, line,
        writer::{Flush, Outbox},
    },
    load,
};

/// Which of the two servers.
#[derive(Clone, Copy, Debug)]
pub enum Handlers {
    Functions,
    /// The writing task follows this policy.
    Futures(Flush),
}

pub async fn serve(listener: TcpListener, handlers: Handlers) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        match handlers {
            Handlers::Functions => tokio::spawn(serve_functions(stream)),
            Handlers::Futures(flush) => tokio::spawn(serve_futures(stream, flush)),
        };
    }
}

async fn serve_functions(mut stream: TcpStream) -> Result<()> {
    let mut input = BytesMut::with_capacity(CHUNK);
    let mut output = Vec::with_capacity(CHUNK);
    loop {
        ensure!(stream.read_buf(&mut input).await? > 0, "the client closed the connection");
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &input) {
            let (id, method, payload) = line::split(&input[start..end])?;
            ensure!(method == b"echo", "an unknown method");
            line::encode(&mut output, id, b"ok", payload);
            start = end + 1;
        }
        // A partial line moves to the front.
        let rest = input.len() - start;
        input.copy_within(start.., 0);
        input.truncate(rest);
        input.reserve(CHUNK / 2);
        stream.write_all(&output).await?;
        output.clear();
    }
}

/// Polls each handler once, and gives those that are not ready a task.
async fn serve_futures(stream: TcpStream, flush: Flush) -> Result<()> {
    let (mut socket, write) = stream.into_split();
    let outbox = Outbox::start(write, flush);
    let mut input = BytesMut::with_capacity(CHUNK);
    let mut ready = Vec::with_capacity(CHUNK);
    loop {
        input.reserve(CHUNK / 4);
        ensure!(socket.read_buf(&mut input).await? > 0, "the client closed the connection");
        let Some(last) = memchr::memrchr(b'\n', &input) else { continue };
        let chunk = input.split_to(last + 1).freeze();
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &chunk) {
            answer(&chunk, start..end, &mut ready, &outbox)?;
            start = end + 1;
        }
        if !ready.is_empty() {
            outbox.push(|out| out.append(&mut ready));
        }
    }
}

fn answer(
    chunk: &Bytes,
    place: Range<usize>,
    ready: &mut Vec<u8>,
    outbox: &Arc<Outbox>,
) -> Result<()> {
    let (id, method, payload) = line::split(&chunk[place])?;
    ensure!(method == b"echo", "an unknown method");
    let mut reply = handler(chunk.slice_ref(payload));
    match (&mut reply).now_or_never() {
        Some(payload) => line::encode(ready, id, b"ok", &payload),
        None => {
            let (id, outbox) = (chunk.slice_ref(id), outbox.clone());
            tokio::spawn(async move {
                let payload = reply.await;
                outbox.push(|out| line::encode(out, &id, b"ok", &payload));
            });
        }
    }
    Ok(())
}

/// A handler as a table of methods would hold it.
fn handler(payload: Bytes) -> BoxFuture<'static, Bytes> {
    Box::pin(async move {
        load::handle(&payload).await;
        payload
    })
}
