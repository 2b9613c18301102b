//! The server's end of one connection, in raw bytes.

use std::{collections::VecDeque, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc::UnboundedSender, watch},
    time::timeout,
};

use crate::{client_run::judge::Judge, wire::Line};

/// What a connection brings.
#[derive(Debug)]
pub(crate) enum Brought {
    /// A line without its LF.
    Line(Vec<u8>),
    /// The client has closed it, or its direction of it.
    End,
}

/// One connection.
pub(crate) struct Link {
    writer: Option<OwnedWriteHalf>,
    is_held: watch::Sender<bool>,
    /// Lines that were judged and not expected yet.
    pub(crate) lines: VecDeque<Line>,
    pub(crate) has_ended: bool,
    pub(crate) judge: Judge,
}

impl Link {
    /// Takes a connection over; what it brings goes to `brought`, with its number.
    pub(crate) fn new(
        stream: TcpStream,
        number: usize,
        brought: UnboundedSender<(usize, Brought)>,
    ) -> Self {
        // It only makes lines come later.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        let (is_held, held) = watch::channel(false);
        tokio::spawn(read(reader, held, number, brought));
        let (lines, judge) = (VecDeque::new(), Judge::new());
        Self { writer: Some(writer), is_held, lines, has_ended: false, judge }
    }

    /// Writes bytes. A client that has closed takes none, which is no fault of its.
    pub(crate) async fn write(&mut self, bytes: &[u8], patience: Duration) -> Result<(), String> {
        for line in bytes.split(|&byte| byte == b'\n') {
            self.judge.written(line);
        }
        let Some(writer) = &mut self.writer else {
            return Err("the server has closed this connection".to_owned());
        };
        match timeout(patience, writer.write_all(bytes)).await {
            Ok(_) => Ok(()),
            Err(_) => Err(format!("the client does not read what it is sent, for {patience:?}")),
        }
    }

    /// Ends the server's direction.
    pub(crate) async fn close(&mut self) {
        if let Some(mut writer) = self.writer.take() {
            // The client may have closed it.
            let _ = writer.shutdown().await;
        }
    }

    pub(crate) fn has_closed(&self) -> bool {
        self.writer.is_none()
    }

    /// Stops or goes on reading.
    pub(crate) fn hold(&mut self, is_held: bool) {
        self.is_held.send_replace(is_held);
    }
}

async fn read(
    mut reader: OwnedReadHalf,
    mut is_held: watch::Receiver<bool>,
    number: usize,
    brought: UnboundedSender<(usize, Brought)>,
) {
    let (mut bytes, mut chunk) = (Vec::new(), [0; 4_096]);
    loop {
        if is_held.wait_for(|is_held| !is_held).await.is_err() {
            return;
        }
        let read = tokio::select! {
            biased;
            _ = is_held.wait_for(|is_held| *is_held) => continue,
            read = reader.read(&mut chunk) => read.unwrap_or(0),
        };
        if read == 0 {
            // What is not followed by a LF is no line. The case may have ended.
            let _ = brought.send((number, Brought::End));
            return;
        }
        bytes.extend_from_slice(&chunk[..read]);
        let Some(last) = bytes.iter().rposition(|&byte| byte == b'\n') else { continue };
        let left = bytes.split_off(last + 1);
        for line in bytes[..last].split(|&byte| byte == b'\n') {
            if brought.send((number, Brought::Line(line.to_vec()))).is_err() {
                return;
            }
        }
        bytes = left;
    }
}
