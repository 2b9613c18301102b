//! The rules of the protocol: list items that begin with their id, `- **S2.1**`.

use super::protocol;

#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Whom {
    Both,
    Client,
    Server,
}

/// A rule, and where it stands.
#[derive(Debug)]
pub struct Rule {
    /// `S2.1`: whom it binds, its section, its number.
    pub id: String,
    pub whom: Whom,
    pub section: u32,
    pub number: u32,
    pub is_built: bool,
    pub path: String,
    /// Its lines in the file, from 1.
    pub lines: std::ops::Range<usize>,
    /// The section that it stands in, by the headings before it.
    pub stands_in: u32,
}

/// All rules, in the order of the documents.
pub fn rules() -> Vec<Rule> {
    protocol().iter().flat_map(|(path, text)| rules_of(path, text)).collect()
}

fn rules_of(path: &str, text: &str) -> Vec<Rule> {
    let (mut rules, mut stands_in) = (Vec::<Rule>::new(), 0);
    let mut is_open = false;
    for (line, number) in text.lines().zip(1..) {
        stands_in = heading(line).unwrap_or(stands_in);
        if let Some((id, after)) = item(line) {
            let (whom, section, own) = parts(id).unwrap_or_else(|| panic!("{path}: {id}"));
            let (is_built, path) = (!after.starts_with(" (not yet)"), path.to_owned());
            let (id, lines) = (id.to_owned(), number..number + 1);
            rules.push(Rule { id, whom, section, number: own, is_built, path, lines, stands_in });
            is_open = true;
        } else if is_open && line.starts_with("  ") {
            rules.last_mut().expect("an open one").lines.end = number + 1;
        } else {
            is_open = false;
        }
    }
    rules
}

/// The section that a heading begins or continues: of `## 2. Lines` and `## 19.2 Permission`.
fn heading(line: &str) -> Option<u32> {
    let title = line.strip_prefix("## ").or(line.strip_prefix("# "))?;
    title.split(['.', ' ']).next()?.parse().ok()
}

/// The id of a list item that is a rule, and what follows it.
fn item(line: &str) -> Option<(&str, &str)> {
    let (id, after) = line.strip_prefix("- **")?.split_once("**")?;
    is_id(id).then_some((id, after))
}

/// Whether a word is the id of a rule, existing or not.
pub fn is_id(word: &str) -> bool {
    parts(word).is_some()
}

fn parts(id: &str) -> Option<(Whom, u32, u32)> {
    let whom = match id.as_bytes().first()? {
        b'B' => Whom::Both,
        b'C' => Whom::Client,
        b'S' => Whom::Server,
        _ => return None,
    };
    let (section, number) = id[1..].split_once('.')?;
    let is_number = |text: &str| {
        !text.is_empty() && !text.starts_with('0') && text.bytes().all(|byte| byte.is_ascii_digit())
    };
    let both = is_number(section) && is_number(number);
    both.then(|| Some((whom, section.parse().ok()?, number.parse().ok()?))).flatten()
}

/// The ids of all `[S2.1]` in `text`.
pub fn tags(text: &str) -> Vec<String> {
    let after = text.split('[').skip(1).filter_map(|tag| Some(tag.split_once(']')?.0));
    after.filter(|tag| is_id(tag)).map(str::to_owned).collect()
}
