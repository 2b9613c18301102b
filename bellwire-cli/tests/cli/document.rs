//! docs/cli.md against the command.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::support::{Cli, bounded};

const DOCUMENT: &str = include_str!("../../../docs/cli.md");
/// What stands for anything in the expected output.
const ANYTHING: &str = "…";

/// Each `console` block of the document is what a user sees with an `offers_server`. The blocks are
/// replayed in order, in one folder, with one server.
#[tokio::test]
async fn transcripts_are_what_a_user_sees() {
    let cli = Cli::new();
    let (_server, address) = offers_server(&cli).await;
    let (mut wrong, mut in_background) = (Vec::new(), Vec::new());
    for (command, expected) in steps(DOCUMENT) {
        let shown = match command.strip_suffix('&') {
            None => shell(&cli, &address, &command).await,
            Some(command) => {
                let (shown, child) = begin(&cli, &address, command, expected.lines().count()).await;
                in_background.push(child);
                shown
            }
        };
        let shown = shown.replace(&address, "127.0.0.1:7440");
        if !matches(&shown, &expected) {
            wrong.push(format!("$ {command}\nexpected:\n{expected}shown:\n{shown}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The commands of the `console` blocks, each with its output.
fn steps(document: &str) -> Vec<(String, String)> {
    let mut steps: Vec<(String, String)> = Vec::new();
    let mut is_console = false;
    for line in document.lines() {
        match (line, line.strip_prefix("$ ")) {
            ("```console", _) => is_console = true,
            ("```", _) => is_console = false,
            _ if !is_console => {}
            (_, Some(command)) => steps.push((command.into(), String::new())),
            (output, None) => {
                let (command, expected) = steps.last_mut().expect("a command comes first");
                assert!(!command.ends_with('\\'), "a command is one line");
                *expected += &format!("{output}\n");
            }
        }
    }
    assert!(steps.len() > 20, "{}", steps.len());
    steps
}

/// Whether each line is as expected.
fn matches(shown: &str, expected: &str) -> bool {
    let (shown, expected): (Vec<_>, Vec<_>) = (shown.lines().collect(), expected.lines().collect());
    shown.len() == expected.len()
        && shown.iter().zip(expected).all(|(line, expected)| is_like(line, expected))
}

fn is_like(line: &str, expected: &str) -> bool {
    let mut parts = expected.split(ANYTHING);
    let Some(mut rest) = line.strip_prefix(parts.next().unwrap_or_default()) else { return false };
    let parts: Vec<_> = parts.collect();
    for (at, part) in parts.iter().enumerate() {
        let found = if at + 1 == parts.len() { rest.rfind(part) } else { rest.find(part) };
        let Some(found) = found else { return false };
        rest = &rest[found + part.len()..];
    }
    rest.is_empty()
}

/// What a command shows.
async fn shell(cli: &Cli, address: &str, command: &str) -> String {
    let output = in_folder(cli, address, command).output();
    let output = bounded(command, output).await.expect("a shell");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Starts a command. Returns its first lines, and the command, which goes on.
async fn begin(cli: &Cli, address: &str, command: &str, lines: usize) -> (String, Child) {
    let command = format!("exec {command}");
    let mut child = in_folder(cli, address, &command).spawn().expect("a shell");
    let mut output = BufReader::new(child.stdout.take().expect("piped")).lines();
    let mut shown = String::new();
    for _ in 0..lines {
        let line = bounded(&command, output.next_line()).await.expect("text");
        shown += &format!("{}\n", line.unwrap_or_default());
    }
    (shown, child)
}

fn in_folder(cli: &Cli, address: &str, command: &str) -> Command {
    let program = Path::new(env!("CARGO_BIN_EXE_bellwire"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", program.parent().expect("a folder").display());
    let mut shell = Command::new("sh");
    shell
        .args(["-c", &format!("exec 2>&1; {command}")])
        .current_dir(cli.home.path())
        .env("PATH", path)
        .env("XDG_CONFIG_HOME", cli.home.path())
        // The default address is another server's.
        .env("BELLWIRE_ADDR", address)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    shell
}

/// An `offers_server` on a free port: `cargo test` builds the examples, too.
async fn offers_server(cli: &Cli) -> (Child, String) {
    let program = beside_the_tests("offers_server");
    let mut child = Command::new(&program)
        .args(["--listen", "127.0.0.1:0", "--random-every", "0", "--stats"])
        .current_dir(cli.home.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; `cargo build --examples`", program.display()));
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = bounded("its address", lines.next_line()).await.expect("text").expect("a line");
    (child, line.strip_prefix("listening on ").expect("an address").to_owned())
}

fn beside_the_tests(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("a program has a path");
    tests.ancestors().nth(2).expect("a folder").join("examples").join(name)
}

#[test]
fn lines_are_compared_with_their_gaps() {
    assert!(is_like("took 12 ms, ok", "took … ms, ok") && is_like("a", "a") && is_like("x", "…"));
    assert!(!is_like("took 12 s, ok", "took … ms, ok") && !is_like("ab", "a"));
}
