//! How a test server is set up: the words of `test.open`, and of a case's `options:`.

use std::time::Duration;

use bellwire::ServerConfig;

/// Each option with its meaning, for `--help` and the README.
pub const OPTIONS: &[(&str, &str)] = &[
    ("auth", "authentication is required (token `secret`), and permission is asked for"),
    ("ws", "it speaks WebSocket, at every path"),
    ("publish=no", "clients may not publish"),
    ("in-flight=N", "application requests in flight per connection"),
    ("max-line=N", "bytes of the longest line"),
    ("lease=S", "the lease, in seconds"),
    ("idle=S", "seconds of silence after which a connection is closed"),
    ("violations=N", "violations that a connection may have"),
    ("subscriptions=N", "subscriptions that a connection may have"),
    ("no-log", "the log of the topic `no-log` cannot be opened"),
    ("topics=N", "topics that may have a log"),
    ("retained=N", "messages that a topic retains"),
    ("connections=N", "connections that the server takes"),
    ("parked=N", "bytes of lines that may wait for a place"),
    ("payload-bytes=N", "payload bytes in flight per connection"),
    ("notification-mark=N", "the soft mark for notifications, in bytes"),
    ("reply-mark=N", "the soft mark for replies, in bytes"),
    ("buffered=N", "bytes that the connections of the server may hold, all together"),
    ("keys=N", "keys that the server remembers"),
    ("first-line=MS", "milliseconds for the first line"),
    ("line-time=MS", "milliseconds for a started line"),
    ("write-progress=MS", "milliseconds in which a client may take none of what waits for it"),
    ("handler-time=MS", "milliseconds for a handler, or to the next item of a stream"),
    ("drain=MS", "milliseconds from the drawn line to the end"),
    ("auth-time=MS", "milliseconds until authentication"),
    ("auth-tries=N", "refused authentications after which the connection is closed"),
    ("auth-max-line=N", "bytes of the longest line before authentication"),
];

/// A test server's set-up.
#[derive(Clone, Debug)]
pub struct Options {
    pub config: ServerConfig,
    pub is_authenticating: bool,
    /// It listens for WebSockets instead of plain connections.
    pub is_websocket: bool,
    pub retained: u64,
    pub topics: usize,
    /// The topic whose log cannot be opened exists.
    pub has_no_log: bool,
}

impl Options {
    /// The options that `words` name.
    ///
    /// # Errors
    /// A word that is no option, and which there are.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut options = Self {
            config: ServerConfig::new().allow_publish(true),
            is_authenticating: false,
            is_websocket: false,
            retained: 65_536,
            topics: 65_536,
            has_no_log: false,
        };
        for word in words {
            options.take(word)?;
        }
        Ok(options)
    }

    fn take(&mut self, word: &str) -> Result<(), String> {
        match word {
            "no-log" => self.has_no_log = true,
            "ws" => self.is_websocket = true,
            "auth" => self.is_authenticating = true,
            "publish=no" => self.config = self.config.clone().allow_publish(false),
            _ => {
                let (key, value) = word.split_once('=').ok_or_else(|| unknown(word))?;
                let value = value.parse().map_err(|_| unknown(word))?;
                self.set(key, value).ok_or_else(|| unknown(word))?;
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: u64) -> Option<()> {
        let config = self.config.clone();
        let (count, small) = (value as usize, value as u32);
        let (seconds, millis) = (Duration::from_secs(value), Duration::from_millis(value));
        self.config = match key {
            "in-flight" => config.in_flight(count),
            "max-line" => config.max_line(count),
            "lease" => config.lease(seconds),
            "idle" => config.idle(seconds),
            "violations" => config.violations(small),
            "subscriptions" => config.subscriptions(count),
            "connections" => config.connections(count),
            "parked" => config.parked_bytes(count),
            "payload-bytes" => config.payload_bytes(count),
            "notification-mark" => config.notification_mark(count),
            "reply-mark" => config.reply_mark(count),
            "buffered" => config.buffered_bytes_total(count),
            "write-progress" => config.write_progress(millis),
            "keys" => config.keys(count),
            "first-line" => config.first_line(millis),
            "line-time" => config.line_time(millis),
            "handler-time" => config.handler_time(millis),
            "drain" => config.drain(millis),
            "auth-time" => config.auth_time(millis),
            "auth-tries" => config.auth_tries(small),
            "auth-max-line" => config.max_line_before_auth(count),
            "retained" => {
                self.retained = value;
                config
            }
            "topics" => {
                self.topics = count;
                config
            }
            _ => return None,
        };
        Some(())
    }
}

fn unknown(word: &str) -> String {
    let known: Vec<_> = OPTIONS.iter().map(|(option, _)| *option).collect();
    format!("no option {word:?}; there are: {}", known.join(" "))
}
