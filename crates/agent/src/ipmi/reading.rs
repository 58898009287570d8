//! All that is asked of a BMC, in order, within a time. The rest of what is known of a machine does not wait for a BMC that
//! does not answer.

use std::time::{Duration, Instant};

use ferric_protocol::v1::{InBandBmc, InBandBmcLan, InBandBmcUser};
use ipmi_rs_core::connection::Channel;

use super::commands::{self as ask, Lan, Request};

/// How long one answer is waited for.
pub const ONE: Duration = Duration::from_secs(5);
/// How long all of them are.
pub const ALL: Duration = Duration::from_secs(25);

/// Channels that may lead to a network: 1 to 11 (6.3).
const CHANNELS: std::ops::RangeInclusive<u8> = 1..=0x0B;
/// Most of them that are read, and most IPv6 addresses of each kind.
const MOST: usize = 4;
/// Bytes of the FRU inventory that are read: its areas with names seldom end behind this.
const FRU_MOST: usize = 2048;
/// Bytes of it that are read at once first, and at least.
const FRU_STEP: usize = 32;
const FRU_LEAST: usize = 8;
/// A busy BMC is asked again, so often and after so long.
const BUSY_TRIES: usize = 3;
const BUSY_PAUSE: Duration = Duration::from_millis(100);
/// Completion codes (5.2, table 5-2): done, and node busy.
const DONE: u8 = 0x00;
const BUSY: u8 = 0xC0;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// None came in time.
    #[error("no answer within {} s", .0.as_secs())]
    Silent(Duration),
    /// The kernel does not take the request.
    #[error("the kernel's IPMI device fails: {0}")]
    Device(#[from] std::io::Error),
}

/// A way to a BMC.
pub trait Ask {
    /// Sends a request and gives the answer's data, with the completion code first.
    fn ask(&mut self, request: &Request, patience: Duration) -> Result<Vec<u8>, AskError>;

    /// The time.
    fn now(&self) -> Instant {
        Instant::now()
    }

    /// Waits.
    fn pause(&self, span: Duration) {
        std::thread::sleep(span);
    }
}

/// Asks a BMC for all that is to be known of it. What it refuses is left out; at its first silence it is given up, with what
/// was read so far.
pub fn read(way: &mut dyn Ask) -> InBandBmc {
    let deadline = way.now() + ALL;
    let mut reading = Reading { way, deadline };
    let mut found = InBandBmc::default();
    if let Err(problem) = reading.all(&mut found) {
        found.problem = problem;
    }
    found
}

struct Reading<'a> {
    way: &'a mut dyn Ask,
    deadline: Instant,
}

impl Reading<'_> {
    fn all(&mut self, found: &mut InBandBmc) -> Result<(), String> {
        // In the order of what it is good for.
        let device = self.fact("what it is", &ask::device_id())?;
        found.device_id = device.ok_or("the BMC refuses to say what it is")?;
        found.system_guid = self.fact("the system GUID", &ask::system_guid())?.unwrap_or_default();
        let mut first = None;
        for channel in CHANNELS.filter_map(Channel::new) {
            let info = self.fact("its channels", &ask::channel_info(channel))?;
            if info.is_some_and(|info| ask::is_lan(&info)) {
                first.get_or_insert(channel);
                self.lan(channel, found)?;
            }
            if found.lans.len() >= MOST {
                break;
            }
        }
        self.fru(&mut found.fru)?;
        match first {
            Some(channel) => self.users(channel, found),
            None => Ok(()),
        }
    }

    /// The data of an answer; `None` for a refusal. Silence is an error, which says what was asked.
    fn fact(&mut self, what: &str, request: &Request) -> Result<Option<Vec<u8>>, String> {
        for tried in 1.. {
            let left = self.deadline.saturating_duration_since(self.way.now());
            if left.is_zero() {
                return Err(format!("asking the BMC takes longer than {} s, up to {what}", ALL.as_secs()));
            }
            let answer = self.way.ask(request, left.min(ONE));
            let answer = answer.map_err(|error| format!("asking the BMC for {what}: {error}"))?;
            match answer.split_first() {
                Some((&DONE, data)) => return Ok(Some(data.to_vec())),
                Some((&BUSY, _)) if tried < BUSY_TRIES => self.way.pause(BUSY_PAUSE),
                _ => break,
            }
        }
        Ok(None)
    }

    /// A LAN channel. It counts as soon as anything of it is known, so that what is known stays if the BMC falls silent.
    fn lan(&mut self, channel: Channel, found: &mut InBandBmc) -> Result<(), String> {
        let what = "its network";
        let at = found.lans.len();
        found.lans.push(InBandBmcLan { channel: channel.value().into(), ..InBandBmcLan::default() });
        let lan = &mut found.lans[at];
        if let Some(data) = self.fact(what, &Lan::Mac.get(channel))? {
            lan.mac = ask::mac(&data).unwrap_or_default();
        }
        if let Some(data) = self.fact(what, &Lan::Address.get(channel))? {
            lan.address = ask::ipv4(&data).map(|address| address.to_string()).unwrap_or_default();
        }
        if let Some(data) = self.fact(what, &Lan::Source.get(channel))? {
            lan.source = ask::source(&data).into();
        }
        if let Some(data) = self.fact(what, &Lan::Vlan.get(channel))? {
            lan.vlan_id = ask::vlan(&data);
        }
        let counts = self.fact(what, &Lan::Ipv6Status.get(channel))?.unwrap_or_default();
        let (fixed, dynamic) = ask::ipv6_counts(&counts);
        let sets = (0..fixed).take(MOST).map(Lan::Ipv6Static);
        for which in sets.chain((0..dynamic).take(MOST).map(Lan::Ipv6Dynamic)) {
            let data = self.fact(what, &which.get(channel))?.unwrap_or_default();
            lan.ipv6_addresses.extend(ask::ipv6(which, &data).map(|address| address.to_string()));
        }
        Ok(())
    }

    fn fru(&mut self, bytes: &mut Vec<u8>) -> Result<(), String> {
        let what = "the FRU inventory";
        let info = self.fact(what, &ask::fru_info())?.unwrap_or_default();
        let Some(area) = ask::fru_area(&info) else { return Ok(()) };
        let (size, mut step) = (area.size.min(FRU_MOST), FRU_STEP);
        while bytes.len() < size {
            // An odd byte at the end is padding.
            let count = step.min(size - bytes.len()) & !1;
            let Some(request) = ask::fru_read(area, bytes.len(), count) else { break };
            let data = self.fact(what, &request)?.unwrap_or_default();
            match ask::fru_part(area, &data) {
                [] if step > FRU_LEAST => step /= 2,
                part if part.is_empty() || part.len() % 2 != 0 => break,
                part => bytes.extend(&part[..part.len().min(count)]),
            }
        }
        Ok(())
    }

    fn users(&mut self, channel: Channel, found: &mut InBandBmc) -> Result<(), String> {
        let mut most = 1;
        let mut user = 1;
        while user <= most {
            let access = self.fact("its users", &ask::user_access(channel, user))?.unwrap_or_default();
            if let Some((count, enabled)) = ask::access(&access) {
                most = count;
                let name = self.fact("its users", &ask::user_name(user))?.unwrap_or_default();
                let name = ask::name(&name);
                // Most numbers are nobody's.
                if !name.is_empty() || enabled == Some(true) {
                    found.users.push(InBandBmcUser { id: user.into(), name, enabled });
                }
            }
            user += 1;
        }
        Ok(())
    }
}
