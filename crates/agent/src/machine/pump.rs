//! A thread for a socket that the runtime does not know: it waits there, so that nobody else has to.

use std::{io, time::Duration};

use tokio::sync::mpsc;

/// How long the thread waits for a packet before it looks whether anybody still wants one. To be set at the socket.
pub(super) const WAIT: Duration = Duration::from_secs(1);
/// Packets that are kept for a receiver that is busy; more are waited with, and the kernel drops what is too much.
const QUEUE: usize = 64;

/// Calls `receive`, which waits for [`WAIT`] at most, until nobody listens any more. An error that is not the end of the
/// wait is a packet less.
pub(super) fn packets<T: Send + 'static>(
    name: &str,
    mut receive: impl FnMut() -> io::Result<Option<T>> + Send + 'static,
) -> io::Result<mpsc::Receiver<T>> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    std::thread::Builder::new().name(name.to_owned()).spawn(move || {
        while !sender.is_closed() {
            match receive() {
                Ok(Some(packet)) => {
                    if sender.blocking_send(packet).is_err() {
                        return;
                    }
                }
                Ok(None) => {}
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) => {
                    tracing::debug!(%error, "a packet cannot be read");
                    std::thread::sleep(WAIT);
                }
            }
        }
    })?;
    Ok(receiver)
}
