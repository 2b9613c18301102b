//! docs/protocol/{codes,attributes,methods}.json, and their tables in reference.md.

use serde::Deserialize;

use super::data;

/// What a code means with some words and notices.
#[derive(Deserialize)]
pub struct Code {
    pub code: String,
    /// `no`, `err`, `cut`, `/error`, `/gap`, `/end`, `/bye`.
    pub with: Vec<String>,
    pub meaning: String,
    pub retry: String,
    pub built: bool,
}

/// The text of the reference server.
#[derive(Deserialize)]
pub struct Text {
    /// A code, perhaps with a remark after a comma.
    pub code: String,
    pub text: String,
}

/// What may be wrong with a malformed line.
#[derive(Deserialize)]
pub struct Fault {
    pub what: String,
    pub offset: String,
    pub remark: String,
}

#[derive(Deserialize)]
pub struct Codes {
    pub codes: Vec<Code>,
    pub texts: Vec<Text>,
    pub faults: Vec<Fault>,
}

#[derive(Deserialize)]
pub struct Attribute {
    pub key: String,
    #[serde(rename = "where")]
    pub place: String,
    pub value: String,
    pub meaning: String,
    pub built: bool,
}

#[derive(Deserialize)]
struct Attributes {
    attributes: Vec<Attribute>,
}

#[derive(Deserialize)]
pub struct Method {
    pub method: String,
    pub form: String,
    pub attributes: Vec<String>,
    pub arguments: String,
    pub reply: String,
    pub errors: Vec<String>,
    pub section: String,
}

#[derive(Deserialize)]
pub struct Notice {
    pub notice: String,
    pub form: String,
    pub meaning: String,
    pub section: String,
}

#[derive(Deserialize)]
pub struct Methods {
    pub methods: Vec<Method>,
    pub notices: Vec<Notice>,
}

pub fn codes() -> Codes {
    data("codes.json")
}

pub fn attributes() -> Vec<Attribute> {
    data::<Attributes>("attributes.json").attributes
}

pub fn methods() -> Methods {
    data("methods.json")
}

impl Codes {
    /// The codes that may stand with this word or notice, sorted.
    pub fn with(&self, word: &str) -> Vec<&str> {
        let fitting = self.codes.iter().filter(|code| code.with.iter().any(|with| with == word));
        let mut codes: Vec<_> = fitting.map(|code| &*code.code).collect();
        codes.sort_unstable();
        codes
    }

    pub fn code_table(&self) -> String {
        let row = |code: &Code| {
            [quoted(&code.code), code.with.join(", "), code.meaning.clone(), code.retry.clone()]
        };
        table(["code", "with", "meaning", "retry?"], self.codes.iter().map(row))
    }

    pub fn text_table(&self) -> String {
        let row = |text: &Text| {
            let (code, remark) = text.code.split_at(text.code.find(',').unwrap_or(text.code.len()));
            [format!("{}{remark}", quoted(code)), text.text.clone()]
        };
        table(["code", "text"], self.texts.iter().map(row))
    }

    pub fn fault_table(&self) -> String {
        let row = |fault: &Fault| [quoted(&fault.what), fault.offset.clone(), fault.remark.clone()];
        table(["WHAT", "N", "remark"], self.faults.iter().map(row))
    }
}

pub fn attribute_table(attributes: &[Attribute]) -> String {
    let row = |attribute: &Attribute| {
        let Attribute { key, place, value, meaning, built } = attribute;
        let built = if *built { "yes" } else { "not yet" };
        [quoted(key), place.clone(), value.clone(), meaning.clone(), built.to_owned()]
    };
    table(["key", "where", "value", "meaning", "built"], attributes.iter().map(row))
}

impl Methods {
    pub fn method_table(&self) -> String {
        let row = |method: &Method| {
            [
                quoted(&method.method),
                method.form.clone(),
                list(&method.attributes),
                method.arguments.clone(),
                quoted(&method.reply),
                list(&method.errors),
                method.section.clone(),
            ]
        };
        let head = ["method", "form", "attributes", "arguments", "reply", "errors", "section"];
        table(head, self.methods.iter().map(row))
    }

    pub fn notice_table(&self) -> String {
        let row = |notice: &Notice| {
            let Notice { notice, form, meaning, section } = notice;
            [quoted(notice), quoted(form), meaning.clone(), section.clone()]
        };
        table(["notice", "form", "meaning", "section"], self.notices.iter().map(row))
    }
}

fn list(words: &[String]) -> String {
    words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(", ")
}

/// A word as code; nothing if there is none.
fn quoted(word: &str) -> String {
    if word.is_empty() { String::new() } else { format!("`{word}`") }
}

fn table<const N: usize>(head: [&str; N], rows: impl Iterator<Item = [String; N]>) -> String {
    let line = |cells: &[String]| {
        let cell = |cell: &String| if cell.is_empty() { " ".into() } else { format!(" {cell} ") };
        format!("|{}|\n", cells.iter().map(cell).collect::<Vec<_>>().join("|"))
    };
    let mut text = line(&head.map(str::to_owned)) + "|" + &"---|".repeat(N) + "\n";
    rows.for_each(|cells| text += &line(&cells));
    text
}
