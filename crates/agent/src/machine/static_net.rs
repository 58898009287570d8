//! A network given on the kernel's command line, for places without DHCP.
//!
//! `ferric.net=MAC,ADDRESS/PREFIX[,GATEWAY][,vlan=ID]`, once for each interface; for IPv6 as it is, without brackets.
//! Without any, every interface with a link asks DHCP.

use std::net::IpAddr;

const KEY: &str = "ferric.net=";

/// One interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StaticNet {
    /// Of the interface, lower case with colons.
    pub(super) mac: String,
    pub(super) address: IpAddr,
    pub(super) prefix: u8,
    pub(super) gateway: Option<IpAddr>,
    /// 1 to 4094 (IEEE 802.1Q).
    pub(super) vlan: Option<u16>,
}

/// What is wrong with a `ferric.net=`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{KEY}{text}: {cause}; the form is {KEY}MAC,ADDRESS/PREFIX[,GATEWAY][,vlan=ID]")]
pub(super) struct StaticNetError {
    text: String,
    cause: &'static str,
}

/// Finds all of them.
pub(super) fn parse(cmdline: &str) -> Result<Vec<StaticNet>, StaticNetError> {
    cmdline.split_ascii_whitespace().filter_map(|word| word.strip_prefix(KEY)).map(one).collect()
}

fn one(text: &str) -> Result<StaticNet, StaticNetError> {
    let error = |cause| StaticNetError { text: text.chars().take(100).collect(), cause };
    let mut parts = text.split(',');
    let mac = parts.next().and_then(mac).ok_or_else(|| error("the MAC address is none"))?;
    let (address, prefix) = parts
        .next()
        .and_then(|part| part.split_once('/'))
        .ok_or_else(|| error("there is no ADDRESS/PREFIX"))?;
    let address: IpAddr = address.parse().map_err(|_| error("the address is none"))?;
    let longest = if address.is_ipv4() { 32 } else { 128 };
    let prefix =
        prefix.parse().ok().filter(|p| *p <= longest).ok_or_else(|| error("the prefix is out of range"))?;
    let (mut gateway, mut vlan) = (None, None);
    for part in parts {
        match part.strip_prefix("vlan=") {
            Some(id) => {
                let id = id.parse().ok().filter(|id| (1..=4094).contains(id));
                vlan = Some(id.ok_or_else(|| error("the VLAN is not 1 to 4094"))?);
            }
            None => {
                let parsed: IpAddr = part.parse().map_err(|_| error("the gateway is no address"))?;
                if parsed.is_ipv4() != address.is_ipv4() {
                    return Err(error("address and gateway are of two families"));
                }
                gateway = Some(parsed);
            }
        }
    }
    Ok(StaticNet { mac, address, prefix, gateway, vlan })
}

/// `aa:bb:cc:dd:ee:ff`, also with dashes and in capitals; in lower case with colons.
pub(super) fn mac(text: &str) -> Option<String> {
    let text = text.to_ascii_lowercase().replace('-', ":");
    let parts: Vec<&str> = text.split(':').collect();
    let fine =
        parts.len() == 6 && parts.iter().all(|p| p.len() == 2 && p.bytes().all(|b| b.is_ascii_hexdigit()));
    fine.then_some(text)
}

/// The MAC of `BOOTIF=01-aa-bb-cc-dd-ee-ff` (the first byte is the hardware type), as PXELINUX and iPXE hand it on.
pub(super) fn boot_interface(cmdline: &str) -> Option<String> {
    let value = cmdline.split_ascii_whitespace().find_map(|word| word.strip_prefix("BOOTIF="))?;
    mac(value.strip_prefix("01-").or_else(|| value.strip_prefix("01:")).unwrap_or(value))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms_are_read() {
        let line = "quiet ferric.net=AA-bb-cc-00-11-22,10.0.0.5/24,10.0.0.1 \
                    ferric.net=aa:bb:cc:00:11:23,2001:db8::5/64,2001:db8::1,vlan=12";
        let nets = parse(line).unwrap();
        assert_eq!(nets[0].mac, "aa:bb:cc:00:11:22");
        assert_eq!((nets[0].prefix, nets[0].gateway), (24, Some("10.0.0.1".parse().unwrap())));
        assert_eq!((nets[1].vlan, nets[1].prefix), (Some(12), 64));
        assert_eq!(parse("quiet"), Ok(Vec::new()));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (text, cause) in [
            ("x,10.0.0.5/24", "MAC"),
            ("aa:bb:cc:00:11:22", "ADDRESS/PREFIX"),
            ("aa:bb:cc:00:11:22,10.0.0.5/33", "prefix"),
            ("aa:bb:cc:00:11:22,10.0.0.5/24,::1", "two families"),
            ("aa:bb:cc:00:11:22,10.0.0.5/24,vlan=4095", "VLAN"),
        ] {
            let error = parse(&format!("ferric.net={text}")).unwrap_err().to_string();
            assert!(error.contains(cause), "{error}");
        }
    }

    #[test]
    fn the_boot_interface_is_found() {
        assert_eq!(boot_interface("a BOOTIF=01-52-54-00-AA-BB-CC b").as_deref(), Some("52:54:00:aa:bb:cc"));
        assert_eq!(boot_interface("a BOOTIF=52:54:00:aa:bb:cc").as_deref(), Some("52:54:00:aa:bb:cc"));
        assert_eq!(boot_interface("BOOTIF=nonsense"), None);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,60}") {
            let _ = parse(&format!("ferric.net={text}"));
            let _ = boot_interface(&format!("BOOTIF={text}"));
        }
    }
}
