//! The connections from the session's client to its server, and the record of them.

use std::{
    io,
    sync::{Arc, Mutex, MutexGuard},
};

use crate::{
    cutting::{CutIo, Reads},
    proxy::{End, Proxy, Wire, pipe},
    recorder::{Process, Recorder},
    session::{
        Trouble,
        server::{Backend, Desk},
        verdict::{Evidence, Offered},
    },
};

/// A proxy in front of the current server.
pub(super) struct Net {
    trouble: Trouble,
    recorder: Recorder,
    proxy: Proxy,
    servers: Mutex<Servers>,
    offered: Mutex<Offered>,
}

struct Servers {
    current: Backend,
    /// The state of servers that were replaced.
    retired: Vec<Desk>,
}

impl Net {
    pub(super) fn new(recorder: &Recorder, client: &Process, trouble: &Trouble) -> Arc<Self> {
        let proxy = Proxy::new(trouble.plans.clone());
        recorder.watch(proxy.wire(), client);
        let servers = Servers { current: backend(recorder, 1), retired: Vec::new() };
        let net = Arc::new(Self {
            trouble: trouble.clone(),
            recorder: recorder.clone(),
            proxy,
            servers: Mutex::new(servers),
            offered: Mutex::default(),
        });
        if trouble.restarts {
            tokio::spawn(net.clone().restart());
        }
        net
    }

    /// A client's end of the next connection.
    pub(super) fn connect(&self) -> io::Result<CutIo<End>> {
        let Trouble { pipe: size, takes, .. } = self.trouble;
        let server = self.server().current.pipe(size)?;
        let (client, near) = pipe(size);
        self.proxy.between(near, server);
        let mut offered = self.offered.lock().unwrap();
        let (k, reads) = takes.filter(|_| offered.is_empty()).unwrap_or((usize::MAX, Reads::GoOn));
        let io = CutIo::new(client, k, reads);
        offered.push(io.written());
        Ok(io)
    }

    /// Replaces the first server by another one, once the first connection has ended.
    async fn restart(self: Arc<Self>) {
        self.wire().until(|wire| wire.connections() > 0 && !wire.is_open(0)).await;
        let mut servers = self.server();
        let retired = std::mem::replace(&mut servers.current, backend(&self.recorder, 2));
        servers.retired.push(retired.desk.clone());
    }

    pub(super) fn wire(&self) -> &Wire {
        self.proxy.wire()
    }

    /// Whether a fault was planned for the last connection.
    pub(super) fn is_troubled(&self) -> bool {
        let Trouble { plans, takes, restarts, .. } = &self.trouble;
        // The second connection may be to the server that is about to be replaced.
        let troubled = plans.len().max(usize::from(takes.is_some())) + usize::from(*restarts);
        self.wire().connections() <= troubled
    }

    pub(super) fn desk(&self) -> Desk {
        self.server().current.desk.clone()
    }

    /// The number of servers so far.
    pub(super) fn generation(&self) -> usize {
        self.server().retired.len() + 1
    }

    /// How often the handler of this one-way request was started.
    pub(super) fn starts(&self, one_way: u64) -> usize {
        let servers = self.server();
        let desks = servers.retired.iter().chain([&servers.current.desk]);
        desks.map(|desk| desk.seen(one_way)).sum()
    }

    /// The server's connections, and the bytes that it holds for them.
    pub(super) fn held(&self) -> (usize, usize) {
        let stats = self.server().current.handle.stats();
        (stats.connections, stats.in_flight + stats.subscriptions)
    }

    pub(super) fn evidence(&self) -> Evidence {
        Evidence::new(self.wire(), &self.offered.lock().unwrap())
    }

    fn server(&self) -> MutexGuard<'_, Servers> {
        self.servers.lock().unwrap()
    }
}

fn backend(recorder: &Recorder, number: u64) -> Backend {
    Backend::start(recorder.process(&format!("s{number}")), number)
}
