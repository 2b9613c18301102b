//! Modules import each other only in the circles that ARCHITECTURE.md names, and the cores know no
//! runtime.

mod graph;
mod paths;
mod tokens;

use self::graph::{Crate, circles};

/// The modules that name the struct at the root of their side. ARCHITECTURE.md, "Layers", says why.
const NAME_THEIR_ROOT: [(&str, &[&str]); 2] =
    [("client", &["client/builder", "client/by_hand", "client/driver/tls"]), ("server", &[])];

/// The circles that are there, apart from those through the root of a side. ARCHITECTURE.md,
/// "Layers", says why.
const CIRCLES: [&[&str]; 2] = [
    &["client/core/connection", "client/core/timers"],
    &["server/handlers/reply", "server/handlers/streamed"],
];

/// What each part may not import.
const ABOVE: [(&str, &[&str]); 4] = [
    ("client", &["server"]),
    ("server", &["client"]),
    ("topic", &["client", "server"]),
    ("protocol", &["client", "server", "topic", "error"]),
];

fn is_below(module: &str, folder: &str) -> bool {
    module.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[test]
fn modules_import_each_other_in_listed_cycles_only() {
    let mut graph = Crate::read().graph();
    assert!(graph["server/core/rounds"].contains("server/core/connection"));
    for imports in graph.values_mut() {
        imports.retain(|module| !NAME_THEIR_ROOT.iter().any(|(root, _)| module == root));
    }
    let circles = circles(&graph);
    let circles: Vec<Vec<_>> =
        circles.iter().map(|it| it.iter().map(String::as_str).collect()).collect();
    let unknown: Vec<_> = circles.iter().filter(|it| !CIRCLES.contains(&&it[..])).collect();
    let gone: Vec<_> = CIRCLES.iter().filter(|it| !circles.contains(&it.to_vec())).collect();
    assert!(unknown.is_empty() && gone.is_empty(), "not known: {unknown:?}, gone: {gone:?}");
}

#[test]
fn few_modules_name_the_struct_at_their_root() {
    let graph = Crate::read().graph();
    for (root, known) in NAME_THEIR_ROOT {
        let naming = graph.iter().filter(|(_, imports)| imports.contains(root));
        assert_eq!(naming.map(|(module, _)| module.as_str()).collect::<Vec<_>>(), known);
    }
}

#[test]
fn modules_import_nothing_from_above() {
    let graph = Crate::read().graph();
    for (part, above) in ABOVE {
        for (module, imports) in graph.iter().filter(|(module, _)| is_below(module, part)) {
            let is_above = |other: &&String| above.iter().any(|folder| is_below(other, folder));
            let above: Vec<_> = imports.iter().filter(is_above).collect();
            assert!(above.is_empty(), "{module} imports {above:?}");
        }
    }
}

#[test]
fn cores_import_nothing_from_their_drivers() {
    let graph = Crate::read().graph();
    for side in ["server", "client"] {
        let (core, driver) = (format!("{side}/core"), format!("{side}/driver"));
        for (module, imports) in graph.iter().filter(|(module, _)| is_below(module, &core)) {
            let above = imports.iter().filter(|other| is_below(other, &driver));
            assert_eq!(above.collect::<Vec<_>>(), [""; 0], "{module}");
        }
    }
}

#[test]
fn cores_name_no_runtime_and_no_transport() {
    for (module, code) in Crate::read().code() {
        if is_below(module, "server/core") || is_below(module, "client/core") {
            let named =
                code.iter().filter(|word| word.contains("tokio") || word.contains("AsyncRead"));
            assert_eq!(named.collect::<Vec<_>>(), [""; 0], "{module}");
        }
    }
}
