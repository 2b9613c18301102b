//! What a server announces about its table of keys.

use std::{fmt, str::FromStr, time::Duration};

use crate::protocol::wire::{id::parse_number, position::Epoch};

/// How much longer than [`KeyWindow::seconds`] a table keeps an outcome. A repeat that was sent in
/// time may still be on its way, or wait in the server, for so long.
const ON_THE_WAY: Duration = Duration::from_secs(60);

/// `STORE:SECONDS`: the table of keys of a server, and for how long a client may repeat a keyed
/// request (docs/protocol/keyed.md, section 23).
///
/// ```
/// use std::time::Duration;
/// use bellwire::protocol::KeyWindow;
///
/// let window: KeyWindow = "b7q2:300".parse().unwrap();
/// assert_eq!((window.store.as_str(), window.seconds), ("b7q2", 300));
/// assert_eq!(window.kept(), Duration::from_secs(360));
/// assert_eq!(window.to_string(), "b7q2:300");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct KeyWindow {
    /// The identity of the table, in the syntax of an epoch. It changes when the table is lost.
    pub store: Epoch,
    /// How long after the first sending a client may repeat a request, in seconds.
    pub seconds: u64,
}

impl KeyWindow {
    /// A window; for your own table. At least 1 second.
    pub const fn new(store: Epoch, seconds: u64) -> Self {
        Self { store, seconds: if seconds == 0 { 1 } else { seconds } }
    }

    /// How long after its first sending a client may repeat a request.
    pub fn repeats(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }

    /// How long a table has to keep an outcome, counted from the end of the run: 60 s longer than
    /// the announced time, for repeats that are on their way.
    pub fn kept(&self) -> Duration {
        Self::kept_for(self.seconds)
    }

    /// The same, for so many seconds.
    pub(crate) const fn kept_for(seconds: u64) -> Duration {
        Duration::from_secs(seconds).saturating_add(ON_THE_WAY)
    }
}

impl fmt::Display for KeyWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.store, self.seconds)
    }
}

/// The text is not `STORE:SECONDS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidKeyWindow;

impl fmt::Display for InvalidKeyWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("not STORE:SECONDS")
    }
}

impl std::error::Error for InvalidKeyWindow {}

impl FromStr for KeyWindow {
    type Err = InvalidKeyWindow;

    fn from_str(text: &str) -> Result<Self, InvalidKeyWindow> {
        let parse = |text: &str| {
            let (store, seconds) = text.split_once(':')?;
            let seconds = parse_number(seconds.as_bytes()).filter(|&seconds| seconds > 0)?;
            Some(Self { store: Epoch::new(store)?, seconds })
        };
        parse(text).ok_or(InvalidKeyWindow)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_is_read_back() {
        let longest = "s".repeat(32);
        for text in ["a:1", "Zz9:300", &format!("{longest}:9007199254740991")] {
            assert_eq!(text.parse::<KeyWindow>().unwrap().to_string(), text);
        }
        let too_long = format!("{longest}s:1");
        for bad in ["", "a", "a:", ":1", "a:0", "a:01", "a:-1", "a-b:1", "a:1:2", &too_long] {
            assert_eq!(bad.parse::<KeyWindow>(), Err(InvalidKeyWindow), "{bad}");
        }
    }
}
