//! What README.md shows is what is there.

const README: &str = include_str!("../../README.md");

/// The server and the client of the README are the examples, to the letter.
#[test]
fn the_readme_shows_the_minimal_examples() {
    let shown: Vec<&str> = README
        .split("```rust\n")
        .skip(1)
        .filter_map(|block| block.split("```").next())
        .map(str::trim_end)
        .collect();
    let examples = [
        include_str!("../../examples/minimal_server.rs"),
        include_str!("../../examples/minimal_client.rs"),
    ];
    assert_eq!(shown, examples.map(str::trim_end));
    assert!(examples.iter().all(|example| example.lines().count() < 27));
}

/// The two commands of the README are those that are promised to be enough.
#[test]
fn the_readme_names_the_two_commands_and_ci_runs_the_second() {
    let commands: Vec<&str> =
        README.split("```sh\n").skip(1).filter_map(|block| block.lines().next()).take(2).collect();
    assert_eq!(commands, ["cargo run --example tour", "cargo test --all-features"]);
    assert!(include_str!("../../.ci/run").lines().any(|line| line == commands[1]));
}
