//! The machine, the time and the versions of a run.

use std::{fs, process::Command, thread::available_parallelism};

const LOCK: &str = include_str!("../Cargo.lock");
/// The crates whose versions matter.
const CRATES: [&str; 8] =
    ["tokio", "redis", "fred", "tarpc", "tonic", "jsonrpsee", "async-nats", "bellwire"];

/// Lines of markdown.
pub fn describe() -> String {
    let cores = available_parallelism().map_or(1, usize::from);
    let release = read("/proc/sys/kernel/osrelease");
    // The text behind the first `-` names the distributor's build.
    let kernel = release.split('-').next().unwrap_or_default();
    let crates: Vec<_> = CRATES.iter().map(|name| format!("{name} {}", version_of(name))).collect();
    [
        format!("- Date: {} UTC", output_of("date", &["-u", "+%F %H:%M"])),
        format!("- Machine: {}, {cores} cores, Linux {kernel}", processor()),
        format!("- Compiler: {}, release with fat LTO", env!("RUSTC_VERSION")),
        format!("- Crates: {}", crates.join(", ")),
        format!(
            "- Servers: redis-server {}, nats-server {}",
            number_in(&output_of("redis-server", &["--version"]), "v="),
            number_in(&output_of("nats-server", &["--version"]), "v")
        ),
        format!("- Commit: {}", output_of("git", &["describe", "--always", "--dirty"])),
        format!("- Command: `{}`", std::env::var("PEERS_COMMAND").unwrap_or_default()),
    ]
    .map(|line| line + "\n")
    .concat()
}

fn processor() -> String {
    let text = read("/proc/cpuinfo");
    let model = text.lines().find_map(|line| line.strip_prefix("model name"));
    model.map_or("an unknown processor", |model| model.trim_start_matches([' ', '\t', ':'])).into()
}

fn version_of(name: &str) -> &'static str {
    let entry = format!("name = \"{name}\"\nversion = \"");
    let (_, rest) = LOCK.split_once(&entry).unwrap_or_default();
    rest.split_once('"').map_or("unknown", |(version, _)| version)
}

/// The word behind `mark` that begins with a digit.
fn number_in(text: &str, mark: &str) -> String {
    let words = text.split_whitespace().filter_map(|word| word.strip_prefix(mark));
    let mut numbers = words.filter(|word| word.starts_with(|c: char| c.is_ascii_digit()));
    numbers.next().unwrap_or("unknown").into()
}

fn output_of(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    text.ok().filter(|text| !text.is_empty()).unwrap_or_else(|| "unknown".into())
}

fn read(path: &str) -> String {
    fs::read_to_string(path).map(|text| text.trim().to_owned()).unwrap_or_default()
}
