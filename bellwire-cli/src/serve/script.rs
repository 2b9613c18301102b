//! A method that runs a command.

use std::{
    os::unix::process::ExitStatusExt,
    process::{ExitStatus, Stdio},
    sync::Arc,
    time::Duration,
};

use bellwire::{
    Failure,
    protocol::Code,
    server::{FromRequest, Principal, Rejection, RequestParts},
};
use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    process::{Child, Command},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::serve::watch::Watch;

/// The bytes at the end of stderr that are kept.
const STDERR_KEPT: usize = 4 << 10;
/// The bytes of the last line that a caller gets.
const REASON_SHOWN: usize = 200;
const BUFFER: usize = 8 << 10;

const FAILED: Code = Code::from_static("failed");
const TIMEOUT: Code = Code::from_static("timeout");

/// The bounds of all commands together.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    /// How long a command may run.
    pub(crate) time: Duration,
    /// The bytes of its stdout.
    pub(crate) output: usize,
    /// The commands that run at the same time.
    pub(crate) processes: usize,
    /// The calls that wait for one of them to end.
    pub(crate) queue: usize,
}

/// The limits, what is free of them, and what ends the commands if the server is killed.
pub(crate) struct Slots {
    limits: Limits,
    watch: Watch,
    /// A permit for each call, whether it runs or waits.
    calls: Arc<Semaphore>,
    /// A permit for each process.
    processes: Semaphore,
}

impl Slots {
    pub(crate) fn new(limits: Limits, watch: Watch) -> Self {
        let calls = Arc::new(Semaphore::new(limits.processes + limits.queue));
        Self { limits, watch, calls, processes: Semaphore::new(limits.processes) }
    }
}

/// A command by which a method is answered.
#[derive(Clone)]
pub(crate) struct Script {
    method: String,
    command: String,
    slots: Arc<Slots>,
}

impl Script {
    pub(crate) fn new(method: &str, command: &str, slots: Arc<Slots>) -> Self {
        Self { method: method.into(), command: command.into(), slots }
    }

    /// Waits for a place, and runs the command.
    pub(crate) async fn run(&self, caller: Principal, payload: Bytes) -> Result<Vec<u8>, Failure> {
        let Slots { limits, processes, .. } = &*self.slots;
        let _place = processes.acquire().await.map_err(|_| internal("no process is free"))?;
        let mut process = Process::start(self, &caller)?;
        match timeout(limits.time, process.answer(payload, limits.output)).await {
            Ok(answer) => answer,
            Err(_) => Err(Failure::new(
                TIMEOUT,
                format!("the command did not end within {:?}, and was killed", limits.time),
            )),
        }
    }
}

/// A running command. Dropping it kills the command, and what the command has started.
struct Process<'a> {
    child: Child,
    group: Group<'a>,
}

impl<'a> Process<'a> {
    fn start(script: &'a Script, caller: &Principal) -> Result<Self, Failure> {
        let child = Command::new("sh")
            .args(["-c", &script.command])
            .env("BELLWIRE_METHOD", &script.method)
            .env("BELLWIRE_PRINCIPAL", caller.name().unwrap_or_default())
            // Tokens of the operator are no business of a command.
            .env_remove("BELLWIRE_TOKEN")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                eprintln!("{}: cannot start the command: {error}", script.method);
                internal("the command cannot be started")
            })?;
        let id = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        Ok(Self { child, group: Group::new(id, &script.slots.watch) })
    }

    /// Writes stdin, and reads stdout and stderr, until the command has ended.
    async fn answer(&mut self, payload: Bytes, most: usize) -> Result<Vec<u8>, Failure> {
        let Self { child, group } = self;
        let stdin = child.stdin.take();
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let writing = async {
            if let Some(mut stdin) = stdin {
                // A command need not read its stdin.
                let _ = stdin.write_all(&payload).await;
            }
            Ok(())
        };
        let ending = async {
            let status = child.wait().await.map_err(|_| internal("the command is lost"))?;
            // What it has left in the background would hold stdout open, and be counted nowhere.
            group.kill();
            Ok(status)
        };
        let (output, errors, (), status) =
            tokio::try_join!(read_all(stdout, most), read_end(stderr), writing, ending)?;
        match status.success() {
            true => Ok(output),
            false => Err(Failure::new(FAILED, reason(status, &errors))),
        }
    }
}

/// The process group of a command. It is killed once: by the end of the command, or when this is
/// dropped.
///
/// A group that has ended may be killed in vain. Its number is not another's by then: the system
/// gives a number again only after all others, and no group has the number while a process of it is
/// there.
struct Group<'a> {
    id: Option<Pid>,
    watch: &'a Watch,
}

impl<'a> Group<'a> {
    fn new(id: Option<Pid>, watch: &'a Watch) -> Self {
        if let Some(id) = id {
            watch.add(id);
        }
        Self { id, watch }
    }

    fn kill(&mut self) {
        if let Some(id) = self.id.take() {
            let _ = kill_process_group(id, Signal::KILL);
            self.watch.remove(id);
        }
    }
}

impl Drop for Group<'_> {
    fn drop(&mut self) {
        self.kill();
    }
}

/// All of stdout, without a line feed at its end. Too much of it is an error.
async fn read_all(stdout: Option<impl AsyncRead + Unpin>, most: usize) -> Result<Vec<u8>, Failure> {
    let mut output = Vec::new();
    if let Some(stdout) = stdout {
        let read = stdout.take(most as u64 + 2).read_to_end(&mut output).await;
        read.map_err(|_| internal("the output of the command cannot be read"))?;
    }
    output.pop_if(|byte| *byte == b'\n');
    match output.len() > most {
        true => Err(Failure::new(
            Code::TOO_LARGE,
            format!("the command wrote more than {most} bytes, and was killed"),
        )),
        false => Ok(output),
    }
}

/// The end of stderr. All of it is read, so that the command never waits for that.
async fn read_end(stderr: Option<impl AsyncRead + Unpin>) -> Result<Vec<u8>, Failure> {
    let (mut end, mut buffer) = (Vec::new(), vec![0; BUFFER]);
    let Some(mut stderr) = stderr else { return Ok(end) };
    loop {
        match stderr.read(&mut buffer).await {
            Ok(0) | Err(_) => return Ok(end),
            Ok(read) => end.extend_from_slice(&buffer[..read]),
        }
        end.drain(..end.len().saturating_sub(STDERR_KEPT));
    }
}

/// The last line of stderr that is not empty, or how the command ended.
fn reason(status: ExitStatus, errors: &[u8]) -> String {
    let lines = errors.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
    match lines.rev().find(|line| !line.is_empty()) {
        // Clients escape what they show.
        Some(line) => String::from_utf8_lossy(&line[..line.len().min(REASON_SHOWN)]).into_owned(),
        None => match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => format!("killed by signal {signal}"),
            _ => "it failed".into(),
        },
    }
}

fn internal(what: &str) -> Failure {
    Failure::new(Code::INTERNAL, what)
}

/// The place of a call, from its request to its reply.
pub(crate) struct Place(#[allow(dead_code, reason = "it is held")] OwnedSemaphorePermit);

impl FromRequest<Arc<Slots>> for Place {
    fn from_request(_: &RequestParts<'_>, slots: &Arc<Slots>) -> Result<Self, Rejection> {
        let place = slots.calls.clone().try_acquire_owned();
        place.map(Self).map_err(|_| {
            Rejection::busy("too many calls run and wait").retry(Duration::from_millis(200))
        })
    }
}
