//! The driver for servers without a BMC: it can wake them, and knows nothing of them.
//!
//! A magic packet is sent into the dark: there is no answer, the power cannot be read, and nothing turns the server off
//! but its own operating system or agent. What it boots from is up to its firmware, which is to try the network first.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use async_trait::async_trait;
use ferric_api::{HardwareDetails, MacAddress};
use tokio::net::UdpSocket;
use tokio::time::{sleep, timeout};
use zeroize::Zeroizing;

use crate::error::BmcError;
use crate::types::{Bmc, BootMethod, BootTarget, ConnectOptions, PowerAction, PowerState, SystemFacts};

/// What a magic packet begins with, so many times (AMD, Magic Packet Technology, publication 20213, 2).
const SYNC: [u8; 6] = [0xFF; 6];
/// How often the MAC address follows (the same).
const REPEATS: usize = 16;
/// Packets that are sent for one waking: they may be lost, and a server that is on ignores them.
const PACKETS: u32 = 3;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a name may take to be resolved.
const RESOLVE: Duration = Duration::from_secs(10);

/// The SecureOn password that a network card wants to see before it wakes its server. Never printed.
#[derive(Clone)]
struct SecureOn(Zeroizing<Vec<u8>>);

impl std::fmt::Debug for SecureOn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SecureOn(<redacted>)")
    }
}

impl SecureOn {
    /// Four or six bytes, as hexadecimal numbers with `:` or `-` between them, as `ethtool` writes it.
    fn parse(text: &str) -> Option<Self> {
        let bytes: Option<Vec<u8>> = text
            .split([':', '-'])
            .map(|part| {
                let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_hexdigit());
                u8::from_str_radix(part, 16).ok().filter(|_| digits)
            })
            .collect();
        bytes.map(Zeroizing::new).filter(|bytes| matches!(bytes.len(), 4 | 6)).map(Self)
    }
}

/// A magic packet for a network card.
fn magic(mac: MacAddress, password: Option<&SecureOn>) -> Zeroizing<Vec<u8>> {
    let mut packet = Zeroizing::new(SYNC.to_vec());
    for _ in 0..REPEATS {
        packet.extend(mac.octets());
    }
    packet.extend(password.iter().flat_map(|password| password.0.iter().copied()));
    packet
}

/// A server that can be woken.
#[derive(Debug)]
pub(crate) struct Wol {
    host: String,
    port: u16,
    mac: MacAddress,
    password: Option<SecureOn>,
}

impl Wol {
    /// From `wol://<address>[:port]?mac=…`, where the address is the broadcast address of the server's network, or any
    /// other by which the packet comes to its card. Sends nothing.
    pub(crate) fn new(options: &ConnectOptions) -> Result<Self, BmcError> {
        let bad = |message: &str| BmcError::BadOptions { message: message.to_owned() };
        let mut mac = None;
        for option in options.address.query().split('&').filter(|option| !option.is_empty()) {
            match option.split_once('=') {
                Some(("mac", value)) => mac = value.parse::<MacAddress>().ok(),
                _ => {
                    return Err(bad(
                        "the address has an option that Wake-on-LAN does not know: it knows mac",
                    ));
                }
            }
        }
        let mac = mac.ok_or_else(|| bad("Wake-on-LAN needs a MAC address: set spec.bootMACAddress"))?;
        let secret = options.credentials.as_ref().map(|it| it.password.as_str()).filter(|it| !it.is_empty());
        let password = secret.map(|secret| {
            SecureOn::parse(secret).ok_or_else(|| {
                bad("the password for Wake-on-LAN (SecureOn) is not four or six bytes like 01:23:45:67:89:ab: mend \
                     the Secret, or leave bmc.credentialsName out")
            })
        });
        let (host, port) = (options.address.host().to_owned(), options.address.port());
        Ok(Self { host, port, mac, password: password.transpose()? })
    }

    async fn wake(&self) -> Result<(), BmcError> {
        let unreachable = |message: String| BmcError::Unreachable {
            address: format!("wol://{}:{}", self.host, self.port),
            message,
        };
        let found = timeout(RESOLVE, tokio::net::lookup_host((self.host.as_str(), self.port)))
            .await
            .map_err(|_| unreachable(format!("the name is not resolved within {} s", RESOLVE.as_secs())))?
            .map_err(|error| unreachable(error.to_string()))?
            .next();
        let address = found.ok_or_else(|| unreachable("the name has no address".to_owned()))?;
        self.send(address).await.map_err(|error| unreachable(error.to_string()))
    }

    async fn send(&self, address: SocketAddr) -> std::io::Result<()> {
        let local: SocketAddr = match address {
            SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
            SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
        };
        let socket = UdpSocket::bind(local).await?;
        socket.set_broadcast(true)?;
        let packet = magic(self.mac, self.password.as_ref());
        for number in 0..PACKETS {
            if number > 0 {
                sleep(PAUSE).await;
            }
            socket.send_to(&packet, address).await?;
        }
        Ok(())
    }
}

fn not_by_waking(what: &str) -> BmcError {
    BmcError::NotSupported {
        what: format!("{what}: Wake-on-LAN can wake a server and do nothing else to it"),
    }
}

#[async_trait]
impl Bmc for Wol {
    /// Says what the address says: nothing can be asked.
    async fn probe(&self) -> Result<SystemFacts, BmcError> {
        Ok(SystemFacts {
            system_uuid: None,
            serial_number: None,
            manufacturer: None,
            product: None,
            bmc_firmware: None,
            power: PowerState::Unknown,
            boot_methods: vec![BootMethod::Network],
            macs: vec![self.mac],
            health: None,
            unhealthy: Vec::new(),
        })
    }

    async fn power(&self) -> Result<PowerState, BmcError> {
        Ok(PowerState::Unknown)
    }

    async fn set_power(&self, action: PowerAction) -> Result<(), BmcError> {
        match action {
            PowerAction::On => self.wake().await,
            PowerAction::ForceOff | PowerAction::GracefulShutdown => {
                Err(not_by_waking("turning the server off; shut it down through its operating system"))
            }
            PowerAction::ForceRestart | PowerAction::PowerCycle => {
                Err(not_by_waking("restarting the server; restart it through its operating system"))
            }
        }
    }

    /// Network and disk are the firmware's choice: it tries the network first, and is sent on to the disk from there.
    async fn set_boot(&self, target: &BootTarget) -> Result<(), BmcError> {
        match target {
            BootTarget::Network | BootTarget::NetworkAlways | BootTarget::Disk => Ok(()),
            BootTarget::UefiHttp { .. } | BootTarget::UefiHttpAlways { .. } => {
                Err(not_by_waking("UEFI HTTP boot of a URL"))
            }
            BootTarget::VirtualMedia { .. } | BootTarget::LiveMedia { .. } => {
                Err(not_by_waking("virtual media"))
            }
        }
    }

    async fn inspect(&self) -> Result<HardwareDetails, BmcError> {
        Ok(HardwareDetails::default())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::types::Credentials;
    use proptest::prelude::*;

    fn options(address: &str, password: Option<&str>) -> ConnectOptions {
        let credentials = password.map(|password| Credentials::new(String::new(), password));
        ConnectOptions {
            address: address.parse().unwrap(),
            credentials,
            ca_pem: None,
            certificate_sha256: None,
            insecure: false,
        }
    }

    #[test]
    fn a_magic_packet() {
        let mac = [0x52, 0x54, 0x00, 0xAB, 0xCD, 0xEF];
        let packet = magic(mac.into(), None);
        assert_eq!(packet.len(), 102);
        assert_eq!(packet[..6], [0xFF; 6]);
        assert!(packet[6..].chunks(6).all(|chunk| chunk == mac));
        let password = SecureOn::parse("01:23:45:67:89:ab").unwrap();
        assert_eq!(magic(mac.into(), Some(&password))[102..], [0x01, 0x23, 0x45, 0x67, 0x89, 0xAB]);
        assert_eq!(magic(mac.into(), SecureOn::parse("c0-a8-00-01").as_ref()).len(), 106);
        for none in
            ["", "x", "01:23:45", "01:23:45:67:89", "1:2:3:4", "+1:23:45:67", "0123456789ab", "é1:23:45:67"]
        {
            assert!(SecureOn::parse(none).is_none(), "{none}");
        }
    }

    #[test]
    fn addresses() {
        let made = |address: &str, password| Wol::new(&options(address, password));
        let wol = made("wol://192.0.2.255?mac=52:54:00:ab:cd:ef", Some("01:23:45:67:89:ab")).unwrap();
        assert_eq!((wol.host.as_str(), wol.port, wol.mac.octets()[5]), ("192.0.2.255", 9, 0xEF));
        assert!(!format!("{wol:?}").contains("137"), "{wol:?}");
        for (address, password) in [
            ("wol://192.0.2.255", None),
            ("wol://192.0.2.255?mac=x", None),
            ("wol://192.0.2.255?mac=52:54:00:ab:cd:ef&broadcast=1", None),
            ("wol://192.0.2.255?mac=52:54:00:ab:cd:ef", Some("hunter2")),
        ] {
            let error = made(address, password).unwrap_err();
            assert_eq!(error.reason(), "BMCBadOptions");
            assert!(!error.to_string().contains("hunter2"), "{error}");
        }
    }

    #[tokio::test]
    async fn it_wakes_and_does_nothing_else() {
        let card = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = format!("wol://{}?mac=52:54:00:ab:cd:ef", card.local_addr().unwrap());
        let wol = Wol::new(&options(&address, Some("01:23:45:67:89:ab"))).unwrap();
        let facts = wol.probe().await.unwrap();
        assert_eq!((facts.power, facts.macs.len()), (PowerState::Unknown, 1));
        wol.set_power(PowerAction::On).await.unwrap();
        let mut buffer = [0; 200];
        for _ in 0..PACKETS {
            let length = card.recv(&mut buffer).await.unwrap();
            assert_eq!(buffer[..length], magic(wol.mac, wol.password.as_ref())[..]);
        }
        // It is on, perhaps: nobody knows.
        assert_eq!(wol.power().await.unwrap(), PowerState::Unknown);
        for action in [PowerAction::ForceOff, PowerAction::GracefulShutdown, PowerAction::ForceRestart] {
            let error = wol.set_power(action).await.unwrap_err();
            assert_eq!(error.reason(), "BMCNotSupported");
            assert!(error.to_string().contains("operating system"), "{error}");
        }
        wol.set_boot(&BootTarget::Network).await.unwrap();
        let iso = BootTarget::VirtualMedia { url: "http://192.0.2.1/x".into() };
        assert_eq!(wol.set_boot(&iso).await.unwrap_err().reason(), "BMCNotSupported");
        assert!(card.try_recv(&mut buffer).is_err(), "nothing more was sent");
    }

    proptest! {
        #[test]
        fn no_password_harms(text: String) {
            let _ = SecureOn::parse(&text);
        }
    }
}
