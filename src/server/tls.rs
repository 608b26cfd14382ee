//! TLS of the gRPC port, whose certificate changes while it serves.
//!
//! The files are read again every so often and compared by content: a mounted secret is swapped by a symlink, which leaves
//! times and names as they were. A set of files that cannot be used is logged once, counted, and the one before it stays. New
//! connections use the new certificate and authorities; open ones go on. Deliberately absent: resumption of sessions (a
//! connection of gRPC lasts, and each new one should prove that its certificate is good now) and with it early data (it
//! can be replayed), revocation lists (mesh certificates live for hours).

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject as _},
    server::{NoServerSessionStorage, WebPkiClientVerifier, danger::ClientCertVerifier},
    time_provider::TimeProvider,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use x509_parser::{extensions::GeneralName, prelude::FromDer as _, prelude::X509Certificate};

use crate::{
    config::{ClientCerts, TlsSettings},
    domain::{
        Clock, Timestamp,
        certificate::{ClientCertificate, San},
        hash::Sha256,
    },
    tls_files,
};

/// The certificate in use, and where the next one comes from.
#[derive(Debug)]
pub(super) struct Tls {
    sources: Sources,
    every: Duration,
    in_use: Arc<ArcSwap<ServerConfig>>,
    /// What the files held when they were last looked at, good or bad.
    seen: Seen,
}

/// Takes each handshake with the certificate of its moment.
#[derive(Debug, Clone)]
pub(super) struct Acceptor(Arc<ArcSwap<ServerConfig>>);

#[derive(Debug, Clone)]
struct Sources {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_certs: ClientCerts,
    clock: Arc<dyn Clock>,
}

/// Of what the files hold, or why they cannot be read. The key itself is not kept.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Contents([Sha256; 3]),
    Unreadable(String),
}

/// What the files hold.
struct Contents {
    cert: Vec<u8>,
    key: Vec<u8>,
    client_ca: Vec<u8>,
}

impl Tls {
    /// Reads the files; nothing where TLS is not configured.
    pub(super) fn load(settings: &TlsSettings, clock: Arc<dyn Clock>) -> anyhow::Result<Option<Self>> {
        let (Some(cert), Some(key)) = (settings.cert_file.clone(), settings.key_file.clone()) else { return Ok(None) };
        let sources = Sources {
            cert,
            key,
            client_ca: settings.client_ca_file.clone(),
            client_certs: settings.client_certs.unwrap_or_default(),
            clock,
        };
        let contents = sources.read()?;
        let (config, not_after) = sources.configure(&contents)?;
        announce(not_after);
        let every = Duration::from_millis(settings.reload_interval_ms);
        let in_use = Arc::new(ArcSwap::from_pointee(config));
        Ok(Some(Self { seen: contents.seen(), sources, every, in_use }))
    }

    pub(super) fn acceptor(&self) -> Acceptor {
        Acceptor(self.in_use.clone())
    }

    /// Looks at the files every so often, until `closing`.
    pub(super) async fn reload_until(mut self, closing: CancellationToken) {
        loop {
            tokio::select! {
                () = closing.cancelled() => return,
                () = tokio::time::sleep(self.every) => {}
            }
            let sources = self.sources.clone();
            let read = tokio::task::spawn_blocking(move || sources.read()).await;
            self.consider(read.unwrap_or_else(|panic| Err(panic.into())));
        }
    }

    /// Takes what was read into use if it is new and good.
    fn consider(&mut self, read: anyhow::Result<Contents>) {
        let seen = match &read {
            Ok(contents) => contents.seen(),
            Err(error) => Seen::Unreadable(format!("{error:#}")),
        };
        if seen == self.seen {
            return;
        }
        self.seen = seen;
        match read.and_then(|contents| self.sources.configure(&contents)) {
            Ok((config, not_after)) => {
                self.in_use.store(Arc::new(config));
                metrics::counter!("voxgate_tls_reloads_total", "outcome" => "loaded").increment(1);
                announce(not_after);
            }
            Err(error) => {
                metrics::counter!("voxgate_tls_reloads_total", "outcome" => "refused").increment(1);
                tracing::error!(error = format!("{error:#}"), "the certificate before it stays in use");
            }
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge of seconds is exact for some million years")]
fn announce(not_after: Timestamp) {
    metrics::gauge!("voxgate_tls_certificate_expires_seconds").set(not_after.as_secs() as f64);
    tracing::info!(certificate.not_after = %not_after, "a certificate is in use");
}

impl Acceptor {
    pub(super) fn current(&self) -> TlsAcceptor {
        self.0.load_full().into()
    }
}

impl Contents {
    fn seen(&self) -> Seen {
        Seen::Contents([&self.cert, &self.key, &self.client_ca].map(Sha256::of))
    }
}

impl Sources {
    /// Names every file that cannot be read.
    fn read(&self) -> anyhow::Result<Contents> {
        let mut faults = Vec::new();
        let mut read = |name: &str, path: &Path| {
            tls_files::read(path).unwrap_or_else(|error| {
                faults.push(format!("{name} {}: {error}", path.display()));
                Vec::new()
            })
        };
        let cert = read("tls.cert_file", &self.cert);
        let key = read("tls.key_file", &self.key);
        let client_ca = self.client_ca.as_deref().map(|path| read("tls.client_ca_file", path)).unwrap_or_default();
        anyhow::ensure!(faults.is_empty(), "{}", faults.join("; "));
        Ok(Contents { cert, key, client_ca })
    }

    /// The files as the listener needs them, and when their certificate expires. Names every file at fault.
    fn configure(&self, contents: &Contents) -> anyhow::Result<(ServerConfig, Timestamp)> {
        let chain = parse_chain(&contents.cert).with_context(|| format!("tls.cert_file {}", self.cert.display()));
        let chain = chain.and_then(|(chain, not_after)| {
            let expired = not_after < self.clock.now();
            anyhow::ensure!(!expired, "tls.cert_file {}: it has expired at {not_after}", self.cert.display());
            Ok((chain, not_after))
        });
        let key = PrivateKeyDer::from_pem_slice(&contents.key)
            .map_err(|error| anyhow::anyhow!("tls.key_file {}: no private key in PEM: {error}", self.key.display()));
        let verifier = self.client_ca.as_ref().map(|path| {
            self.verifier(&contents.client_ca).with_context(|| format!("tls.client_ca_file {}", path.display()))
        });
        let verifier = verifier.transpose();
        let ((chain, not_after), key, verifier) = match (chain, key, verifier) {
            (Ok(chain), Ok(key), Ok(verifier)) => (chain, key, verifier),
            (chain, key, verifier) => {
                let faults = [chain.err(), key.err(), verifier.err()].into_iter().flatten();
                anyhow::bail!(faults.map(|error| format!("{error:#}")).collect::<Vec<_>>().join("; "))
            }
        };
        let time = Arc::new(HouseTime(self.clock.clone()));
        let builder = ServerConfig::builder_with_details(Arc::new(aws_lc_rs::default_provider()), time)
            .with_safe_default_protocol_versions()?;
        let builder = match verifier {
            Some(verifier) => builder.with_client_cert_verifier(verifier),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_single_cert(chain, key).with_context(|| {
            format!("tls.cert_file {} and tls.key_file {} are no pair", self.cert.display(), self.key.display())
        })?;
        config.alpn_protocols = vec![b"h2".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok((config, not_after))
    }

    fn verifier(&self, pem: &[u8]) -> anyhow::Result<Arc<dyn ClientCertVerifier>> {
        let mut roots = RootCertStore::empty();
        for authority in certificates(pem)? {
            roots.add(authority).context("a certificate in it is no authority")?;
        }
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
        Ok(match self.client_certs {
            ClientCerts::Required => builder,
            ClientCerts::Optional => builder.allow_unauthenticated(),
        }
        .build()?)
    }
}

pub(super) fn certificates(pem: &[u8]) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let found = found.map_err(|error| anyhow::anyhow!("is not PEM: {error}"))?;
    anyhow::ensure!(!found.is_empty(), "no certificate in PEM");
    Ok(found)
}

/// The chain, and when its first certificate expires.
fn parse_chain(pem: &[u8]) -> anyhow::Result<(Vec<CertificateDer<'static>>, Timestamp)> {
    let chain = certificates(pem)?;
    let (_, leaf) = X509Certificate::from_der(&chain[0]).map_err(|error| anyhow::anyhow!("is no X.509: {error}"))?;
    let not_after = expiry(&leaf);
    Ok((chain, not_after))
}

fn expiry(certificate: &X509Certificate<'_>) -> Timestamp {
    Timestamp::from_millis(certificate.validity().not_after.timestamp().saturating_mul(1_000))
}

/// The names in a certificate that the handshake has verified.
pub(super) fn identify(der: &CertificateDer<'_>) -> anyhow::Result<ClientCertificate> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| anyhow::anyhow!("no X.509: {error}"))?;
    let extension = certificate.subject_alternative_name().context("its alternative names")?;
    let all = extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    let names = all.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(San::uri(uri)),
        GeneralName::DNSName(name) => Some(San::dns(name)),
        // Of the other kinds none is an identity here.
        _ => None,
    });
    Ok(ClientCertificate { names: names.collect(), not_after: expiry(&certificate) })
}

/// The clock of the house, as rustls asks for the time.
#[derive(Debug)]
struct HouseTime(Arc<dyn Clock>);

impl TimeProvider for HouseTime {
    fn current_time(&self) -> Option<UnixTime> {
        let seconds = u64::try_from(self.0.now().as_secs()).ok()?;
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}
