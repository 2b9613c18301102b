//! Printing for programs whose reader may exit early, as in `program | head`. The standard macros
//! would panic then.

#![allow(unused_macros, unused_imports, dead_code, reason = "each program uses its part")]

use std::{
    fmt,
    io::{self, ErrorKind, Write},
    process,
};

/// The exit status that a shell reports for a program that SIGPIPE ended.
const BROKEN_PIPE: i32 = 128 + 13;

/// As the standard macro, but ends the program quietly when its output is closed.
macro_rules! println {
    ($($text:tt)*) => { crate::print::write(format_args!("{}\n", format_args!($($text)*))) };
}

/// As the standard macro, but ends the program quietly when its output is closed.
macro_rules! print {
    ($($text:tt)*) => { crate::print::write(format_args!($($text)*)) };
}

/// As the standard macro, but does nothing when the output is closed.
macro_rules! eprintln {
    ($($text:tt)*) => { crate::print::remark(format_args!($($text)*)) };
}

pub(crate) fn write(text: fmt::Arguments<'_>) {
    if let Err(error) = io::stdout().lock().write_fmt(text) {
        fail(&error);
    }
}

/// Writes bytes as they are.
pub(crate) fn write_bytes(bytes: &[u8]) {
    if let Err(error) = io::stdout().lock().write_all(bytes) {
        fail(&error);
    }
}

/// Ends the program after a failure to write to stdout.
pub(crate) fn fail(error: &io::Error) -> ! {
    if error.kind() == ErrorKind::BrokenPipe {
        process::exit(BROKEN_PIPE);
    }
    remark(format_args!("error: cannot write to stdout: {error}"));
    process::exit(1)
}

/// A failure to print on stderr must not end the program.
pub(crate) fn remark(text: fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
