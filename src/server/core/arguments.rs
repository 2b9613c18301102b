//! Checks the attributes and arguments of requests.

use crate::protocol::{Code, Line, Rest, Topic, TraceParent, parse_number};

/// The credit, in items, of a request without `window`.
pub(super) const DEFAULT_WINDOW: u64 = 32;
pub(super) const SUBSCRIBE_USAGE: &str = "usage: /subscribe TOPIC";
pub(super) const UNSUBSCRIBE_USAGE: &str = "usage: /unsubscribe TOPIC";
pub(super) const PUBLISH_USAGE: &str = "usage: /publish TOPIC [PAYLOAD]";

/// Why a protocol method is refused: a code and a text.
pub(super) type Refusal = (Code, String);

/// The attributes of an application request.
pub(super) struct Attributes {
    /// In milliseconds.
    pub(super) ttl: Option<u64>,
    /// The credit of a streamed reply, in items.
    pub(super) window: u64,
    pub(super) has_key: bool,
}

/// The attributes of an application request. With `has_keys` it may be a keyed one.
pub(super) fn application_attributes(
    line: &Line<'_>,
    has_keys: bool,
) -> Result<Attributes, Refusal> {
    let mut attributes = Attributes { ttl: None, window: DEFAULT_WINDOW, has_key: false };
    if line.attributes.is_empty() {
        return Ok(attributes);
    }
    let number = |value: &str| parse_number(value.as_bytes()).filter(|&number| number > 0);
    let read = |key: &str, value: &str| {
        match key {
            "trace" => _ = value.parse::<TraceParent>().ok()?,
            "ttl" => attributes.ttl = Some(number(value)?),
            "window" => attributes.window = number(value)?,
            _ => attributes.has_key = true,
        }
        Some(())
    };
    let known: &[_] = match has_keys {
        true => &["ttl", "trace", "window", "key"],
        false => &["ttl", "trace", "window"],
    };
    check_attributes(line, read, known)?;
    // A keyed request has one reply, which is kept.
    let has_one_reply = || line.mark.id().is_some() && line.attributes.get("window").is_none();
    match attributes.has_key && !has_one_reply() {
        true => Err((Code::BAD_ATTRIBUTE, "key".to_owned())),
        false => Ok(attributes),
    }
}

/// The arguments of a `/publish`.
pub(super) struct Publish<'a> {
    /// In milliseconds.
    pub(super) ttl: Option<u64>,
    pub(super) key: Option<&'a str>,
    pub(super) topic: Topic,
    pub(super) payload: Rest<'a>,
    /// The length of its body, as received.
    pub(super) bytes: usize,
}

/// Parses a `/publish`.
pub(super) fn publish_arguments<'a>(
    line: &Line<'a>,
    has_keys: bool,
) -> Result<Publish<'a>, Refusal> {
    let ttl = publish_attributes(line, has_keys)?;
    let key = line.attributes.get("key");
    let (topic, payload) = line.rest.split_argument();
    let topic = as_topic(topic, PUBLISH_USAGE)?;
    Ok(Publish { ttl, key, topic, payload, bytes: line.rest.stuffed().len() })
}

/// The attributes of `/publish`: its `ttl`, in milliseconds.
fn publish_attributes(line: &Line<'_>, has_keys: bool) -> Result<Option<u64>, Refusal> {
    let mut ttl = None;
    let read = |key: &str, value: &str| {
        if key == "ttl" {
            ttl = Some(parse_number(value.as_bytes()).filter(|&ttl| ttl > 0)?);
        }
        Some(())
    };
    let known: &[_] = if has_keys { &["ttl", "key"] } else { &["ttl"] };
    check_attributes(line, read, known)?;
    Ok(ttl)
}

pub(super) fn unknown_method(line: &Line<'_>) -> Refusal {
    let name = line.word.as_str();
    let text = format!("no method \"{name}\"; ask /methods");
    (Code::UNKNOWN_METHOD, text)
}

/// Checks the keys without a dot. A key that is not in `known` is refused, and so is a value that
/// `read` does not accept.
pub(super) fn check_attributes(
    line: &Line<'_>,
    mut read: impl FnMut(&str, &str) -> Option<()>,
    known: &[&str],
) -> Result<(), Refusal> {
    let own = || line.attributes.iter().filter(|(key, _)| !key.contains('.'));
    if let Some((key, _)) = own().find(|(key, _)| !known.contains(key)) {
        return Err((Code::UNKNOWN_ATTRIBUTE, key.to_owned()));
    }
    match own().find(|(key, value)| read(key, value).is_none()) {
        Some((key, _)) => Err((Code::BAD_ATTRIBUTE, key.to_owned())),
        None => Ok(()),
    }
}

pub(super) fn no_attributes(line: &Line<'_>) -> Result<(), Refusal> {
    check_attributes(line, |_, _| Some(()), &[])
}

pub(super) fn no_arguments(line: &Line<'_>) -> Result<(), Refusal> {
    match line.rest.is_empty() {
        true => Ok(()),
        false => Err((Code::BAD_ARGUMENTS, format!("usage: {}", line.word.as_str()))),
    }
}

pub(super) fn only_topic(rest: Rest<'_>, usage: &str) -> Result<Topic, Refusal> {
    as_topic(&rest.plain(), usage)
}

fn as_topic(bytes: &[u8], usage: &str) -> Result<Topic, Refusal> {
    let topic = std::str::from_utf8(bytes).ok();
    let topic = topic.and_then(|topic| Topic::new(topic).ok());
    topic.ok_or_else(|| (Code::BAD_ARGUMENTS, usage.to_owned()))
}
