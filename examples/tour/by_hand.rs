//! A user who types lines by hand, as with `nc`.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

use crate::wire::Wire;

pub(crate) struct ByHand(BufReader<Wire<TcpStream>>);

impl ByHand {
    /// Connects and reads the server's hello.
    pub(crate) async fn connect(address: SocketAddr) -> io::Result<Self> {
        let mut peer = Self(BufReader::new(Wire::new(TcpStream::connect(address).await?)));
        peer.read().await?;
        Ok(peer)
    }

    /// Writes a line and reads its answer.
    pub(crate) async fn ask(&mut self, line: &str) -> io::Result<String> {
        self.0.write_all(format!("{line}\n").as_bytes()).await?;
        self.read().await
    }

    /// Waits for a line. Returns it without its LF.
    pub(crate) async fn read(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.0.read_line(&mut line).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }
}
