//! The offers of the file. Those of a file that was rewritten or replaced come all at once.

use std::{
    collections::HashMap,
    num::NonZeroU64,
    path::{Path, PathBuf},
};

use super::{
    file::{self, Found, Remark},
    follow::Follower,
    offer::Offer,
};

/// The reader of the file.
pub(crate) struct Reading {
    pub(crate) follower: Follower,
    /// The end of the content that was in the file at the start, while that is not read; `None`
    /// before it is known.
    loads_until: Option<Option<u64>>,
    /// The offers since the file restarted, until the file is read as far as it went then. If an
    /// offer is in it twice, only the last one counts, and it has not changed in between.
    held: Option<Held>,
}

#[derive(Default)]
struct Held {
    until: u64,
    offers: Vec<Option<Offer>>,
    places: HashMap<NonZeroU64, usize>,
}

impl Reading {
    pub(crate) fn new(path: impl Into<PathBuf>) -> Self {
        Self { follower: Follower::new(path), loads_until: Some(None), held: None }
    }

    /// Whether the initial content of the file is not completely read.
    pub(crate) fn is_loading(&self) -> bool {
        self.loads_until.is_some()
    }

    /// Whether offers were read that were not returned yet.
    pub(crate) fn is_held(&self) -> bool {
        self.held.is_some()
    }

    /// The offers of the next piece of the file, which is at `path`. Errors in it are printed on
    /// stderr.
    pub(crate) async fn read(&mut self, path: Option<&Path>) -> Vec<Offer> {
        let mut offers = Vec::new();
        match self.follower.read_new().await {
            Ok(events) => events.into_iter().for_each(|event| match file::read(event) {
                Found::Offer(offer) => self.take(offer, &mut offers),
                Found::Remark(remark) => self.on_remark(&remark, path),
            }),
            Err(error) => eprintln!("{error}"),
        }
        let (position, length) = (self.follower.position(), self.follower.length());
        let is_idle = self.follower.is_idle();
        self.loads_until = self.loads_until.map(|until| Some(until.unwrap_or(length)));
        self.loads_until.take_if(|until| is_idle || until.is_some_and(|until| position >= until));
        if let Some(held) = &mut self.held
            && held.until == 0
        {
            held.until = length;
        }
        if let Some(held) = self.held.take_if(|held| is_idle || position >= held.until) {
            offers.extend(held.offers.into_iter().flatten());
        }
        offers
    }

    fn on_remark(&mut self, remark: &Remark, path: Option<&Path>) {
        if let Remark::Restarted(_) = remark {
            let held = self.held.get_or_insert_default();
            held.until = 0;
        }
        eprintln!("{}: {remark}", path.unwrap_or(Path::new("")).display());
    }

    fn take(&mut self, offer: Offer, offers: &mut Vec<Offer>) {
        match &mut self.held {
            Some(held) => held.take(offer),
            None => offers.push(offer),
        }
    }
}

impl Held {
    /// Keeps the last of several offers with one id, in its own place.
    fn take(&mut self, offer: Offer) {
        let place = self.offers.len();
        if let Some(before) = self.places.insert(offer.id, place) {
            self.offers[before] = None;
        }
        self.offers.push(Some(offer));
    }
}
