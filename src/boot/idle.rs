//! A connection that ends when nothing moves on it for a while, however long it takes as a whole: a BMC may take many
//! minutes for an image.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

/// A stream with an idle time-out in both directions together.
pub(super) struct Idle<S> {
    stream: S,
    limit: Duration,
    sleep: Pin<Box<Sleep>>,
}

impl<S> Idle<S> {
    /// Ends with [`io::ErrorKind::TimedOut`] after `limit` without a byte read or written.
    pub(super) fn new(stream: S, limit: Duration) -> Self {
        Self { stream, limit, sleep: Box::pin(tokio::time::sleep(limit)) }
    }

    /// Something moved: the time begins anew. Otherwise the time-out, if it has come.
    fn watch<T>(&mut self, context: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(result) => {
                let next = Instant::now() + self.limit;
                self.sleep.as_mut().reset(next);
                Poll::Ready(result)
            }
            Poll::Pending => {
                ready!(self.sleep.as_mut().poll(context));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Idle<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_read(context, buffer);
        self.watch(context, result)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Idle<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.watch(context, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, parts);
        self.watch(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn it_ends_only_when_nothing_moves() {
        let (near, mut far) = tokio::io::duplex(4);
        let mut near = Idle::new(near, Duration::from_secs(3600));
        let first = near.sleep.deadline();
        near.write_all(&[1; 4]).await.unwrap();
        let second = near.sleep.deadline();
        assert!(second > first, "a write begins the time anew");
        far.write_all(&[1]).await.unwrap();
        near.read_exact(&mut [0]).await.unwrap();
        assert!(near.sleep.deadline() > second, "a read begins the time anew");

        near.sleep.as_mut().reset(Instant::now());
        let error = near.write_all(&[1]).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
