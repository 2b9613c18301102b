//! The modules of the server import each other in no circle, and its core knows no runtime.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Circles that are there, and why.
const CIRCLES: [(&[&str], &str); 1] = [(
    &["handlers/reply", "handlers/streamed"],
    "a reply may be a stream, whose items are replies",
)];

/// What a core may import from above it.
const UPWARD: [&str; 1] = ["driver/listener"];

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        match path.is_dir() {
            true => sources(&path, found),
            false => found.push(path),
        }
    }
}

/// Each module below `side`, by its path, and its source without its tests.
fn modules(side: &str) -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(side);
    let mut files = Vec::new();
    sources(&root, &mut files);
    let module = |file: PathBuf| {
        let path = file.strip_prefix(&root).expect("below it").with_extension("");
        let path = path.to_string_lossy().replace('\\', "/");
        let source = fs::read_to_string(&file).expect("a source");
        let source = match path.ends_with("mod") {
            true => source,
            false => source.split("\n#[cfg(test)]").next().unwrap_or_default().to_owned(),
        };
        (path.trim_end_matches("mod").trim_end_matches('/').to_owned(), source)
    };
    files.into_iter().map(module).collect()
}

/// All paths of a `use` tree, with `::` between their parts.
fn paths(prefix: &str, tree: &str, found: &mut Vec<String>) {
    let tree = tree.trim();
    let Some(open) = tree.find('{') else {
        found.push(format!("{prefix}{tree}"));
        return;
    };
    let prefix = format!("{prefix}{}", &tree[..open]);
    let inner = &tree[open + 1..tree.rfind('}').expect("a closing brace")];
    let (mut depth, mut begin) = (0, 0);
    for (at, byte) in inner.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth -= 1,
            b',' if depth == 0 => {
                paths(&prefix, &inner[begin..at], found);
                begin = at + 1;
            }
            _ => {}
        }
    }
    if !inner[begin..].trim().is_empty() {
        paths(&prefix, &inner[begin..], found);
    }
}

/// The modules of this side that `module` imports.
fn imports(side: &str, module: &str, all: &BTreeMap<String, String>) -> BTreeSet<String> {
    let mut found = Vec::new();
    for statement in all[module].split("\nuse ").skip(1) {
        paths("", statement.split(';').next().unwrap_or_default(), &mut found);
    }
    let here = format!("crate::{side}::");
    let inside = found.iter().filter_map(|path| path.strip_prefix(&here));
    let longest = |path: &str| {
        let parts: Vec<_> = path.split("::").map(str::trim).collect();
        (1..=parts.len()).rev().map(|n| parts[..n].join("/")).find(|it| all.contains_key(it))
    };
    inside.filter_map(longest).filter(|other| other != module).collect()
}

type Graph = BTreeMap<String, BTreeSet<String>>;

fn reached(graph: &Graph, from: &str) -> BTreeSet<String> {
    let (mut seen, mut left) = (BTreeSet::new(), vec![from.to_owned()]);
    while let Some(module) = left.pop() {
        let next = graph[&module].iter().filter(|next| seen.insert((*next).clone()));
        left.extend(next.cloned().collect::<Vec<_>>());
    }
    seen
}

/// The modules that import each other in circles.
fn circles(graph: &Graph) -> BTreeSet<BTreeSet<String>> {
    let all: BTreeMap<_, _> = graph.keys().map(|module| (module, reached(graph, module))).collect();
    let circle = |(module, reached): (&&String, &BTreeSet<String>)| {
        let both = reached.iter().filter(|other| all[other].contains(*module));
        both.cloned().collect::<BTreeSet<_>>()
    };
    all.iter().map(circle).filter(|circle| !circle.is_empty()).collect()
}

fn server() -> Graph {
    let all = modules("server");
    all.keys().map(|module| (module.clone(), imports("server", module, &all))).collect()
}

#[test]
fn modules_of_the_server_import_each_other_in_no_circle() {
    let graph = server();
    assert!(graph["core/rounds"].contains("core/connection"), "{graph:?}");
    let known = CIRCLES.map(|(circle, _)| circle.iter().map(ToString::to_string).collect());
    assert_eq!(circles(&graph), BTreeSet::from(known));
}

#[test]
fn core_of_the_server_imports_nothing_from_above() {
    let graph = server();
    for (module, imports) in graph.iter().filter(|(module, _)| module.starts_with("core/")) {
        let above = imports.iter().filter(|other| other.starts_with("driver"));
        let above: Vec<_> = above.filter(|other| !UPWARD.contains(&other.as_str())).collect();
        assert!(above.is_empty(), "{module} imports {above:?}");
    }
}

#[test]
fn core_of_the_server_names_no_runtime_and_no_transport() {
    for (module, source) in modules("server") {
        if module.starts_with("core") {
            let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
            let named = code.filter(|line| line.contains("tokio") || line.contains("AsyncRead"));
            assert_eq!(named.collect::<Vec<_>>(), [""; 0], "{module}");
        }
    }
}

#[test]
fn circles_are_found() {
    let graph = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph.entry((*to).to_owned()).or_default();
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        graph
    };
    assert!(circles(&graph(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
    let circle = BTreeSet::from(["a", "b", "c"].map(str::to_owned));
    let found = circles(&graph(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d")]));
    assert_eq!(found, BTreeSet::from([circle]));
}
