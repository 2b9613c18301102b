//! The proxy that makes a right server or client of WebSockets wrong: it passes the heads of the
//! handshake and frames on, and lets one function drop, double, alter or add some.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
};

use crate::frame::Frame;

/// The end that a part comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    Client,
    Server,
}

/// What a function acts on.
#[derive(Debug)]
pub enum Part {
    /// A request or a response, with its empty line.
    Head(String),
    Frame(Frame),
}

/// What becomes of a part.
pub type Act = fn(End, Part) -> Vec<Part>;

/// Changes the lines of a head from the end `of`. Other parts stay as they are.
pub(crate) fn change_head(
    of: End,
    from: End,
    part: Part,
    change: fn(&mut Vec<String>),
) -> Vec<Part> {
    match part {
        Part::Head(head) if from == of => {
            let mut lines: Vec<_> = head.split("\r\n").map(str::to_owned).collect();
            change(&mut lines);
            vec![Part::Head(lines.join("\r\n"))]
        }
        part => vec![part],
    }
}

/// Removes the lines that begin with `name`, which is in lower case.
pub(crate) fn remove_line(lines: &mut Vec<String>, name: &str) {
    lines.retain(|line| !line.to_ascii_lowercase().starts_with(name));
}

/// Accepts connections for ever, and gives each a connection to the server at `target`.
pub async fn serve(listener: TcpListener, target: SocketAddr, act: Act) {
    let mut connections = JoinSet::new();
    while let Ok((client, _)) = listener.accept().await {
        connections.spawn(async move {
            // A server that is not there any more refuses the client, too.
            let Ok(server) = TcpStream::connect(target).await else { return };
            // It only makes frames come later.
            let _ = (client.set_nodelay(true), server.set_nodelay(true));
            let (from_client, to_client) = client.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::join!(
                pass(End::Client, from_client, to_server, act),
                pass(End::Server, from_server, to_client, act)
            );
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Passes one direction on, up to its end.
async fn pass(from: End, mut reader: OwnedReadHalf, mut writer: OwnedWriteHalf, act: Act) {
    let mut unread = Vec::new();
    let mut is_open = false;
    while let Ok(1..) = reader.read_buf(&mut unread).await {
        if !is_open {
            let Some(head) = take_head(&mut unread) else { continue };
            is_open = true;
            if write(&mut writer, act(from, Part::Head(head))).await.is_err() {
                return;
            }
        }
        while let Some(frame) = Frame::take(&mut unread) {
            if write(&mut writer, act(from, Part::Frame(frame))).await.is_err() {
                return;
            }
        }
        if Frame::is_endless(&unread) {
            break;
        }
    }
    // What is no frame is passed on as it is.
    let _ = writer.write_all(&unread).await;
    let _ = tokio::io::copy(&mut reader, &mut writer).await;
    let _ = writer.shutdown().await;
}

fn take_head(unread: &mut Vec<u8>) -> Option<String> {
    let end = unread.windows(4).position(|bytes| bytes == b"\r\n\r\n")? + 4;
    Some(unread.drain(..end).map(char::from).collect())
}

async fn write(writer: &mut OwnedWriteHalf, parts: Vec<Part>) -> std::io::Result<()> {
    for part in parts {
        let bytes = match part {
            Part::Head(head) => head.into_bytes(),
            Part::Frame(frame) => frame.encode(),
        };
        writer.write_all(&bytes).await?;
    }
    Ok(())
}
