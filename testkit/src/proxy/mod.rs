//! A proxy that does to connections what networks do, by plan or on command, and records what it
//! delivered. It passes bytes on and does not interpret them, so it is a witness that is
//! independent of the crate.
//!
//! Connections are numbered from 0 in the order in which they are made, and each plays its
//! [`Plan`]. All waits use tokio's clock. Bytes that a plan does not affect pass unchanged, and so
//! does the end of a direction. If one end disappears, the other is reset as soon as the proxy
//! notices.

mod connection;
mod end;
mod link;
mod listen;
mod plan;
mod way;
mod wire;

use std::{
    io,
    ops::{Deref, Index, IndexMut},
    panic::resume_unwind,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::task::JoinSet;

use self::{connection::Connection, wire::Opened};
pub use self::{
    end::{End, Transport, pipe},
    link::Link,
    plan::{Hole, Plan},
    wire::Wire,
};

/// The capacity of a pipe to a dialled connection, in each direction.
const PIPE: usize = 64 * 1024;

/// The direction of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    ToServer,
    ToClient,
}

impl Direction {
    pub const BOTH: [Self; 2] = [Self::ToServer, Self::ToClient];

    pub fn other(self) -> Self {
        match self {
            Self::ToServer => Self::ToClient,
            Self::ToClient => Self::ToServer,
        }
    }
}

/// One value for each direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Both<T>([T; 2]);

impl<T> Index<Direction> for Both<T> {
    type Output = T;

    fn index(&self, direction: Direction) -> &T {
        &self.0[direction as usize]
    }
}

impl<T> IndexMut<Direction> for Both<T> {
    fn index_mut(&mut self, direction: Direction) -> &mut T {
        &mut self.0[direction as usize]
    }
}

/// The proxy. Its connections and their tasks end when it is dropped. If one of them has panicked
/// (an observer may), the drop panics, too.
pub struct Proxy(Handle);

impl Proxy {
    /// A proxy whose connections play these plans, one each. Later connections are not disturbed.
    pub fn new<P>(plans: P) -> Self
    where
        P: IntoIterator<Item = Plan, IntoIter: Send + 'static>,
    {
        let plans = Box::new(plans.into_iter().fuse());
        let state = State {
            plans,
            links: Vec::new(),
            tasks: Some(JoinSet::new()),
            is_stalled: false,
            refuses: false,
        };
        Self(Handle(Arc::new(Shared { state: Mutex::new(state), wire: Wire::default() })))
    }

    /// A handle that commands the proxy and dials through it from elsewhere.
    pub fn handle(&self) -> Handle {
        self.0.clone()
    }
}

impl Deref for Proxy {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.0
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let mut state = self.0.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let tasks = state.tasks.take();
        drop(state);
        let panic = tasks.and_then(|mut tasks| panic_of(&mut tasks));
        if let Some(panic) = panic
            && !std::thread::panicking()
        {
            resume_unwind(panic);
        }
    }
}

/// Commands a proxy and dials through it. After the proxy's end it refuses every connection.
#[derive(Clone)]
pub struct Handle(Arc<Shared>);

struct Shared {
    state: Mutex<State>,
    wire: Wire,
}

struct State {
    plans: Box<dyn Iterator<Item = Plan> + Send>,
    /// By the number of the connection.
    links: Vec<Arc<Link>>,
    /// `None` after the proxy's end.
    tasks: Option<JoinSet<()>>,
    is_stalled: bool,
    refuses: bool,
}

/// A connection that is allowed.
struct Next {
    plan: Plan,
    link: Arc<Link>,
    opened: Opened,
}

impl Handle {
    /// Returns a client's end of the next connection. `server` makes a new pipe to the server for
    /// it.
    ///
    /// For a client that dials by itself:
    /// `move |_: &str| ready(handle.dial(|| Ok(server.pipe())))`. A server that has to see resets
    /// as such must read from an [`End`], too. At the end of a `DuplexStream` it reads the end of
    /// the stream.
    ///
    /// # Errors
    ///
    /// `ConnectionRefused` if the plan refuses the connection, in which case `server` is not
    /// called, and the errors of `server`.
    pub fn dial<T: Transport>(&self, server: impl FnOnce() -> io::Result<T>) -> io::Result<End> {
        let next = self.next().ok_or(io::ErrorKind::ConnectionRefused)?;
        let far = server()?;
        let (client, near) = pipe(PIPE);
        self.spawn(Connection::new(near, far, next).play());
        Ok(client)
    }

    /// Stands between two transports, as the next connection. If the plan refuses it, both are
    /// reset.
    pub fn between(&self, near: impl Transport, far: impl Transport) {
        match self.next() {
            Some(next) => self.spawn(Connection::new(near, far, next).play()),
            None => {
                near.reset();
                far.reset();
            }
        }
    }

    /// The record of what passed.
    pub fn wire(&self) -> &Wire {
        &self.0.wire
    }

    /// One connection, for commands to it alone.
    pub fn connection(&self, number: usize) -> Arc<Link> {
        self.0.state.lock().unwrap().links[number].clone()
    }

    /// Resets every open connection.
    pub fn cut(&self) {
        self.each(Link::cut);
    }

    /// Closes every open connection, in an orderly way for both ends.
    pub fn close(&self) {
        self.each(Link::close);
    }

    /// Lets nothing pass in any open connection, silently and for ever.
    pub fn black_hole(&self) {
        self.each(Link::black_hole);
    }

    /// Lets nothing pass in any connection, including later ones, until [`go_on`](Self::go_on).
    pub fn stall(&self) {
        self.0.state.lock().unwrap().is_stalled = true;
        self.each(Link::stall);
    }

    pub fn go_on(&self) {
        self.0.state.lock().unwrap().is_stalled = false;
        self.each(Link::go_on);
    }

    /// Refuses later connections, or accepts them again. A connection that is refused by this uses
    /// no number and no plan.
    pub fn refuse(&self, refuses: bool) {
        self.0.state.lock().unwrap().refuses = refuses;
    }

    fn each(&self, command: impl Fn(&Link)) {
        let links = self.0.state.lock().unwrap().links.clone();
        links.iter().for_each(|link| command(link));
    }

    /// The next connection, unless it is refused.
    fn next(&self) -> Option<Next> {
        let mut state = self.0.state.lock().unwrap();
        if state.refuses || state.tasks.is_none() {
            return None;
        }
        let plan = state.plans.next().unwrap_or_default();
        let (link, opened) = (Arc::new(Link::default()), self.0.wire.open());
        if state.is_stalled {
            link.stall();
        }
        state.links.push(link.clone());
        (!plan.is_refusal).then_some(Next { plan, link, opened })
    }

    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut state = self.0.state.lock().unwrap();
        let panic = state.tasks.as_mut().and_then(|tasks| {
            tasks.spawn(task);
            panic_of(tasks)
        });
        drop(state);
        if let Some(panic) = panic {
            resume_unwind(panic);
        }
    }
}

/// Removes the tasks that have ended. Returns the panic of one that panicked.
fn panic_of(tasks: &mut JoinSet<()>) -> Option<Box<dyn std::any::Any + Send>> {
    while let Some(ended) = tasks.try_join_next() {
        if let Err(error) = ended
            && let Ok(panic) = error.try_into_panic()
        {
            return Some(panic);
        }
    }
    None
}
