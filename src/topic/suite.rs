//! The suite that every [`TopicStore`](crate::topic::TopicStore) has to pass, with the feature
//! `store-suite`.
//!
//! The suite calls a store as a server does, and checks all that the trait's documentation asks of
//! it. Each [case](cases) is one part of that contract. The author of a store implements
//! [`StoreUnderTest`], which opens fresh stores and says what the store can do, and [runs](run) all
//! cases in one test, or [each case](run_case) in a test of its own:
//!
//! ```
//! use bellwire::topic::{MemoryTopics, suite::{self, Capabilities, Limits, StoreUnderTest}};
//!
//! struct Memory;
//!
//! impl StoreUnderTest for Memory {
//!     type Store = MemoryTopics;
//!
//!     fn capabilities(&self) -> Capabilities {
//!         Capabilities::new().by_count().by_bytes().closing().counting().limiting()
//!     }
//!
//!     async fn open(&mut self, limits: Limits) -> MemoryTopics {
//!         suite::memory(limits)
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! suite::run_case(Memory, "dense-numbers").await.assert_passed();
//! # if false {
//! suite::run(Memory).await.assert_passed();
//! # }
//! # }
//! ```
//!
//! # Stores that keep their logs
//!
//! A store that is [`durable`](Capabilities::durable) also implements
//! [`reopen`](StoreUnderTest::reopen) and [`kill`](StoreUnderTest::kill). Then the suite runs each
//! case twice more, as `NAME.reopened` and `NAME.killed`: the store ends and is opened again at
//! several points within the case. Further cases kill it while messages are being appended, and
//! compare it with a model through several lives.
//!
//! # How it runs
//!
//! Each case runs on a thread of its own, within the tokio runtime of the test if there is one. The
//! runtime needs only what the store needs of it, and its clock must not be paused if the store
//! waits for input and output. A case that makes no progress within the [bound](Options::bound) has
//! failed, even if the store blocks the thread. A panic of the store is a failure, too.
//!
//! A store passes with capabilities that it does not have: those cases are
//! [`NotApplicable`](Verdict::NotApplicable), and the [`Report`] says so.

mod bench;
mod cases;
mod catalogue;
mod check;
mod harness;
mod model;
mod probe;
mod report;
mod runner;
mod threads;
mod under_test;

pub use self::{
    catalogue::{Case, cases},
    report::{CaseReport, Report, Verdict},
    runner::{run, run_case},
    under_test::{Capabilities, Limits, Options, StoreUnderTest, memory},
};
