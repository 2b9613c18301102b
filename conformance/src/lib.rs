//! Judges servers and clients of the bellwire protocol; `README.md` of this crate says how.
//!
//! The runners and the hostile server speak raw bytes and do not use the crate's parser, because
//! they judge it. Only the test server and the Rust testee are built on bellwire.

pub mod address;
pub mod case;
pub mod client_run;
pub mod client_testee;
pub mod client_wrong;
pub mod frame;
pub mod hostile;
pub mod list;
pub mod pattern;
pub mod report;
pub mod server_control;
pub mod server_instance;
pub mod server_link;
pub mod server_match;
pub mod server_methods;
pub mod server_options;
pub mod server_peer;
pub mod server_proxy;
pub mod server_run;
pub mod server_script;
pub mod server_test;
pub mod server_topics;
pub mod server_watch;
pub mod server_wrong;
pub mod server_wrongs;
pub mod server_ws_proxy;
pub mod transport;
pub mod websocket;
pub mod wire;
