//! What the tests share.

#![allow(dead_code, reason = "each test crate uses a part of it")]

mod peer;

pub(crate) use peer::RawPeer;
