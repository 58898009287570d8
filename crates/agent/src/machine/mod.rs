//! A real machine: what Linux says of it and how it is made to do things. The parsing is pure and works on any folder
//! that looks like `/sys` or `/proc`.

mod console;
mod dhcp;
mod dmi;
mod drive;
mod efivars;
mod gpu;
mod hardware;
pub(crate) mod init;
mod ioctl;
mod modules;
mod mounts;
mod network;
mod smbios;
mod static_net;
mod sysfs;
