//! Random runs against the model.

use std::{
    mem,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use fastrand::Rng;

use crate::{
    protocol::{Epoch, Topic},
    topic::{
        BoxFuture, PublishError, Published, Room,
        suite::{
            bench::{Bench, topic},
            check::{Checked, require},
            harness::Ending,
            model::Model,
            probe::{Item, Probe},
            under_test::Limits,
        },
    },
};

const TOPICS: usize = 4;
const RETAINED: usize = 20;
/// The most appends that have not ended.
const PENDING: usize = 8;
/// The most readers that stay open.
const WATCHERS: usize = 4;

type Append = BoxFuture<Result<Published, PublishError>>;

pub(in crate::topic::suite) async fn one_life(bench: &mut Bench) -> Checked {
    all_runs(bench, false).await
}

pub(in crate::topic::suite) async fn many_lives(bench: &mut Bench) -> Checked {
    all_runs(bench, true).await
}

async fn all_runs(bench: &mut Bench, ends: bool) -> Checked {
    let options = bench.options();
    for seed in (options.seed..).take(options.runs) {
        bench.check(format!("the run with seed {seed}, at its beginning"));
        let mut run = Run::begin(bench, seed).await;
        for step in 1..=options.steps {
            run.step(step, ends).await?;
        }
        run.finish(ends).await?;
    }
    Ok(())
}

/// A reader that stays open.
struct Watcher {
    name: Topic,
    epoch: Epoch,
    probe: Probe,
    has_ended: bool,
}

/// An append that has not ended.
struct Pending {
    name: Topic,
    number: u64,
    append: Append,
}

/// One run. It is public to the suite for cases that are not random.
pub(super) struct Run<'a> {
    pub(super) bench: &'a mut Bench,
    seed: u64,
    rng: Rng,
    model: Model,
    names: Vec<Topic>,
    pending: Vec<Pending>,
    watchers: Vec<Watcher>,
    /// Topics with appends whose futures were dropped before they ended.
    adrift: Vec<Topic>,
    /// The payloads so far: each is another one.
    payloads: u64,
    now: String,
}

impl<'a> Run<'a> {
    pub(super) async fn begin(bench: &'a mut Bench, seed: u64) -> Self {
        let capabilities = bench.capabilities();
        bench.open(Limits { messages: RETAINED, ..Limits::new() }).await;
        let retained = capabilities.by_count.then_some(RETAINED as u64);
        let model = Model::new(retained, capabilities.anew);
        let names = (0..TOPICS).map(|n| topic(&format!("t{n}"))).collect();
        let rng = Rng::with_seed(seed);
        Self {
            bench,
            seed,
            rng,
            model,
            names,
            pending: Vec::new(),
            watchers: Vec::new(),
            adrift: Vec::new(),
            payloads: 0,
            now: String::new(),
        }
    }

    async fn step(&mut self, step: usize, ends: bool) -> Checked {
        let name = self.names[self.rng.usize(..self.names.len())].clone();
        self.now = format!("step {step} of the run with seed {}", self.seed);
        match self.rng.u8(..if ends { 24 } else { 22 }) {
            0..=5 => self.append(&name).await,
            6..=9 => self.call(&name).await,
            10 | 11 => self.settle_one().await,
            12..=14 => self.read(&name).await,
            15 => self.open_watcher(&name).await,
            16..=18 => self.look(),
            19 => self.drop_something(),
            20 => self.sweep().await,
            21 => self.close(&name).await,
            22 => self.end(Ending::Clean).await,
            _ => self.kill(&name).await,
        }
    }

    fn says(&self, what: &str) {
        let at = if self.now.is_empty() { "" } else { ", " };
        self.bench.check(format!("{}{at}{what}", self.now));
    }

    /// An append whose future is awaited.
    pub(super) async fn append(&mut self, name: &Topic) -> Checked {
        self.says(&format!("an append to {name}"));
        let payload = self.payload();
        let append = self.bench.store().append(name, payload.clone());
        let number = self.model.called(name, payload);
        let published = append.await?;
        self.model.acknowledged(name, number, published)
    }

    /// An append whose future is kept, after some polls.
    pub(super) async fn call(&mut self, name: &Topic) -> Checked {
        if self.model.topic(name).may_be_new {
            return self.append(name).await;
        }
        if self.pending.len() >= PENDING {
            self.settle_one().await?;
        }
        self.says(&format!("an append to {name} that is not awaited"));
        let payload = self.payload();
        let mut append = self.bench.store().append(name, payload.clone());
        let number = self.model.called(name, payload);
        for _ in 0..self.rng.u8(..3) {
            if let Poll::Ready(published) = polled(&mut append) {
                return self.model.acknowledged(name, number, published?);
            }
        }
        self.pending.push(Pending { name: name.clone(), number, append });
        Ok(())
    }

    fn payload(&mut self) -> Bytes {
        self.payloads += 1;
        format!("{}:{}", self.payloads, "x".repeat(self.rng.usize(..40))).into()
    }

    async fn settle_one(&mut self) -> Checked {
        if self.pending.is_empty() {
            return Ok(());
        }
        let pending = self.pending.swap_remove(self.rng.usize(..self.pending.len()));
        self.settle(pending).await
    }

    async fn settle(&mut self, pending: Pending) -> Checked {
        let Pending { name, number, append } = pending;
        self.says(&format!("the end of append {number} to {name}"));
        let published = append.await?;
        self.model.acknowledged(&name, number, published)
    }

    async fn settle_all(&mut self) -> Checked {
        while let Some(pending) = self.pending.pop() {
            self.settle(pending).await?;
        }
        Ok(())
    }

    /// Reads from any number on, at least up to the last one that was confirmed.
    pub(super) async fn read(&mut self, name: &Topic) -> Checked {
        let Some(log) = &self.model.topic(name).log else { return Ok(()) };
        let confirmed = log.confirmed;
        let Some(begin) = log.position(self.rng.u64(1..=confirmed + 1)) else { return Ok(()) };
        self.says(&format!("a read of {name} from {begin} on, up to {confirmed}"));
        let mut probe = self.bench.probe(name);
        let window = probe.window().await?;
        let is_there = window.epoch != begin.epoch || window.next > confirmed;
        require(is_there, || format!("the next number is {}", window.next))?;
        probe.position = Some(begin);
        let room = self.room();
        while let Some(at) = probe.position.filter(|at| at.epoch == begin.epoch) {
            let is_due = at.next <= confirmed;
            let items = if is_due { Some(probe.next(room).await?) } else { probe.poll(room)? };
            for item in items.iter().flatten() {
                self.model.read(name, at, item)?;
            }
            if !is_due {
                break;
            }
        }
        Ok(())
    }

    fn room(&mut self) -> Room {
        Room::new(self.rng.usize(1..200), self.rng.u64(1..8), 1 << 20)
    }

    /// Opens a reader at the beginning or the end of the log.
    async fn open_watcher(&mut self, name: &Topic) -> Checked {
        let Some(log) = &self.model.topic(name).log else { return Ok(()) };
        let next = if self.rng.bool() { 1 } else { log.confirmed + 1 };
        let is_certain = !self.model.topic(name).may_be_new;
        let log = self.model.topic(name).log.as_ref().and_then(|log| log.position(next));
        let Some(position) = log.filter(|_| is_certain && self.watchers.len() < WATCHERS) else {
            return Ok(());
        };
        self.says(&format!("a reader of {name} that stays at {position}"));
        let mut probe = self.bench.probe(name);
        probe.window().await?;
        probe.position = Some(position);
        let epoch = position.epoch;
        self.watchers.push(Watcher { name: name.clone(), epoch, probe, has_ended: false });
        Ok(())
    }

    /// Each reader that stays takes a step.
    fn look(&mut self) -> Checked {
        for at in 0..self.watchers.len() {
            let room = self.room();
            let Watcher { name, probe, has_ended, .. } = &mut self.watchers[at];
            let place = probe.position.expect("where the reader stands");
            let now = &self.now;
            self.bench.check(format!("{now}, a step of the reader of {name} at {place}"));
            for item in probe.poll(room)?.unwrap_or_default() {
                self.model.read(name, place, &item)?;
                *has_ended = item == Item::Closed;
            }
        }
        self.watchers.retain(|watcher| !watcher.has_ended);
        Ok(())
    }

    /// Each reader that stays reads all that there is.
    async fn read_rest(&mut self) -> Checked {
        for Watcher { name, epoch, mut probe, .. } in mem::take(&mut self.watchers) {
            let (last, has_end) = self.model.rest(&name, epoch);
            self.says(&format!("the rest of {name} under {epoch}, up to {last}"));
            while let Some(at) = probe.position.filter(|at| at.next <= last || has_end) {
                let items = probe.next(self.room()).await?;
                for item in &items {
                    self.model.read(&name, at, item)?;
                }
                if items.last() == Some(&Item::Closed) {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Drops a reader, or the future of an append, whose message stays nevertheless.
    fn drop_something(&mut self) -> Checked {
        self.says("a reader or an append is dropped");
        match self.rng.bool() {
            true if !self.watchers.is_empty() => {
                drop(self.watchers.swap_remove(self.rng.usize(..self.watchers.len())));
            }
            false if !self.pending.is_empty() => {
                let dropped = self.pending.swap_remove(self.rng.usize(..self.pending.len()));
                self.adrift.push(dropped.name);
            }
            _ => {}
        }
        Ok(())
    }

    /// An append behind those whose futures were dropped tells that they have ended.
    async fn await_adrift(&mut self) -> Checked {
        while let Some(name) = self.adrift.pop() {
            self.append(&name).await?;
        }
        Ok(())
    }

    async fn sweep(&mut self) -> Checked {
        self.settle_all().await?;
        self.await_adrift().await?;
        self.says("sweeps");
        for _ in 0..self.rng.u8(1..=4) {
            self.bench.store().sweep();
        }
        let watchers = &self.watchers;
        self.model.swept(|name, epoch| {
            let uses = |it: &Watcher| it.name == *name && Some(it.epoch) == epoch;
            watchers.iter().any(uses)
        });
        Ok(())
    }

    pub(super) async fn close(&mut self, name: &Topic) -> Checked {
        if !self.bench.capabilities().closing {
            return Ok(());
        }
        self.settle_all().await?;
        self.await_adrift().await?;
        self.append(name).await?;
        self.says(&format!("a close of {name}"));
        let end = self.bench.close(name).await?;
        self.model.closed(name, end)
    }

    /// Kills the store, perhaps while a log is being closed.
    async fn kill(&mut self, closing: &Topic) -> Checked {
        if self.bench.capabilities().closing && self.rng.u8(..4) == 0 {
            _ = polled(&mut self.bench.store().close(closing));
            self.model.topic(closing).may_be_closed = true;
        }
        self.end(Ending::Kill).await
    }

    /// Ends the store, with whatever has not ended, and opens it again.
    pub(super) async fn end(&mut self, ending: Ending) -> Checked {
        if ending == Ending::Clean {
            self.settle_all().await?;
        }
        self.watchers.clear();
        self.pending.clear();
        self.adrift.clear();
        self.says(&format!("a new life after this end: {ending:?}"));
        self.bench.again(ending).await;
        for name in self.model.names() {
            self.says(&format!("the window of {name} after this end: {ending:?}"));
            let window = self.bench.window(&name).await?;
            self.model.returned(&name, window, ending == Ending::Kill)?;
        }
        Ok(())
    }

    /// Everything that is left is read.
    pub(super) async fn finish(mut self, ends: bool) -> Checked {
        self.now = format!("the end of the run with seed {}", self.seed);
        self.settle_all().await?;
        for name in self.names.clone() {
            self.read(&name).await?;
        }
        self.read_rest().await?;
        if ends {
            self.end(Ending::Kill).await?;
        }
        for name in self.names.clone() {
            self.append(&name).await?;
            self.read(&name).await?;
        }
        Ok(())
    }
}

fn polled<T>(future: &mut BoxFuture<T>) -> Poll<T> {
    Pin::new(future).poll(&mut Context::from_waker(Waker::noop()))
}
