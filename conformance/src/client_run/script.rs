//! The script of a client case: what the runner says and waits for, as the server and as the user
//! of the testee. TESTEE.md describes the lines.

use std::time::Duration;

use crate::{case::Case, client_run::websocket::Answer};

/// One step, and the line of the file that it begins on.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// `T:` A command for the testee.
    Tell(String),
    /// `T>` The testee's next event; a run of `T~`, in any order.
    Report(Lines),
    /// `S:` and the `S+` behind it: lines in one write. `S-` writes bytes without a LF. `S!` is a
    /// line that the grammar does not allow.
    Write {
        lines: Vec<String>,
        kind: Kind,
    },
    /// `C:` The client's next line; a run of `C~`, in any order.
    Read(Lines),
    /// `!connect`, with options of the testee's `connect`: tells the testee to connect, accepts,
    /// says hello, and waits for `connected`.
    Connect(String),
    /// `!accept NAME`: the client's next connection, called NAME from here on.
    Accept(String),
    /// `!on NAME`: the lines from here on are those of this connection.
    On(String),
    /// `!hello ATTRIBUTES`: writes a hello, with further attributes.
    Hello(String),
    /// `!close`: the server closes the connection.
    Close,
    /// `!closed`: the client closes the connection, or its direction of it.
    Closed,
    /// `!credit ID N`: waits until the client has given N items of credit for the request.
    Credit {
        id: String,
        items: u64,
    },
    /// `!silence MS`: for so long the client writes nothing, and the testee reports nothing.
    Silence(Duration),
    /// `!wait MS`: time passes.
    Wait(Duration),
    /// `!mark`: time is measured from here on.
    Mark,
    /// `!after MS`: at least so much time has passed since the mark.
    After(Duration),
    /// `!within MS`: at most so much time has passed since the mark.
    Within(Duration),
    /// `!storm MS MOST LINE => ANSWER`: for so long each such line of the client is answered at
    /// once, and there are 1 to MOST.
    Storm {
        time: Duration,
        most: usize,
        line: String,
        answer: String,
    },
    /// `!drop-all MS MOST`: for so long each connection of the client is closed at once, and
    /// there are 1 to MOST.
    DropAll {
        time: Duration,
        most: usize,
    },
    /// `!mind METHOD`: the runner does not answer this protocol method by itself.
    Mind,
    /// `!hold`: the server stops reading the connection; `!read`: it reads again.
    Hold,
    ReadOn,
    /// `!answer STATUS [CHANGES]`: from here on, requests for a WebSocket are answered with this
    /// status and these headers.
    Answer(Answer),
    /// `!frame FIRST [PAYLOAD]`: the server writes a frame; `!masked`, with a mask.
    Frame {
        first: u8,
        is_masked: bool,
        payload: String,
    },
    /// `!pong [PAYLOAD]`: the client's next pong.
    Pong(String),
    /// `!ended CODE`: the client closes a WebSocket with this code.
    Ended(u16),
}

/// What is expected next.
#[derive(Clone, Debug)]
pub(crate) struct Lines {
    pub(crate) lines: Vec<String>,
    /// Whether they come in any order.
    is_run: bool,
}

/// What a server's write is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    WellFormed,
    Malformed,
    /// Without a LF.
    Part,
}

impl Lines {
    fn one(line: String) -> Self {
        Self { lines: vec![line], is_run: false }
    }

    fn run(line: String) -> Self {
        Self { lines: vec![line], is_run: true }
    }
}

/// The steps of a case.
///
/// # Errors
/// A line that is no step, and which.
pub(crate) fn steps(case: &Case) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    for (line, text) in &case.script {
        let at = |why| format!("{}:{line}: {why}", case.file);
        for text in repeated(text).map_err(at)? {
            match continued(&mut steps, &text) {
                true => {}
                false => steps.push(Step { line: *line, what: what(&text).map_err(at)? }),
            }
        }
    }
    Ok(steps)
}

/// `!repeat N LINE` is LINE, N times, with the number for `<n>`.
fn repeated(text: &str) -> Result<Vec<String>, String> {
    let Some(after) = text.strip_prefix("!repeat ") else { return Ok(vec![text.to_owned()]) };
    let (count, line) = after.split_once(' ').ok_or("usage: !repeat N LINE")?;
    let count: usize = count.parse().map_err(|_| "usage: !repeat N LINE")?;
    Ok((1..=count).map(|n| line.replace("<n>", &n.to_string())).collect())
}

/// Appends a line to the step before it, if it belongs to that one.
fn continued(steps: &mut [Step], text: &str) -> bool {
    let Some(Step { what, .. }) = steps.last_mut() else { return false };
    match (what, text.split_at_checked(3)) {
        (What::Write { lines, kind }, Some(("S+ ", line))) if *kind != Kind::Part => {
            lines.push(line.to_owned());
        }
        (What::Read(run), Some(("C~ ", line))) if run.is_run => run.lines.push(line.to_owned()),
        (What::Report(run), Some(("T~ ", line))) if run.is_run => run.lines.push(line.to_owned()),
        _ => return false,
    }
    true
}

fn what(text: &str) -> Result<What, String> {
    if let Some((mark, line)) = text.split_at_checked(3) {
        let line = line.to_owned();
        match mark {
            "T: " => return Ok(What::Tell(line)),
            "T> " => return Ok(What::Report(Lines::one(line))),
            "T~ " => return Ok(What::Report(Lines::run(line))),
            "S: " => return Ok(What::Write { lines: vec![line], kind: Kind::WellFormed }),
            "S! " => return Ok(What::Write { lines: vec![line], kind: Kind::Malformed }),
            "S- " => return Ok(What::Write { lines: vec![line], kind: Kind::Part }),
            "C: " => return Ok(What::Read(Lines::one(line))),
            "C~ " => return Ok(What::Read(Lines::run(line))),
            _ => {}
        }
    }
    let (word, after) = text.split_once(' ').unwrap_or((text, ""));
    Ok(match word {
        "S!" => What::Write { lines: vec![String::new()], kind: Kind::Malformed },
        "!connect" => What::Connect(after.to_owned()),
        "!accept" => What::Accept(after.to_owned()),
        "!on" => What::On(after.to_owned()),
        "!hello" => What::Hello(after.to_owned()),
        "!close" => What::Close,
        "!closed" => What::Closed,
        "!silence" => What::Silence(time(after)?),
        "!wait" => What::Wait(time(after)?),
        "!mark" => What::Mark,
        "!after" => What::After(time(after)?),
        "!within" => What::Within(time(after)?),
        "!mind" => What::Mind,
        "!hold" => What::Hold,
        "!read" => What::ReadOn,
        "!answer" => answer(after)?,
        "!frame" | "!masked" => frame(after, word == "!masked")?,
        "!pong" => What::Pong(after.to_owned()),
        "!ended" => What::Ended(after.parse().map_err(|_| "usage: !ended CODE")?),
        "!credit" => credit(after)?,
        "!storm" => storm(after)?,
        "!drop-all" => drop_all(after)?,
        _ => return Err(format!("no step {text:?}; TESTEE.md lists them")),
    })
}

fn time(text: &str) -> Result<Duration, String> {
    let time = text.parse().map(Duration::from_millis);
    time.map_err(|_| format!("{text:?} is no number of milliseconds"))
}

fn answer(text: &str) -> Result<What, String> {
    let (status, changes) = text.split_once(' ').unwrap_or((text, ""));
    let status = status.parse().map_err(|_| "usage: !answer STATUS [CHANGES]")?;
    let changes = changes.split(" | ").filter(|change| !change.is_empty());
    Ok(What::Answer(Answer { status, changes: changes.map(str::to_owned).collect() }))
}

fn frame(text: &str, is_masked: bool) -> Result<What, String> {
    let (first, payload) = text.split_once(' ').unwrap_or((text, ""));
    let first = u8::from_str_radix(first, 16).map_err(|_| "usage: !frame FIRST [PAYLOAD]")?;
    Ok(What::Frame { first, is_masked, payload: payload.to_owned() })
}

fn credit(text: &str) -> Result<What, String> {
    let (id, items) = text.split_once(' ').ok_or("usage: !credit ID ITEMS")?;
    let items = items.parse().map_err(|_| "usage: !credit ID ITEMS")?;
    Ok(What::Credit { id: id.to_owned(), items })
}

fn storm(text: &str) -> Result<What, String> {
    let usage = "usage: !storm MS MOST LINE => ANSWER";
    let (time_and_most, answer) = text.split_once(" => ").ok_or(usage)?;
    let mut words = time_and_most.splitn(3, ' ');
    let mut word = || words.next().ok_or(usage);
    let time = time(word()?)?;
    let most = word()?.parse().map_err(|_| usage)?;
    Ok(What::Storm { time, most, line: word()?.to_owned(), answer: answer.to_owned() })
}

fn drop_all(text: &str) -> Result<What, String> {
    let usage = "usage: !drop-all MS MOST";
    let (ms, most) = text.split_once(' ').ok_or(usage)?;
    Ok(What::DropAll { time: time(ms)?, most: most.parse().map_err(|_| usage)? })
}
