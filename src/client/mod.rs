//! How a command of ours reaches a running service: by the public protocol, as every client does.
//!
//! Where it listens, by which TLS, under which credential, and how soon a connection that was lost is tried again. What
//! is said over it is for the command.

mod delay;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use tonic::{
    Code,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

pub(crate) use self::delay::Delay;

/// A partition is noticed after both together; without them a half-dead connection is never given up.
pub(crate) const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
pub(crate) const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Files in PEM. They are read at each connect, so that a certificate of hours may be renewed beside the client.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// The authorities of the service.
    pub ca: PathBuf,
    /// The client's own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// The service at `url`, such as `http://127.0.0.1:50051`; `tls` is for `https://`.
pub(crate) fn endpoint(url: &str, tls: Option<&TlsOptions>) -> anyhow::Result<Endpoint> {
    let mut endpoint = Endpoint::from_shared(url.to_owned()).context("the endpoint is not a URL")?;
    let is_https = endpoint.uri().scheme_str() == Some("https");
    anyhow::ensure!(is_https == tls.is_some(), "an authority is needed for https://, and for nothing else");
    if let Some(tls) = tls {
        endpoint = endpoint.tls_config(tls.config()?)?;
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

impl TlsOptions {
    fn config(&self) -> anyhow::Result<ClientTlsConfig> {
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
        let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&self.ca)?));
        Ok(match &self.identity {
            Some((cert, key)) => config.identity(Identity::from_pem(read(cert)?, read(key)?)),
            None => config,
        })
    }
}

pub(crate) fn authorization(key: &SecretString) -> anyhow::Result<MetadataValue<Ascii>> {
    let mut value: MetadataValue<Ascii> =
        format!("Bearer {}", key.expose_secret()).parse().context("the key is not visible ASCII")?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether the same would be refused again, however often it is tried.
pub(crate) const fn is_refusal(code: Code) -> bool {
    matches!(code, Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented)
}
