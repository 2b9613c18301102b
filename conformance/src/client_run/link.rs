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

use crate::{
    client_run::{
        judge::Judge,
        websocket::{Frames, Part},
    },
    frame::{BINARY, CLOSE, FIN, Frame, PONG},
    wire::Line,
};

/// What a connection brings.
#[derive(Debug)]
pub(crate) enum Brought {
    /// A line without its LF.
    Line(Vec<u8>),
    /// The client has closed it, or its direction of it.
    End,
    /// A frame without lines.
    Frame(Part),
    /// The rule that a frame breaks.
    Fault(&'static str),
}

/// One connection.
pub(crate) struct Link {
    writer: Option<OwnedWriteHalf>,
    is_held: watch::Sender<bool>,
    /// Lines that were judged and not expected yet.
    pub(crate) lines: VecDeque<Line>,
    pub(crate) has_ended: bool,
    pub(crate) judge: Judge,
    /// `None` over plain TCP.
    websocket: Option<Written>,
    /// Pongs that were not expected yet.
    pub(crate) pongs: VecDeque<Vec<u8>>,
    /// The code of the client's close frame.
    pub(crate) close_code: Option<u16>,
}

/// What was written to a WebSocket.
#[derive(Debug, Default)]
struct Written {
    /// Whether a message was begun and not ended.
    is_within_message: bool,
    has_closed: bool,
}

impl Link {
    /// Takes a connection over; what it brings goes to `brought`, with its number.
    pub(crate) fn new(
        stream: TcpStream,
        number: usize,
        brought: UnboundedSender<(usize, Brought)>,
    ) -> Self {
        Self::over(stream, None, number, brought)
    }

    /// Takes over a connection that is a WebSocket, of which `unread` was read already.
    pub(crate) fn websocket(
        stream: TcpStream,
        unread: &[u8],
        number: usize,
        brought: UnboundedSender<(usize, Brought)>,
    ) -> Self {
        let mut frames = Frames::default();
        frames.feed(unread);
        Self::over(stream, Some(frames), number, brought)
    }

    fn over(
        stream: TcpStream,
        frames: Option<Frames>,
        number: usize,
        brought: UnboundedSender<(usize, Brought)>,
    ) -> Self {
        // It only makes lines come later.
        let _ = stream.set_nodelay(true);
        let (reader, writer) = stream.into_split();
        let (is_held, held) = watch::channel(false);
        let websocket = frames.is_some().then(Written::default);
        tokio::spawn(read(reader, frames, held, number, brought));
        Self {
            writer: Some(writer),
            is_held,
            lines: VecDeque::new(),
            has_ended: false,
            judge: Judge::new(),
            websocket,
            pongs: VecDeque::new(),
            close_code: None,
        }
    }

    /// Writes bytes. A client that has closed takes none, which is no fault of its.
    pub(crate) async fn write(&mut self, bytes: &[u8], patience: Duration) -> Result<(), String> {
        for line in bytes.split(|&byte| byte == b'\n') {
            self.judge.written(line);
        }
        let Some(websocket) = &self.websocket else { return self.put(bytes, patience).await };
        let opcode = if websocket.is_within_message { 0 } else { BINARY };
        let last = if bytes.ends_with(b"\n") { FIN } else { 0 };
        self.write_frame(&Frame::bare(opcode | last, bytes), patience).await
    }

    /// Writes a frame to a WebSocket.
    pub(crate) async fn write_frame(
        &mut self,
        frame: &Frame,
        patience: Duration,
    ) -> Result<(), String> {
        let websocket = self.websocket.as_mut();
        let websocket = websocket.ok_or("the case is wrong: it needs the option `ws`")?;
        match frame.first {
            CLOSE => websocket.has_closed = true,
            _ if !frame.is_control() => websocket.is_within_message = !frame.is_last(),
            _ => {}
        }
        self.put(&frame.encode(), patience).await
    }

    /// Takes a frame without lines, and answers it.
    pub(crate) async fn take(&mut self, part: Part, patience: Duration) -> Result<(), String> {
        match part {
            Part::Payload(_) => Ok(()),
            Part::Pong(pong) => {
                self.pongs.push_back(pong);
                Ok(())
            }
            Part::Ping(ping) => self.write_frame(&Frame::bare(PONG, ping), patience).await,
            Part::Close(code) => {
                self.close_code = code;
                self.close_with(code).await;
                Ok(())
            }
        }
    }

    async fn put(&mut self, bytes: &[u8], patience: Duration) -> Result<(), String> {
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
        self.close_with(Some(1000)).await;
    }

    /// Ends the server's direction. The close frame of a WebSocket has this code.
    async fn close_with(&mut self, code: Option<u16>) {
        if self.writer.is_some() && self.websocket.as_ref().is_some_and(|it| !it.has_closed) {
            let code = code.map(|code| code.to_be_bytes().to_vec()).unwrap_or_default();
            // The client may not read any more.
            let _ = self.write_frame(&Frame::bare(CLOSE, code), CLOSING).await;
        }
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

/// How long a close frame may take to be written.
const CLOSING: Duration = Duration::from_secs(1);

async fn read(
    mut reader: OwnedReadHalf,
    mut frames: Option<Frames>,
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
        match &mut frames {
            None => bytes.extend_from_slice(&chunk[..read]),
            Some(frames) => {
                frames.feed(&chunk[..read]);
                for one in take_frames(frames, &mut bytes) {
                    if brought.send((number, one)).is_err() {
                        return;
                    }
                }
            }
        }
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

/// Appends the payload of whole frames to `bytes`. Returns what else they bring.
fn take_frames(frames: &mut Frames, bytes: &mut Vec<u8>) -> Vec<Brought> {
    let mut brought = Vec::new();
    loop {
        match frames.next() {
            Ok(None) => return brought,
            Ok(Some(Part::Payload(payload))) => bytes.extend(payload),
            Ok(Some(part)) => brought.push(Brought::Frame(part)),
            Err(why) => {
                brought.push(Brought::Fault(why));
                return brought;
            }
        }
    }
}
