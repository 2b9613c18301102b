//! A whole run: rounds over all rows, and then tables and plots.

use std::{
    fs::{self, File},
    io::Write,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};

use crate::{
    cpu, machine,
    memory::MemorySample,
    meter::Sample,
    results::{Entry, Outcome, Results},
    tables,
    work::{Kind, Work},
};

/// Cores that others may keep busy when a measurement begins.
const QUIET: f64 = 0.1;
/// What one measurement may take, in seconds.
const LONGEST: &str = "120";
/// Memory varies little, and takes long.
const MOST_ROUNDS_OF_MEMORY: usize = 2;

#[derive(clap::Args, Clone, Debug)]
pub struct Options {
    /// One short round, which shows that everything works; its figures say little
    #[arg(long)]
    quick: bool,
    /// Rounds [default: 5; quick: 1]
    #[arg(long)]
    runs: Option<usize>,
    /// Only these rows, by parts of their names
    #[arg(long, value_delimiter = ',')]
    rows: Vec<String>,
    /// Only these works
    #[arg(long, value_delimiter = ',')]
    work: Vec<Kind>,
    /// Before each measurement [default: 500; quick: 200]
    #[arg(long)]
    warm_up_ms: Option<u64>,
    /// How long one measurement takes [default: 1500; quick: 300]
    #[arg(long)]
    window_ms: Option<u64>,
    /// Connections where memory is measured [default: 10000; quick: 1000]
    #[arg(long)]
    connections: Option<usize>,
    /// How long to wait before each measurement until other programs are quiet [default: 20; quick: 0]
    #[arg(long)]
    patience_s: Option<u64>,
    /// Where the tables and plots are written
    #[arg(long)]
    out: PathBuf,
    /// Where each measurement is written as a line of JSON
    #[arg(long)]
    log: PathBuf,
    /// Measures nothing, and makes the tables and plots of an earlier log
    #[arg(long)]
    render: bool,
}

impl Options {
    fn rounds(&self) -> usize {
        self.runs.unwrap_or(if self.quick { 1 } else { 5 })
    }

    pub fn warm_up_ms(&self) -> u64 {
        self.warm_up_ms.unwrap_or(if self.quick { 200 } else { 500 })
    }

    pub fn window_ms(&self) -> u64 {
        self.window_ms.unwrap_or(if self.quick { 300 } else { 1500 })
    }

    pub fn connections(&self) -> usize {
        self.connections.unwrap_or(if self.quick { 1000 } else { 10_000 })
    }

    fn patience(&self) -> Duration {
        Duration::from_secs(self.patience_s.unwrap_or(if self.quick { 0 } else { 20 }))
    }

    fn wants(&self, work: Work, row: &str) -> bool {
        let is_row = self.rows.is_empty() || self.rows.iter().any(|part| row.contains(part));
        let is_work = self.work.is_empty() || self.work.contains(&work.kind());
        is_row && is_work
    }
}

pub fn run(options: &Options) -> Result<()> {
    fs::create_dir_all(&options.out)?;
    if !options.render {
        measure_all(options)?;
    }
    let results = Results::read(&options.log)?;
    let note =
        options.quick.then_some("This was a quick run: it shows that everything works, no more.");
    let machine = fs::read_to_string(machine_file(options))?;
    tables::write(&results, &machine, &options.out, note)
}

/// Date, machine and versions of the log beside it, which are others when it is rendered later.
fn machine_file(options: &Options) -> PathBuf {
    options.log.with_extension("machine.md")
}

/// Round after round over all rows of all works.
fn measure_all(options: &Options) -> Result<()> {
    if let Some(directory) = options.log.parent() {
        fs::create_dir_all(directory)?;
    }
    let mut log = File::create(&options.log)?;
    fs::write(machine_file(options), machine::describe())?;
    let cells: Vec<_> = Work::all()
        .into_iter()
        .flat_map(|work| work.rows().into_iter().map(move |row| (work, row)))
        .filter(|(work, row)| options.wants(*work, row))
        .collect();
    ensure!(!cells.is_empty(), "no row of any work has such a name");
    for round in 0..options.rounds() {
        for (work, row) in &cells {
            if work.kind() == Kind::Memory && round >= MOST_ROUNDS_OF_MEMORY {
                continue;
            }
            wait_until_quiet(options.patience())?;
            let outcome = measure(*work, row, options)?;
            eprintln!("round {}: {}, {row}: {outcome}", round + 1, work.title());
            let entry = Entry { work: *work, row: row.clone(), round, outcome };
            writeln!(log, "{}", serde_json::to_string(&entry)?)?;
        }
    }
    Ok(())
}

/// One measurement, in a process of its own that `timeout` ends if it does not end by itself.
fn measure(work: Work, row: &str, options: &Options) -> Result<Outcome> {
    let program = std::env::current_exe()?;
    let output = Command::new("timeout")
        .arg(LONGEST)
        .arg(program)
        .args(work.arguments(row, options))
        .output()
        .context("cannot run timeout")?;
    if !output.status.success() {
        let message = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Ok(Outcome::Failed(format!("{}: {message}", output.status)));
    }
    Ok(match work.kind() {
        Kind::Memory => {
            let sample: MemorySample = serde_json::from_slice(&output.stdout)?;
            Outcome::Bytes(sample.bytes_per_connection)
        }
        _ => Outcome::Rate(serde_json::from_slice::<Sample>(&output.stdout)?),
    })
}

fn wait_until_quiet(patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    while Instant::now() < deadline {
        let (before, began) = (cpu::of_machine()?, Instant::now());
        thread::sleep(Duration::from_millis(200));
        let busy = (cpu::of_machine()? - before).as_secs_f64();
        if busy / began.elapsed().as_secs_f64() <= QUIET {
            break;
        }
    }
    Ok(())
}
