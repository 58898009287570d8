//! The requests to the kernel that no safe library has: NVMe admin commands and SCSI commands, reading a partition table
//! anew, loading a kernel to restart into, and asking the machine's BMC. What is sent to drives and to the BMC, and what they
//! answer, is encoded and decoded in [`ferric_agent::erase`] and [`ferric_agent::ipmi`]; here is only the exchange, and the
//! only unsafe code of the project.
#![allow(unsafe_code)]

use std::{
    ffi::{CString, c_void},
    fs::File,
    io,
    os::fd::{AsRawFd, BorrowedFd},
};

use ferric_agent::erase::{
    CommandError,
    ata::{self, Registers, SECTOR_BYTES, Transfer},
    nvme::{self, AdminCommand},
    scsi::{self, Addresses, SENSE_BYTES},
};
use ferric_agent::ipmi::{
    commands::Request,
    device::{self, ADDRESS_BYTES, Place},
};
use rustix::ioctl::{Ioctl, IoctlOutput, NoArg, Opcode, ioctl, opcode};

/// `BLKRRPART` (include/uapi/linux/fs.h): the partition table is read anew.
const READ_PARTITIONS: Opcode = opcode::none(0x12, 95);
/// `KEXEC_FILE_NO_INITRAMFS` (include/uapi/linux/kexec.h).
const NO_INITRAMFS: libc::c_ulong = 4;

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

/// Has the kernel read the partition table of a disk anew. Refused while somebody uses a partition.
pub(super) fn read_partitions(disk: &File) -> io::Result<()> {
    // SAFETY: this request has no argument, so nothing is read from or written to memory of this process.
    unsafe { ioctl(disk, NoArg::<READ_PARTITIONS>::new()) }.map_err(io::Error::from)
}

/// Hands a request to the kernel's IPMI device, under a number. The answer comes later.
pub(super) fn ipmi_send(bmc: &File, request: &Request, number: i64) -> io::Result<()> {
    let mut address = device::address();
    let mut data = request.data.clone();
    let mut header = device::request(request, number, place(&mut address), place(&mut data));
    let request = device::SEND_COMMAND;
    // SAFETY: the header is `struct ipmi_req` with two addresses and their lengths: `address` and `data`, which live until
    // this call is over and are only read; the kernel copies them.
    unsafe { ioctl(bmc, Exchange { request, header: &mut header }) }.map_err(io::Error::from)?;
    Ok(())
}

/// Takes what the kernel's IPMI device has received into `data`. `None`: it is not the answer to this request.
pub(super) fn ipmi_receive(
    bmc: &File,
    request: &Request,
    number: i64,
    data: &mut [u8],
) -> io::Result<Option<usize>> {
    let mut address = [0; ADDRESS_BYTES];
    let mut header = device::receive(place(&mut address), place(data));
    let code = device::RECEIVE_MSG_TRUNC;
    // SAFETY: the header is `struct ipmi_recv` with two addresses and their lengths: `address` and `data`, which are
    // borrowed mutably for as long as this call lasts. The kernel writes no more than these lengths.
    unsafe { ioctl(bmc, Exchange { request: code, header: &mut header }) }.map_err(io::Error::from)?;
    Ok(device::answer_to(number, request, &header).map(|length| length.min(data.len())))
}

fn place(bytes: &mut [u8]) -> Place {
    Place { at: bytes.as_mut_ptr().expose_provenance() as u64, length: bytes.len() }
}

/// Has the kernel load another one, to be started by a restart of the kind kexec (kexec_file_load(2)).
pub(super) fn kexec_file_load(
    kernel: BorrowedFd<'_>,
    initrd: Option<BorrowedFd<'_>>,
    arguments: &str,
) -> io::Result<()> {
    let arguments = CString::new(arguments)?;
    let length = libc::c_ulong::try_from(arguments.as_bytes_with_nul().len()).map_err(io::Error::other)?;
    let (initrd, flags) = initrd.map_or((-1, NO_INITRAMFS), |initrd| (initrd.as_raw_fd(), 0));
    // SAFETY: the two descriptors are open for as long as they are borrowed, and are only read. `arguments` is a string
    // with its zero at the end, `length` says how long it is with it, and it lives until the call is over; the kernel
    // copies it. Nothing is written to memory of this process.
    let done = unsafe {
        libc::syscall(
            libc::SYS_kexec_file_load,
            libc::c_long::from(kernel.as_raw_fd()),
            libc::c_long::from(initrd),
            length,
            arguments.as_ptr(),
            flags,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
