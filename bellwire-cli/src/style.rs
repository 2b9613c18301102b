//! Colours, on a terminal only: <https://no-color.org>.

use std::{
    env,
    fmt::{self, Display},
    io::IsTerminal,
};

/// A style of the terminal.
#[derive(Clone, Copy)]
pub(crate) enum Style {
    Bold,
    Dim,
    Red,
    Yellow,
    Green,
    Cyan,
}

/// Whether `stream` may get colours: it is a terminal, and `NO_COLOR` is unset or empty.
pub(crate) fn is_colourful(stream: &impl IsTerminal) -> bool {
    let is_refused = env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
    stream.is_terminal() && !is_refused && !is_dumb
}

/// Shows a value in a style, if `is_on`.
pub(crate) struct Styled<T> {
    pub(crate) style: Style,
    pub(crate) is_on: bool,
    pub(crate) value: T,
}

impl<T: Display> Display for Styled<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.is_on {
            return self.value.fmt(f);
        }
        let code = match self.style {
            Style::Bold => 1,
            Style::Dim => 2,
            Style::Red => 31,
            Style::Green => 32,
            Style::Yellow => 33,
            Style::Cyan => 36,
        };
        write!(f, "\x1b[{code}m{}\x1b[0m", self.value)
    }
}
