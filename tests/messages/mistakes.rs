//! Mistakes that users make with handlers. Behind `//~` stands what the compiler has to say to the
//! line: `tests/it/public_api.rs` compiles this file and compares.

use std::rc::Rc;

use bellwire::{Router, Server, State, blocking, handler};

struct Unknown;

async fn takes_no_extractor(_: Unknown) {}

async fn takes_a_reference(_: &str) {}

async fn returns_no_reply() -> Unknown {
    Unknown
}

async fn returns_a_number() -> u64 {
    7
}

async fn fails_otherwise() -> Result<(), std::io::Error> {
    Ok(())
}

async fn cannot_be_sent() {
    let shared = Rc::new(1);
    std::future::ready(()).await;
    drop(shared);
}

fn blocks(text: String) -> String {
    text
}

async fn takes_a_state(State(_): State<u64>) {}

async fn takes_seven(_: String, _: String, _: String, _: String, _: String, _: String, _: String) {}

fn an_argument_is_no_extractor() {
    let _ = Router::new().method("m", takes_no_extractor); //~ `Unknown` cannot be taken out of a request of a router whose state is `()`
    let _ = Router::new().method("m", handler(takes_no_extractor)); //~ `Unknown` cannot be taken out of a request
    let _ = Router::new().method("m", takes_a_reference); //~ `&str` cannot be taken out of a request
}

fn a_result_is_no_reply() {
    let _ = Router::new().method("m", returns_no_reply); //~ `Unknown` cannot be a reply
    let _ = Router::new().method("m", returns_a_number); //~ `u64` cannot be a reply
    let _ = Router::new().method("m", fails_otherwise); //~ Failure: From<std::io::Error>` is not satisfied
}

fn a_future_cannot_be_sent() {
    let _ = Router::new().method("m", cannot_be_sent); //~ future cannot be sent between threads safely
}

fn a_function_blocks() {
    let _ = Router::new().method("m", blocks); //~ is not a handler
    let _ = Router::new().method("m", handler(blocks)); //~ is not a handler
    let _ = Router::new().method("m", blocking(returns_no_reply)); //~ cannot be a reply
}

fn a_state_is_another() {
    let _ = Router::with_state("text").method("m", takes_a_state); //~ State<u64>` cannot be taken out of a request of a router whose state is `&str`
}

fn a_state_is_missing() {
    let _ = Router::new().method("m", takes_a_state); //~ State<u64>` cannot be taken out of a request of a router whose state is `()`
}

fn a_state_cannot_be_cloned() {
    let _ = Router::with_state(Unknown); //~ the trait bound `Unknown: Clone` is not satisfied
}

fn there_are_too_many_arguments() {
    let _ = Router::new().method("m", takes_seven); //~ is not a handler
    let _ = Router::new().method("m", blocking(takes_seven)); //~ is not a handler that may block
}

fn a_closure_borrows() {
    let local = String::from("x");
    let _ = Router::new().method("m", async || local.len().to_string()); //~ `local` does not live long enough
}

fn it_is_no_layer() {
    let _ = Router::new().layer("x"); //~ `&str` is not a layer
}

async fn it_is_no_authorizer() {
    let server = Server::bind("127.0.0.1:0").await.expect("a free port");
    drop(server.authorizer("x")); //~ `&str` is not an authorizer
}

fn main() {}
