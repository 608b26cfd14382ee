//! Connections, of which there is a limit.
//!
//! A connection counts from its accept on, so one that says nothing must not stay: until its client has shaken hands, where
//! TLS is configured, and sent the HTTP/2 preface it is under one deadline, and from then on under the keepalive.
//! Handshakes run in tasks of their own: a slow one holds up no other, and no accept.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::StreamExt as _;
use rustls::InvalidMessage;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Instant, Sleep},
};
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_util::task::AbortOnDropHandle;

use super::tls::{self, Acceptor};
use crate::domain::certificate::ClientCertificate;

/// What every HTTP/2 client sends first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Those that `dealt` brings, each with `handshake` to shake hands and send its preface, at most `most` at once.
pub(super) fn shaken(
    dealt: impl Stream<Item = Accepted>,
    most: usize,
    handshake: Duration,
    acceptor: Option<Acceptor>,
) -> impl Stream<Item = Limited> {
    let begin = move |accepted: Accepted| {
        let deadline = Instant::now() + handshake;
        AbortOnDropHandle::new(tokio::spawn(accepted.shake_hands(acceptor.clone(), deadline)))
    };
    // As many as there are permits, so that none of them waits for its turn.
    let shaken = dealt.map(begin).buffer_unordered(most.saturating_add(1));
    // One that failed was counted; the listener itself is well.
    shaken.filter_map(|ended| std::future::ready(ended.ok().flatten()))
}

/// Accepts while fewer than `most` are open, and closes what comes on top at once: a peer that hears nothing would wait.
pub(super) async fn accept(listener: &TcpListener, open: &Arc<Semaphore>) -> Accepted {
    loop {
        // It will be read on another runtime than the listener's.
        let stream = match listener.accept().await.and_then(|(stream, _)| stream.into_std()) {
            Ok(stream) => stream,
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
        return Accepted { stream, permit, share: None };
    }
}

/// A connection on which nothing was said yet.
pub(super) struct Accepted {
    stream: std::net::TcpStream,
    permit: OwnedSemaphorePermit,
    share: Option<Share>,
}

/// Held by each connection that a worker serves.
pub(super) type Share = Arc<()>;

impl Accepted {
    pub(super) fn of(self, share: Share) -> Self {
        Self { share: Some(share), ..self }
    }

    async fn shake_hands(self, acceptor: Option<Acceptor>, deadline: Instant) -> Option<Limited> {
        let Self { stream, permit, share } = self;
        let stream = TcpStream::from_std(stream).ok()?;
        let (stream, certificate) = match acceptor {
            None => (Transport::Plain(stream), None),
            Some(acceptor) => {
                let shaken = tokio::time::timeout_at(deadline, acceptor.current().accept(stream)).await;
                let Ok(shaken) = shaken else {
                    silent();
                    return None;
                };
                let stream = shaken.map_err(|error| failed(&error)).ok()?;
                let certificate = identify(&stream).ok()?;
                (Transport::Tls(Box::new(stream)), certificate)
            }
        };
        let awaited = Awaited { seen: 0, deadline: Box::pin(tokio::time::sleep_until(deadline)) };
        Some(Limited { stream, certificate, awaited: Some(awaited), _permit: permit, _share: share })
    }
}

/// Who the client's certificate says it is, if it has shown one. Such a client is nobody if that was verified and still
/// cannot be read.
fn identify(stream: &TlsStream<TcpStream>) -> anyhow::Result<Option<Arc<ClientCertificate>>> {
    let Some([leaf, ..]) = stream.get_ref().1.peer_certificates() else { return Ok(None) };
    let certificate = tls::identify(leaf).inspect_err(|error| {
        metrics::counter!("voxgate_tls_handshakes_failed_total").increment(1);
        tracing::warn!(error = format!("{error:#}"), "a client's certificate cannot be read");
    });
    Ok(Some(Arc::new(certificate?)))
}

fn silent() {
    metrics::counter!("voxgate_connections_silent_total").increment(1);
}

/// A peer that speaks something else than the port: plain text instead of TLS, TLS instead of plain text.
fn garbled() {
    metrics::counter!("voxgate_connections_garbled_total").increment(1);
}

fn failed(error: &io::Error) {
    use rustls::Error::InvalidMessage as Garbled;
    let cause = error.get_ref().and_then(|error| error.downcast_ref());
    match cause {
        Some(Garbled(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion)) => garbled(),
        _ => metrics::counter!("voxgate_tls_handshakes_failed_total").increment(1),
    }
    tracing::debug!(error = %error, "a handshake failed");
}

/// One connection, counted while it is open.
pub(super) struct Limited {
    stream: Transport,
    certificate: Option<Arc<ClientCertificate>>,
    /// Until the preface has come.
    awaited: Option<Awaited>,
    _permit: OwnedSemaphorePermit,
    _share: Option<Share>,
}

enum Transport {
    Plain(TcpStream),
    /// Boxed: its buffers are a kilobyte, and a plain connection should not carry them.
    Tls(Box<TlsStream<TcpStream>>),
}

/// Calls a method of whichever transport it is.
macro_rules! of_transport {
    ($limited:expr, $method:ident($($argument:expr),*)) => {
        match &mut $limited.stream {
            Transport::Plain(stream) => Pin::new(stream).$method($($argument),*),
            Transport::Tls(stream) => Pin::new(stream.as_mut()).$method($($argument),*),
        }
    };
}

struct Awaited {
    /// Bytes of the preface that have come.
    seen: usize,
    deadline: Pin<Box<Sleep>>,
}

impl Awaited {
    /// Compares what came with the preface: one that differs will not become HTTP/2, however long we listen.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        let rest = &PREFACE[self.seen..];
        let bytes = &bytes[..bytes.len().min(rest.len())];
        if !rest.starts_with(bytes) {
            garbled();
            return Err(io::ErrorKind::InvalidData.into());
        }
        self.seen += bytes.len();
        Ok(())
    }
}

impl Limited {
    /// Who is at the other end of it.
    pub(super) fn certificate(&self) -> Option<Arc<ClientCertificate>> {
        self.certificate.clone()
    }
}

impl AsyncRead for Limited {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = of_transport!(self, poll_read(cx, buf));
        let Some(awaited) = &mut self.awaited else { return read };
        awaited.take(&buf.filled()[before..])?;
        if awaited.seen == PREFACE.len() {
            self.awaited = None;
        } else if awaited.deadline.as_mut().poll(cx).is_ready() {
            silent();
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }
}

impl AsyncWrite for Limited {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        of_transport!(self, poll_write(cx, buf))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        of_transport!(self, poll_flush(cx))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        of_transport!(self, poll_shutdown(cx))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        of_transport!(self, poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        match &self.stream {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
