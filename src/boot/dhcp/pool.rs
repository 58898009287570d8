//! Addresses for enrolled machines: reservations, and a range of which each machine keeps the address that it was given.
//! Nothing is stored: after a restart a machine that asks for its address gets it again.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use ferric_api::MacAddress;

/// Addresses, and who has them.
#[derive(Debug)]
pub struct Pool {
    first: u32,
    last: u32,
    reserved: HashMap<MacAddress, Ipv4Addr>,
    taken: BTreeMap<u32, (MacAddress, Instant)>,
    lease: Duration,
}

impl Pool {
    /// The addresses from `first` to `last`, both included, and those that are kept for single machines.
    pub fn new(
        first: Ipv4Addr,
        last: Ipv4Addr,
        reserved: HashMap<MacAddress, Ipv4Addr>,
        lease: Duration,
    ) -> Self {
        Self { first: first.to_bits(), last: last.to_bits(), reserved, taken: BTreeMap::new(), lease }
    }

    /// The address of a machine: its reservation, the one that it had, the one that it asks for if that is free, or any
    /// free one; then one whose machine has not been seen for longer than a lease. `None` if there is none.
    pub fn address(&mut self, mac: MacAddress, wanted: Option<Ipv4Addr>, now: Instant) -> Option<Ipv4Addr> {
        if let Some(address) = self.reserved.get(&mac) {
            return Some(*address);
        }
        let had = self.taken.iter().find(|(_, (owner, _))| *owner == mac).map(|(address, _)| *address);
        let address = had
            .or_else(|| wanted.map(Ipv4Addr::to_bits).filter(|address| self.is_free(*address)))
            .or_else(|| self.search(mac))
            .or_else(|| self.oldest(now))?;
        self.taken.insert(address, (mac, now));
        Some(Ipv4Addr::from_bits(address))
    }

    /// The machine does not use its address any more.
    pub fn release(&mut self, mac: MacAddress) {
        self.taken.retain(|_, (owner, _)| *owner != mac);
    }

    /// Somebody who was not asked uses the address of this machine: it is given to nobody for a while.
    pub fn block(&mut self, mac: MacAddress, now: Instant) {
        for (owner, seen) in self.taken.values_mut().filter(|(owner, _)| *owner == mac) {
            (*owner, *seen) = ([0; 6].into(), now);
        }
    }

    fn is_free(&self, address: u32) -> bool {
        (self.first..=self.last).contains(&address)
            && !self.taken.contains_key(&address)
            && !self.reserved.values().any(|reserved| reserved.to_bits() == address)
    }

    /// The search begins at a place of the machine's own, so that it tends to get the same address again.
    fn search(&self, mac: MacAddress) -> Option<u32> {
        let count = u64::from(self.last.checked_sub(self.first)?) + 1;
        let seed = mac
            .octets()
            .iter()
            .fold(0_u64, |hash, octet| hash.wrapping_mul(31).wrapping_add((*octet).into()));
        // A range has at most as many addresses as are taken or reserved, plus one, to look through.
        let most = (self.taken.len() + self.reserved.len() + 1) as u64;
        (0..count.min(most))
            .map(|step| self.first + u32::try_from((seed + step) % count).unwrap_or(0))
            .find(|address| self.is_free(*address))
    }

    fn oldest(&mut self, now: Instant) -> Option<u32> {
        let (address, (_, seen)) = self.taken.iter().min_by_key(|(_, (_, seen))| *seen)?;
        (now.saturating_duration_since(*seen) > self.lease).then_some(*address)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn mac(n: u8) -> MacAddress {
        [0x52, 0x54, 0, 0, 0, n].into()
    }

    fn ip(n: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 0, 0, n)
    }

    #[test]
    fn each_machine_keeps_its_address_and_no_two_share_one() {
        let now = Instant::now();
        let mut pool = Pool::new(ip(10), ip(13), [(mac(9), ip(11))].into(), Duration::from_secs(60));
        assert_eq!(pool.address(mac(9), Some(ip(12)), now), Some(ip(11)), "a reservation");
        assert_eq!(pool.address(mac(1), Some(ip(12)), now), Some(ip(12)), "free and wanted");
        assert_eq!(pool.address(mac(1), Some(ip(13)), now), Some(ip(12)), "it has one");
        let second = pool.address(mac(2), Some(ip(12)), now).unwrap();
        let third = pool.address(mac(3), Some(ip(11)), now).unwrap();
        let mut both = [second, third];
        both.sort();
        assert_eq!(both, [ip(10), ip(13)], "neither taken nor reserved");
        assert_eq!(pool.address(mac(4), None, now), None, "exhausted");
        let later = now + Duration::from_secs(61);
        assert_eq!(pool.address(mac(2), None, later), Some(second));
        assert!([third, ip(12)].contains(&pool.address(mac(4), None, later).unwrap()), "of one not seen");
        pool.release(mac(2));
        assert_eq!(pool.address(mac(5), Some(second), later), Some(second));
        assert_eq!(pool.address(mac(6), Some(ip(200)), now), None, "outside of the range");
    }

    #[test]
    fn an_address_that_a_stranger_uses_is_given_to_nobody() {
        let now = Instant::now();
        let mut pool = Pool::new(ip(10), ip(11), HashMap::new(), Duration::from_secs(60));
        let first = pool.address(mac(1), None, now).unwrap();
        pool.block(mac(1), now);
        let second = pool.address(mac(1), Some(first), now).unwrap();
        assert_ne!(first, second);
        assert_eq!(pool.address(mac(2), None, now), None);
    }

    #[test]
    fn an_empty_or_whole_range_does_no_harm() {
        let now = Instant::now();
        assert_eq!(Pool::new(ip(9), ip(8), HashMap::new(), Duration::ZERO).address(mac(1), None, now), None);
        let mut whole = Pool::new(Ipv4Addr::UNSPECIFIED, Ipv4Addr::BROADCAST, HashMap::new(), Duration::ZERO);
        assert!(whole.address(mac(1), None, now).is_some());
    }
}
