//! Bounds on waits and deadlines. A test that hangs fails with its name, and a deadline is checked
//! from both sides.

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

/// The bound on one wait while the clock is paused. When all tasks wait, the clock jumps to the
/// next timer. So the bound must lie behind every timer of the code under test.
const VIRTUAL: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// The bound on one wait in real time, long enough for a busy machine.
const REAL: Duration = Duration::from_secs(120);

/// A test without a step of its own for this long is stuck, whether or not its clock is paused.
const STUCK: Duration = Duration::from_secs(300);

/// How much later than its time a deadline may fire: a few ticks of the server's timers.
pub const LATE: Duration = Duration::from_millis(50);

/// Waits for `event`. If it does not come within the bound, the test fails with its name.
pub async fn bounded<T>(what: &str, event: impl Future<Output = T>) -> T {
    watch();
    let bound = if is_paused() { VIRTUAL } else { REAL };
    match timeout(bound, event).await {
        Ok(value) => value,
        Err(_) => panic!("hangs: {what} did not come within {bound:?}"),
    }
}

/// Checks that `event` comes when it is due, `after` from `since`: at least 1 ms before that it has
/// not come, and it comes at most [`LATE`] after.
///
/// Without this check, paused time hides a deadline that fires late, because the clock jumps to any
/// next timer.
pub async fn due<T>(since: Instant, after: Duration, event: impl Future<Output = T>) -> T {
    due_within(since, after..after, event).await
}

/// As [`due`], for a deadline with a random part: not before the range, and at most [`LATE`] after
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

/// Whether the clock of this runtime is paused: real time passes, but its own time does not.
fn is_paused() -> bool {
    let (real, own) = (RealInstant::now(), Instant::now());
    while RealInstant::now() == real {}
    Instant::now() == own
}

/// Records that this test makes progress. A test without a further step for `STUCK` ends the
/// process, with its name. Such a test spins, or waits without a bound.
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

/// The thread of a test, until the thread ends.
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
        // Worker threads of a runtime may wait for long. The test's own thread shows its progress.
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
    // Not by `eprintln!`: the test harness holds that text back until the test has ended.
    let _ = writeln!(std::io::stderr(), "\ntest {name} hangs: {why}");
    process::exit(101);
}

/// On a paused clock, a test hangs if all tasks wait and this timer is the only one left. Waits
/// with a bound of their own fail before that.
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
