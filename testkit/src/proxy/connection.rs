//! One connection: two transports, and the bytes between them.

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
};

use fastrand::Rng;
use tokio::io::AsyncWriteExt;

use super::{
    Both, Direction, Next, Transport,
    link::Link,
    plan::{Fate, Plan},
    way::{Turn, Way},
    wire::Opened,
};

pub(super) struct Connection<A, B> {
    /// The transport to the client.
    near: A,
    /// The transport to the server.
    far: B,
    ways: Both<Way>,
    link: Arc<Link>,
    opened: Opened,
}

impl<A: Transport, B: Transport> Connection<A, B> {
    pub(super) fn new(near: A, far: B, Next { plan, link, opened }: Next) -> Self {
        Self { near, far, ways: ways(plan), link, opened }
    }

    /// Plays its plan to the end.
    pub(super) async fn play(mut self) {
        let fate = poll_fn(|cx| self.poll(cx)).await;
        let Self { mut near, mut far, opened, .. } = self;
        if fate == Fate::Reset {
            near.reset();
            far.reset();
        } else {
            // A socket that is dropped with unread bytes sends a reset, unless it was shut down
            // before.
            let _ = tokio::join!(near.shutdown(), far.shutdown());
            drop((near, far));
        }
        drop(opened);
    }

    /// Ready when the connection has ended.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Fate> {
        let commands = self.link.look(cx);
        match commands.fate {
            Some(Fate::Dark) => self.darken(),
            Some(fate) => return Poll::Ready(fate),
            None => {}
        }
        if commands.is_stalled {
            return Poll::Pending;
        }
        for direction in Direction::BOTH {
            if let Poll::Ready(turn) = self.poll_way(direction, cx)
                && let Some(fate) = self.turn(direction, turn, cx)
            {
                return Poll::Ready(fate);
            }
        }
        let is_over = Direction::BOTH.iter().all(|&direction| self.ways[direction].is_over());
        if is_over { Poll::Ready(Fate::Close) } else { Poll::Pending }
    }

    fn poll_way(&mut self, direction: Direction, cx: &mut Context<'_>) -> Poll<Turn> {
        let Self { near, far, ways, opened, .. } = self;
        match direction {
            Direction::ToServer => ways[direction].poll(near, far, opened, cx),
            Direction::ToClient => ways[direction].poll(far, near, opened, cx),
        }
    }

    /// Handles an event of one direction, so that both directions know it before more bytes pass.
    fn turn(&mut self, direction: Direction, turn: Turn, cx: &Context<'_>) -> Option<Fate> {
        match turn {
            Turn::Fate(Fate::Dark) => self.darken(),
            Turn::Fate(fate) => return Some(fate),
            Turn::Lost => self.ways[direction.other()].lose_sender(),
        }
        cx.waker().wake_by_ref();
        None
    }

    fn darken(&mut self) {
        Direction::BOTH.iter().for_each(|&direction| self.ways[direction].darken());
    }
}

fn ways(Plan { slices, scripts, .. }: Plan) -> Both<Way> {
    let Both([to_server, to_client]) = scripts;
    let mut seeds = slices.map(Rng::with_seed);
    let mut slicer = || seeds.as_mut().map(Rng::fork);
    Both([
        Way::new(Direction::ToServer, to_server, slicer()),
        Way::new(Direction::ToClient, to_client, slicer()),
    ])
}
