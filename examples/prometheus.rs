//! A server that exports its metrics to Prometheus:
//! `cargo run --features metrics --example prometheus [ADDR [METRICS]]`
//!
//! Call it with `nc 127.0.0.1 7440`, look with `curl http://127.0.0.1:9440/metrics`; Ctrl-C ends
//! it.
#[macro_use]
#[path = "shared/print.rs"]
mod print;
#[path = "shared/stop.rs"]
mod stop;

use std::io;

use bellwire::{Failure, Router, Server, ServerHandle, metrics::Handlers, protocol::Code};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

use stop::Stop;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let stop = Stop::new()?;
    let mut args = std::env::args().skip(1);
    let address = args.next().unwrap_or("127.0.0.1:7440".into());
    let metrics_address = args.next().unwrap_or("127.0.0.1:9440".into());

    let prometheus = PrometheusBuilder::new().install_recorder()?;
    bellwire::metrics::describe();

    let server = Server::bind(address).await?;
    println!("listening on {}", server.local_addr()?);
    let listener = TcpListener::bind(metrics_address).await?;
    println!("metrics on {}", listener.local_addr()?);
    tokio::spawn(serve_metrics(listener, prometheus, server.handle()));

    let router = Router::new()
        .method("echo", async |text: String| text)
        .method("fail", async || Err::<(), _>(Failure::new(Code::from_static("told-to"), "")))
        .layer(Handlers::new());
    let (drain, is_told) = oneshot::channel::<()>();
    let serving = server.serve(router);
    tokio::select! {
        served = serving.with_graceful_shutdown(async { drop(is_told.await) }) => served?,
        () = stop.until_second(drain) => eprintln!("stopped at once"),
    }
    Ok(())
}

/// The minimum of HTTP that Prometheus needs. It answers one scrape after the other.
async fn serve_metrics(listener: TcpListener, prometheus: PrometheusHandle, server: ServerHandle) {
    while let Ok((stream, _)) = listener.accept().await {
        bellwire::metrics::record_server("example", &server.stats());
        // If a scraper disconnects, only its own figures are lost.
        drop(answer(stream, &prometheus.render()).await);
    }
}

async fn answer(mut stream: TcpStream, text: &str) -> io::Result<()> {
    let (read, mut write) = stream.split();
    let mut request = BufReader::new(read.take(8 * 1024)).lines();
    while request.next_line().await?.is_some_and(|line| !line.is_empty()) {}
    let length = text.len();
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain; version=0.0.4\r\ncontent-length: {length}\r\n\
         connection: close\r\n\r\n"
    );
    write.write_all(head.as_bytes()).await?;
    write.write_all(text.as_bytes()).await?;
    write.shutdown().await
}
