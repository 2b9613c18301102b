//! CPU time and memory of this process and of the servers that it started. Linux.

use std::{fs, time::Duration};

use anyhow::{Context, Result};
use rustix::{
    process::{Resource, getrlimit, setrlimit},
    time::{ClockId, clock_gettime},
};

/// Linux reports in hundredths of a second, whatever the kernel counts in.
const TICK: Duration = Duration::from_millis(10);

/// The CPU time of this process and of the servers with these process ids, in user mode and in the
/// kernel.
#[derive(Clone, Debug, Default)]
pub struct CpuClock {
    servers: Vec<u32>,
}

impl CpuClock {
    pub fn new(servers: Vec<u32>) -> Self {
        Self { servers }
    }

    pub fn total(&self) -> Result<Duration> {
        let own = clock_gettime(ClockId::ProcessCPUTime);
        let own = Duration::new(own.tv_sec as u64, own.tv_nsec as u32);
        self.servers.iter().try_fold(own, |sum, pid| Ok(sum + cpu_of(*pid)?))
    }
}

fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("the server process {pid} is gone"))?;
    // The name of the program, in parentheses, may hold spaces and parentheses itself.
    let (_, fields) = stat.rsplit_once(')').context("a malformed stat")?;
    // After it: the state is field 3, utime 14 and stime 15 (proc_pid_stat(5)).
    sum_of_ticks(fields.split_whitespace().skip(11).take(2))
}

/// The CPU time that the whole machine has spent, without idle time and waits for disks.
pub fn of_machine() -> Result<Duration> {
    let stat = fs::read_to_string("/proc/stat")?;
    let line = stat.lines().next().context("an empty /proc/stat")?;
    // user nice system idle iowait irq softirq steal (proc_stat(5))
    let is_busy = |column: &usize| !matches!(column, 3 | 4);
    let columns = line.split_whitespace().skip(1).take(8).enumerate();
    sum_of_ticks(columns.filter(|(column, _)| is_busy(column)).map(|(_, ticks)| ticks))
}

fn sum_of_ticks<'a>(ticks: impl Iterator<Item = &'a str>) -> Result<Duration> {
    let sum: u64 = ticks.map(str::parse::<u64>).sum::<Result<_, _>>()?;
    Ok(TICK * u32::try_from(sum)?)
}

/// The resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.split_whitespace().next().context("an empty VmRSS")?.parse()?;
    Ok(kib * 1024)
}

/// Raises the limit of open files as far as this process may.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If it fails, a run that needs more files fails and says so.
    let _ = setrlimit(Resource::Nofile, limit);
}
