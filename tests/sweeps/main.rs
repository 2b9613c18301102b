//! Sweeps over seeds and over the bytes of a session. A binary of its own for two reasons: each sweep
//! keeps all processors busy, which would slow the tests that use the real clock, and the scripts
//! build it alone, in release too.

mod cuts;
mod simulation;
