//! TCP ports for beds that run side by side.
//!
//! "Bind port 0, look, close, start the server there" loses the port to whoever is quicker: another bed, or any
//! outgoing connection. So ports come from below the kernel's ephemeral range, and each is claimed for as long as its
//! bed lives by an abstract Unix socket of that name. Such a name exists once in a network namespace, as a port does,
//! leaves no file, and goes with the process that holds it, whatever way that ends.

use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use crate::error::{Error, Result};

const FIRST: u16 = 20_000;
/// Linux hands out ports from 32768 on to outgoing connections.
const LAST: u16 = 31_999;

/// A TCP port that no other bed uses while this value lives.
#[derive(Debug)]
pub struct Port {
    number: u16,
    // Held for its name only.
    _claim: UnixListener,
}

impl Port {
    /// Reserves a free port on 127.0.0.1.
    pub fn reserve() -> Result<Self> {
        Self::reserve_on(IpAddr::V4(Ipv4Addr::LOCALHOST))
    }

    /// Reserves a port that is free on `address`.
    pub fn reserve_on(address: IpAddr) -> Result<Self> {
        let span = LAST - FIRST + 1;
        // A random place to start from keeps beds that start together out of each other's way.
        let offset = (RandomState::new().hash_one(std::process::id()) % u64::from(span)) as u16;
        for step in 0..span {
            let number = FIRST + (offset + step) % span;
            let name = SocketAddr::from_abstract_name(format!("ferric-testbed-port-{number}"));
            let claim = match name.and_then(|name| UnixListener::bind_addr(&name)) {
                Ok(claim) => claim,
                Err(error) if error.kind() == ErrorKind::AddrInUse => continue,
                Err(source) => return Err(Error::PortClaim { number, source }),
            };
            if TcpListener::bind((address, number)).is_ok() {
                return Ok(Self { number, _claim: claim });
            }
        }
        Err(Error::NoFreePort { from: FIRST, to: LAST, address })
    }

    /// The port's number.
    pub fn number(&self) -> u16 {
        self.number
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn two_reservations_never_share_a_port() {
        let held: Vec<Port> = (0..50).map(|_| Port::reserve().unwrap()).collect();
        let mut numbers: Vec<u16> = held.iter().map(Port::number).collect();
        numbers.sort_unstable();
        numbers.dedup();
        assert_eq!(numbers.len(), held.len());
        assert!(numbers.iter().all(|n| (FIRST..=LAST).contains(n)));
    }

    #[test]
    fn a_port_in_use_is_passed_over() {
        let first = Port::reserve().unwrap();
        let number = first.number();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, number)).unwrap();
        drop(first);
        let held: Vec<Port> = (0..20).map(|_| Port::reserve().unwrap()).collect();
        assert!(held.iter().all(|p| p.number() != number));
        drop(listener);
    }
}
