//! README.md against the examples and CI.

use std::collections::BTreeSet;

const README: &str = include_str!("../../README.md");

/// The code blocks of this kind, without blank lines at their ends.
fn blocks(kind: &str) -> Vec<&'static str> {
    let opening = format!("```{kind}\n");
    let split = README.split(opening.as_str()).skip(1);
    split.filter_map(|block| block.split("```").next()).map(str::trim_end).collect()
}

/// The lines between `// recipe NAME` and `// end` in tests/it/recipes.rs, by name, unindented.
fn recipes() -> Vec<(&'static str, String)> {
    let (mut found, mut open) = (Vec::new(), None);
    for line in include_str!("recipes.rs").lines() {
        match (line.trim().strip_prefix("// recipe "), &mut open) {
            (Some(name), None) => open = Some((name, line.len() - line.trim_start().len(), vec![])),
            (None, Some(_)) if line.trim() == "// end" => {
                let (name, _, lines) = open.take().expect("it is open");
                found.push((name, lines.join("\n")));
            }
            (None, Some((_, indent, lines))) => lines.push(line.get(*indent..).unwrap_or_default()),
            (None, None) => {}
            (Some(name), Some(_)) => panic!("recipe {name} begins within another"),
        }
    }
    found
}

/// All Rust in README.md is an example or a recipe, to the letter, and no recipe is missing.
#[test]
fn the_readme_shows_the_minimal_examples_and_the_recipes() {
    let examples = [
        include_str!("../../examples/minimal_server.rs"),
        include_str!("../../examples/minimal_client.rs"),
    ];
    assert!(examples.iter().all(|example| example.lines().count() < 27));
    let recipes = recipes();
    let shown: BTreeSet<_> = blocks("rust").into_iter().collect();
    let expected: BTreeSet<_> = recipes
        .iter()
        .map(|(_, text)| text.trim_end())
        .chain(examples.iter().map(|example| example.trim_end()))
        .collect();
    assert_eq!(shown, expected);
}

/// The two commands of the README are those that are promised to be enough.
#[test]
fn the_readme_names_the_two_commands_and_ci_runs_the_second() {
    let commands: Vec<&str> =
        blocks("sh").iter().filter_map(|block| block.lines().next()).take(2).collect();
    assert_eq!(commands, ["cargo run --example tour", "scripts/test.sh"]);
    assert!(include_str!("../../.ci/run").lines().any(|line| line == commands[1]));
}
