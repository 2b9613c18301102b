//! Ends the commands of a server that was killed.
//!
//! A server ends its commands by itself, except if it is killed (SIGKILL, or the terminal is closed).
//! So a second process knows their process groups. Its stdin is a pipe from the server, which ends
//! however the server ends. Then it kills the groups that are left.

use std::{
    collections::BTreeSet,
    env,
    io::{self, BufRead, Write, stdin},
    os::unix::process::CommandExt,
    process::{ChildStdin, Command, ExitCode, Stdio},
    sync::Mutex,
};

use rustix::process::{Pid, Signal, kill_process_group};

/// The argument by which the command becomes the second process.
const ARGUMENT: &str = "__watch-commands";

/// The server's end of the pipe.
#[derive(Debug)]
pub(crate) struct Watch(Mutex<ChildStdin>);

impl Watch {
    /// Starts the second process, in a process group of its own, so that Ctrl-C does not reach it.
    pub(crate) fn start() -> io::Result<Self> {
        let mut child = Command::new(env::current_exe()?)
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()?;
        let stdin = child.stdin.take().ok_or_else(|| io::Error::other("it has no stdin"))?;
        Ok(Self(Mutex::new(stdin)))
    }

    /// A command has started.
    pub(crate) fn add(&self, group: Pid) {
        self.tell('+', group);
    }

    /// A command has ended, or was killed.
    pub(crate) fn remove(&self, group: Pid) {
        self.tell('-', group);
    }

    /// The pipe has room for thousands of lines, and the second process does nothing but read them.
    /// Without it the server goes on.
    fn tell(&self, sign: char, group: Pid) {
        let line = format!("{sign}{}\n", group.as_raw_nonzero());
        let mut pipe = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let _ = pipe.write_all(line.as_bytes());
    }
}

/// Is the second process, if this process was started as such.
pub(crate) fn run_as_watch() -> Option<ExitCode> {
    let is_watch = env::args_os().nth(1).is_some_and(|argument| argument == ARGUMENT);
    is_watch.then(|| {
        for group in groups_left(stdin().lock()) {
            if let Some(group) = Pid::from_raw(group) {
                // It may have ended by itself.
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
        ExitCode::SUCCESS
    })
}

/// Reads to the end. Returns the groups that were added and not removed.
fn groups_left(lines: impl BufRead) -> BTreeSet<i32> {
    let mut groups = BTreeSet::new();
    for line in lines.lines().map_while(Result::ok) {
        let Some((sign, Ok(group))) =
            line.split_at_checked(1).map(|(sign, group)| (sign, group.parse()))
        else {
            continue;
        };
        match sign {
            "+" => groups.insert(group),
            _ => groups.remove(&group),
        };
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_that_were_removed_are_not_left() {
        let left = groups_left(&b"+7\n+8\n-7\n+9\nnonsense\n-9\n+9\n"[..]);
        assert!(left.into_iter().eq([8, 9]));
    }
}
