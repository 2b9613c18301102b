//! The control methods of the test server: by them a runner opens servers and drives them.
//!
//! The first argument is the address of the server that they are about, as `test.open` gave it.

use std::net::SocketAddr;

use bellwire::{
    Failure, Router, handler,
    protocol::{Code, Topic},
    server::{FromRequest, Rejection, RequestParts},
};
use bytes::Bytes;

use crate::{
    server_instance::{Instance, Instances},
    server_methods::Shared,
    server_options::Options,
};

/// A payload split at its first SPs, as the arguments of a protocol method are.
struct Words {
    address: SocketAddr,
    /// What follows the address.
    rest: Bytes,
}

impl<S> FromRequest<S> for Words {
    fn from_request(parts: &RequestParts<'_>, _: &S) -> Result<Self, Rejection> {
        let payload = Bytes::from(parts.payload().into_owned());
        let (word, rest) = first_word(&payload);
        let address = str::from_utf8(&word).ok().and_then(|text| text.parse().ok());
        let usage = "the first argument is the address that test.open gave";
        Ok(Self { address: address.ok_or_else(|| Rejection::bad_arguments(usage))?, rest })
    }
}

/// What stands before and behind the first SP.
fn first_word(payload: &Bytes) -> (Bytes, Bytes) {
    match payload.iter().position(|&byte| byte == b' ') {
        Some(at) => (payload.slice(..at), payload.slice(at + 1..)),
        None => (payload.clone(), Bytes::new()),
    }
}

fn failure(code: &'static str, text: impl Into<String>) -> Failure {
    Failure::new(Code::from_static(code), text)
}

fn text(bytes: &[u8]) -> Result<&str, Failure> {
    str::from_utf8(bytes).map_err(|_| failure("not-text", "the argument is not UTF-8"))
}

fn topic(bytes: &[u8]) -> Result<Topic, Failure> {
    let name = text(bytes)?;
    Topic::new(name).map_err(|_| failure("no-topic", format!("{name:?} is no topic")))
}

/// `router` and the control methods of `servers`.
pub fn extend(router: Router<Shared>, servers: &Instances) -> Router<Shared> {
    let router = opening(router, servers.clone());
    let router = logs(router, servers);
    handlers(peers(router, servers), servers)
}

fn opening(router: Router<Shared>, servers: Instances) -> Router<Shared> {
    let closing = servers.clone();
    let open = move |options: String| {
        let servers = servers.clone();
        async move {
            let options = Options::parse(options.split_whitespace());
            let options = options.map_err(|why| failure("no-option", why))?;
            let opened = servers.open(options).await;
            opened.map(|at| at.to_string()).map_err(|why| failure("not-opened", why))
        }
    };
    let remove = move |words: Words| {
        let removed = closing.remove(words.address);
        async move { removed.then_some(()).ok_or_else(no_server) }
    };
    router
        .method("test.open", handler(open).doc("[OPTION ...]: start a server; its address"))
        .method("test.drop", handler(remove).doc("ADDRESS: end it at once"))
}

fn no_server() -> Failure {
    failure("no-server", "there is no such server; open one with test.open")
}

/// A method that does something to one server.
fn with<F, R>(
    router: Router<Shared>,
    servers: &Instances,
    name: &'static str,
    doc: &'static str,
    act: F,
) -> Router<Shared>
where
    F: Fn(std::sync::Arc<Instance>, Bytes) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = Result<String, Failure>> + Send + 'static,
{
    let servers = servers.clone();
    let call = move |words: Words| {
        let (found, act) = (servers.get(words.address), act.clone());
        async move { act(found.ok_or_else(no_server)?, words.rest).await }
    };
    router.method(name, handler(call).doc(doc))
}

fn logs(router: Router<Shared>, servers: &Instances) -> Router<Shared> {
    let doc = "ADDRESS TOPIC [PAYLOAD]: publish";
    let router = with(router, servers, "test.publish", doc, async |server, rest| {
        let (name, payload) = first_word(&rest);
        let published = server.publisher.publish(topic(&name)?, payload).await;
        published.map_err(|error| failure("not-published", error.to_string()))?;
        Ok(String::new())
    });
    let doc = "ADDRESS TOPIC SEQ: let the messages below SEQ leave the log";
    let router = with(router, servers, "test.trim", doc, async |server, rest| {
        let (name, first) = first_word(&rest);
        let first = text(&first)?.parse();
        let first = first.map_err(|_| failure("no-number", "usage: ADDRESS TOPIC SEQ"))?;
        server.topics.trim(&topic(&name)?, first);
        Ok(String::new())
    });
    let doc = "ADDRESS TOPIC: replace the log by an empty one of another epoch";
    let router = with(router, servers, "test.reset", doc, async |server, rest| {
        server.topics.reset(&topic(&rest)?);
        Ok(String::new())
    });
    let doc = "ADDRESS TOPIC: close the topic";
    with(router, servers, "test.end", doc, async |server, rest| {
        let closed = server.publisher.close(topic(&rest)?).await;
        closed.map_err(|error| failure("not-closed", error.to_string()))?;
        Ok(String::new())
    })
}

fn peers(router: Router<Shared>, servers: &Instances) -> Router<Shared> {
    let doc = "ADDRESS TOPIC: revoke the subscriptions to it";
    let router = with(router, servers, "test.revoke", doc, async |server, rest| {
        let name = text(&rest)?;
        server.handle.sessions().iter().for_each(|session| session.revoke(name));
        Ok(String::new())
    });
    let doc = "ADDRESS REASON: close all connections";
    let router = with(router, servers, "test.close", doc, async |server, rest| {
        let reason = Code::new(text(&rest)?);
        let reason = reason.ok_or_else(|| failure("no-code", "the reason is no code"))?;
        server.handle.sessions().iter().for_each(|session| session.close(reason.clone()));
        Ok(String::new())
    });
    let doc = "ADDRESS: stop in order";
    with(router, servers, "test.stop", doc, async |server, _| {
        server.stop();
        Ok(String::new())
    })
}

fn handlers(router: Router<Shared>, servers: &Instances) -> Router<Shared> {
    let doc = "ADDRESS X: let the handler that waits under X go on, once there is one";
    let router = with(router, servers, "test.finish", doc, async |server, rest| {
        server.shared.finish(text(&rest)?).await;
        Ok(String::new())
    });
    let doc = "ADDRESS: under what handlers wait";
    let router = with(router, servers, "test.waits", doc, async |server, _| {
        Ok(server.shared.waits().join(" "))
    });
    let doc = "ADDRESS: what `note` was called with, in order";
    with(router, servers, "test.notes", doc, async |server, _| Ok(server.shared.notes().join(" ")))
}
