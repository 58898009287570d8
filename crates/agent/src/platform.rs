//! What the agent needs of the machine that it runs on.

use std::io;

use ferric_image::BlockDevice;
use ferric_protocol::v1::Inventory;

use crate::FirmwareVariables;
use crate::erase::{Drive, NoCommands};

/// One machine. All methods may block: they are called where that does no harm.
///
/// Power is not here: [`run`](crate::run()) ends with an [`Exit`](crate::Exit), and whoever called it does what that says.
pub trait Platform: Send + Sync + 'static {
    /// Looks at the hardware, anew each time.
    fn inventory(&self) -> io::Result<Inventory>;

    /// Tells when the inventory has become more than it was, such as by a switch that said who it is. `None`: it does not.
    fn inventory_changes(&self) -> Option<tokio::sync::watch::Receiver<()>> {
        None
    }

    /// Opens a disk by the name that it has in the inventory, for this process alone.
    fn open_disk(&self, name: &str) -> io::Result<Box<dyn BlockDevice>>;

    /// The firmware's variables; `None` where the machine was not started by UEFI, or nothing is to be changed in them.
    fn firmware_variables(&self) -> Option<Box<dyn FirmwareVariables>> {
        None
    }

    /// A way to send commands to that disk. The default is a disk that only reads and writes.
    fn open_drive(&self, _name: &str) -> io::Result<Box<dyn Drive>> {
        Ok(Box::new(NoCommands::default()))
    }

    /// Has the kernel of a disk that was written loaded, so that the machine can be restarted into it without its firmware
    /// ([`Exit::Kexec`](crate::Exit::Kexec)). Returns what its boot loader calls it; the error is a sentence.
    fn load_kernel(&self, _disk: &str) -> Result<String, String> {
        Err("this machine cannot start a kernel by itself".to_owned())
    }

    /// Sets the machine's clock (seconds since 1970). TLS does not depend on it.
    fn set_clock(&self, _unix_seconds: u64) -> io::Result<()> {
        Ok(())
    }
}
