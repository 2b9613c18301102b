//! The example programs, run as processes of their own, as a user runs them.
//!
//! A plain `cargo test` builds the programs too. `cargo test --test it` alone runs what was
//! built last: `cargo build --examples` before it.

#![cfg(unix)]

#[path = "../../examples/offers/follow.rs"]
mod follow;
#[path = "../../examples/offers/offer.rs"]
#[allow(dead_code, reason = "what is tested of it is what the store uses")]
mod offer;
#[path = "../../examples/offers/store.rs"]
mod store;

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::Write,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader, Lines},
    net::{TcpListener, TcpStream},
    process::{Child, ChildStderr, ChildStdout, Command},
    time::timeout,
};

/// More than anything here takes, on a machine that is busy with other things.
const BOUND: Duration = Duration::from_secs(30);

/// A running example; it is killed when dropped.
struct Example {
    child: Child,
    stdout: Output<ChildStdout>,
    stderr: Output<ChildStderr>,
}

impl Example {
    fn start(name: &str, args: &[&str]) -> Self {
        let mut child = Command::new(path_of(name))
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}; is it built? cargo build --examples"));
        let stdout = Output::of(name, child.stdout.take().unwrap());
        let stderr = Output::of(name, child.stderr.take().unwrap());
        Self { child, stdout, stderr }
    }

    /// Waits for what a server says first; where it listens.
    async fn address(&mut self) -> String {
        let line = self.stdout.line_with("listening on ").await;
        line.strip_prefix("listening on ").unwrap().to_owned()
    }

    async fn signal(&self, signal: &str) {
        let pid = self.child.id().expect("it was not waited for").to_string();
        let sent = Command::new("sh").args(["-c", r#"kill -s "$0" "$1""#, signal, &pid]).status();
        assert!(sent.await.unwrap().success());
    }

    async fn end(&mut self) -> ExitStatus {
        timeout(BOUND, self.child.wait()).await.expect("it does not end").unwrap()
    }
}

/// The binary, which cargo builds beside the tests.
fn path_of(name: &str) -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    deps.ancestors().nth(2).unwrap().join("examples").join(name)
}

/// What a process or a peer writes, line by line.
struct Output<R> {
    of: String,
    lines: Lines<BufReader<R>>,
    seen: Vec<String>,
}

impl<R: AsyncRead + Unpin> Output<R> {
    fn of(name: &str, from: R) -> Self {
        Self { of: name.into(), lines: BufReader::new(from).lines(), seen: Vec::new() }
    }

    /// The next line; `None` at the end.
    async fn line(&mut self) -> Option<String> {
        let Ok(line) = timeout(BOUND, self.lines.next_line()).await else {
            panic!("{} says no more after {:#?}", self.of, self.seen);
        };
        let line = line.unwrap();
        self.seen.extend(line.clone());
        line
    }

    /// Waits for a line that holds `part`.
    async fn line_with(&mut self, part: &str) -> String {
        loop {
            match self.line().await {
                Some(line) if line.contains(part) => return line,
                Some(_) => {}
                None => panic!("{} ended without {part:?}: {:#?}", self.of, self.seen),
            }
        }
    }

    async fn rest(mut self) -> Vec<String> {
        while self.line().await.is_some() {}
        self.seen
    }
}

/// A plain socket, as `nc` is one.
struct Plain {
    writer: tokio::net::tcp::OwnedWriteHalf,
    reader: Output<tokio::net::tcp::OwnedReadHalf>,
}

impl Plain {
    async fn connect(address: &str) -> Self {
        let (reader, writer) = TcpStream::connect(address).await.unwrap().into_split();
        let mut peer = Self { writer, reader: Output::of("server", reader) };
        peer.reader.line_with("* /hello;").await;
        peer
    }

    async fn listening(address: &str) -> Self {
        let mut peer = Self::connect(address).await;
        assert!(peer.ask("1 /subscribe offers").await.starts_with("1 ok;epoch="));
        peer
    }

    async fn ask(&mut self, line: &str) -> String {
        self.writer.write_all(format!("{line}\n").as_bytes()).await.unwrap();
        self.next().await
    }

    async fn next(&mut self) -> String {
        self.reader.line().await.expect("the server closed")
    }

    async fn expect(&mut self, line: &str) {
        assert_eq!(self.next().await, line);
    }
}

/// An offers_server that follows a file, on a free port.
struct Offers {
    server: Example,
    address: String,
    dir: TempDir,
}

impl Offers {
    async fn with(content: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("offers.jsonl"), content).unwrap();
        Self::over(dir).await
    }

    async fn over(dir: TempDir) -> Self {
        Self::over_at(dir, "127.0.0.1:0").await
    }

    async fn over_at(dir: TempDir, listen: &str) -> Self {
        let file = dir.path().join("offers.jsonl");
        let args = ["--listen", listen, "--random-every", "0", "--offers"];
        let args = [args.as_slice(), &[file.to_str().unwrap()]].concat();
        let mut server = Example::start("offers_server", &args);
        let address = server.address().await;
        Self { server, address, dir }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("offers.jsonl")
    }

    fn append(&self, bytes: &str) {
        let mut file = File::options().append(true).open(self.path()).unwrap();
        file.write_all(bytes.as_bytes()).unwrap();
    }

    /// Another file takes the place of this one, at once.
    fn replace(&self, content: &str) {
        let new = self.dir.path().join("new");
        fs::write(&new, content).unwrap();
        fs::rename(new, self.path()).unwrap();
    }

    async fn reported(&mut self, part: &str) -> String {
        self.server.stderr.line_with(part).await
    }

    /// Ends it in order.
    async fn stop(mut self) -> TempDir {
        self.server.signal("TERM").await;
        assert!(self.server.end().await.success());
        self.dir
    }
}

fn offer(id: u64, title: &str) -> String {
    format!("{{\"id\":{id},\"title\":\"{title}\",\"rent\":700}}\n")
}

#[tokio::test]
async fn the_tour_shows_the_seven_steps() {
    let mut tour = Example::start("tour", &[]);
    let shown = tour.stdout.rest().await;
    assert!(timeout(BOUND, tour.child.wait()).await.unwrap().unwrap().success());
    let steps: Vec<_> = shown.iter().filter_map(|line| line.split_once(". ")).collect();
    let numbers: Vec<_> =
        steps.iter().filter_map(|(number, _)| number.parse::<u32>().ok()).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7]);
    let has = |part: &str| assert!(shown.iter().any(|line| line.contains(part)), "{part}");
    has("C: 1 random 6");
    has("C: 1 offers.list;window=4");
    has("C: * /more 1 ");
    has("C: 2 /renew");
    has("S: 2 ok;lease=1 offers:");
    has("S: * /end offers expired ");
    has("S: * /error malformed");
    has("S: 4 err internal");
    has("ignored, and counted: a reply to 999");
}

#[tokio::test]
async fn the_secured_example_enforces_permissions() {
    let mut secured = Example::start("secured", &[]);
    let shown = secured.stdout.rest().await;
    assert!(timeout(BOUND, secured.child.wait()).await.unwrap().unwrap().success());
    let expected = [
        "ada is ada",
        "bob listens to red.news: refused: forbidden",
        "bob publishes to it: refused: forbidden",
        "ada is told: hello, team",
        "ada is told: revoked",
    ];
    assert_eq!(shown[..5], expected);
    assert!(shown[5].starts_with("bob asks again: "), "{shown:?}");
    assert_eq!(
        shown[6..],
        ["mallory connects: the server refused the credentials: unauthenticated"]
    );
}

#[tokio::test]
async fn the_minimal_client_and_server_meet() {
    let mut server = Example::start("minimal_server", &["127.0.0.1:0"]);
    let address = server.address().await;
    let mut client = Example::start("minimal_client", &[&address]);
    let line = client.stdout.line_with("came back as").await;
    let words: Vec<_> = line.split(' ').collect();
    assert_eq!(words.get(1), words.last(), "{line}");
    assert!(client.end().await.success());
}

#[tokio::test]
async fn an_appended_line_reaches_a_client_and_a_plain_socket() {
    let offers = Offers::with(&offer(1, "Attic")).await;
    let mut client = Example::start("offers_client", &[&offers.address]);
    client.stdout.line_with("Attic").await;
    client.stdout.line_with("listening").await;
    let mut plain = Plain::listening(&offers.address).await;

    offers.append(&offer(2, "Loft"));
    plain.expect(r#"* offers 1 {"id":2}"#).await;
    assert_eq!(plain.ask("2 offers.get 2").await, r#"2 ok {"id":2,"title":"Loft","rent":700}"#);
    client.stdout.line_with("Loft").await;

    client.signal("INT").await;
    assert!(client.end().await.success());
    offers.stop().await;
}

#[tokio::test]
async fn lines_count_when_they_are_whole() {
    let offers = Offers::with("").await;
    let mut plain = Plain::listening(&offers.address).await;
    let (half, rest) = (r#"{"id":1,"title":"#, "\"Mill\",\"rent\":1}\n");
    offers.append(half);
    // Race: it is chance whether the half was looked at by itself; follow.rs has a test for that.
    plain.ask("2 random").await;
    offers.append(rest);
    plain.expect(r#"* offers 1 {"id":1}"#).await;
    offers.append(&(offer(2, "two") + &offer(3, "in one write")));
    plain.expect(r#"* offers 2 {"id":2}"#).await;
    plain.expect(r#"* offers 3 {"id":3}"#).await;
}

#[tokio::test]
async fn a_malformed_line_is_reported_with_its_number_and_skipped() {
    let mut offers = Offers::with(&offer(1, "one")).await;
    let mut plain = Plain::listening(&offers.address).await;
    offers.append(&format!("rubb\x1bish\n{}", offer(2, "two")));
    let report = offers.reported("line 2 skipped").await;
    assert!(report.contains(r"rubb\x1bish"), "{report}");
    offers.append("{\"id\":3}\n");
    offers.reported("line 4 skipped, missing field `title`").await;
    plain.expect(r#"* offers 1 {"id":2}"#).await;
}

#[tokio::test]
async fn a_replaced_file_announces_new_and_changed_offers() {
    let mut offers = Offers::with(&(offer(1, "one") + &offer(2, "two"))).await;
    let mut plain = Plain::listening(&offers.address).await;
    offers.replace(&(offer(1, "one") + &offer(2, "too") + &offer(3, "three")));
    offers.reported("replaced").await;
    plain.expect(r#"* offers 1 {"id":2,"changed":true}"#).await;
    plain.expect(r#"* offers 2 {"id":3}"#).await;
    offers.append(&offer(4, "four"));
    plain.expect(r#"* offers 3 {"id":4}"#).await;
}

#[tokio::test]
async fn a_truncated_file_is_read_from_its_start() {
    let mut offers = Offers::with(&(offer(1, "one") + &offer(2, "two"))).await;
    let mut plain = Plain::listening(&offers.address).await;
    File::create(offers.path()).unwrap();
    offers.reported("truncated").await;
    offers.append(&(offer(2, "two") + &offer(3, "three")));
    plain.expect(r#"* offers 1 {"id":3}"#).await;
    assert_eq!(plain.ask("2 offers.list").await, r#"2 more {"id":1,"title":"one","rent":700}"#);
    plain.expect(r#"2 more {"id":2,"title":"two","rent":700}"#).await;
    plain.expect(r#"2 more {"id":3,"title":"three","rent":700}"#).await;
    plain.expect("2 ok").await;
    assert_eq!(plain.ask("3 offers.list 3").await, "3 ok");
}

#[tokio::test]
async fn an_added_offer_is_announced_once_and_survives_a_restart() {
    let offers = Offers::with(&offer(1, "one")).await;
    let mut plain = Plain::listening(&offers.address).await;
    // Its line may not have been looked at when the next is added, whose id is another all the same.
    offers.append(&offer(7, "seven"));
    plain.writer.write_all(b"2 offers.add {\"title\":\"new\",\"rent\":5}\n").await.unwrap();
    let mut lines = [plain.next().await, plain.next().await, plain.next().await];
    lines.sort();
    let told = [r#"* offers 1 {"id":7}"#, r#"* offers 2 {"id":8}"#, r#"2 ok {"id":8}"#];
    assert_eq!(lines, told);
    offers.append(&offer(9, "nine"));
    plain.expect(r#"* offers 3 {"id":9}"#).await;

    let offers = Offers::over(offers.stop().await).await;
    let mut plain = Plain::connect(&offers.address).await;
    assert_eq!(plain.ask("1 offers.get 8").await, r#"1 ok {"id":8,"title":"new","rent":5}"#);
}

#[tokio::test]
async fn an_offer_is_not_added_into_an_unfinished_line() {
    let offers = Offers::with(r#"{"id":1,"title":"#).await;
    let mut plain = Plain::listening(&offers.address).await;
    let added = plain.ask(r#"2 offers.add {"title":"new","rent":5}"#).await;
    assert_eq!(added, "2 err busy the last line of the file is not finished");
    offers.append("\"one\",\"rent\":5}\n");
    plain.expect(r#"* offers 1 {"id":1}"#).await;
}

#[tokio::test]
async fn once_leaves_after_the_first_offer() {
    let offers = Offers::with("").await;
    let mut client = Example::start("offers_client", &[&offers.address, "--once"]);
    client.stdout.line_with("listening").await;
    offers.append(&(offer(1, "first") + &offer(2, "second")));
    assert!(client.end().await.success());
    let shown = client.stdout.rest().await;
    assert_eq!(shown.iter().filter(|line| line.starts_with("new:")).count(), 1, "{shown:?}");
}

/// The log is in memory, so the restarted server has another one. The client reports that and lists
/// the new offers.
#[tokio::test]
async fn a_client_continues_after_its_server_restarts() {
    let mut offers = Offers::with(&offer(1, "Attic")).await;
    let mut client = Example::start("offers_client", &[&offers.address]);
    client.stdout.line_with("listening").await;
    offers.append(&offer(2, "before"));
    client.stdout.line_with("before").await;
    offers.server.signal("KILL").await;
    offers.server.end().await;
    client.stderr.line_with("disconnected").await;
    offers.append(&offer(3, "meanwhile"));
    let offers = Offers::over_at(offers.dir, &offers.address).await;
    client.stdout.line_with("the server has a new log; its notifications go on at").await;
    client.stdout.line_with("meanwhile").await;
    offers.append(&offer(4, "after"));
    client.stdout.line_with("after").await;
    client.signal("INT").await;
    assert!(client.end().await.success());
    let told = client.stderr.rest().await;
    assert!(told.contains(&"connected again".to_owned()), "{told:?}");
}

#[tokio::test]
async fn a_client_without_a_server_reports_an_error() {
    let offers = Offers::with("").await;
    let mut client = Example::start("offers_client", &[&offers.address]);
    client.stdout.line_with("listening").await;
    let address = offers.address.clone();
    offers.stop().await;
    client.stderr.line_with("about to go: shutdown").await;
    client.stderr.line_with("sent /bye: shutdown").await;
    client.signal("INT").await;
    assert!(client.end().await.success(), "it was connecting again, and needs nobody to end");

    let mut client = Example::start("offers_client", &[&address]);
    assert_eq!(client.end().await.code(), Some(1));
    client.stderr.line_with("no server at ").await;
}

#[tokio::test]
async fn the_methods_are_documented_and_check_their_arguments() {
    let mut server =
        Example::start("offers_server", &["--listen", "127.0.0.1:0", "--random-every", "1"]);
    let mut plain = Plain::connect(&server.address().await).await;
    assert!(plain.ask("1 /methods").await.starts_with("1 more offers.add {"));
    for method in ["offers.get", "offers.list", "random"] {
        assert!(plain.next().await.starts_with(&format!("1 more {method} ")));
    }
    plain.expect("1 ok").await;
    assert_eq!(plain.ask("2 random 1").await, "2 ok 0");
    assert!(plain.ask("3 random x").await.starts_with("3 no bad-arguments"));
    assert!(plain.ask("4 random 0").await.starts_with("4 no bad-arguments"));
    assert_eq!(plain.ask("5 offers.get 99").await, "5 err not-found no offer 99");
    let added = plain.ask(r#"6 offers.add {"title":"new","rent":5}"#).await;
    assert_eq!(added, r#"6 ok {"id":13}"#);
    let taken = plain.ask(r#"7 offers.add {"id":13,"title":"new","rent":5}"#).await;
    assert_eq!(taken, "7 err exists there is an offer 13");
    assert!(plain.ask("8 /subscribe random").await.starts_with("8 ok;"));
    plain.reader.line_with("* random ").await;
    server.signal("INT").await;
    assert!(server.end().await.success());
}

/// However many lines are appended at once, a client that requests each offer gets all of them.
#[tokio::test]
async fn five_thousand_appended_lines_reach_a_client() {
    const OFFERS: u64 = 5_000;
    let offers = Offers::with("").await;
    let mut client = Example::start("offers_client", &[&offers.address]);
    client.stdout.line_with("listening").await;
    let lines: String = (1..=OFFERS).map(|id| offer(id, "new")).collect();
    offers.append(&lines);
    let mut told = BTreeSet::new();
    while told.len() < OFFERS as usize {
        let line = client.stdout.line().await.expect("it goes on");
        let id = line.strip_prefix("new:").and_then(|line| line.split_whitespace().next());
        let id = id.unwrap_or_else(|| panic!("{line}"));
        assert!(told.insert(id.to_owned()), "{line}");
    }
}

/// A file of which an offer changed twice, and one of the same bytes in its place: nothing has changed.
#[tokio::test]
async fn a_file_replaced_by_the_same_bytes_announces_nothing() {
    let content = offer(1, "one") + &offer(2, "two") + &offer(1, "uno") + &offer(1, "un");
    let mut offers = Offers::with(&content).await;
    let mut plain = Plain::listening(&offers.address).await;
    for _ in 0..2 {
        offers.replace(&content);
        offers.reported("replaced").await;
    }
    offers.replace(&(content + &offer(2, "zwei") + &offer(3, "drei")));
    plain.expect(r#"* offers 1 {"id":2,"changed":true}"#).await;
    plain.expect(r#"* offers 2 {"id":3}"#).await;
}

#[tokio::test]
async fn a_byte_order_mark_costs_no_offer() {
    let offers = Offers::with(&format!("\u{feff}{}", offer(1, "one"))).await;
    let mut plain = Plain::connect(&offers.address).await;
    let one = r#"1 ok {"id":1,"title":"one","rent":700}"#;
    assert_eq!(plain.ask("1 offers.get 1").await, one);
}

#[tokio::test]
async fn offers_with_extreme_ids_do_not_keep_others_from_being_added() {
    let content = [u64::MAX, (1 << 53) - 1, 1, 7].map(|id| offer(id, "x")).concat();
    let offers = Offers::with(&content).await;
    let mut plain = Plain::connect(&offers.address).await;
    for (request, id) in [(1, 2), (2, 3), (3, 4)] {
        let added = plain.ask(&format!(r#"{request} offers.add {{"title":"new","rent":5}}"#)).await;
        assert_eq!(added, format!(r#"{request} ok {{"id":{id}}}"#));
    }
    let last = format!("4 ok {{\"id\":{},\"title\":\"x\",\"rent\":700}}", u64::MAX);
    assert_eq!(plain.ask(&format!("4 offers.get {}", u64::MAX)).await, last);
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn each_file_of_a_quick_rotation_is_announced() {
    let mut offers = Offers::with(&offer(1, "one")).await;
    let mut plain = Plain::listening(&offers.address).await;
    for id in 2..=4 {
        fs::rename(offers.path(), offers.dir.path().join(format!("offers.{id}"))).unwrap();
        fs::write(offers.path(), offer(id, "new")).unwrap();
    }
    for id in 2..=4 {
        plain.expect(&format!(r#"* offers {} {{"id":{id}}}"#, id - 1)).await;
    }
    for id in 5..=9 {
        offers.replace(&offer(id, "new"));
    }
    // Which of them is seen is for the clock to say; none goes without a word.
    let mut seen = 0;
    while !plain.next().await.ends_with(r#"{"id":9}"#) {
        seen += 1;
    }
    if seen < 4 {
        offers.reported("offers may be missing").await;
    }
}

/// The file is written far faster than it is read. Neither the start of the server nor calls wait
/// for the reader.
#[tokio::test]
async fn a_fast_writer_delays_neither_start_nor_calls() {
    const PIECE: usize = 1024 * 1024;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("offers.jsonl");
    let lines: String = (1..).map(|id| offer(id % 1_000 + 1, "x")).take(PIECE / 36).collect();
    fs::write(&path, lines.repeat(16)).unwrap();
    let is_over = Arc::new(AtomicBool::new(false));
    let writer = std::thread::spawn({
        let is_over = is_over.clone();
        move || {
            let mut file = File::options().append(true).open(path).unwrap();
            for _ in 0..64 {
                if is_over.load(Ordering::Relaxed) {
                    break;
                }
                file.write_all(lines.as_bytes()).unwrap();
                std::thread::sleep(Duration::from_millis(10));
            }
        }
    });
    let offers = Offers::over(dir).await;
    let mut plain = Plain::connect(&offers.address).await;
    for request in 1..100 {
        assert_eq!(plain.ask(&format!("{request} random 1")).await, format!("{request} ok 0"));
    }
    let added = plain.ask(r#"100 offers.add {"title":"new","rent":5}"#).await;
    assert!(added.starts_with("100 ok {") || added.starts_with("100 err busy "), "{added}");
    is_over.store(true, Ordering::Relaxed);
    writer.join().unwrap();
    offers.stop().await;
}

const HELLO: &str = "* /hello;version=1;session=6f0c1b52-9a0e-4c8e-8f0a-3f1d5a7b9c11;max-line=65535;in-flight=1024;lease=60\n";
const SUBSCRIBED: &str = "1 ok;epoch=e;next=1;head=0;lease=60\n";

/// An offers_client, and its server, which sends only the lines of the test.
struct Silent {
    client: Example,
    server: Plain,
}

impl Silent {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let client = Example::start("offers_client", &[&address]);
        let (io, _) = timeout(BOUND, listener.accept()).await.expect("it connects").unwrap();
        let (reader, writer) = io.into_split();
        Self { client, server: Plain { writer, reader: Output::of("client", reader) } }
    }

    async fn say(&mut self, lines: &str) {
        self.server.writer.write_all(lines.as_bytes()).await.unwrap();
    }
}

/// It waits for a hello, for the reply to its `/subscribe`, or for the first offer of the list.
#[tokio::test]
async fn a_signal_ends_a_client_wherever_it_waits() {
    for signal in ["INT", "TERM"] {
        for waits_for in 0..3 {
            let mut silent = Silent::start().await;
            if waits_for > 0 {
                silent.say(HELLO).await;
                silent.server.reader.line_with("1 /subscribe offers").await;
            }
            if waits_for > 1 {
                silent.say(SUBSCRIBED).await;
                silent.server.reader.line_with("2 offers.list").await;
            }
            silent.client.signal(signal).await;
            assert!(silent.client.end().await.success(), "{signal}, {waits_for}");
        }
    }
}

#[tokio::test]
async fn a_second_signal_ends_a_client_that_waits_for_its_server_to_close() {
    let mut silent = Silent::start().await;
    silent.say(HELLO).await;
    silent.server.reader.line_with("1 /subscribe offers").await;
    silent.client.signal("INT").await;
    silent.server.reader.line_with("/quit").await;
    silent.client.signal("TERM").await;
    assert!(silent.client.end().await.success());
    let told = silent.client.stderr.rest().await;
    assert!(!told.iter().any(|line| line.contains("does not answer")), "{told:?}");
}

/// An open stream without credit lasts through the drain of 11 s, unless there is a second signal.
#[tokio::test]
async fn a_second_signal_ends_a_server_that_drains() {
    for signals in [["TERM", "TERM"], ["INT", "TERM"]] {
        let mut offers = Offers::with(&(offer(1, "one") + &offer(2, "two"))).await;
        let mut plain = Plain::connect(&offers.address).await;
        let first = plain.ask("1 offers.list;window=1").await;
        assert!(first.starts_with("1 more "), "{first}");
        offers.server.signal(signals[0]).await;
        plain.reader.line_with("* /bye").await;
        offers.server.signal(signals[1]).await;
        offers.reported("stopped at once").await;
        assert!(offers.server.end().await.success());
    }
}

/// A subscriber that owes an ack keeps a server in its drain, unless there is a second signal.
#[tokio::test]
async fn a_second_signal_ends_the_load_tests_server() {
    for signals in [["TERM", "TERM"], ["INT", "INT"]] {
        let mut server = Example::start("load_test", &["--serve", "127.0.0.1:0"]);
        let told = server.stderr.line_with("listening on ").await;
        let address = told.strip_prefix("listening on ").and_then(|told| told.split(',').next());
        let mut plain = Plain::connect(address.unwrap()).await;
        assert!(plain.ask("1 /subscribe;window=1 t").await.starts_with("1 ok;"));
        assert!(plain.ask("2 /publish t a").await.starts_with("2 ok;"));
        plain.expect("* t 1 a").await;
        assert!(plain.ask("3 /publish t b").await.starts_with("3 ok;"));
        server.signal(signals[0]).await;
        plain.reader.line_with("* /bye").await;
        server.signal(signals[1]).await;
        server.stderr.line_with("stopped at once").await;
        assert!(server.end().await.success());
    }
}

/// The server of the metrics ends in order on SIGTERM, too.
#[cfg(feature = "metrics")]
#[tokio::test]
async fn sigterm_drains_the_server_of_the_metrics() {
    let mut server = Example::start("prometheus", &["127.0.0.1:0", "127.0.0.1:0"]);
    let mut plain = Plain::connect(&server.address().await).await;
    assert_eq!(plain.ask("1 echo a").await, "1 ok a");
    server.signal("TERM").await;
    plain.expect("* /bye shutdown").await;
    assert!(server.end().await.success());
}

/// As for the programs below; it needs a server.
#[tokio::test]
async fn a_minimal_client_ends_quietly_on_a_closed_pipe() {
    let mut server = Example::start("minimal_server", &["127.0.0.1:0"]);
    let address = server.address().await;
    let Example { mut child, stdout, stderr } = Example::start("minimal_client", &[&address]);
    drop(stdout);
    timeout(BOUND, child.wait()).await.expect("it does not end").unwrap();
    let told = stderr.rest().await;
    assert!(!told.iter().any(|line| line.contains("panicked")), "{told:#?}");
}

/// `program | head` closes the pipe. The program does not panic.
#[tokio::test]
async fn programs_end_quietly_on_a_closed_pipe() {
    for name in ["tour", "secured"] {
        let mut program = Example::start(name, &[]);
        program.stdout.line().await.expect("it says something");
        drop(program.stdout);
        ends_quietly(name, program.child, program.stderr).await;
    }
    for (name, args) in [
        ("tour", &[][..]),
        ("minimal_server", &["127.0.0.1:0"]),
        ("load_test", &["--callers", "1", "--requests", "10"]),
        ("load_test", &["--callers", "1", "--requests", "10", "--json"]),
    ] {
        // The reader is gone before the program begins: a server says one line only.
        let (_, unread) = std::io::pipe().unwrap();
        let mut command = Command::new(path_of(name));
        command.args(args).stdin(Stdio::null()).stdout(unread).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().expect("it is built");
        let stderr = Output::of(name, child.stderr.take().unwrap());
        ends_quietly(name, child, stderr).await;
    }
}

async fn ends_quietly(name: &str, mut child: Child, stderr: Output<ChildStderr>) {
    let ended = timeout(BOUND, child.wait()).await;
    ended.unwrap_or_else(|_| panic!("{name} does not end")).unwrap();
    let told = stderr.rest().await;
    assert!(!told.iter().any(|line| line.contains("panicked")), "{name}: {told:#?}");
}

/// Each of 200 subscribed connections gets the message, and costs less than the target by the
/// allocator.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn idle_connections_are_cheap_and_get_every_message() {
    let mut run = Example::start("idle_connections", &["200"]);
    run.stdout.line_with("200 subscribed connections, 200 of them told").await;
    assert!(run.end().await.success());
}

/// Runs a program that kills servers under load. It checks by the history that no message is lost,
/// doubled or changed, and that no call runs twice.
#[cfg(all(any(feature = "sqlite", feature = "redis"), target_os = "linux"))]
async fn survives(name: &str, arguments: &[&str]) {
    /// Its own waits are bounded by 120 s each.
    const RUN: Duration = Duration::from_secs(280);
    let mut program = Command::new(path_of(name));
    program.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let ended = timeout(RUN, program.output()).await;
    let ended = ended.expect("it does not end").expect("it is built");
    let (shown, told) =
        (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
    assert!(ended.status.success() && shown.contains("wrong       nothing"), "{shown}\n{told}");
}

#[cfg(all(feature = "sqlite", target_os = "linux"))]
#[tokio::test]
async fn topics_in_a_file_survive_kills_under_load() {
    survives("kills", &["--kills", "5", "--pause", "300", "--durability", "power"]).await;
}

#[cfg(all(feature = "sqlite", target_os = "linux"))]
#[tokio::test]
async fn topics_in_a_file_survive_kills_without_syncs() {
    survives("kills", &["--kills", "5", "--pause", "300", "--durability", "process"]).await;
}

/// Three servers share a Redis. Clients of one that is killed go on at the others.
#[cfg(all(feature = "redis", target_os = "linux"))]
#[tokio::test]
async fn topics_in_redis_survive_kills_of_servers() {
    let run = ["--seconds", "4", "--every", "1000", "--clients", "20", "--seed", "1"];
    survives("cluster", &run).await;
}
