//! The paths that a module names.

use super::tokens::Tokens;

pub(super) type Path = Vec<String>;

/// One name of a `use` statement.
#[derive(Debug, PartialEq)]
pub(super) struct Import {
    /// `*` for all names.
    pub(super) name: String,
    pub(super) path: Path,
    /// Whether others may import it from here.
    pub(super) exported: bool,
}

/// The `use` statements of a module, and the paths in the rest of its code.
pub(super) fn split(tokens: &Tokens) -> (Vec<Import>, Vec<Path>) {
    let (mut imports, mut named) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < tokens.len() {
        at = match tokens[at].as_str() {
            "use" if tokens.get(at + 1).is_some_and(|next| next != "<") => {
                let exported = at > 0 && ["pub", ")"].contains(&tokens[at - 1].as_str());
                let mut tree = Tree { tokens, at: at + 1, exported, found: &mut imports };
                tree.read(&Path::new());
                tree.at
            }
            "pub" if tokens.get(at + 1).is_some_and(|next| next == "(") => {
                after_visibility(tokens, at)
            }
            _ => path(tokens, at, &mut named),
        };
    }
    (imports, named)
}

/// Passes `pub(in crate::server)`, which names a module but does not import it.
fn after_visibility(tokens: &Tokens, at: usize) -> usize {
    let length = tokens[at..].iter().position(|it| it == ")").unwrap_or_default();
    at + length.max(1)
}

/// Takes the path that begins at `at`, if one does.
fn path(tokens: &Tokens, at: usize, found: &mut Vec<Path>) -> usize {
    let before = at.checked_sub(1).map_or("", |before| tokens[before].as_str());
    if !is_word(&tokens[at]) || [".", "::"].contains(&before) {
        return at + 1;
    }
    let mut path = vec![tokens[at].clone()];
    let mut end = at + 1;
    while let [colons, word, ..] = &tokens[end..]
        && colons == "::"
        && is_word(word)
    {
        path.push(word.clone());
        end += 2;
    }
    found.push(path);
    end
}

fn is_word(token: &str) -> bool {
    token.starts_with(|it: char| it.is_alphabetic() || it == '_')
}

/// Reads the tree of one `use` statement.
struct Tree<'a> {
    tokens: &'a Tokens,
    at: usize,
    exported: bool,
    found: &'a mut Vec<Import>,
}

impl Tree<'_> {
    /// Reads one branch, up to the comma, brace or semicolon that ends it.
    fn read(&mut self, prefix: &Path) {
        let (mut path, mut name) = (prefix.clone(), None);
        while let Some(token) = self.tokens.get(self.at) {
            match token.as_str() {
                "," | "}" | ";" => break,
                "{" => return self.read_group(&path),
                "as" => {
                    name = self.tokens.get(self.at + 1).cloned();
                    self.at += 1;
                }
                "::" => {}
                "self" if !path.is_empty() => {}
                word => path.push(word.to_owned()),
            }
            self.at += 1;
        }
        if let Some(name) = name.or_else(|| path.last().cloned()) {
            self.found.push(Import { name, path, exported: self.exported });
        }
    }

    fn read_group(&mut self, prefix: &Path) {
        while self.tokens.get(self.at).is_some_and(|token| token != "}" && token != ";") {
            self.at += 1;
            if self.tokens.get(self.at).is_some_and(|token| token != "}") {
                self.read(prefix);
            }
        }
        self.at += 1;
    }
}

#[test]
fn trees_and_paths_are_read() {
    let source = "pub(crate) use self::a::{self, b as c, d::{e, f::*,}}; use g; \
                  pub(in crate::x) fn h() -> impl I + use<'a> { super::j::k(l).m::<crate::n>() }";
    let (imports, named) = split(&super::tokens::tokens(source).0);
    let shown: Vec<_> =
        imports.iter().map(|it| (it.name.as_str(), it.path.join("::"), it.exported)).collect();
    let import = |name, path: &str, exported| (name, path.to_owned(), exported);
    assert_eq!(
        shown,
        [
            import("a", "self::a", true),
            import("c", "self::a::b", true),
            import("e", "self::a::d::e", true),
            import("*", "self::a::d::f::*", true),
            import("g", "g", false),
        ]
    );
    let named: Vec<_> =
        named.iter().map(|path| path.join("::")).filter(|it| it.contains("::")).collect();
    assert_eq!(named, ["super::j::k", "crate::n"]);
}
