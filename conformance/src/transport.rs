//! The transport of a connection of the runner's: TCP, or a WebSocket over it.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    address::Address,
    websocket::{WebSocket, request},
};

pub enum Transport {
    Tcp(TcpStream),
    WebSocket(Box<WebSocket>),
}

impl Transport {
    /// Connects to an address.
    ///
    /// # Errors
    /// What went wrong.
    pub async fn connect(address: &Address, patience: Duration) -> Result<Self, String> {
        let io = connect(address, patience).await?;
        if !address.is_websocket() {
            return Ok(Self::Tcp(io));
        }
        let opened = timeout(patience, WebSocket::open(io, &request(address, &[]))).await;
        let opened = opened.map_err(|_| format!("{address} does not answer the request"))??;
        Ok(Self::WebSocket(Box::new(opened)))
    }

    pub fn socket(&self) -> &TcpStream {
        match self {
            Self::Tcp(io) => io,
            Self::WebSocket(socket) => socket.socket(),
        }
    }

    /// Reads more. Returns whether there was anything. Cancel safe.
    ///
    /// # Errors
    /// The socket's, or `InvalidData` with the rule that a frame breaks.
    pub async fn read(&mut self, bytes: &mut Vec<u8>) -> io::Result<bool> {
        match self {
            Self::Tcp(io) => Ok(io.read_buf(bytes).await? > 0),
            Self::WebSocket(socket) => socket.read(bytes).await,
        }
    }

    /// Reads more lines, or a pong.
    ///
    /// # Errors
    /// Those of [`read`](Self::read).
    pub async fn read_or_pong(&mut self, bytes: &mut Vec<u8>) -> io::Result<bool> {
        match self {
            Self::Tcp(_) => self.read(bytes).await,
            Self::WebSocket(socket) => socket.read_or_pong(bytes).await,
        }
    }

    /// Writes bytes.
    ///
    /// # Errors
    /// The socket's.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(io) => io.write_all(bytes).await,
            Self::WebSocket(socket) => socket.write(bytes).await,
        }
    }

    /// Ends this direction. A WebSocket has no half-close.
    ///
    /// # Errors
    /// The socket's; `Unsupported` for a WebSocket.
    pub async fn shutdown(&mut self) -> io::Result<()> {
        match self {
            Self::Tcp(io) => io.shutdown().await,
            Self::WebSocket(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

/// Connects the socket.
///
/// # Errors
/// What went wrong.
pub async fn connect(address: &Address, patience: Duration) -> Result<TcpStream, String> {
    let connected = timeout(patience, TcpStream::connect(address.socket)).await;
    let io = connected
        .map_err(|_| format!("{address} does not answer; is the server running there?"))?
        .map_err(|error| format!("cannot connect to {address}: {error}; start the server"))?;
    io.set_nodelay(true).map_err(|error| error.to_string())?;
    Ok(io)
}
