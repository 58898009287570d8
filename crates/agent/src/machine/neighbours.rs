//! Listens for LLDP in the background, and keeps what was heard for the inventory.
//!
//! One packet socket hears all cards of the machine: it is given the protocol when it is made, and never bound, so the
//! kernel says with each frame through which card it came. Cards hand on frames to the group address of LLDP only when
//! they are told to take groups that nobody joined.

use std::{
    collections::BTreeMap,
    io,
    os::fd::AsRawFd,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use ferric_protocol::v1::{LldpNeighbour, Nic};
use nix::sys::socket::{LinkAddr, recvfrom};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, watch};

use super::{
    console::say,
    lldp::{self, Said},
    netlink::Links,
    pump,
};

/// How long is listened once a card has a link: switches speak every 30 s (IEEE 802.1AB, 9.2.5: msgTxInterval).
const LISTEN: Duration = Duration::from_secs(32);
/// How long is listened in any case.
const LONGEST: Duration = Duration::from_secs(90);
/// Between two looks at the links.
const LOOK: Duration = Duration::from_secs(1);
/// Longest frame that is read; an LLDP frame fits into an Ethernet frame (IEEE 802.1AB, 8.2).
const FRAME: usize = 1518;
/// Most cards of which something is kept.
const MOST: usize = 256;

/// What was heard so far.
#[derive(Debug)]
pub(super) struct Neighbours {
    heard: Mutex<BTreeMap<String, LldpNeighbour>>,
    /// Whether somebody listens.
    listening: watch::Sender<bool>,
    changed: watch::Sender<()>,
}

impl Neighbours {
    /// Nothing was heard, and nobody listens.
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            heard: Mutex::default(),
            listening: watch::Sender::new(false),
            changed: watch::Sender::new(()),
        })
    }

    /// Whether more may be heard.
    pub(super) fn is_pending(&self) -> bool {
        *self.listening.borrow()
    }

    /// Fires when there is more to tell, and when there will be no more.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Adds what was heard to the cards.
    pub(super) fn add_to(&self, nics: &mut [Nic]) {
        let heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        for nic in nics {
            nic.lldp = heard.get(&nic.name).cloned();
        }
    }

    fn take(&self, interface: &str, said: Said) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        let changed = match said {
            Said::Goodbye => heard.remove(interface).is_some(),
            Said::Hello(neighbour) => {
                let known = heard.get(interface) == Some(&neighbour);
                if !known && heard.len() < MOST {
                    let LldpNeighbour { chassis_id, port_id, system_name, .. } = &neighbour;
                    say(&format!("{interface}: port {port_id} of {system_name} ({chassis_id})"));
                    heard.insert(interface.to_owned(), neighbour);
                }
                !known
            }
        };
        if changed {
            self.changed.send_replace(());
        }
    }

    fn heard_of(&self, interface: &str) -> bool {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).contains_key(interface)
    }

    fn end(&self) {
        self.listening.send_replace(false);
        self.changed.send_replace(());
    }

    /// Begins to listen, in the background, on the cards that there are. Must be called within a runtime.
    pub(super) fn listen(self: &Arc<Self>, links: Links) -> io::Result<()> {
        let protocol = Protocol::from(i32::from(lldp::ETHER_TYPE.to_be()));
        let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
        socket.set_read_timeout(Some(pump::WAIT))?;
        let mut buffer = vec![0; FRAME];
        let frames = pump::packets("lldp", move || {
            let (length, from) = recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut buffer)?;
            let said = buffer.get(..length).and_then(lldp::decode);
            let index = from.and_then(|from| u32::try_from(from.ifindex()).ok());
            Ok(index.zip(said))
        })?;
        self.listening.send_replace(true);
        let this = self.clone();
        tokio::spawn(async move {
            this.hear(frames, &links).await;
            // What was heard while it was told so must not be told as pending.
            this.end();
        });
        Ok(())
    }

    /// Until all cards with a link have been heard of, or the time is over.
    async fn hear(&self, mut frames: mpsc::Receiver<(u32, Said)>, links: &Links) {
        let started = Instant::now();
        let mut linked: Option<Instant> = None;
        let mut asked: Vec<String> = Vec::new();
        let mut look = tokio::time::interval(LOOK);
        loop {
            tokio::select! {
                frame = frames.recv() => {
                    let Some((index, said)) = frame else { break };
                    if let Some(card) = links.nics().cards().into_iter().find(|card| card.index == index) {
                        self.take(&card.name, said);
                    }
                }
                _ = look.tick() => {
                    let cards = links.nics().cards();
                    for card in &cards {
                        if !asked.contains(&card.name) && links.all_groups(card.index, true).await.is_ok() {
                            asked.push(card.name.clone());
                        }
                    }
                    let mut up = cards.iter().filter(|card| card.carrier()).peekable();
                    if up.peek().is_some() {
                        let all = up.all(|card| self.heard_of(&card.name));
                        let since = *linked.get_or_insert_with(Instant::now);
                        // Others may get their link a little later.
                        if since.elapsed() > LISTEN || (all && since.elapsed() > LISTEN / 8) {
                            break;
                        }
                    }
                    if started.elapsed() > LONGEST {
                        break;
                    }
                }
            }
        }
        for card in links.nics().cards() {
            let _ = links.all_groups(card.index, false).await;
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn what_is_heard_is_told_once_and_a_goodbye_takes_it_back() {
        let neighbours = Neighbours::new();
        let mut changes = neighbours.changes();
        let said =
            |port: &str| Said::Hello(LldpNeighbour { port_id: port.into(), ..LldpNeighbour::default() });
        neighbours.take("eth0", said("7"));
        assert!(changes.has_changed().unwrap());
        changes.mark_unchanged();
        neighbours.take("eth0", said("7"));
        assert!(!changes.has_changed().unwrap(), "the same again is nothing new");
        let mut nics =
            [Nic { name: "eth0".into(), ..Nic::default() }, Nic { name: "eth1".into(), ..Nic::default() }];
        neighbours.add_to(&mut nics);
        assert_eq!((nics[0].lldp.as_ref().unwrap().port_id.as_str(), &nics[1].lldp), ("7", &None));
        neighbours.take("eth0", Said::Goodbye);
        neighbours.add_to(&mut nics);
        assert_eq!(nics[0].lldp, None);
        assert!(changes.has_changed().unwrap());
    }
}
