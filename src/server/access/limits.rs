//! Limits on the number of connections.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
};

use crate::{
    server::{config::ServerConfig, peer_addr::PeerAddr},
    sync::{Arc, Mutex},
};

/// How many connections over the limit are refused with a `/bye` at the same time.
const REFUSALS: usize = 1_024;

/// The limits on connections: in total, per address, and being refused.
pub(in crate::server) struct Limits {
    /// Open connections.
    pub(in crate::server) connections: usize,
    /// Connections that are being refused.
    pub(in crate::server) refusals: usize,
    per_address: Option<usize>,
    /// The number of connections of each address, if that is limited.
    guests: Arc<Guests>,
}

/// Peers choose the keys in part, so the hasher has to be seeded, like the standard library's.
type Guests = Mutex<HashMap<IpAddr, usize>>;

/// A connection's place among those of its address. Dropping it gives the place back.
#[derive(Debug)]
pub(in crate::server) struct Place {
    address: IpAddr,
    guests: Arc<Guests>,
}

/// The limit is reached.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::server) struct Full;

impl Limits {
    /// The limits of the configuration. If connections are files, the process's limit on open files
    /// lowers them.
    pub(in crate::server) fn new(config: &ServerConfig, files: bool) -> Self {
        let soft = if files { soft_limit() } else { None };
        let reserve = soft.map_or(2 * REFUSALS, reserve);
        let allowed = soft.map_or(usize::MAX, |soft| soft.saturating_sub(reserve).max(1));
        if allowed < config.connections {
            tracing::warn!(
                configured = config.connections,
                allowed,
                "fewer connections than configured: the limit of open files is too low"
            );
        }
        Self {
            connections: config.connections.min(allowed),
            refusals: REFUSALS.min(reserve / 2),
            per_address: config.connections_per_address,
            guests: Arc::default(),
        }
    }

    /// Admits a connection from `peer` when `open` connections are open. Returns its place, or
    /// `None` if connections of its address are not counted.
    pub(in crate::server) fn admit(
        &self,
        open: usize,
        peer: &PeerAddr,
    ) -> Result<Option<Place>, Full> {
        if open >= self.connections {
            return Err(Full);
        }
        let (Some(max), PeerAddr::Tcp(address)) = (self.per_address, peer) else {
            return Ok(None);
        };
        let address = network_of(address.ip());
        let mut guests = self.guests.lock();
        // A refused connection must leave no entry behind.
        if guests.get(&address).copied().unwrap_or_default() >= max {
            return Err(Full);
        }
        *guests.entry(address).or_default() += 1;
        drop(guests);
        Ok(Some(Place { address, guests: self.guests.clone() }))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut guests = self.guests.lock();
        if let Some(count) = guests.get_mut(&self.address) {
            *count -= 1;
            if *count == 0 {
                guests.remove(&self.address);
            }
        }
    }
}

/// The address under which a peer is counted. For IPv6 it is the network of 64 bits, because a
/// single host may have all of its addresses.
pub(in crate::server) fn network_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let network = v6.to_bits() & !u128::from(u64::MAX);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        v4 => v4,
    }
}

/// How many files are kept for everything except connections: the application, the listener, and
/// connections that are being refused.
fn reserve(soft: usize) -> usize {
    (soft / 16).clamp(32, 2 * REFUSALS)
}

/// How many files the process may open; `None` for no limit.
#[cfg(unix)]
fn soft_limit() -> Option<usize> {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    limit.current.map(|soft| usize::try_from(soft).unwrap_or(usize::MAX))
}

#[cfg(not(unix))]
fn soft_limit() -> Option<usize> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(connections: usize, per_address: usize) -> Limits {
        let config =
            ServerConfig::new().connections(connections).connections_per_address(Some(per_address));
        Limits::new(&config, false)
    }

    fn peer(address: &str) -> PeerAddr {
        PeerAddr::Tcp(address.parse().unwrap())
    }

    #[test]
    fn connection_limit_per_address_is_released_on_close() {
        let limits = limits(10, 2);
        let (one, other) = (peer("10.0.0.1:1"), peer("10.0.0.2:1"));
        let first = limits.admit(0, &one).unwrap();
        let _second = limits.admit(1, &peer("10.0.0.1:2")).unwrap();
        assert_eq!(limits.admit(2, &one).unwrap_err(), Full);
        assert!(limits.admit(2, &other).is_ok_and(|place| place.is_some()));
        drop(first);
        assert!(limits.admit(2, &one).is_ok());
        drop(_second);
        assert!(limits.guests.lock().is_empty());
    }

    #[test]
    fn a_refused_connection_leaves_no_entry() {
        let limits = limits(10, 0);
        assert_eq!(limits.admit(0, &peer("10.0.0.1:1")).unwrap_err(), Full);
        assert!(limits.guests.lock().is_empty());
    }

    #[test]
    fn only_tcp_peers_are_counted_by_address_and_all_in_total() {
        let limits = limits(2, 1);
        let unix = PeerAddr::Unix(None);
        for open in 0..2 {
            assert!(limits.admit(open, &unix).is_ok_and(|place| place.is_none()));
        }
        assert_eq!(limits.admit(2, &unix).unwrap_err(), Full);
    }

    #[test]
    fn a_network_of_64_bits_is_one_address() {
        let network = |address: &str| network_of(address.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::2:3"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_eq!(network("::ffff:10.0.0.1"), network("10.0.0.1"));
        assert_ne!(network("10.0.0.1"), network("10.0.0.2"));
    }

    #[test]
    fn file_descriptor_reserve_grows_with_the_limit() {
        assert_eq!([64, 1_024, 20_000, 1 << 20].map(reserve), [32, 64, 1_250, 2_048]);
    }
}
