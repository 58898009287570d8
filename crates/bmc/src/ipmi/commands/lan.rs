//! What the BMC's network is set to: Get LAN Configuration Parameters (23.2).

use std::net::Ipv4Addr;

use ferric_api::MacAddress;
use ipmi_rs_core::connection::{Channel, IpmiCommand};
use ipmi_rs_core::transport::{GetLanConfigParameters, LanConfigParameter, LanConfigParameterData};

use super::{Privilege, Request, message};

/// The channel that this is asked by (6.3, channel 0Eh).
pub(crate) const THIS_CHANNEL: Channel = Channel::Current;
/// The MAC address (parameter 5).
pub(crate) const MAC: LanConfigParameter = LanConfigParameter::MacAddress;
/// The IPv4 address (parameter 3).
pub(crate) const ADDRESS: LanConfigParameter = LanConfigParameter::IpAddress;

/// Get LAN Configuration Parameters.
pub(crate) fn get(channel: Channel, parameter: LanConfigParameter) -> Request {
    message(GetLanConfigParameters::new(channel, parameter), Privilege::Operator)
}

/// The answer that asked for [`MAC`].
pub(crate) fn mac(data: &[u8]) -> Option<MacAddress> {
    match value(data, MAC)? {
        LanConfigParameterData::MacAddress(mac) => Some(MacAddress::from(mac.0)),
        _ => None,
    }
}

/// The answer that asked for [`ADDRESS`].
pub(crate) fn address(data: &[u8]) -> Option<Ipv4Addr> {
    match value(data, ADDRESS)? {
        LanConfigParameterData::IpAddress(address) => Some(Ipv4Addr::from(address.0)),
        _ => None,
    }
}

fn value(data: &[u8], parameter: LanConfigParameter) -> Option<LanConfigParameterData> {
    GetLanConfigParameters::parse_success_response(data).ok()?.parse(parameter).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn addresses() {
        let request = get(THIS_CHANNEL, MAC);
        assert_eq!((request.netfn, request.command, request.data), (0x0C, 0x02, vec![0x0E, 5, 0, 0]));
        assert_eq!(get(THIS_CHANNEL, ADDRESS).data, [0x0E, 3, 0, 0]);
        let found = mac(&[0x11, 0x52, 0x54, 0, 0xAA, 0xBB, 0xCC]).unwrap();
        assert_eq!(found.to_string(), "52:54:00:aa:bb:cc");
        assert_eq!(address(&[0x11, 10, 0, 0, 7]), Some(Ipv4Addr::new(10, 0, 0, 7)));
        for short in [&[][..], &[0x11], &[0x11, 10, 0, 0]] {
            assert_eq!((mac(short), address(short)), (None, None), "{short:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_harms(data: Vec<u8>) {
            let _ = (mac(&data), address(&data));
        }
    }
}
