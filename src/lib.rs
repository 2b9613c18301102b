//! bellwire
mod io;
pub mod protocol;
mod random;
mod sync;

pub use random::Random;
