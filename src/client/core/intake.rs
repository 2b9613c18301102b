//! The queue of requests between the callers and the core.

use std::task::Waker;

use crate::{
    client::core::{key::LinkId, requests::Request, step::Step},
    guard::wake,
    sync::{AtomicBool, Mutex, Ordering},
};

/// The capacity that is kept after a burst.
pub(super) const SPARE: usize = 1_024;

/// Requests on their way to the core.
///
/// The driver holds the lock of the core while it processes a batch. Callers push their requests
/// here, so that they need not wait for that lock. Each step of the core first takes over the
/// requests that are here, so the order of requests and all other actions is kept.
///
/// The intake is open while the current connection is OPEN, from the first time that its driver
/// waits. While it is closed, requests are submitted to the core directly. Lists, one-way requests,
/// and requests with a deadline of their own are always submitted directly. (The line of such a
/// request contains the time that is left, which would be outdated.)
///
/// Each request belongs to a task of the application that polls it, so the application bounds their
/// number.
#[derive(Debug, Default)]
pub(super) struct Intake {
    /// Whether there are requests, so that the driver can check without the lock.
    has_requests: AtomicBool,
    /// Locked while the core is locked, or alone; never before the core.
    contents: Mutex<Contents>,
}

#[derive(Debug, Default)]
struct Contents {
    open: Option<Open>,
    requests: Vec<Request>,
}

#[derive(Debug)]
struct Open {
    /// The longest line that the server accepts.
    max_line: usize,
    /// The driver, while it waits.
    driver: Option<Waker>,
}

/// The link for which the intake is open. This belongs to the core.
#[derive(Debug, Default)]
pub(super) struct IntakeOwner {
    pub(super) link: Option<LinkId>,
    /// Empty between two steps. It is kept for its allocation.
    pub(super) taken: Vec<Request>,
}

impl Intake {
    /// Queues a request for the driver and wakes the driver. Returns the request if that is not
    /// possible.
    pub(super) fn push(&self, request: Request) -> Result<(), Request> {
        let max_len = request.max_len();
        let mut contents = self.contents.lock();
        let Contents { open: Some(open), requests } = &mut *contents else { return Err(request) };
        if max_len.is_none_or(|max_len| max_len > open.max_line) {
            return Err(request);
        }
        if requests.is_empty() {
            self.has_requests.store(true, Ordering::Release);
        }
        requests.push(request);
        let driver = open.driver.take();
        drop(contents);
        wake(driver);
        Ok(())
    }

    /// Moves all requests to `taken`, which is empty.
    pub(super) fn take(&self, taken: &mut Vec<Request>) {
        if self.has_requests.load(Ordering::Acquire) {
            self.take_from(&mut self.contents.lock(), taken);
        }
    }

    fn take_from(&self, contents: &mut Contents, taken: &mut Vec<Request>) {
        self.has_requests.store(false, Ordering::Relaxed);
        std::mem::swap(&mut contents.requests, taken);
    }

    /// Registers the waiting driver and opens the intake. Returns `false` instead if there are
    /// requests.
    pub(super) fn wait(&self, max_line: usize, waker: &Waker, step: &mut Step) -> bool {
        let mut contents = self.contents.lock();
        if !contents.requests.is_empty() {
            return false;
        }
        match &mut contents.open {
            Some(Open { driver: Some(driver), max_line: known })
                if *known == max_line && driver.will_wake(waker) => {}
            open => {
                let before = open.replace(Open { max_line, driver: Some(waker.clone()) });
                step.drop_later(before.and_then(|before| before.driver));
            }
        }
        true
    }

    /// Closes it. Moves all requests to `taken`, which is empty.
    pub(super) fn close(&self, taken: &mut Vec<Request>, step: &mut Step) {
        let mut contents = self.contents.lock();
        self.take_from(&mut contents, taken);
        step.drop_later(contents.open.take().and_then(|open| open.driver));
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;
    use crate::{
        client::core::{Core, caller::Caller, cell::RequestCell, repetition::Repetition},
        protocol::{Time, Word},
    };

    #[derive(Default)]
    struct Task(AtomicUsize);

    impl Wake for Task {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn request(caller: Caller) -> Request {
        let cell = RequestCell::new(Word::new("m").unwrap(), b"");
        let (has_own_deadline, fail_fast, repeats) = (false, false, Repetition::default());
        Request { cell, caller, expires: None, has_own_deadline, fail_fast, repeats }
    }

    fn open_for(task: &Arc<Task>) -> Intake {
        let (intake, mut step) = (Intake::default(), Step::at(Time::default()));
        assert!(intake.wait(2_048, &Waker::from(task.clone()), &mut step));
        intake
    }

    #[test]
    fn a_request_before_the_driver_waits_is_not_missed() {
        let (task, mut step) = (Arc::default(), Step::default());
        let intake = open_for(&task);
        intake.push(request(Caller::Call)).unwrap();
        assert!(!intake.wait(2_048, &Waker::from(task.clone()), &mut step));
        let mut taken = Vec::new();
        intake.take(&mut taken);
        assert_eq!(taken.len(), 1);
        assert!(intake.wait(2_048, &Waker::from(task), &mut step));
    }

    #[test]
    fn a_closed_intake_gives_requests_back() {
        let (task, mut step, mut taken) = (Arc::default(), Step::default(), Vec::new());
        assert!(Intake::default().push(request(Caller::Call)).is_err());
        let intake = open_for(&task);
        intake.push(request(Caller::Call)).unwrap();
        intake.close(&mut taken, &mut step);
        assert_eq!(taken.len(), 1);
        assert!(intake.push(request(Caller::Call)).is_err());
        step.run();
        assert_eq!(Arc::strong_count(&task), 1, "the waker is dropped");
    }

    /// Checks both the intake and the core.
    #[test]
    fn buffers_shrink_after_a_burst() {
        let mut core = Core::new(Arc::default(), false, false);
        let (intake, mut step) = (open_for(&Arc::default()), Step::default());
        for _ in 0..3 {
            (0..=SPARE).for_each(|_| intake.push(request(Caller::Call)).unwrap());
            core.take_in(&intake, &mut step);
            assert!(core.requests.are_waiting());
            let left = [intake.contents.lock().requests.capacity(), core.intake.taken.capacity()];
            assert!(left.iter().all(|capacity| *capacity <= SPARE), "{left:?}");
        }
    }
}
