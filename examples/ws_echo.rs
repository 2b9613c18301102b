//! An echo server over the frame layer of the WebSockets, which the Autobahn test suite examines:
//! see `scripts/autobahn.sh`.
//!
//! ```sh
//! cargo run --example ws_echo --features ws,unstable-core -- 127.0.0.1:9001
//! ```

use std::{env, error::Error, io};

use bellwire::{
    unstable::ws::{Decoder, Opcode, Role, Step, encode},
    ws::{SUBPROTOCOL, WsConfig, upgraded},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// The suite sends messages of up to 16 MiB.
const MAX_MESSAGE: u64 = 32 * 1024 * 1024;
const NORMAL: u16 = 1000;
const INVALID_PAYLOAD: u16 = 1007;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9001".to_owned());
    let listener = TcpListener::bind(&address).await?;
    println!("listening on {}", listener.local_addr()?);
    loop {
        let (io, _) = listener.accept().await?;
        tokio::spawn(async move {
            if let Err(error) = serve(io).await {
                eprintln!("{error}");
            }
        });
    }
}

async fn serve(mut io: TcpStream) -> io::Result<()> {
    io.set_nodelay(true)?;
    open(&mut io).await?;
    let mut echo = Echo::new();
    let mut buffer = vec![0; 64 * 1024];
    while echo.is_open {
        let count = io.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        echo.take(&mut buffer[..count]);
        io.write_all(&echo.out).await?;
        echo.out.clear();
    }
    io.shutdown().await?;
    // What the peer still sends must not reset the connection before it has read the close frame.
    while io.read(&mut buffer).await? > 0 {}
    Ok(())
}

/// Answers the request of a client, which need not ask for a subprotocol.
async fn open(io: &mut TcpStream) -> io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(io.read_u8().await?);
    }
    let head = String::from_utf8(head).map_err(io::Error::other)?;
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    let headers = lines.map(|(name, value)| (name, value.as_bytes()));
    let headers = headers.chain([("sec-websocket-protocol", SUBPROTOCOL.as_bytes())]);
    let (_, upgrades) = upgraded::<TcpStream>(WsConfig::new());
    let accepted = upgrades.check(headers).map_err(io::Error::other)?;
    let mut response = "HTTP/1.1 101 Switching Protocols\r\n".to_owned();
    for (name, value) in accepted.headers() {
        if name != "sec-websocket-protocol" {
            response += &format!("{name}: {value}\r\n");
        }
    }
    io.write_all((response + "\r\n").as_bytes()).await
}

/// Collects each message, and sends it back.
struct Echo {
    decoder: Decoder,
    message: Vec<u8>,
    /// How much of a text message is known to be UTF-8.
    checked: usize,
    out: Vec<u8>,
    is_open: bool,
}

impl Echo {
    fn new() -> Self {
        let decoder = Decoder::new(Role::Server, MAX_MESSAGE).with_text();
        Self { decoder, message: Vec::new(), checked: 0, out: Vec::new(), is_open: true }
    }

    fn take(&mut self, mut bytes: &mut [u8]) {
        while !bytes.is_empty() && self.is_open {
            let (taken, step) = match self.decoder.step(bytes) {
                Ok(step) => step,
                Err(fault) => return self.close(fault.code()),
            };
            match step {
                Step::Data { range, is_text, is_end } => {
                    self.message.extend_from_slice(&bytes[range]);
                    self.data(is_text, is_end);
                }
                Step::Ping(payload) => encode(&mut self.out, Opcode::Pong, true, &payload, None),
                Step::Close(code) => self.close(code.unwrap_or(NORMAL)),
                Step::More | Step::Pong => {}
            }
            bytes = &mut bytes[taken..];
        }
    }

    fn data(&mut self, is_text: bool, is_end: bool) {
        if is_text && !self.is_utf8(is_end) {
            return self.close(INVALID_PAYLOAD);
        }
        if is_end {
            let opcode = if is_text { Opcode::Text } else { Opcode::Binary };
            encode(&mut self.out, opcode, true, &self.message, None);
            self.message.clear();
            self.checked = 0;
        }
    }

    /// Whether the message is UTF-8, or the beginning of it.
    fn is_utf8(&mut self, is_whole: bool) -> bool {
        let (valid, may_go_on) = match std::str::from_utf8(&self.message[self.checked..]) {
            Ok(text) => (text.len(), true),
            Err(error) => (error.valid_up_to(), error.error_len().is_none() && !is_whole),
        };
        self.checked += valid;
        may_go_on
    }

    fn close(&mut self, code: u16) {
        encode(&mut self.out, Opcode::Close, true, &code.to_be_bytes(), None);
        self.is_open = false;
    }
}
