//! Modules import each other only in the circles that ARCHITECTURE.md names, and the cores know no
//! runtime.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Circles that may be there, by side. ARCHITECTURE.md, "Layers", says why.
const CIRCLES: [(&str, &[&str]); 2] = [
    ("server", &["handlers/reply", "handlers/streamed"]),
    ("client", &["core/connection", "core/timers"]),
];

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

fn graph(side: &str) -> Graph {
    let all = modules(side);
    all.keys().map(|module| (module.clone(), imports(side, module, &all))).collect()
}

#[test]
fn modules_import_each_other_in_known_circles_only() {
    assert!(graph("server")["core/rounds"].contains("core/connection"));
    for side in ["server", "client", "topic", "protocol"] {
        let known = |circle: &BTreeSet<String>| {
            let mut own = CIRCLES.iter().filter(|(known, _)| *known == side);
            own.any(|(_, known)| circle.iter().all(|module| known.contains(&module.as_str())))
        };
        let unknown: Vec<_> =
            circles(&graph(side)).into_iter().filter(|circle| !known(circle)).collect();
        assert!(unknown.is_empty(), "{side}: {unknown:?}");
    }
}

#[test]
fn cores_import_nothing_from_their_drivers() {
    for side in ["server", "client"] {
        let graph = graph(side);
        for (module, imports) in graph.iter().filter(|(module, _)| module.starts_with("core/")) {
            let above = imports.iter().filter(|other| other.starts_with("driver"));
            let above: Vec<_> = above.collect();
            assert!(above.is_empty(), "{side}: {module} imports {above:?}");
        }
    }
}

#[test]
fn cores_name_no_runtime_and_no_transport() {
    for side in ["server", "client"] {
        for (module, source) in modules(side) {
            if module.starts_with("core") {
                let code = source.lines().filter(|line| !line.trim_start().starts_with("//"));
                let named =
                    code.filter(|line| line.contains("tokio") || line.contains("AsyncRead"));
                assert_eq!(named.collect::<Vec<_>>(), [""; 0], "{side}: {module}");
            }
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
