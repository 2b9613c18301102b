//! The mistakes that a wrong server makes, each a short function over lines.

use crate::server_wrong::Wrong;

/// All of them.
pub const WRONGS: &[Wrong] = &[
    Wrong::new("nothing", "passes everything on: the cases pass"),
];
