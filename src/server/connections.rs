//! Connections, of which there is a limit.
//!
//! A connection counts from its accept on, so one that says nothing must not stay: until its client has sent the HTTP/2
//! preface it is under a deadline, and from then on under the keepalive.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Sleep,
};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// What every HTTP/2 client sends first: `PRI * HTTP/2.0` and its empty lines.
const PREFACE_BYTES: usize = 24;

/// Accepts while fewer than `most` are open, and closes what comes on top at once: a peer that hears nothing would wait.
/// Each has `handshake` to send its preface.
pub(super) fn limited(
    listener: TcpListener,
    most: usize,
    handshake: Duration,
) -> impl Stream<Item = io::Result<Limited>> {
    let open = Arc::new(Semaphore::new(most));
    futures_util::stream::unfold((listener, open), move |(listener, open)| async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                // Such as too many open files: the listener itself is well.
                Err(error) => {
                    tracing::warn!(error = %error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let Ok(permit) = open.clone().try_acquire_owned() else {
                metrics::counter!("voxgate_connections_refused_total").increment(1);
                continue;
            };
            // Small frames must not wait for each other.
            let _ = stream.set_nodelay(true);
            return Some((Ok(Limited::new(stream, permit, handshake)), (listener, open)));
        }
    })
}

/// One connection, counted while it is open.
pub(super) struct Limited {
    stream: TcpStream,
    /// Until the preface has come.
    awaited: Option<Awaited>,
    _permit: OwnedSemaphorePermit,
}

struct Awaited {
    bytes: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Limited {
    fn new(stream: TcpStream, permit: OwnedSemaphorePermit, handshake: Duration) -> Self {
        let awaited = Awaited { bytes: PREFACE_BYTES, deadline: Box::pin(tokio::time::sleep(handshake)) };
        Self { stream, awaited: Some(awaited), _permit: permit }
    }
}

impl Connected for Limited {
    type ConnectInfo = <TcpStream as Connected>::ConnectInfo;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.stream.connect_info()
    }
}

impl AsyncRead for Limited {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let Some(awaited) = &mut self.awaited else { return read };
        awaited.bytes = awaited.bytes.saturating_sub(buf.filled().len() - before);
        if awaited.bytes == 0 {
            self.awaited = None;
        } else if awaited.deadline.as_mut().poll(cx).is_ready() {
            metrics::counter!("voxgate_connections_silent_total").increment(1);
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Limited {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
