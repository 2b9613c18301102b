//! How a message is printed.

use std::{
    fmt::Write,
    io::{IsTerminal, stderr, stdout},
    time::{SystemTime, UNIX_EPOCH},
};

use bellwire::{Delivery, Notification};
use serde_json::{Value, json};

use crate::{
    escape,
    print::write_bytes,
    style::{Style, Styled, is_colourful},
};

/// The format of `--format`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Json,
    Text(Vec<Part>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    Literal(String),
    Topic,
    Number,
    Epoch,
    Payload,
    Length,
    Hex,
    UnixTime,
    Again,
}

impl Format {
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if text == "json" {
            return Ok(Self::Json);
        }
        let (mut parts, mut literal) = (Vec::new(), String::new());
        let mut characters = text.chars();
        while let Some(character) = characters.next() {
            let part = match character {
                '%' => match part(characters.next())? {
                    Some(part) => part,
                    None => {
                        literal.push('%');
                        continue;
                    }
                },
                '\\' => {
                    literal.push(unescaped(characters.next())?);
                    continue;
                }
                plain => {
                    literal.push(plain);
                    continue;
                }
            };
            parts.push(Part::Literal(std::mem::take(&mut literal)));
            parts.push(part);
        }
        parts.push(Part::Literal(literal));
        parts.retain(|part| *part != Part::Literal(String::new()));
        Ok(Self::Text(parts))
    }

    /// Prints a message on a line of stdout.
    pub(crate) fn print(&self, notification: &Notification) {
        match self {
            Self::Json => println!("{}", of_notification(notification)),
            Self::Text(parts) => {
                let mut line = Vec::new();
                parts.iter().for_each(|part| part.write(notification, &mut line));
                line.push(b'\n');
                write_bytes(&line);
            }
        }
    }

    /// Prints a gap, a reset or an end: as JSON on stdout, otherwise on stderr, so that it is not
    /// taken for a message.
    pub(crate) fn print_remark(&self, delivery: &Delivery) {
        if *self == Self::Json {
            return println!("{}", of_remark(delivery));
        }
        let text = match delivery {
            Delivery::Gap(gap) => format!("gap: {gap}"),
            Delivery::Reset { topic, position } => format!(
                "reset: {topic} has a new log; it begins at {position}, and messages of the old one \
                 may be lost"
            ),
            Delivery::End { topic, reason, position } => match position {
                Some(position) => format!("end: {topic}: {reason}; resume it --from {position}"),
                None => format!("end: {topic}: {reason}"),
            },
            other => format!("{other:?}"),
        };
        let is_on = is_colourful(&stderr());
        eprintln!("{}", Styled { style: Style::Yellow, is_on, value: text });
    }
}

/// What follows a percent sign; `None` for another percent sign.
fn part(letter: Option<char>) -> Result<Option<Part>, String> {
    Ok(Some(match letter {
        Some('t') => Part::Topic,
        Some('s') => Part::Number,
        Some('e') => Part::Epoch,
        Some('p') => Part::Payload,
        Some('l') => Part::Length,
        Some('x') => Part::Hex,
        Some('U') => Part::UnixTime,
        Some('r') => Part::Again,
        Some('%') => return Ok(None),
        Some(other) => {
            return Err(format!("%{other} is not known; there are %t %s %e %p %l %x %U %r %%"));
        }
        None => return Err("it ends with a single %; write %% for a percent sign".into()),
    }))
}

fn unescaped(letter: Option<char>) -> Result<char, String> {
    match letter {
        Some('n') => Ok('\n'),
        Some('t') => Ok('\t'),
        Some('0') => Ok('\0'),
        Some('\\') => Ok('\\'),
        _ => Err(r"after a backslash comes n, t, 0 or another backslash".into()),
    }
}

impl Part {
    fn write(&self, notification: &Notification, line: &mut Vec<u8>) {
        let Notification { topic, epoch, sequence, payload, redelivered, .. } = notification;
        let text = match self {
            Self::Literal(text) => text.clone(),
            Self::Topic => topic.to_string(),
            Self::Number => sequence.to_string(),
            Self::Epoch => epoch.to_string(),
            Self::Payload if stdout().is_terminal() => escape::shown(payload, &['\n', '\t']),
            Self::Payload => return line.extend_from_slice(payload),
            Self::Length => payload.len().to_string(),
            Self::Hex => hex(payload),
            Self::UnixTime => format!("{:.3}", unix_time()),
            Self::Again => {
                if *redelivered {
                    "again".into()
                } else {
                    String::new()
                }
            }
        };
        line.extend_from_slice(text.as_bytes());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a String takes everything");
        text
    })
}

fn unix_time() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

fn of_notification(notification: &Notification) -> Value {
    let Notification { topic, epoch, sequence, payload, redelivered, .. } = notification;
    let mut object = json!({
        "topic": topic.as_str(),
        "epoch": epoch.as_str(),
        "sequence": sequence,
        "time": unix_time(),
    });
    match std::str::from_utf8(payload) {
        Ok(text) => object["payload"] = text.into(),
        Err(_) => object["payload_hex"] = hex(payload).into(),
    }
    if *redelivered {
        object["redelivered"] = true.into();
    }
    object
}

fn of_remark(delivery: &Delivery) -> Value {
    match delivery {
        Delivery::Gap(gap) => json!({
            "topic": gap.topic.as_str(),
            "epoch": gap.epoch.as_str(),
            "gap": { "first": gap.first, "last": gap.last, "cause": gap.cause.to_string() },
        }),
        Delivery::Reset { topic, position } => {
            json!({ "topic": topic.as_str(), "reset": position.to_string() })
        }
        Delivery::End { topic, reason, position } => json!({
            "topic": topic.as_str(),
            "end": { "reason": reason.as_str(), "position": position.map(|at| at.to_string()) },
        }),
        other => json!({ "other": format!("{other:?}") }),
    }
}

#[cfg(test)]
mod tests {
    use bellwire::protocol::{Epoch, Topic};

    use super::*;

    fn line(format: &str, payload: &'static [u8]) -> String {
        let (topic, epoch) = (Topic::new("news").unwrap(), Epoch::new("k3f9").unwrap());
        let notification = Notification::new(topic, epoch, 7, payload);
        let Ok(Format::Text(parts)) = Format::parse(format) else { panic!("{format}") };
        let mut line = Vec::new();
        parts.iter().for_each(|part| part.write(&notification, &mut line));
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn parts_are_replaced() {
        assert_eq!(line("%t %s %p", b"it rains"), "news 7 it rains");
        assert_eq!(line(r"%e:%s\t%l 100%% %x%r", b"ab"), "k3f9:7\t2 100% 6162");
        for wrong in ["%", "%q", r"a\", r"\x"] {
            assert!(Format::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn bytes_that_are_no_text_are_hex_in_json() {
        let (topic, epoch) = (Topic::new("t").unwrap(), Epoch::new("e").unwrap());
        let object = of_notification(&Notification::new(topic, epoch, 1, &b"\xff\x00"[..]));
        assert_eq!(object["payload_hex"], "ff00");
        assert_eq!(object["payload"], Value::Null);
    }
}
