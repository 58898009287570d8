//! What is asked of a BMC, and what it answers. Sections are those of the IPMI specification v2.0.

use std::net::{Ipv4Addr, Ipv6Addr};

use ferric_protocol::v1::BmcAddressSource;
use ipmi_rs_core::app::{ChannelMediumType, GetChannelInfo, GetDeviceId};
use ipmi_rs_core::connection::{Channel, IpmiCommand, Message};
use ipmi_rs_core::transport::{
    GetLanConfigParameters, IpAddressSource, LanConfigParameter, LanConfigParameterData,
};

/// Network function App (5.1, table 5-1).
const APP: u8 = 0x06;
/// Network function Storage (5.1).
const STORAGE: u8 = 0x0A;
/// FRU device 0 is the server that the BMC is in (38, "primary FRU").
const FRU_DEVICE: u8 = 0;
/// VLAN ID of a LAN channel (23.2, table 23-4, parameter 20).
const VLAN: LanConfigParameter = LanConfigParameter::Other(20);

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Network function: even.
    pub netfn: u8,
    /// Command.
    pub command: u8,
    /// Data.
    pub data: Vec<u8>,
}

impl Request {
    fn new(netfn: u8, command: u8, data: Vec<u8>) -> Self {
        Self { netfn, command, data }
    }

    fn of(message: impl Into<Message>) -> Self {
        let message = message.into();
        Self::new(message.netfn_raw(), message.cmd(), message.data().to_vec())
    }
}

/// Get Device ID (20.1).
#[must_use]
pub fn device_id() -> Request {
    Request::of(GetDeviceId)
}

/// Get System GUID (22.14).
#[must_use]
pub fn system_guid() -> Request {
    Request::new(APP, 0x37, Vec::new())
}

/// Get Channel Info (22.24).
#[must_use]
pub fn channel_info(channel: Channel) -> Request {
    Request::of(GetChannelInfo::new(channel))
}

/// Whether a channel, by the answer, leads to a network (6.5: 802.3 LAN, other LAN).
#[must_use]
pub fn is_lan(data: &[u8]) -> bool {
    GetChannelInfo::parse_success_response(data).is_ok_and(|channel| {
        matches!(channel.medium_type, ChannelMediumType::Lan802_3 | ChannelMediumType::OtherLan)
    })
}

/// Parameters of a LAN channel (23.2, table 23-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lan {
    /// Its IPv4 address (3).
    Address,
    /// Where that comes from (4).
    Source,
    /// Its MAC address (5).
    Mac,
    /// Its VLAN (20).
    Vlan,
    /// How many IPv6 addresses it may have (55).
    Ipv6Status,
    /// One of the IPv6 addresses that were set (56).
    Ipv6Static(u8),
    /// One of those that it has from the network (59).
    Ipv6Dynamic(u8),
}

impl Lan {
    fn parameter(self) -> (LanConfigParameter, u8) {
        match self {
            Self::Address => (LanConfigParameter::IpAddress, 0),
            Self::Source => (LanConfigParameter::IpAddressSource, 0),
            Self::Mac => (LanConfigParameter::MacAddress, 0),
            Self::Vlan => (VLAN, 0),
            Self::Ipv6Status => (LanConfigParameter::Ipv6Status, 0),
            Self::Ipv6Static(set) => (LanConfigParameter::Ipv6StaticAddresses, set),
            Self::Ipv6Dynamic(set) => (LanConfigParameter::Ipv6DynamicAddress, set),
        }
    }

    /// Get LAN Configuration Parameters.
    #[must_use]
    pub fn get(self, channel: Channel) -> Request {
        let (parameter, set) = self.parameter();
        Request::of(GetLanConfigParameters::new(channel, parameter).with_set_selector(set))
    }

    fn value(self, data: &[u8]) -> Option<LanConfigParameterData> {
        GetLanConfigParameters::parse_success_response(data).ok()?.parse(self.parameter().0).ok()
    }
}

/// The answer about [`Lan::Address`], unless there is none.
#[must_use]
pub fn ipv4(data: &[u8]) -> Option<Ipv4Addr> {
    match Lan::Address.value(data)? {
        LanConfigParameterData::IpAddress(address) => Some(Ipv4Addr::from(address.0)),
        _ => None,
    }
    .filter(|address| !address.is_unspecified())
}

/// The answer about [`Lan::Source`].
#[must_use]
pub fn source(data: &[u8]) -> BmcAddressSource {
    match Lan::Source.value(data) {
        Some(LanConfigParameterData::IpAddressSource(source)) => match source {
            IpAddressSource::Static => BmcAddressSource::Static,
            IpAddressSource::Dhcp => BmcAddressSource::Dhcp,
            IpAddressSource::BiosOrSystemSoftware => BmcAddressSource::Firmware,
            IpAddressSource::Other => BmcAddressSource::Other,
            IpAddressSource::Unspecified | IpAddressSource::Reserved(_) => BmcAddressSource::Unspecified,
        },
        _ => BmcAddressSource::Unspecified,
    }
}

/// The answer about [`Lan::Mac`], lower case with colons; unless it is zeros.
#[must_use]
pub fn mac(data: &[u8]) -> Option<String> {
    match Lan::Mac.value(data)? {
        LanConfigParameterData::MacAddress(mac) if mac.0 != [0; 6] => {
            Some(mac.0.map(|octet| format!("{octet:02x}")).join(":"))
        }
        _ => None,
    }
}

/// The answer about [`Lan::Vlan`]: 0 where frames have no tag.
#[must_use]
pub fn vlan(data: &[u8]) -> u32 {
    match data {
        // Twelve bits of ID; the highest bit of the second byte says whether it is used.
        [_, low, high, ..] if high & 0x80 != 0 => u32::from(*low) | u32::from(high & 0x0F) << 8,
        _ => 0,
    }
}

/// The answer about [`Lan::Ipv6Status`]: how many addresses may be set, and how many come from the network.
#[must_use]
pub fn ipv6_counts(data: &[u8]) -> (u8, u8) {
    match data {
        [_, fixed, dynamic, ..] => (*fixed, *dynamic),
        _ => (0, 0),
    }
}

/// The answer about [`Lan::Ipv6Static`] or [`Lan::Ipv6Dynamic`], where it is in use: set selector, source with a bit that
/// enables a static one, address, length of the prefix, status (0 is active).
#[must_use]
pub fn ipv6(which: Lan, data: &[u8]) -> Option<Ipv6Addr> {
    // Behind the revision of the parameter.
    let &[_, source, ref rest @ ..] = data.get(1..)? else { return None };
    let enabled = !matches!(which, Lan::Ipv6Static(_)) || source & 0x80 != 0;
    let (octets, rest) = rest.split_first_chunk::<16>()?;
    let active = rest.get(1).is_none_or(|status| *status == 0);
    let address = Ipv6Addr::from(*octets);
    (enabled && active && !address.is_unspecified()).then_some(address)
}

/// Get User Access (22.27).
#[must_use]
pub fn user_access(channel: Channel, user: u8) -> Request {
    Request::new(APP, 0x44, vec![channel.value(), user & 0x3F])
}

/// The answer: how many users there can be, and whether this one is enabled, where that is said.
#[must_use]
pub fn access(data: &[u8]) -> Option<(u8, Option<bool>)> {
    let [most, enabled, ..] = data else { return None };
    let enabled = match enabled >> 6 {
        0b01 => Some(true),
        0b10 => Some(false),
        _ => None,
    };
    Some((most & 0x3F, enabled))
}

/// Get User Name (22.29).
#[must_use]
pub fn user_name(user: u8) -> Request {
    Request::new(APP, 0x46, vec![user & 0x3F])
}

/// The name in the answer: 16 bytes, padded with zeros.
#[must_use]
pub fn name(data: &[u8]) -> String {
    let name = data.get(..16).unwrap_or(data);
    let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(name).chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// How the FRU inventory is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FruArea {
    /// Its size in bytes.
    pub size: usize,
    /// Whether offsets and counts are in words of two bytes.
    by_words: bool,
}

/// Get FRU Inventory Area Info (34.1).
#[must_use]
pub fn fru_info() -> Request {
    Request::new(STORAGE, 0x10, vec![FRU_DEVICE])
}

/// The answer.
#[must_use]
pub fn fru_area(data: &[u8]) -> Option<FruArea> {
    let &[low, high, access, ..] = data else { return None };
    Some(FruArea { size: u16::from_le_bytes([low, high]).into(), by_words: access & 1 != 0 })
}

/// Read FRU Data (34.2): `count` bytes, which is even, from an even offset. `None` where that is beyond what can be asked.
#[must_use]
pub fn fru_read(area: FruArea, offset: usize, count: usize) -> Option<Request> {
    let unit = if area.by_words { 2 } else { 1 };
    let [low, high] = u16::try_from(offset / unit).ok()?.to_le_bytes();
    let count = u8::try_from(count / unit).ok().filter(|count| *count > 0)?;
    Some(Request::new(STORAGE, 0x11, vec![FRU_DEVICE, low, high, count]))
}

/// The bytes in the answer.
#[must_use]
pub fn fru_part(area: FruArea, data: &[u8]) -> &[u8] {
    let Some((&count, bytes)) = data.split_first() else { return &[] };
    let count = usize::from(count) * if area.by_words { 2 } else { 1 };
    &bytes[..count.min(bytes.len())]
}
