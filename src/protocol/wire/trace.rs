//! Trace contexts: the span that a request belongs to.

use std::{fmt, str::FromStr};

/// A W3C `traceparent`, the value of the attribute `trace` (docs/protocol/reference.md, section
/// 21).
///
/// 55 bytes, `VERSION-TRACE-PARENT-FLAGS`, of 2, 32, 16 and 2 lower-case hexadecimal digits. The
/// version is not `ff`. The trace and the parent are not all zeros.
///
/// ```
/// use bellwire::protocol::TraceParent;
///
/// let text = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
/// let parent: TraceParent = text.parse().unwrap();
/// assert_eq!(parent.trace_id(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
/// assert!(parent.is_sampled());
/// assert_eq!(parent.to_string(), text);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TraceParent {
    version: u8,
    trace: u128,
    parent: u64,
    flags: u8,
}

/// A text that is not a `traceparent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct InvalidTraceParent;

impl fmt::Display for InvalidTraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "not a traceparent: VERSION-TRACE-PARENT-FLAGS in lower-case hexadecimal digits",
        )
    }
}

impl std::error::Error for InvalidTraceParent {}

impl TraceParent {
    /// A parent of version `00`; `None` if one of the ids is 0.
    pub fn new(trace_id: u128, parent_id: u64, sampled: bool) -> Option<Self> {
        let flags = u8::from(sampled);
        (trace_id != 0 && parent_id != 0).then_some(Self {
            version: 0,
            trace: trace_id,
            parent: parent_id,
            flags,
        })
    }

    /// The trace.
    pub fn trace_id(self) -> u128 {
        self.trace
    }

    /// The caller's span.
    pub fn parent_id(self) -> u64 {
        self.parent
    }

    /// Whether the caller records the trace.
    pub fn is_sampled(self) -> bool {
        self.flags & 1 == 1
    }
}

impl FromStr for TraceParent {
    type Err = InvalidTraceParent;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or(InvalidTraceParent)
    }
}

fn parse(text: &str) -> Option<TraceParent> {
    let mut parts = text.split('-');
    let version = u8::try_from(hex(parts.next()?, 2)?).ok()?;
    let trace = hex(parts.next()?, 32)?;
    let parent = u64::try_from(hex(parts.next()?, 16)?).ok()?;
    let flags = u8::try_from(hex(parts.next()?, 2)?).ok()?;
    let is_valid = parts.next().is_none() && version != 0xff && trace != 0 && parent != 0;
    is_valid.then_some(TraceParent { version, trace, parent, flags })
}

fn hex(digits: &str, length: usize) -> Option<u128> {
    let is_hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_valid = digits.len() == length && digits.bytes().all(is_hex);
    is_valid.then(|| u128::from_str_radix(digits, 16).ok())?
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, trace, parent, flags } = self;
        write!(f, "{version:02x}-{trace:032x}-{parent:016x}-{flags:02x}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn trace_context_syntax_is_exact() {
        assert_eq!(GOOD.parse::<TraceParent>().unwrap().to_string(), GOOD);
        let later = GOOD.replacen("00", "cc", 1);
        assert_eq!(later.parse::<TraceParent>().unwrap().to_string(), later);
        let bad = [
            String::new(),
            GOOD.to_uppercase(),
            GOOD.replacen("00", "ff", 1),
            GOOD.replacen("00", "+0", 1),
            format!("{GOOD}-00"),
            format!("{GOOD}0"),
            GOOD[..54].to_owned(),
            GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            GOOD.replace('-', "."),
        ];
        for text in bad {
            assert_eq!(text.parse::<TraceParent>(), Err(InvalidTraceParent), "{text}");
        }
    }

    #[test]
    fn a_trace_parent_has_nonzero_ids() {
        assert_eq!(TraceParent::new(0, 1, true), None);
        assert_eq!(TraceParent::new(1, 0, true), None);
        let parent = TraceParent::new(1, 2, false).unwrap();
        assert_eq!(parent.to_string(), format!("00-{:032x}-{:016x}-00", 1, 2));
        assert!(!parent.is_sampled());
    }
}
