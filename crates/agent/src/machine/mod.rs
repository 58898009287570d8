//! A real machine: what Linux says of it and how it is made to do things. The parsing is pure and works on any folder
//! that looks like `/sys` or `/proc`.

mod addresses;
mod boot_nic;
mod console;
mod dhcp;
mod dhcp6;
mod dmi;
mod drive;
mod efivars;
#[cfg(test)]
mod fuzz_tests;
mod gpu;
mod hardware;
pub(crate) mod init;
mod ioctl;
mod ipmi;
mod kexec;
mod lldp;
mod modules;
mod mounts;
mod names;
mod neighbours;
mod netlink;
mod network;
#[cfg(test)]
mod network_tests;
mod pump;
mod rdnss;
mod smbios;
mod sysfs;
