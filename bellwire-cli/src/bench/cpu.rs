//! The CPU time of this process.

use std::fs;

/// Linux reports in hundredths of a second to every program, whatever the kernel counts in.
const TICKS_PER_SECOND: f64 = 100.0;

/// The CPU time of all threads together in seconds, in user mode and in the kernel; `None` without
/// `/proc`.
pub(crate) fn seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name of the program, in parentheses, may hold spaces and parentheses itself.
    let (_, fields) = stat.rsplit_once(')')?;
    // In the text behind it, the state is field 3, utime 14 and stime 15 (proc_pid_stat(5)).
    let mut times = fields.split_ascii_whitespace().skip(11).map(str::parse::<u64>);
    let user = times.next()?.ok()?;
    let system = times.next()?.ok()?;
    Some((user + system) as f64 / TICKS_PER_SECOND)
}
