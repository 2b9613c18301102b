//! Which module of the crate imports which, and where they do so in circles.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path as File, PathBuf},
};

use super::{
    paths::{Import, Path, split},
    tokens::{Tokens, tokens},
};

/// The modules that each module imports.
pub(super) type Graph = BTreeMap<String, BTreeSet<String>>;

/// A name that leads to itself is not followed for longer.
const MOST_STEPS: usize = 32;

/// What stands before a name that a module defines.
const DEFINING: [&str; 9] =
    ["const", "enum", "fn", "macro_rules", "mod", "static", "struct", "trait", "type"];

struct Module {
    code: Tokens,
    imports: Vec<Import>,
    named: Vec<Path>,
}

/// All modules by path. The crate's root has the empty one.
pub(super) struct Crate {
    modules: BTreeMap<String, Module>,
}

impl Crate {
    /// The crate's own sources.
    pub(super) fn read() -> Self {
        let root = File::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut files = Vec::new();
        sources(&root, &mut files);
        let source = |file: PathBuf| {
            let source = fs::read_to_string(&file).expect("a source");
            (module_path(file.strip_prefix(&root).expect("below it")), source)
        };
        Self::of(files.into_iter().map(source))
    }

    pub(super) fn of(sources: impl IntoIterator<Item = (String, String)>) -> Self {
        let (mut modules, mut tests) = (BTreeMap::new(), BTreeSet::new());
        for (path, source) in sources {
            let (code, files) = tokens(&source);
            tests.extend(files.iter().map(|name| join(&path, name)));
            let (imports, named) = split(&code);
            modules.insert(path, Module { code, imports, named });
        }
        modules.retain(|path, _| !tests.contains(path));
        Self { modules }
    }

    pub(super) fn graph(&self) -> Graph {
        self.modules.keys().map(|module| (module.clone(), self.imported_by(module))).collect()
    }

    /// A re-export counts only if the module itself uses the name.
    fn imported_by(&self, module: &str) -> BTreeSet<String> {
        let Module { imports, named, .. } = &self.modules[module];
        let used =
            |import: &&Import| !import.exported || named.iter().any(|path| path[0] == import.name);
        let imported = imports.iter().filter(used).map(|import| &import.path);
        let paths = imported.chain(named.iter().filter(|path| path.len() > 1));
        let targets = paths.filter_map(|path| self.target(module, path));
        targets.filter(|target| target != module).collect()
    }

    /// The module that defines what `path` leads to from `module`; `None` if it is a module itself.
    /// A name that is found nowhere, such as that of another crate, counts as the module's own.
    fn target(&self, module: &str, path: &[String]) -> Option<String> {
        let mut path = absolute(module, path);
        for _ in 0..MOST_STEPS {
            let (module, rest) = self.deepest(&path);
            let name = rest.first()?;
            match self.imported(&module, name) {
                Some(from) => path = [from, rest[1..].to_vec()].concat(),
                None => return Some(module),
            }
        }
        None
    }

    /// From where `module` imports `name`, by this name or with all names of another module.
    fn imported(&self, module: &str, name: &str) -> Option<Path> {
        let imports = &self.modules[module].imports;
        let by_name = imports.iter().find(|import| import.name == name);
        if let Some(import) = by_name.filter(|_| name != "*") {
            return Some(absolute(module, &import.path));
        }
        let all = imports.iter().filter(|import| import.name == "*");
        all.map(|import| absolute(module, &import.path[..import.path.len() - 1]))
            .filter(|from| self.has(from, name))
            .map(|from| [from, vec![name.to_owned()]].concat())
            .next()
    }

    /// Whether `path` is a module that defines or imports `name`.
    fn has(&self, path: &[String], name: &str) -> bool {
        let module = path.join("/");
        let defines = |module: &Module| {
            let mut pairs = module.code.windows(2);
            pairs.any(|pair| DEFINING.contains(&pair[0].as_str()) && pair[1] == name)
        };
        self.modules.get(&module).is_some_and(defines) || {
            self.modules.contains_key(&module) && self.imported(&module, name).is_some()
        }
    }

    /// The longest beginning of `path` that is a module, and what is left.
    fn deepest(&self, path: &[String]) -> (String, Path) {
        let modules = (0..=path.len()).rev().map(|length| path.split_at(length));
        let mut modules = modules.map(|(module, rest)| (module.join("/"), rest.to_vec()));
        modules.find(|(module, _)| self.modules.contains_key(module)).expect("the crate's root")
    }

    /// The tokens of each module.
    pub(super) fn code(&self) -> impl Iterator<Item = (&str, &Tokens)> {
        self.modules.iter().map(|(path, module)| (path.as_str(), &module.code))
    }
}

/// `path`, as `module` writes it, from the crate's root.
fn absolute(module: &str, path: &[String]) -> Path {
    let mut found: Path =
        module.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
    for part in path {
        match part.as_str() {
            "crate" => found.clear(),
            "self" => {}
            "super" => drop(found.pop()),
            _ => found.push(part.clone()),
        }
    }
    found
}

fn join(module: &str, name: &str) -> String {
    absolute(module, &[name.to_owned()]).join("/")
}

fn module_path(file: &File) -> String {
    let path = file.with_extension("").to_string_lossy().replace('\\', "/");
    match path.as_str() {
        "lib" => String::new(),
        _ => path.strip_suffix("/mod").unwrap_or(&path).to_owned(),
    }
}

fn sources(folder: &File, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// The modules that import each other in circles.
pub(super) fn circles(graph: &Graph) -> BTreeSet<BTreeSet<String>> {
    let all: BTreeMap<_, _> = graph.keys().map(|module| (module, reached(graph, module))).collect();
    let circle = |(module, reached): (&&String, &BTreeSet<String>)| {
        let both = reached.iter().filter(|other| all[other].contains(*module));
        both.cloned().collect::<BTreeSet<_>>()
    };
    all.iter().map(circle).filter(|circle| !circle.is_empty()).collect()
}

fn reached(graph: &Graph, from: &str) -> BTreeSet<String> {
    let (mut seen, mut left) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(module) = left.pop() {
        let next = graph[&module].iter().filter(|next| seen.insert((*next).clone()));
        left.extend(next.cloned().collect::<Vec<_>>());
    }
    seen
}

fn graph_of(sources: &[(&str, &str)]) -> Graph {
    let owned = sources.iter().map(|(path, source)| ((*path).to_owned(), (*source).to_owned()));
    Crate::of(owned).graph()
}

#[test]
fn every_way_to_import_is_followed() {
    let root = ("", "pub use a::Low; use a::{c::Mid, b};");
    let low = ("a/b", "pub struct Low;");
    let mid = ("a/c", "pub struct Mid; #[cfg(test)] mod tested;");
    let test = ("a/c/tested", "use crate::a::High;");
    let parent = ("a", "pub use self::{b::Low, e::*}; pub(crate) struct High; use std::fmt;");
    let all = ("a/e", "pub struct Wide; pub use super::f::*;");
    let more = ("a/f", "pub fn farther() {}");
    for (source, imported) in [
        ("use crate::Low;", "a/b"),
        ("use crate::a::{High as Top, Low};", "a a/b"),
        ("use super::*; use self::Low;", "a"),
        ("use super::{super::Mid, b::Low as L};", "a/b a/c"),
        ("fn f(l: crate::b::Low) {}", "a/b"),
        ("pub use super::Low;", ""),
        ("pub use super::Low; fn f(l: Low) {}", "a/b"),
        ("use crate::a; fn f() { a::Low::g(); }", "a/b"),
        ("use crate::a::{Wide, farther};", "a/e a/f"),
        ("use std::b::Low; fn f(d: d::E) {} // crate::a::Low", ""),
    ] {
        let graph = graph_of(&[root, parent, low, mid, all, more, test, ("a/d", source)]);
        assert!(!graph.contains_key("a/c/tested"));
        let found: Vec<_> = graph["a/d"].iter().map(String::as_str).collect();
        assert_eq!(found.join(" "), imported, "{source}");
    }
}

#[test]
fn import_cycles_are_found() {
    let edges =
        [("a", "use crate::b::B;"), ("b", "use super::c::C;"), ("c", "crate::a::A, crate::d::D")];
    let graph = graph_of(&[edges[0], edges[1], edges[2], ("d", ""), ("", "pub mod a;")]);
    let circle = BTreeSet::from(["a", "b", "c"].map(str::to_owned));
    assert_eq!(circles(&graph), BTreeSet::from([circle]));
    assert!(circles(&graph_of(&[edges[0], edges[1], ("c", ""), ("", "")])).is_empty());
}
