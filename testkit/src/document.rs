//! PROTOCOL.md as the tests read it: its blocks, and the numbers of its MUSTs.

pub const PROTOCOL: &str = include_str!("../../PROTOCOL.md");

/// A fenced block.
pub struct Block {
    /// The info string: `vectors`, `transcript step-1-request`.
    pub info: &'static str,
    /// Its lines, each with its number in the file, from 1.
    pub lines: Vec<(usize, &'static str)>,
}

/// All fenced blocks.
pub fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut open: Option<Block> = None;
    for (line, number) in PROTOCOL.lines().zip(1..) {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => open = Some(Block { info, lines: Vec::new() }),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some(block)) => block.lines.push((number, line)),
            (None, None) => {}
        }
    }
    assert!(open.is_none(), "a block does not end");
    blocks
}

/// The one block with this info string.
pub fn block(info: &str) -> Block {
    let mut found: Vec<_> = blocks().into_iter().filter(|block| block.info == info).collect();
    assert_eq!(found.len(), 1, "one block {info}");
    found.remove(0)
}

/// The transcripts, each with its name; the second kind is `transcript-not-yet`.
pub fn transcripts(kind: &str) -> Vec<(&'static str, Block)> {
    let named = |block: Block| match block.info.split_once(' ') {
        Some((word, name)) if word == kind => Some((name, block)),
        _ => None,
    };
    blocks().into_iter().filter_map(named).collect()
}

/// `# remark` at the end of a vector's line left out.
pub fn without_remark(line: &str) -> &str {
    line.split('#').next().unwrap_or_default().trim()
}

/// Bytes in hex; `-` is none.
pub fn hex(text: &str) -> Vec<u8> {
    let digits = text.strip_prefix('-').unwrap_or(text).as_bytes().chunks(2);
    let byte = |pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).expect("hex");
    digits.map(byte).collect()
}

/// The bytes a transcript's text stands for: `\xHH` is a byte, `<name>` what `bound` says.
pub fn unescape(text: &str, bound: impl Fn(&str) -> Option<String>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut left = text;
    while !left.is_empty() {
        let (taken, after) = if let Some(code) = left.strip_prefix("\\x") {
            let (code, after) = code.split_at(2);
            (hex(code), after)
        } else if let Some((value, after)) = placeholder(left, &bound) {
            (value.into_bytes(), after)
        } else {
            let (one, after) = left.split_at(left.chars().next().map_or(1, char::len_utf8));
            (one.as_bytes().to_vec(), after)
        };
        bytes.extend(taken);
        left = after;
    }
    bytes
}

/// `<name>` at the beginning of `text`: what it stands for, and what follows.
fn placeholder<'a>(
    text: &'a str,
    bound: &impl Fn(&str) -> Option<String>,
) -> Option<(String, &'a str)> {
    let (name, after) = placeholder_name(text)?;
    let value = bound(name).unwrap_or_else(|| panic!("<{name}> is bound"));
    Some((value, after))
}

/// The name in `<name>` at the beginning of `text`, and what follows.
pub fn placeholder_name(text: &str) -> Option<(&str, &str)> {
    let (name, after) = text.strip_prefix('<')?.split_once('>')?;
    let is_name = !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase());
    is_name.then_some((name, after))
}

/// A MUST or MUST NOT of the document.
#[derive(Debug)]
pub struct Must {
    pub number: u32,
    pub is_built: bool,
    /// The line it stands in, from 1.
    pub line: usize,
}

/// All of them, in the order of the document.
pub fn musts() -> Vec<Must> {
    let item = |(text, line): (&str, usize)| {
        let marker = text.trim_start().strip_prefix("- **[M")?.split_once("]**")?.0;
        let (number, whom) = marker.split_once(' ').expect("a number, and whom it binds");
        let (whom, is_built) = match whom.strip_suffix(", not yet") {
            Some(whom) => (whom, false),
            None => (whom, true),
        };
        assert!(matches!(whom, "S" | "C" | "SC"), "line {line}: binds {whom}");
        Some(Must { number: number.parse().expect("a number"), is_built, line })
    };
    PROTOCOL.lines().zip(1..).filter_map(item).collect()
}

/// The numbers of all `[Mn]` in `text`.
pub fn tags(text: &str) -> Vec<u32> {
    let after = text.split("[M").skip(1);
    after.filter_map(|tag| tag.split_once(']')?.0.parse().ok()).collect()
}
