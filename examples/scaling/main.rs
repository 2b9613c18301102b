//! What twice as much costs: `cargo run --release --example scaling [DIRECTORY]`
//!
//! Opens 100,000 connections in this process, calls once over each, and prints what they take in memory.
//! Then it doubles, one after the other: the callers of one connection, the connections, the subscribers
//! of one topic, the topics of one connection, and the history that a subscriber reads. The work grows
//! with each of them, so each doubling should take twice the CPU time at most.
//!
//! Both ends run in one thread, over pipes, so that only bellwire and the scheduler are measured.
//! Each figure is the median of five runs. With a DIRECTORY, writes `scaling.md` and `scaling.svg`
//! there. Ends with 1 if the doublings of a work take more than 2.5 times the CPU time on average.
//! A doubling can take more than twice the time when the memory of all connections outgrows a
//! cache. Linux: it reads /proc. Takes about half a minute and 1 GB of memory.

#[macro_use]
#[path = "../shared/print.rs"]
mod print;
#[path = "../shared/chart.rs"]
mod chart;
mod plot;
mod work;

use std::{
    error::Error,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use crate::work::{MANY, Work};

/// How often the smallest size is doubled.
const DOUBLINGS: usize = 7;
const RUNS: usize = 5;
/// The most that a doubling may cost on average: twice as much, and an allowance for outgrown
/// caches. With a quadratic cost it would be 4 times as much.
const LIMIT: f64 = 2.5;

/// The CPU time of each size of a work.
pub(crate) struct Series {
    pub(crate) work: Work,
    pub(crate) sizes: Vec<(usize, Duration)>,
}

impl Series {
    async fn measure(work: Work) -> Self {
        let mut sizes = Vec::new();
        for doubling in 0..=DOUBLINGS {
            let size = work.smallest() << doubling;
            let mut times = Vec::new();
            for _ in 0..RUNS {
                times.push(work.run(size).await);
            }
            times.sort_unstable();
            sizes.push((size, times[RUNS / 2]));
        }
        Self { work, sizes }
    }

    /// The average factor of a doubling.
    fn per_doubling(&self) -> f64 {
        let time = |size: Option<&(usize, Duration)>| size.map_or(0.0, |size| size.1.as_secs_f64());
        (time(self.sizes.last()) / time(self.sizes.first())).powf(1.0 / DOUBLINGS as f64)
    }
}

fn main() -> Result<ExitCode, Box<dyn Error + Send + Sync>> {
    let directory = std::env::args().nth(1).map(PathBuf::from);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // First, because memory that was used before would hide the growth.
    let many = runtime.block_on(runtime.spawn(work::many_connections()))??;
    println!("{many}\n");
    let mut all = Vec::new();
    for work in Work::ALL {
        // As a task, because the runtime polls the future of `block_on` more often than a task.
        let series = runtime.block_on(runtime.spawn(Series::measure(work)))?;
        println!("{}", table(&series));
        all.push(series);
    }
    if let Some(directory) = directory {
        write(&directory, &all, &many)?;
    }
    let most = all.iter().map(Series::per_doubling).fold(0.0, f64::max);
    println!(
        "a doubling took up to {most:.2} times the CPU time on average; at most {LIMIT} are right"
    );
    Ok(if most <= LIMIT { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn table(series @ Series { work, sizes }: &Series) -> String {
    let mut table = format!("{}\n\n", work.title());
    table.push_str("| size | CPU, ms | against half the size |\n|---|---|---|\n");
    let ratios = [None].into_iter().chain(
        sizes.windows(2).map(|pair| Some(pair[1].1.as_secs_f64() / pair[0].1.as_secs_f64())),
    );
    for ((size, time), ratio) in sizes.iter().zip(ratios) {
        let ratio = ratio.map_or("–".to_owned(), |ratio| format!("{ratio:.2}"));
        let millis = time.as_secs_f64() * 1_000.0;
        writeln!(table, "| {size} | {millis:.1} | {ratio} |").expect("a String takes everything");
    }
    let average = series.per_doubling();
    writeln!(table, "\n{average:.2} for each doubling on average.")
        .expect("a String takes everything");
    table
}

fn write(directory: &Path, all: &[Series], many: &str) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut page = String::from(
        "# What twice as much costs\n\nWritten by `cargo run --release --example scaling`: CPU time of both ends in one \
         thread, over pipes,\nmedians of five runs. The work grows with the size.\n\n![CPU time by size](scaling.svg)\n",
    );
    for series in all {
        write!(page, "\n## {}", table(series))?;
    }
    write!(page, "\n## {MANY} connections in one process\n\n{many}\n")?;
    fs::create_dir_all(directory)?;
    fs::write(directory.join("scaling.md"), page)?;
    fs::write(directory.join("scaling.svg"), plot::svg(all))?;
    Ok(())
}
