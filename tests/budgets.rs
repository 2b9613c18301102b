//! What a server spends at most, over all its topics and connections, and what a store of one's own
//! may cost it.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use bellwire::{
    PublishError, Published, Random, Router, ServerConfig,
    protocol::{Cursor, Topic, Window},
    topic::{BoxFuture, MemoryTopics, Read, Room, TopicReader, TopicStore, Unavailable},
};
use bytes::Bytes;
use tokio::time::advance;

#[path = "support/slow_store.rs"]
mod slow_store;
mod support;

use slow_store::SlowStore;
use support::PipeServer;

fn router() -> Router {
    Router::new().method("echo", async |text: String| text)
}

// Stores of one's own.

/// [M152] A store that never answers holds its connection up for as long as a handler may take, and
/// no longer.
#[tokio::test(start_paused = true)]
async fn a_store_that_never_answers_is_given_up() {
    let config =
        ServerConfig::new().handler_time(Duration::from_secs(5)).drain(Duration::from_secs(2));
    let store = SlowStore::new();
    let windows = store.windows.clone();
    let mut server = PipeServer::over(store, router(), config);
    let mut peer = server.connect().await;
    peer.send("1 /subscribe t\n2 echo a\n").await;
    advance(Duration::from_millis(4_900)).await;
    peer.expect_silence().await;
    advance(Duration::from_millis(200)).await;
    peer.expect("1 no busy\n2 ok a\n").await;
    windows.add_permits(1);
    peer.send("3 /subscribe t\n").await;
    assert_eq!(peer.attribute("next").await, "1");
    // What is still being opened when the drain is over has not begun; what waits behind it is
    // above the line.
    peer.send("4 /subscribe u\n5 echo b\n").await;
    peer.expect_silence().await;
    server.stop();
    peer.expect("* /bye shutdown\n* /bye;last=4 shutdown\n").await;
    peer.expect("4 no closing\n").await;
    peer.expect_closed().await;
}

/// Logs in memory; the topic's name says where its reader panics.
#[derive(Clone)]
struct PanickyStore(MemoryTopics);

struct PanickyReader {
    at: String,
    reader: Box<dyn TopicReader>,
}

impl TopicStore for PanickyStore {
    fn append(&self, topic: &Topic, payload: Bytes) -> BoxFuture<Result<Published, PublishError>> {
        self.0.append(topic, payload)
    }

    fn open(&self, topic: &Topic) -> Box<dyn TopicReader> {
        let at = topic.to_string();
        assert_ne!(at, "open");
        Box::new(PanickyReader { at, reader: self.0.open(topic) })
    }

    fn sweep(&self) {
        panic!("in sweep");
    }
}

impl TopicReader for PanickyReader {
    fn poll_window(&mut self, cx: &mut Context<'_>) -> Poll<Result<Window, Unavailable>> {
        assert_ne!(self.at, "window");
        self.reader.poll_window(cx)
    }

    fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        cursor: Cursor,
        room: Room,
        out: &mut Vec<u8>,
    ) -> Poll<Result<Read, Unavailable>> {
        let read = self.reader.poll_read(cx, cursor, room, out);
        assert!(read.is_pending() || self.at != "read", "half a line is out");
        read
    }
}

impl Drop for PanickyReader {
    fn drop(&mut self) {
        assert_ne!(self.at, "drop");
    }
}

/// A store that panics ends the subscription it panics in, and nothing else.
#[tokio::test(start_paused = true)]
async fn a_store_that_panics_ends_its_subscription_only() {
    let store = PanickyStore(MemoryTopics::new(&Random::seeded(1)));
    let config = ServerConfig::new().idle_log(Duration::from_secs(2));
    let server = PipeServer::over(store, router(), config);
    let mut peer = server.connect().await;
    peer.ask("1 /subscribe open\n2 /subscribe window\n", "1 no busy\n2 no busy\n").await;
    for (id, topic) in [(3, "read"), (4, "drop"), (5, "fine")] {
        peer.send(format!("{id} /subscribe {topic}\n")).await;
        assert_eq!(peer.attribute("next").await, "1");
    }
    let published = server.publisher.publish("read", "x").await.unwrap();
    let epoch = published.epoch;
    peer.expect(format!("* /end read closed {epoch}:1\n")).await;
    server.publisher.publish("fine", "x").await.unwrap();
    peer.expect("* fine 1 x\n").await;
    peer.ask("6 /unsubscribe drop\n", format!("6 ok;next={epoch}:1\n")).await;
    // Time for some sweeps.
    advance(Duration::from_secs(10)).await;
    peer.ask("7 echo a\n", "7 ok a\n").await;
    server.ended().await;
}
