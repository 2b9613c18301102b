//! The greatest lengths of the parts of a line (docs/protocol/limits.md, section 20).

/// The longest head (everything before the body's SP), in bytes.
pub const MAX_HEAD: usize = 2_048;
/// The longest name, in bytes.
pub const MAX_NAME: usize = 128;
/// The longest key of an attribute, in bytes.
pub const MAX_KEY: usize = 32;
/// The longest value of an attribute, in bytes.
pub const MAX_VALUE: usize = 255;
/// The most attributes of one line. It bounds the search for repeated keys.
pub const MAX_ATTRIBUTES: usize = 32;
