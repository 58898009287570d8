//! The two requests to the kernel that no safe library has: NVMe admin commands and SCSI commands. What is sent and what
//! is answered is encoded and decoded in [`ferric_agent::erase`]; here is only the exchange, and the only unsafe code of
//! the project.
#![allow(unsafe_code)]

use std::{ffi::c_void, fs::File, io};

use ferric_agent::erase::{
    CommandError,
    ata::{self, Registers, SECTOR_BYTES, Transfer},
    nvme::{self, AdminCommand},
    scsi::{self, Addresses, SENSE_BYTES},
};
use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, ioctl};

/// A request that reads and changes a header, and what is at the addresses in it.
struct Exchange<'a, const N: usize> {
    request: Opcode,
    header: &'a mut [u64; N],
}

// SAFETY: `as_ptr` is the header, which is as large as the request says and borrowed for as long as this lives; it is
// mutable, as `IS_MUTATING` says, and any bytes are valid in it. `output_from_ptr` reads nothing from memory.
unsafe impl<const N: usize> Ioctl for Exchange<'_, N> {
    type Output = IoctlOutput;

    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        self.request
    }

    fn as_ptr(&mut self) -> *mut c_void {
        self.header.as_mut_ptr().cast()
    }

    unsafe fn output_from_ptr(output: IoctlOutput, _: *mut c_void) -> rustix::io::Result<Self::Output> {
        Ok(output)
    }
}

/// Sends an NVMe admin command to the controller of a namespace.
pub(super) fn nvme(disk: &File, command: &AdminCommand, data: &mut [u8]) -> Result<u32, CommandError> {
    if data.len() != command.transfer() {
        return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
    }
    let mut header = command.to_ioctl(data.as_mut_ptr().expose_provenance() as u64);
    let request = nvme::IOCTL_ADMIN_CMD;
    // SAFETY: the header is `struct nvme_passthru_cmd` with one address, that of `data`, and its length; `data` is borrowed
    // mutably for as long as this call lasts. Every command that an `AdminCommand` can be transfers `transfer()` bytes from
    // the controller, or none, so nothing is written behind its end.
    let status =
        unsafe { ioctl(disk, Exchange { request, header: &mut header }) }.map_err(io::Error::from)?;
    match u32::try_from(status) {
        Ok(0) => Ok(nvme::ioctl_result(&header)),
        Ok(status) => Err(CommandError::Refused(nvme::status_text(status))),
        Err(_) => Err(CommandError::Nonsense("the kernel returned a negative status")),
    }
}

/// Sends an ATA command through the SCSI layer.
pub(super) fn ata(disk: &File, command: &ata::Command, data: &mut [u8]) -> Result<Registers, CommandError> {
    let length = if command.transfer() == Transfer::None { 0 } else { SECTOR_BYTES };
    if data.len() != length {
        return Err(io::Error::from(io::ErrorKind::InvalidInput).into());
    }
    let mut cdb = scsi::cdb(command);
    let mut sense = [0; SENSE_BYTES];
    let at = Addresses {
        cdb: cdb.as_mut_ptr().expose_provenance() as u64,
        sense: sense.as_mut_ptr().expose_provenance() as u64,
        data: data.as_mut_ptr().expose_provenance() as u64,
    };
    let mut header = scsi::header(command.transfer(), length, command.timeout(), at);
    let request = scsi::SG_IO;
    // SAFETY: the header is `struct sg_io_hdr` with three addresses and their lengths: `cdb`, which is only read, `sense`
    // and `data`, which live and are borrowed for as long as this call lasts. The kernel copies no more than these lengths.
    unsafe { ioctl(disk, Exchange { request, header: &mut header }) }.map_err(io::Error::from)?;
    scsi::answer(command.wants_registers(), &header, &sense)
}
