//! Parts without a stable interface: they may change, or go, in any release. With the feature
//! `unstable-core`.
//!
//! They are for fuzz targets, simulations, and drivers for other runtimes.

/// The rules of both ends, as pure transitions.
pub mod rules {
    pub use crate::protocol::rules::*;
}
