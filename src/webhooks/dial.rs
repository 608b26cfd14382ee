//! How an endpoint is dialled.
//!
//! A tenant names the URL, and this service stands where tenants do not: so what a name resolves to is judged here, at
//! each dial, and the very address that was judged is connected to. There is no second look-up in between that could
//! answer otherwise, and numbers in whatever spelling are judged by the address that they mean.
//!
//! Absent on purpose: proxies, of the environment or others. A proxy would resolve the name once more, out of sight.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;
use tower::Service;

use crate::domain::{error::Internal, text::is_public};

/// For one address: a name may have others that answer.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// Why there is no connection, in words for the tenant: nothing in them tells what is inside of our network.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum DialError {
    /// Also where the name is unknown: which of the two is not for a tenant to find out.
    #[error("the host has no public address")]
    NoAddress,
    #[error("no connection could be made")]
    Unreachable,
    #[error("TLS failed: {0}")]
    Tls(String),
}

/// A connection in either form.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Connection for Box<dyn Duplex> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Makes connections for hyper's client.
#[derive(Clone)]
pub(super) struct Dialler {
    allow_private: bool,
    tls: TlsConnector,
}

impl Dialler {
    /// Trusts the machine's authorities, and those of `ca_file`.
    pub(super) fn new(allow_private: bool, ca_file: Option<&Path>) -> Result<Self, Internal> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if let Some(file) = ca_file {
            let certificates = CertificateDer::pem_file_iter(file).map_err(Internal::new)?;
            for certificate in certificates {
                roots.add(certificate.map_err(Internal::new)?).map_err(Internal::new)?;
            }
        }
        if roots.is_empty() {
            tracing::warn!("this machine knows no certificate authority: no https webhook can be delivered");
        }
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(Internal::new)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { allow_private, tls: Arc::new(config).into() })
    }

    async fn dial(self, uri: Uri) -> Result<TokioIo<Box<dyn Duplex>>, DialError> {
        let (host, tls) = (uri.host().unwrap_or_default(), uri.scheme_str() == Some("https"));
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let socket = self.connect(&host, port).await?;
        if !tls {
            return Ok(TokioIo::new(Box::new(socket)));
        }
        let name = ServerName::try_from(host).map_err(|_| DialError::NoAddress)?;
        let secured = self.tls.connect(name, socket).await.map_err(|error| DialError::Tls(in_words(&error)))?;
        Ok(TokioIo::new(Box::new(secured)))
    }

    /// To the first of the host's addresses that may be dialled and answers.
    async fn connect(&self, host: &str, port: u16) -> Result<TcpStream, DialError> {
        let found = tokio::net::lookup_host((host, port)).await.map_err(|_| DialError::NoAddress)?;
        let permitted: Vec<_> = found.filter(|address| self.may_dial(address.ip())).collect();
        let mut failure = DialError::NoAddress;
        for address in permitted {
            match tokio::time::timeout(CONNECT_WITHIN, connected(address)).await {
                Ok(Ok(socket)) => return Ok(socket),
                _ => failure = DialError::Unreachable,
            }
        }
        Err(failure)
    }

    fn may_dial(&self, address: IpAddr) -> bool {
        self.allow_private || is_public(address)
    }
}

async fn connected(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address).await?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// What rustls found wrong with the receiver; of the socket, only that it broke.
fn in_words(error: &io::Error) -> String {
    let found = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    found.map_or_else(|| "the connection broke".to_owned(), ToString::to_string)
}

impl Service<Uri> for Dialler {
    type Response = TokioIo<Box<dyn Duplex>>;
    type Error = DialError;
    type Future = BoxFuture<'static, Result<Self::Response, DialError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), DialError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().dial(uri))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn refused(url: &str) {
        let dialler = Dialler::new(false, None).expect("a dialler");
        let outcome = dialler.dial(url.parse().expect("a URI")).await;
        assert_eq!(outcome.err(), Some(DialError::NoAddress), "{url}");
    }

    /// Somebody listens there, and would answer.
    #[tokio::test]
    async fn no_name_and_no_number_leads_to_a_private_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("its own").port();
        let hosts =
            ["localhost", "127.0.0.1", "2130706433", "0x7f000001", "127.1", "[::1]", "[::ffff:127.0.0.1]", "0.0.0.0"];
        for host in hosts {
            refused(&format!("http://{host}:{port}/")).await;
            refused(&format!("https://{host}:{port}/")).await;
        }
        let asked = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
        assert!(asked.is_err(), "nothing was dialled");
    }

    #[tokio::test]
    async fn where_private_addresses_are_allowed_they_are_dialled() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/", listener.local_addr().expect("its own"));
        let dialler = Dialler::new(true, None).expect("a dialler");
        assert!(dialler.dial(url.parse().expect("a URI")).await.is_ok());
    }
}
