//! `bellwire serve`.

use std::{
    fs,
    io::Write,
    path::{Path, PathBuf},
};

use crate::support::{Cli, Running, certificate, until};

#[tokio::test]
async fn command_answers_with_its_output() {
    let cli = Cli::new();
    let methods = ["-m", "upper=tr a-z A-Z", "-m", "name=echo $BELLWIRE_METHOD; echo two"];
    let doc = ["--doc", "upper=TEXT: in capitals"];
    let (mut server, address) = cli.serve(&[&methods[..], &doc].concat()).await;
    let cli = cli.with("BELLWIRE_ADDR", &*address);
    assert_eq!(cli.run(&["call", "upper", "it rains"]).await.ok(), "IT RAINS\n");
    assert_eq!(cli.run(&["call", "name", "--raw"]).await.ok(), "name\ntwo");
    let methods = cli.run(&["methods"]).await;
    assert_eq!(methods.ok(), "name\nupper  TEXT: in capitals\n", "no client sees a command");
    server.signal("TERM").await;
    assert_eq!(server.end().await.code(), Some(0));
}

#[tokio::test]
async fn failing_command_is_an_err_with_the_last_line_of_stderr() {
    let cli = Cli::new();
    let lines = r"fail=echo out; echo first >&2; printf 'no \033[31mdisk\n\n' >&2; exit 3";
    let options = ["--method", lines, "--method", "quiet=exit 4", "--method", "killed=kill -9 $$"];
    let (_server, address) = cli.serve(&options).await;
    let cli = cli.with("BELLWIRE_ADDR", &*address);
    let failed = cli.run(&["call", "fail"]).await;
    failed.failed(3, &[r"failed", r"no \x1b[31mdisk"]);
    assert_eq!(failed.stdout, "");
    cli.run(&["call", "quiet"]).await.failed(3, &["exit code 4"]);
    cli.run(&["call", "killed"]).await.failed(3, &["killed by signal 9"]);
}

/// Whether the process whose number is in the file is gone, or waits only to be reaped.
fn is_gone(file: &Path) -> bool {
    let Ok(pid) = fs::read_to_string(file) else { return false };
    match fs::read_to_string(format!("/proc/{}/stat", pid.trim())) {
        Ok(stat) => stat.rsplit_once(')').is_some_and(|(_, rest)| rest.starts_with(" Z")),
        Err(_) => true,
    }
}

#[tokio::test]
async fn time_and_output_are_bounded_and_what_was_started_is_killed() {
    let cli = Cli::new();
    let hang = "hang=sleep 600 & echo $! > hang.pid; wait";
    let flood = "flood=sh -c 'echo $$ > flood.pid; exec yes' & wait";
    let options = ["--method", hang, "--method", flood, "--method", "exact=printf 12345678"];
    let limits = ["--timeout", "2s", "--max-output", "8"];
    let (_server, address) = cli.serve(&[&options[..], &limits].concat()).await;
    let cli = cli.with("BELLWIRE_ADDR", &*address);
    cli.run(&["call", "hang"]).await.failed(3, &["timeout", "2s", "was killed"]);
    cli.run(&["call", "flood"]).await.failed(3, &["too-large", "more than 8 bytes"]);
    assert_eq!(cli.run(&["call", "exact"]).await.ok(), "12345678\n");
    for file in ["hang.pid", "flood.pid"] {
        let file = cli.home.path().join(file);
        until("the end of the process", || is_gone(&file)).await;
    }
}

/// A call that is cancelled ends its command.
#[tokio::test]
async fn interrupted_call_ends_its_command() {
    let cli = Cli::new();
    let (_server, address) =
        cli.serve(&["--method", "hang=echo $$ > hang.pid; exec sleep 600"]).await;
    let cli = cli.with("BELLWIRE_ADDR", &*address);
    let mut call = cli.start(&["call", "hang"]);
    let file = cli.home.path().join("hang.pid");
    until("the command", || fs::read_to_string(&file).is_ok_and(|pid| pid.ends_with('\n'))).await;
    call.signal("INT").await;
    assert_eq!(call.end().await.code(), Some(130));
    until("the end of the process", || is_gone(&file)).await;
}

/// A command that hangs, with another process that it has started, until both are there.
async fn hanging(cli: &Cli, address: &str) -> (Running, [PathBuf; 2]) {
    let call = cli.start(&["call", "hang", "--addr", address]);
    let files = ["shell.pid", "sleep.pid"].map(|name| cli.home.path().join(name));
    for file in &files {
        let is_written = || fs::read_to_string(file).is_ok_and(|pid| pid.ends_with('\n'));
        until("the command", is_written).await;
    }
    (call, files)
}

const HANG: [&str; 4] =
    ["-m", "hang=sleep 600 & echo $! > sleep.pid; echo $$ > shell.pid; wait", "--timeout", "1h"];

/// However a server ends: no process of its commands is left.
#[tokio::test]
async fn end_of_the_server_ends_its_commands() {
    for signals in [&["KILL"][..], &["INT", "TERM"]] {
        let cli = Cli::new();
        let (mut server, address) = cli.serve(&HANG).await;
        let (mut call, files) = hanging(&cli, &address).await;
        for signal in signals {
            server.signal(signal).await;
        }
        server.end().await;
        for file in &files {
            until("the end of the process", || is_gone(file)).await;
        }
        assert_eq!(call.end().await.code(), Some(7), "{signals:?}");
    }
}

/// The first signal lets the commands end.
#[tokio::test]
async fn drain_waits_for_the_commands() {
    let cli = Cli::new();
    let wait = "wait=echo x > started; while ! test -e release; do sleep 0.05; done; echo done";
    let (mut server, address) = cli.serve(&["-m", wait]).await;
    let mut call = cli.start(&["call", "wait", "--addr", &address]);
    until("the command", || cli.home.path().join("started").exists()).await;
    server.signal("TERM").await;
    fs::write(cli.home.path().join("release"), "").expect("written");
    assert_eq!(call.line().await, "done");
    assert_eq!(call.end().await.code(), Some(0));
    assert_eq!(server.end().await.code(), Some(0));
}

/// What holds its stdout open does not delay the reply, and is not left behind.
#[tokio::test]
async fn processes_in_the_background_end_with_their_command() {
    let cli = Cli::new();
    let (_server, address) =
        cli.serve(&["-m", "start=sleep 600 & echo $! > sleep.pid; echo started"]).await;
    let reply = cli.run(&["call", "start", "--addr", &address]).await;
    assert_eq!(reply.ok(), "started\n");
    let file = cli.home.path().join("sleep.pid");
    until("the end of the process", || is_gone(&file)).await;
}

/// The payload is no part of the command line, whatever is in it, and the token of the operator is
/// not in the environment.
#[tokio::test]
async fn payload_is_not_interpreted() {
    let cli = Cli::new().with("BELLWIRE_TOKEN", "5f1c-secret");
    let methods = ["-m", "cat=cat", "-m", "env=env", "-m", "arguments=echo $# $0"];
    let (_server, address) = cli.serve(&methods).await;
    let cli = cli.with("BELLWIRE_ADDR", &*address);
    for payload in ["$(touch x); `touch x`", "'; touch x; '", "-n --help", "a\\nb\t\"c\""] {
        assert_eq!(cli.run(&["call", "cat", "--", payload]).await.ok(), format!("{payload}\n"));
        assert_eq!(cli.run(&["call", "arguments", "--", payload]).await.ok(), "0 sh\n");
        let environment = cli.run(&["call", "env", "--", payload]).await;
        assert!(!environment.ok().contains("touch x") && !environment.stdout.contains("5f1c"));
    }
    assert!(!cli.home.path().join("x").exists());
}

#[tokio::test]
async fn number_of_processes_is_bounded_and_so_is_their_queue() {
    let cli = Cli::new();
    let hold = "hold=echo x >> started; while ! test -e release; do sleep 0.05; done";
    let limits = ["--processes", "1", "--queue", "1", "--timeout", "1m"];
    let (_server, address) = cli.serve(&[&["--method", hold], &limits[..]].concat()).await;
    let cli = cli.with("BELLWIRE_ADDR", &*address);
    let started = || fs::read_to_string(cli.home.path().join("started")).unwrap_or_default();
    let mut first = cli.start(&["call", "hold"]);
    until("the first command", || started() == "x\n").await;
    let mut second = cli.start(&["call", "hold"]);
    // A third call that comes before the second one waits in its place, until its own deadline. Then
    // the second one may be the one that is refused.
    let refused = loop {
        let third = cli.run(&["call", "hold", "--deadline", "100ms"]).await;
        if third.code != 8 {
            break third;
        }
        if second.child.try_wait().expect("a status").is_some() {
            second = cli.start(&["call", "hold"]);
        }
    };
    refused.failed(4, &["too many calls", "try again"]);
    assert_eq!(started(), "x\n", "no second process was started");
    fs::write(cli.home.path().join("release"), "").expect("written");
    assert_eq!(first.end().await.code(), Some(0));
    assert_eq!(second.end().await.code(), Some(0));
    assert_eq!(started(), "x\nx\n");
}

#[tokio::test]
async fn topic_follows_a_file_over_rotations() {
    let cli = Cli::new();
    let file = cli.file("log", "one\n");
    let topic = format!("log={file}");
    let (_server, address) = cli.serve(&["--topic", &topic]).await;
    let cli = cli.with("BELLWIRE_ADDR", &*address);
    let mut listen = cli.start(&["listen", "log", "--last", "9", "--format", "%p"]);
    // Only the second line is sure to come after the subscription, if the first one came before.
    let append = |text: &str| {
        let mut opened = fs::OpenOptions::new().append(true).create(true).open(&file).expect("it");
        opened.write_all(text.as_bytes()).expect("written");
    };
    assert_eq!(listen.line().await, "one");
    append("two\nthr");
    assert_eq!(listen.line().await, "two");
    append("ee\n");
    assert_eq!(listen.line().await, "three");
    fs::rename(&file, format!("{file}.1")).expect("rotated");
    append("four\n");
    assert_eq!(listen.line().await, "four");
    fs::write(&file, "5\n").expect("truncated");
    assert_eq!(listen.line().await, "5");
}

#[tokio::test]
async fn users_have_tokens() {
    let cli = Cli::new();
    let users = cli.file("users", "# ours\nada 5f1c-secret\n");
    let options = ["--method", "who=echo $BELLWIRE_PRINCIPAL", "--users", &users];
    let (_server, address) = cli.serve(&options).await;
    let cli = cli.with("BELLWIRE_ADDR", &*address);
    cli.run(&["call", "who"]).await.failed(6, &["requires credentials"]);
    let cli = cli.with("BELLWIRE_TOKEN", "5f1c-secret");
    assert_eq!(cli.run(&["call", "who"]).await.ok(), "ada\n");
    let wrong = cli.file("wrong", "ada 5f1c c2b9\n");
    let wrong = cli.run(&["serve", "--method", "a=b", "--users", &wrong]).await;
    wrong.failed(1, &["line 1 is not a name and a token", "NAME TOKEN"]);
    assert!(!wrong.stderr.contains("5f1c"));
}

#[tokio::test]
async fn arguments_that_make_no_sense_are_refused() {
    let cli = Cli::new();
    cli.run(&["serve"]).await.failed(2, &["nothing to serve", "--method"]);
    cli.run(&["serve", "--method", "a"]).await.failed(2, &["NAME=COMMAND"]);
    cli.run(&["serve", "--method", "a b=c"]).await.failed(2, &["method"]);
    cli.run(&["serve", "-m", "a=b", "-m", "a=c"]).await.failed(2, &["two methods a"]);
    cli.run(&["serve", "-t", "a=b", "-t", "a=c"]).await.failed(2, &["two topics a"]);
    let open = cli.run(&["serve", "-m", "a=b", "--listen", "0.0.0.0:0"]).await;
    open.failed(2, &["everyone who reaches it", "--users", "--open"]);
    let [cert, key] = certificate(&cli);
    let web = ["--ws", "0.0.0.0:0", "--tls-cert", &cert, "--tls-key", &key];
    let web = [&["serve", "-m", "a=b", "--listen", "127.0.0.1:0"], &web[..]].concat();
    cli.run(&web).await.failed(2, &["everyone who reaches it"]);
    let unix = cli.run(&["serve", "-m", "a=b", "--listen", "unix:s", "--ws", "127.0.0.1:0"]).await;
    unix.failed(2, &["--ws does not go with a Unix socket"]);
    cli.run(&["serve", "-m", "a=b", "--doc", "c=d"]).await.failed(2, &["no such method"]);
    cli.run(&["serve", "-m", "a=b", "--listen", "unix:none/s"]).await.failed(1, &["folder"]);
    let (_server, address) = cli.serve(&["-m", "a=b"]).await;
    let taken = cli.run(&["serve", "-m", "a=b", "--listen", &address]).await;
    taken.failed(1, &["cannot listen on", "--listen"]);
}
