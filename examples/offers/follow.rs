//! Follows a file of lines while other programs append to it, as `tail -F` does, for Unix.
//!
//! Each look at the file is one positioned read on a blocking thread ([`look`]), applied afterwards
//! without an await in between. [`Lines`] cuts the bytes into lines and does no I/O.

mod watch;

use std::{
    collections::VecDeque,
    fs::{self, File, Metadata},
    io, mem,
    os::unix::fs::{FileExt, MetadataExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::task::spawn_blocking;

use watch::Watch;

/// The longest line that is kept, in bytes before its LF.
const MAX_LINE: usize = 1024 * 1024;
/// The most bytes that one look reads. If all lines have one letter, this is some 10 MiB of events.
const MAX_READ: usize = 256 * 1024;
/// How many bytes before the position are kept, to distinguish an append from a rewrite.
const FINGERPRINT: usize = 64;

/// The byte-order mark that some editors write.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Follows a file of lines as other programs append to it.
///
/// A line counts once its LF has arrived, however many writes that took. Lines are numbered from 1;
/// empty ones are counted and not yielded. A byte-order mark at the start does not belong to the
/// first line. NUL bytes before a line do not belong to it, either: a writer that keeps its own
/// offset in a truncated file leaves such a hole.
///
/// When the file is truncated, rewritten or replaced, [`Event::Restarted`] comes first and then
/// **every** line of the new content, numbered from 1, known or not. The caller recognises known
/// lines by their content, such as an id. A replaced file is read to its end, and then the new one
/// is opened; a last line without an LF is dropped. A file that vanishes stays open (and keeps its
/// disk space) until another file is at the path. If the same file returns, reading goes on.
///
/// Several files may be at the path between two looks, one after the other. They are read in order,
/// even if they were moved within the folder ([`Watch`], on Linux). Files that no longer exist by
/// then are reported as [`Event::Missed`]. Other systems do not report such files.
///
/// A rewrite in place is noticed if the file is shorter than the bytes that were read, or if the 64
/// bytes before that point have changed. Other edits in place are not noticed.
///
/// A look reads at most 256 KiB, and at most 1 MiB of an unfinished line is kept between looks.
#[derive(Debug)]
pub(crate) struct Follower {
    path: PathBuf,
    /// Shared with a look that may continue after its call was dropped.
    watch: Arc<Mutex<Watch>>,
    source: Option<Source>,
    /// The length of the file at the last look.
    length: u64,
    lines: Lines,
    queue: VecDeque<Event>,
    /// The last look found neither bytes nor a restart.
    idle: bool,
    /// The last reported error that still persists.
    reported: Option<io::ErrorKind>,
}

/// What a [`Follower`] yields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// A line, without its LF or CRLF; the bytes need not be UTF-8.
    Line { number: u64, text: Vec<u8> },
    /// The content starts again, and so does the numbering. All its lines follow.
    Restarted(Reason),
    /// A line of more than 1 MiB was skipped; `bytes` is its length without LF.
    TooLong { number: u64, bytes: u64 },
    /// This many files were at the path, and vanished before they could be read.
    Missed(usize),
}

/// Why the content starts again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The file is shorter than the bytes that were read.
    Truncated,
    /// The file is long enough, but the last bytes read are no longer there.
    Rewritten,
    /// Another file is at the path.
    Replaced,
}

impl Follower {
    /// Follows the file at `path` from its first line, now or when it appears.
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self {
            watch: Arc::new(Mutex::new(Watch::new(&path))),
            path,
            source: None,
            length: 0,
            lines: Lines::default(),
            queue: VecDeque::new(),
            idle: false,
            reported: None,
        }
    }

    /// Reads what is new since the last call, and never waits for more.
    ///
    /// One call reads at most 256 KiB, so more may be available. It may return nothing if the bytes
    /// end no line.
    ///
    /// # Errors
    ///
    /// The file is missing or cannot be read. An error of one kind is reported once until it is
    /// over; meanwhile calls return what can still be read, or nothing. Events come before the
    /// error.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped: the position moves only with the events.
    pub(crate) async fn read_new(&mut self) -> io::Result<Vec<Event>> {
        let (path, source, watch) = (self.path.clone(), self.source.clone(), self.watch.clone());
        let looked = spawn_blocking(move || {
            look(&path, source, &mut watch.lock().unwrap_or_else(PoisonError::into_inner))
        });
        let looked = looked.await;
        let looked = looked.unwrap_or_else(|lost| Err(io::Error::other(lost)));
        self.idle = true;
        match looked.map(|look| self.apply(look)) {
            Ok(None) => self.reported = None,
            Ok(Some(trouble)) | Err(trouble) => self.report(trouble)?,
        }
        Ok(mem::take(&mut self.queue).into())
    }

    /// Whether the last look found nothing new, so that everything was read.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle
    }

    /// How far the file was read, in bytes.
    #[allow(dead_code, reason = "for reading a file up to where it ended at some time")]
    pub(crate) fn position(&self) -> u64 {
        self.source.as_ref().map_or(0, |source| source.position)
    }

    /// The length at the last look, in bytes.
    #[allow(dead_code, reason = "as position")]
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    /// Turns the result of a look into events. Returns the error that came with it.
    fn apply(&mut self, look: Look) -> Option<io::Error> {
        self.idle = look.fresh.is_empty() && look.restarted.is_none() && look.missed == 0;
        self.length = look.source.as_ref().map_or(0, |source| source.length);
        self.source = look.source;
        let mut watch = self.watch.lock().unwrap_or_else(PoisonError::into_inner);
        watch.take(look.taken);
        drop(watch);
        if look.missed > 0 {
            self.queue.push_back(Event::Missed(look.missed));
        }
        if let Some(reason) = look.restarted {
            self.lines = Lines::default();
            self.queue.push_back(Event::Restarted(reason));
        }
        self.lines.feed(&look.fresh, &mut self.queue);
        look.trouble
    }

    /// Fails with a new error, unless there are events to return first.
    fn report(&mut self, trouble: io::Error) -> io::Result<()> {
        let kind = trouble.kind();
        if self.reported == Some(kind) || !self.queue.is_empty() {
            return Ok(());
        }
        self.reported = Some(kind);
        let path = self.path.display();
        Err(io::Error::new(kind, format!("cannot follow {path}: {trouble}")))
    }
}

/// The result of one look at the file.
#[derive(Default)]
struct Look {
    source: Option<Source>,
    restarted: Option<Reason>,
    fresh: Vec<u8>,
    /// How many files of the [`Watch`] were read or have vanished.
    taken: usize,
    /// How many have vanished.
    missed: usize,
    /// Why the path cannot be followed, while the open file still can be.
    trouble: Option<io::Error>,
}

/// Reads on in the open file, or starts on the next one if there is none or it was replaced.
fn look(path: &Path, source: Option<Source>, watch: &mut Watch) -> io::Result<Look> {
    // Race: the path is looked at before the open file is read, so all that was written to the old
    // file before it was replaced is read before the new one is opened.
    let there = watch.settle(|| identify(path));
    let Some(mut source) = source else {
        return start(path, None, watch, None);
    };
    let is_same = there.as_ref().is_ok_and(|id| *id == source.id);
    let replaced = !is_same && (there.is_ok() || watch.passed().len() > 1);
    match source.read() {
        Ok((None, fresh)) if replaced && fresh.is_empty() => {
            start(path, Some(source), watch, Some(Reason::Replaced))
        }
        Err(_) if replaced => start(path, Some(source), watch, Some(Reason::Replaced)),
        Err(error) => Err(error),
        Ok((restarted, fresh)) => {
            // The file may have been moved away and back. Then it is the last of the files.
            let taken = if is_same { watch.passed().len() } else { 0 };
            let (source, missed) = (Some(source), taken.saturating_sub(1));
            Ok(Look { source, restarted, fresh, taken, missed, trouble: there.err() })
        }
    }
}

/// Starts on the next file of the path, or on the current one. While files before it have vanished,
/// `source` stays the followed file.
fn start(
    path: &Path,
    source: Option<Source>,
    watch: &Watch,
    restarted: Option<Reason>,
) -> io::Result<Look> {
    let passed = watch.passed();
    let Some((_, before)) = passed.split_last() else {
        return open(path, restarted, 0);
    };
    let known = source.as_ref().map(|source| source.id);
    let mut missed = 0;
    for (taken, at) in (1..).zip(before) {
        match at.as_deref().map(|at| open(at, restarted, taken)) {
            // It is the followed file, which was moved away and back.
            Some(Ok(look)) if look.source.as_ref().map(|source| source.id) == known => {}
            Some(Ok(look)) => return Ok(Look { missed, ..look }),
            _ => missed += 1,
        }
    }
    if missed > 0 {
        return Ok(Look { source, taken: before.len(), missed, ..Look::default() });
    }
    open(path, restarted, passed.len())
}

fn open(path: &Path, restarted: Option<Reason>, taken: usize) -> io::Result<Look> {
    let mut source = Source::open(path)?;
    let (_, fresh) = source.read()?;
    Ok(Look { source: Some(source), restarted, fresh, taken, ..Look::default() })
}

/// Identifies a file: device and inode.
type FileId = (u64, u64);

/// Identifies the file at the path, which must be a regular file.
fn identify(path: &Path) -> io::Result<FileId> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    Ok(file_id(&metadata))
}

fn file_id(metadata: &Metadata) -> FileId {
    (metadata.dev(), metadata.ino())
}

/// An open file and how far it was read.
///
/// A look works on a clone, which replaces the original together with the events. Reads are
/// positioned, so clones share no cursor, and an abandoned look leaves no trace.
#[derive(Debug, Clone)]
struct Source {
    /// Stays open while it is followed, so that no other file can get its inode number.
    file: Arc<File>,
    id: FileId,
    position: u64,
    /// The length of the file at the last read.
    length: u64,
    /// **Invariant:** the last [`FINGERPRINT`] bytes before `position`, or all if there are fewer.
    tail: Vec<u8>,
}

impl Source {
    fn open(path: &Path) -> io::Result<Self> {
        // Before it is opened: opening a FIFO would block until a process writes to it.
        identify(path)?;
        let file = File::open(path)?;
        let id = file_id(&file.metadata()?);
        Ok(Self { file: Arc::new(file), id, position: 0, length: 0, tail: Vec::new() })
    }

    /// Reads on, or from the start if the bytes read before are no longer there.
    fn read(&mut self) -> io::Result<(Option<Reason>, Vec<u8>)> {
        match self.read_on()? {
            Ok(fresh) => Ok((None, fresh)),
            Err(reason) => {
                self.position = 0;
                self.tail.clear();
                let fresh = self.read_on()?.unwrap_or_default();
                Ok((Some(reason), fresh))
            }
        }
    }

    /// Reads the bytes past the position, or returns why the position is no longer valid.
    fn read_on(&mut self) -> io::Result<Result<Vec<u8>, Reason>> {
        let len = self.file.metadata()?.len();
        self.length = len;
        if len < self.position {
            return Ok(Err(Reason::Truncated));
        }
        // Race: the tail is compared in the same read that brings the new bytes, so that no rewrite
        // comes between the two.
        let from = self.position - self.tail.len() as u64;
        let wanted = (len - from).min((self.tail.len() + MAX_READ) as u64);
        let mut bytes = vec![0; wanted as usize];
        match self.file.read_exact_at(&mut bytes, from) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                return Ok(Err(Reason::Truncated)); // since its length was taken
            }
            other => other?,
        }
        Ok(self.accept(bytes).ok_or(Reason::Rewritten))
    }

    /// Takes the new bytes behind the tail, if the tail is unchanged.
    fn accept(&mut self, mut bytes: Vec<u8>) -> Option<Vec<u8>> {
        let fresh_len = bytes.strip_prefix(self.tail.as_slice())?.len();
        let tail = bytes.rchunks(FINGERPRINT).next().unwrap_or_default().to_vec();
        let fresh = bytes.split_off(self.tail.len());
        self.position += fresh_len as u64;
        self.tail = tail;
        Some(fresh)
    }
}

/// Cuts bytes into numbered lines, however the reads split them.
#[derive(Debug, Default)]
struct Lines {
    /// The number of the last line that ended.
    number: u64,
    /// The length of the unfinished line.
    length: u64,
    /// The unfinished line; empty if it is too long.
    partial: Vec<u8>,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], events: &mut VecDeque<Event>) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            match piece.strip_suffix(b"\n") {
                Some(end) => {
                    self.push(end);
                    events.extend(self.finish());
                }
                None => self.push(piece),
            }
        }
    }

    fn push(&mut self, mut piece: &[u8]) {
        if self.length == 0 {
            piece = &piece[piece.iter().take_while(|byte| **byte == 0).count()..];
        }
        self.length += piece.len() as u64;
        if self.length <= MAX_LINE as u64 {
            self.partial.extend_from_slice(piece);
        } else {
            self.partial = Vec::new();
        }
    }

    /// Ends the line. An empty line is not an event.
    fn finish(&mut self) -> Option<Event> {
        self.number += 1;
        let (number, bytes) = (self.number, mem::take(&mut self.length));
        let mut text = mem::take(&mut self.partial);
        if bytes > MAX_LINE as u64 {
            return Some(Event::TooLong { number, bytes });
        }
        text.pop_if(|last| *last == b'\r');
        if number == 1 && text.starts_with(BYTE_ORDER_MARK) {
            text.drain(..BYTE_ORDER_MARK.len());
        }
        (!text.is_empty()).then_some(Event::Line { number, text })
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::symlink};

    use tempfile::TempDir;

    use super::*;

    /// A follower of a file that does not exist yet, in a directory of its own.
    struct Bench {
        dir: TempDir,
        follower: Follower,
    }

    impl Bench {
        fn new() -> Self {
            let dir = TempDir::new().unwrap();
            let follower = Follower::new(dir.path().join("file"));
            Self { dir, follower }
        }

        fn with(content: impl AsRef<[u8]>) -> Self {
            let bench = Self::new();
            bench.write("file", content);
            bench
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }

        /// Truncates the file, if it exists, and writes it again.
        fn write(&self, name: &str, content: impl AsRef<[u8]>) {
            fs::write(self.path(name), content).unwrap();
        }

        fn append(&self, name: &str, content: impl AsRef<[u8]>) {
            let mut file = File::options().append(true).open(self.path(name)).unwrap();
            file.write_all(content.as_ref()).unwrap();
        }

        fn rename(&self, from: &str, to: &str) {
            fs::rename(self.path(from), self.path(to)).unwrap();
        }

        async fn read(&mut self) -> Vec<Event> {
            self.follower.read_new().await.unwrap()
        }

        async fn fail(&mut self) -> io::Error {
            self.follower.read_new().await.unwrap_err()
        }
    }

    fn line(number: u64, text: impl AsRef<[u8]>) -> Event {
        Event::Line { number, text: text.as_ref().to_vec() }
    }

    fn cut(pieces: &[&[u8]]) -> Vec<Event> {
        let (mut lines, mut events) = (Lines::default(), VecDeque::new());
        for piece in pieces {
            lines.feed(piece, &mut events);
        }
        events.into()
    }

    #[tokio::test]
    async fn lines_of_one_write_come_together_and_only_once() {
        let mut bench = Bench::with("one\ntwo\n");
        assert_eq!(bench.read().await, [line(1, "one"), line(2, "two")]);
        assert_eq!(bench.read().await, []);
        bench.append("file", "three\nfour\n");
        assert_eq!(bench.read().await, [line(3, "three"), line(4, "four")]);
        assert_eq!(bench.read().await, []);
    }

    #[tokio::test]
    async fn a_line_counts_when_its_lf_has_arrived() {
        let mut bench = Bench::with("");
        for byte in "été".bytes() {
            bench.append("file", [byte]);
            assert_eq!(bench.read().await, []);
        }
        bench.append("file", "\n");
        assert_eq!(bench.read().await, [line(1, "été")]);
    }

    #[tokio::test]
    async fn a_file_may_begin_with_an_unterminated_line() {
        let mut bench = Bench::with("one\nhal");
        assert_eq!(bench.read().await, [line(1, "one")]);
        bench.append("file", "f\nthree\n");
        assert_eq!(bench.read().await, [line(2, "half"), line(3, "three")]);
    }

    #[test]
    fn any_split_gives_the_same_lines() {
        let text = "a\r\n\r\n\né\rb\n\r\r\nc\n".as_bytes();
        let whole = [line(1, "a"), line(4, "é\rb"), line(5, "\r"), line(6, "c")];
        for at in 0..=text.len() {
            let (left, right) = text.split_at(at);
            assert_eq!(cut(&[left, right]), whole, "split at {at}");
        }
        assert_eq!(cut(&text.chunks(1).collect::<Vec<_>>()), whole);
    }

    #[tokio::test]
    async fn empty_lines_are_counted_and_not_yielded() {
        let mut bench = Bench::with("\none\n\n\r\nfive\r\n");
        assert_eq!(bench.read().await, [line(2, "one"), line(5, "five")]);
    }

    #[tokio::test]
    async fn a_truncated_file_is_read_from_the_beginning() {
        let mut bench = Bench::with("one\ntwo\nhal");
        bench.read().await;
        bench.write("file", "one\n");
        assert_eq!(bench.read().await, [Event::Restarted(Reason::Truncated), line(1, "one")]);
        bench.write("file", "");
        assert_eq!(bench.read().await, [Event::Restarted(Reason::Truncated)]);
        bench.append("file", "new\n");
        assert_eq!(bench.read().await, [line(1, "new")]);
    }

    #[tokio::test]
    async fn a_file_rewritten_longer_is_read_from_the_start() {
        let mut bench = Bench::with("one\ntwo\n");
        bench.read().await;
        bench.write("file", "un\ndeux\ntrois\n");
        let lines = [line(1, "un"), line(2, "deux"), line(3, "trois")];
        let restarted = [Event::Restarted(Reason::Rewritten)];
        assert_eq!(bench.read().await, [restarted.as_slice(), &lines].concat());
        assert_eq!(bench.read().await, []);
    }

    #[tokio::test]
    async fn a_file_rewritten_to_the_same_length_is_read_from_the_start() {
        let mut bench = Bench::with("one\ntwo\n");
        bench.read().await;
        bench.write("file", "one\nTWO\n");
        let anew = [Event::Restarted(Reason::Rewritten), line(1, "one"), line(2, "TWO")];
        assert_eq!(bench.read().await, anew);
    }

    #[tokio::test]
    async fn the_fingerprint_spans_reads_and_is_bounded() {
        let mut bench = Bench::with("");
        for number in 1..=50 {
            bench.append("file", "abc\n");
            assert_eq!(bench.read().await, [line(number, "abc")]);
        }
        let source = bench.follower.source.as_ref().unwrap();
        assert_eq!((source.position, source.tail.as_slice()), (200, "abc\n".repeat(16).as_bytes()));
        // The 64th byte before the position is the first that counts.
        let mut content = "abc\n".repeat(50).into_bytes();
        content[200 - 65] = b'x';
        bench.write("file", &content);
        assert_eq!(bench.read().await, []);
        content[200 - 64] = b'x';
        bench.write("file", &content);
        assert_eq!(bench.read().await[0], Event::Restarted(Reason::Rewritten));
    }

    #[tokio::test]
    async fn a_replaced_file_is_drained_before_the_new_one() {
        let mut bench = Bench::with("one\n");
        bench.read().await;
        bench.append("file", "two\nhal");
        bench.write("new", "f\none\ntwo\nthree\n");
        bench.rename("new", "file");
        assert_eq!(bench.read().await, [line(2, "two")]);
        let lines = [line(1, "f"), line(2, "one"), line(3, "two"), line(4, "three")];
        let restarted = [Event::Restarted(Reason::Replaced)];
        assert_eq!(bench.read().await, [restarted.as_slice(), &lines].concat());
        assert_eq!(bench.read().await, []);
    }

    #[tokio::test]
    async fn a_replacement_with_the_same_beginning_is_read_from_the_start() {
        let mut bench = Bench::with("one\n");
        bench.read().await;
        bench.write("new", "one\ntwo\n");
        bench.rename("new", "file");
        let anew = [Event::Restarted(Reason::Replaced), line(1, "one"), line(2, "two")];
        assert_eq!(bench.read().await, anew);
    }

    #[tokio::test]
    async fn retargeting_a_symlink_counts_as_replacing_the_file() {
        let mut bench = Bench::new();
        bench.write("a", "one\n");
        bench.write("b", "two\n");
        symlink(bench.path("a"), bench.path("file")).unwrap();
        assert_eq!(bench.read().await, [line(1, "one")]);
        symlink(bench.path("b"), bench.path("new")).unwrap();
        bench.rename("new", "file");
        assert_eq!(bench.read().await, [Event::Restarted(Reason::Replaced), line(1, "two")]);
    }

    #[tokio::test]
    async fn byte_order_mark_is_stripped_from_the_first_line() {
        let mut bench = Bench::with("\u{feff}one\n\u{feff}two\n");
        assert_eq!(bench.read().await, [line(1, "one"), line(2, "\u{feff}two")]);
        bench.write("new", "\u{feff}");
        bench.rename("new", "file");
        assert_eq!(bench.read().await, [Event::Restarted(Reason::Replaced)]);
        bench.append("file", "\nthree\n");
        assert_eq!(bench.read().await, [line(2, "three")]);
    }

    /// The file that results when a writer keeps its own offset in a truncated file.
    #[tokio::test]
    async fn a_hole_before_a_line_is_skipped() {
        let mut bench = Bench::with("one\ntwo\n");
        bench.read().await;
        let writer = File::options().write(true).open(bench.path("file")).unwrap();
        writer.set_len(0).unwrap();
        assert_eq!(bench.read().await, [Event::Restarted(Reason::Truncated)]);
        writer.write_all_at(b"three\n", 3 * MAX_LINE as u64).unwrap();
        let mut read = Vec::new();
        while !bench.follower.is_idle() || read.is_empty() {
            read.extend(bench.read().await);
        }
        assert_eq!(read, [line(1, "three")]);
        writer.write_all_at(b"a\0b\n", 3 * MAX_LINE as u64 + 6).unwrap();
        assert_eq!(bench.read().await, [line(2, "a\0b")]);
    }

    /// All events of the looks, until a look finds nothing.
    #[cfg(target_os = "linux")]
    async fn read_all(bench: &mut Bench) -> Vec<Event> {
        let mut read = Vec::new();
        loop {
            let events = bench.read().await;
            if events.is_empty() && bench.follower.is_idle() {
                return read;
            }
            read.extend(events);
        }
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn files_replaced_between_two_polls_are_read_in_order() {
        let replaced = Event::Restarted(Reason::Replaced);
        let mut bench = Bench::with("one\n");
        bench.read().await;
        bench.append("file", "two\n");
        bench.rename("file", "file.1");
        bench.write("file", "three\n");
        bench.rename("file.1", "file.2");
        bench.rename("file", "file.1");
        bench.write("file", "four\n");
        let rotated =
            [line(2, "two"), replaced.clone(), line(1, "three"), replaced.clone(), line(1, "four")];
        assert_eq!(read_all(&mut bench).await, rotated);
        // Wherever the files are moved to, and even if no file is at the path in the end.
        for name in ["x", "y", "z"] {
            bench.rename("file", name);
            bench.write("file", format!("{name}\n"));
        }
        bench.rename("file", "away");
        let rotated = [replaced.clone(), line(1, "x"), replaced.clone(), line(1, "y")];
        let mut read = Vec::new();
        while read.len() < rotated.len() {
            read.extend(bench.follower.read_new().await.unwrap_or_default());
        }
        assert_eq!(read, rotated);
        while bench.follower.read_new().await.is_ok() {}
        bench.write("file", "five\n");
        let rotated = [replaced.clone(), line(1, "z"), replaced, line(1, "five")];
        assert_eq!(read_all(&mut bench).await, rotated);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn files_deleted_before_being_read_are_reported() {
        let replaced = Event::Restarted(Reason::Replaced);
        let mut bench = Bench::with("one\n");
        bench.read().await;
        for content in ["two\n", "three\n", "four\n"] {
            bench.write("new", content);
            bench.rename("new", "file");
        }
        let told = [Event::Missed(2), replaced.clone(), line(1, "four")];
        assert_eq!(read_all(&mut bench).await, told);
        // Moved away and back, it is the same file.
        bench.rename("file", "away");
        bench.rename("away", "file");
        bench.append("file", "five\n");
        assert_eq!(read_all(&mut bench).await, [line(2, "five")]);
        bench.write("new", "six\n");
        bench.rename("new", "file");
        assert_eq!(read_all(&mut bench).await, [replaced, line(1, "six")]);
        // Other changes in the folder do not matter.
        for name in ["a", "b"] {
            bench.write(name, "x\n");
            bench.rename(name, "c");
        }
        fs::remove_file(bench.path("c")).unwrap();
        assert_eq!(read_all(&mut bench).await, []);
    }

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_later_file_is_read_after_earlier_unread_files() {
        let mut bench = Bench::new();
        bench.fail().await;
        bench.write("file", "one\n");
        bench.rename("file", "file.1");
        bench.write("file", "two\n");
        let replaced = Event::Restarted(Reason::Replaced);
        assert_eq!(read_all(&mut bench).await, [line(1, "one"), replaced, line(1, "two")]);
    }

    #[tokio::test]
    async fn a_missing_file_is_reported_once_and_awaited() {
        let mut bench = Bench::new();
        let error = bench.fail().await;
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        let start = format!("cannot follow {}: ", bench.path("file").display());
        assert!(error.to_string().starts_with(&start), "{error}");
        assert_eq!(bench.read().await, []);
        bench.write("file", "one\n");
        assert_eq!(bench.read().await, [line(1, "one")]);
    }

    #[tokio::test]
    async fn each_deletion_is_reported_and_reading_continues_on_return() {
        let mut bench = Bench::with("one\n");
        bench.read().await;
        for (number, text) in [(2, "two\n"), (3, "three\n")] {
            bench.rename("file", "away");
            assert_eq!(bench.fail().await.kind(), io::ErrorKind::NotFound);
            assert_eq!(bench.read().await, []);
            bench.append("away", text);
            bench.rename("away", "file");
            assert_eq!(bench.read().await, [line(number, text.trim_end())]);
        }
    }

    #[tokio::test]
    async fn last_lines_of_a_deleted_file_precede_the_error() {
        let mut bench = Bench::with("one\n");
        bench.read().await;
        bench.append("file", "two\n");
        bench.rename("file", "away");
        assert_eq!(bench.read().await, [line(2, "two")]);
        assert_eq!(bench.fail().await.kind(), io::ErrorKind::NotFound);
        bench.append("away", "three\n");
        assert_eq!(bench.read().await, [line(3, "three")]);
        assert_eq!(bench.read().await, []);
    }

    #[tokio::test]
    async fn a_different_file_after_a_while_is_read_from_the_start() {
        let mut bench = Bench::with("one\n");
        bench.read().await;
        fs::remove_file(bench.path("file")).unwrap();
        bench.fail().await;
        // If the old file had been closed, this one could get its inode number.
        bench.write("file", "one\ntwo\n");
        let anew = [Event::Restarted(Reason::Replaced), line(1, "one"), line(2, "two")];
        assert_eq!(bench.read().await, anew);
    }

    #[tokio::test]
    async fn a_different_error_is_reported_as_well() {
        let mut bench = Bench::new();
        assert_eq!(bench.fail().await.kind(), io::ErrorKind::NotFound);
        fs::create_dir(bench.path("file")).unwrap();
        assert_eq!(bench.fail().await.kind(), io::ErrorKind::InvalidInput);
        assert_eq!(bench.read().await, []);
        fs::remove_dir(bench.path("file")).unwrap();
        assert_eq!(bench.fail().await.kind(), io::ErrorKind::NotFound);
    }

    #[tokio::test]
    async fn a_line_too_long_is_reported_once_and_skipped() {
        let long = "x".repeat(3 * MAX_LINE);
        let mut bench = Bench::with(format!("one\n{long}"));
        assert_eq!(bench.read().await, [line(1, "one")]);
        while !bench.follower.is_idle() {
            assert_eq!(bench.read().await, []);
            assert!(bench.follower.lines.partial.capacity() <= 2 * MAX_LINE);
        }
        assert_eq!(bench.follower.lines.partial.capacity(), 0);
        bench.append("file", "yy\nthree\n");
        let bytes = 3 * MAX_LINE as u64 + 2;
        assert_eq!(bench.read().await, [Event::TooLong { number: 2, bytes }, line(3, "three")]);
    }

    #[test]
    fn the_bound_of_a_line_is_exact() {
        let bound = vec![b'x'; MAX_LINE];
        assert_eq!(cut(&[&bound, b"\n"]), [line(1, &bound)]);
        let bytes = MAX_LINE as u64 + 1;
        assert_eq!(cut(&[&bound, b"x\n"]), [Event::TooLong { number: 1, bytes }]);
        assert_eq!(cut(&[&bound, b"x", b"\ny\n"])[1], line(2, "y"));
    }

    #[tokio::test]
    async fn one_call_reads_a_bounded_amount_and_the_next_continues() {
        let count = MAX_READ as u64 / 4 + 10;
        let mut bench = Bench::with("abc\n".repeat(count as usize));
        assert_eq!(bench.read().await.len(), MAX_READ / 4);
        assert_eq!(bench.read().await.last(), Some(&line(count, "abc")));
        assert_eq!(bench.read().await, []);
    }

    #[tokio::test]
    async fn a_long_rest_is_drained_over_several_calls() {
        let mut bench = Bench::with("abc\n".repeat(MAX_READ / 2));
        bench.read().await;
        bench.write("new", "new\n");
        bench.rename("new", "file");
        assert_eq!(bench.read().await.last(), Some(&line(MAX_READ as u64 / 2, "abc")));
        assert_eq!(bench.read().await, [Event::Restarted(Reason::Replaced), line(1, "new")]);
    }

    #[test]
    fn a_dropped_call_loses_no_lines() {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        let runtime = builder.max_blocking_threads(1).build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::with("one\n");
            assert_eq!(bench.read().await, [line(1, "one")]);
            bench.append("file", "two\nthree\n");
            // Race: the look could end at the first poll if its only thread were not kept busy.
            let (release, released) = std::sync::mpsc::channel::<()>();
            let busy = spawn_blocking(move || released.recv());
            tokio::select! {
                biased;
                _ = bench.follower.read_new() => panic!("the only thread is busy"),
                () = std::future::ready(()) => {}
            }
            release.send(()).unwrap();
            busy.await.unwrap().unwrap();
            assert_eq!(bench.read().await, [line(2, "two"), line(3, "three")]);
        });
    }
}
