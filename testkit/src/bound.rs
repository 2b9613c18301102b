//! Bounds on waiting, and on deadlines: a test that would hang fails and is named, and a deadline
//! is checked from both sides.

use std::{
    cell::OnceCell,
    env,
    io::Write,
    process,
    sync::{Arc, Mutex, Once, PoisonError, Weak},
    thread,
    time::{Duration, Instant as RealInstant},
};

use tokio::time::{Instant, timeout, timeout_at};

/// The bound on one wait while the clock is paused. It is far: the clock jumps to the next timer
/// whenever all tasks wait, and must find every timer of the code under test before this one.
const VIRTUAL: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// The bound on one wait in real time, for a machine that is busy with other things.
const REAL: Duration = Duration::from_secs(120);

/// After so long without a step of its own a test is stuck, whatever its clock does.
const STUCK: Duration = Duration::from_secs(300);

/// How much later than its time a deadline may fire: a few ticks of the server's timers.
pub const LATE: Duration = Duration::from_millis(50);

/// Waits for `event`, but not for ever: a wait without an end fails the test by its name.
pub async fn bounded<T>(what: &str, event: impl Future<Output = T>) -> T {
    watch();
    let bound = if is_paused() { VIRTUAL } else { REAL };
    match timeout(bound, event).await {
        Ok(value) => value,
        Err(_) => panic!("hangs: {what} did not come within {bound:?}"),
    }
}

/// `event` is the deadline that is `after` from `since`: it does not come until 1 ms before, and it
/// comes at most [`LATE`] after.
///
/// Without this, paused time hides a deadline that fires late: the clock jumps to whatever timer is
/// next.
pub async fn due<T>(since: Instant, after: Duration, event: impl Future<Output = T>) -> T {
    due_within(since, after..after, event).await
}

/// As [`due`], for a deadline with a random part: not before the range, and at most [`LATE`] behind
/// it.
pub async fn due_within<T>(
    since: Instant,
    range: std::ops::Range<Duration>,
    event: impl Future<Output = T>,
) -> T {
    watch();
    let mut event = std::pin::pin!(event);
    if let Some(before) = range.start.checked_sub(Duration::from_millis(1)) {
        let early = timeout_at(since + before, &mut event).await;
        assert!(early.is_err(), "came {:?} from the start, not {range:?}", since.elapsed());
    }
    match timeout_at(since + range.end + LATE, event).await {
        Ok(value) => value,
        Err(_) => {
            panic!("did not come within {:?} of the start, but at {range:?}", since.elapsed())
        }
    }
}

/// Whether the clock of this runtime is paused: real time passes, and its own does not.
fn is_paused() -> bool {
    let (real, own) = (RealInstant::now(), Instant::now());
    while RealInstant::now() == real {}
    Instant::now() == own
}

/// Notes that this test goes on. One that makes no further step for `STUCK` ends the process, with
/// its name: it may spin, or wait for what has no bound.
pub fn watch() {
    thread_local! {
        static OWN: OnceCell<Arc<Watched>> = const { OnceCell::new() };
    }
    let _ = OWN.try_with(|own| {
        let watched = own.get_or_init(Watched::begin);
        *watched.since.lock().unwrap_or_else(PoisonError::into_inner) = RealInstant::now();
    });
    watch_virtual_time();
}

/// A test's thread, until it ends.
struct Watched {
    name: String,
    since: Mutex<RealInstant>,
}

static WATCHED: Mutex<Vec<Weak<Watched>>> = Mutex::new(Vec::new());

impl Watched {
    fn begin() -> Arc<Self> {
        static START: Once = Once::new();
        START.call_once(|| drop(thread::spawn(look_after_all)));
        let name = thread::current().name().unwrap_or("a thread").to_owned();
        let watched = Arc::new(Self { name, since: Mutex::new(RealInstant::now()) });
        // Worker threads of a runtime wait for long: the test's own thread says whether it goes on.
        if !watched.name.starts_with("tokio-") {
            let mut all = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
            all.retain(|other| other.strong_count() > 0);
            all.push(Arc::downgrade(&watched));
        }
        watched
    }
}

fn look_after_all() {
    let stuck = env::var("BELLWIRE_TEST_STUCK")
        .map_or(STUCK, |seconds| Duration::from_secs(seconds.parse().expect("seconds")));
    loop {
        thread::sleep(Duration::from_secs(1));
        let all = WATCHED.lock().unwrap_or_else(PoisonError::into_inner);
        for watched in all.iter().filter_map(Weak::upgrade) {
            let since = *watched.since.lock().unwrap_or_else(PoisonError::into_inner);
            if since.elapsed() > stuck {
                give_up(&watched.name, &format!("no step for {stuck:?} of real time"));
            }
        }
    }
}

/// Ends the process: nothing else can end a test whose thread does not come back.
fn give_up(name: &str, why: &str) -> ! {
    // Not by a macro: the text of those is held back until a test has ended.
    let _ = writeln!(std::io::stderr(), "\ntest {name} hangs: {why}");
    process::exit(101);
}

/// On a paused clock the test hangs if all wait and nothing but this timer is left. Waits that have
/// a bound of their own are found before that.
fn watch_virtual_time() {
    thread_local! {
        static LAST: std::cell::Cell<Option<tokio::runtime::Id>> = const { std::cell::Cell::new(None) };
    }
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
    let is_new = LAST.try_with(|last| last.replace(Some(runtime.id())) != Some(runtime.id()));
    if is_new == Ok(true) && is_paused() {
        let name = thread::current().name().unwrap_or("a thread").to_owned();
        runtime.spawn(async move {
            tokio::time::sleep(2 * VIRTUAL).await;
            give_up(&name, "all tasks wait for what has no bound");
        });
    }
}
