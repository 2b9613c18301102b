//! `bellwire monitor`: a proxy that shows each line on the wire.

mod line;

use std::{
    io::{self, stdout},
    process::ExitCode,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bellwire::{ConnectionError, Connector, TcpConnector, UnixConnector};
use clap::Args;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::timeout,
};

use crate::{
    connect::web_sockets,
    failed::{Failed, of_listening, without_number},
    stop::Stop,
    style::{Style, Styled, is_colourful},
    target::{Target, TargetArgs},
    tls,
    transport::{Transport, UNIX},
};
use line::{Lines, Side};

/// The clients that are served at the same time. Others wait to be accepted.
const CLIENTS: usize = 64;
const BUFFER: usize = 64 << 10;

/// Shows each line on the wire, in both directions
///
/// It is a proxy: it listens, and connects each client to the server of --addr or the context. Connect
/// your client to the printed address. > is a line of the client, < one of the server. Credentials
/// are left out, and control characters are escaped. It talks plainly to the client, also with --tls.
///
///   bellwire monitor --addr offers.example:7440 --tls
///   bellwire call offers.list --stream --addr 127.0.0.1:PORT     # in another terminal
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(crate) struct MonitorArgs {
    /// Where clients connect to; port 0 takes a free one
    #[arg(long, short, value_name = "ADDR", default_value = "127.0.0.1:0")]
    listen: String,
    /// The bytes of a line that are shown
    #[arg(long, value_name = "BYTES", default_value_t = 1_000)]
    width: usize,
    #[command(flatten)]
    target: TargetArgs,
}

pub(crate) async fn run(args: MonitorArgs) -> Result<ExitCode, Failed> {
    let target = args.target.resolve()?;
    let mut stop = Stop::new().map_err(Failed::other)?;
    let listening = TcpListener::bind(&args.listen).await;
    let listener = listening.map_err(|error| of_listening(&args.listen, "--listen", &error))?;
    let address = listener.local_addr().map_err(Failed::other)?;
    eprintln!("listening on {address}, for {}", target.place);
    let proxy = Arc::new(Proxy { target, width: args.width, is_on: is_colourful(&stdout()) });
    tokio::select! {
        failed = accept(listener, proxy) => Err(failed),
        () = stop.next() => Ok(ExitCode::SUCCESS),
    }
}

async fn accept(listener: TcpListener, proxy: Arc<Proxy>) -> Failed {
    let places = Arc::new(Semaphore::new(CLIENTS));
    for number in 1_u64.. {
        let place = places.clone().acquire_owned().await;
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => return Failed::other(format!("cannot accept clients: {error}")),
        };
        let proxy = proxy.clone();
        tokio::spawn(async move {
            proxy.serve(number, stream).await;
            drop(place);
        });
    }
    unreachable!("there are fewer than 2^64 clients")
}

struct Proxy {
    target: Target,
    width: usize,
    is_on: bool,
}

impl Proxy {
    async fn serve(&self, number: u64, client: TcpStream) {
        self.remark(number, "connected");
        let end = match self.connect(client, number).await {
            Ok(()) => "closed".into(),
            Err(why) => format!("closed: {why}"),
        };
        self.remark(number, &end);
    }

    /// Connects to the first address, and passes lines on until both sides have closed.
    async fn connect(&self, client: TcpStream, number: u64) -> Result<(), String> {
        let settings = &self.target.settings;
        let address = settings.addr.first().map_or("", String::as_str);
        let passed = match Transport::of(address) {
            Transport::Unix => {
                let path = address.strip_prefix(UNIX).unwrap_or_default();
                let server = self.reached(UnixConnector::default().connect(path)).await?;
                self.pass(client, server, number).await
            }
            Transport::WebSocket { .. } => {
                let mut connector =
                    web_sockets(settings).map_err(|failed| failed.text().to_owned())?;
                let server = self.reached(connector.connect(address)).await?;
                self.pass(client, server, number).await
            }
            Transport::Tcp => {
                let server = self.reached(TcpConnector::default().connect(address)).await?;
                if settings.tls {
                    let server = self.reached(tls::connect(settings, server)).await?;
                    self.pass(client, server, number).await
                } else {
                    self.pass(client, server, number).await
                }
            }
        };
        passed.map_err(|error| without_number(&error.to_string()).to_owned())
    }

    /// What has connected in time, or why it has not.
    async fn reached<S>(
        &self,
        connecting: impl Future<Output = io::Result<S>>,
    ) -> Result<S, String> {
        let error = match timeout(self.target.connect_timeout, connecting).await {
            Ok(Ok(server)) => return Ok(server),
            Ok(Err(error)) => error.into(),
            Err(_) => ConnectionError::ConnectTimeout,
        };
        Err(Failed::connecting(&error, &self.target).text().to_owned())
    }

    async fn pass<S>(&self, client: TcpStream, server: S, number: u64) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite,
    {
        let _ = client.set_nodelay(true);
        let (from_client, to_client) = client.into_split();
        let (from_server, to_server) = tokio::io::split(server);
        tokio::try_join!(
            self.copy(number, Side::Client, from_client, to_server),
            self.copy(number, Side::Server, from_server, to_client),
        )?;
        Ok(())
    }

    /// Passes bytes on unchanged, and shows the lines. A half-close is passed on, too.
    async fn copy(
        &self,
        number: u64,
        side: Side,
        mut from: impl AsyncRead + Unpin,
        mut to: impl AsyncWrite + Unpin,
    ) -> io::Result<()> {
        let (mut buffer, mut lines) = (vec![0; BUFFER], Lines::new(side));
        loop {
            let read = from.read(&mut buffer).await?;
            let bytes = &buffer[..read];
            // Shown first, so that a line is on the screen before its answer.
            lines.push(bytes, |line| self.show(number, side, line));
            if read == 0 {
                return to.shutdown().await;
            }
            to.write_all(bytes).await?;
            to.flush().await?;
        }
    }

    fn show(&self, number: u64, side: Side, line: &[u8]) {
        let (style, mark) = match side {
            Side::Client => (Style::Cyan, ">"),
            Side::Server => (Style::Green, "<"),
        };
        let text = line::shown(line, side, self.width);
        self.print(number, Styled { style, is_on: self.is_on, value: format!("{mark} {text}") });
    }

    fn remark(&self, number: u64, text: &str) {
        self.print(
            number,
            Styled { style: Style::Dim, is_on: self.is_on, value: format!("- {text}") },
        );
    }

    fn print(&self, number: u64, text: Styled<String>) {
        println!("{} #{number} {text}", time_of_day());
        crate::payload::flush();
    }
}

/// The time of the day in UTC.
fn time_of_day() -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (now.as_secs(), now.subsec_millis());
    let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{hour:02}:{minute:02}:{second:02}.{millis:03}")
}
