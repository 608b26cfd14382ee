//! TLS to Postgres: what `sslmode` asks for, and which certificates are between us.
//!
//! The modes are libpq's. Who asks for TLS is never given plain text: a server that has none is refused, and `prefer`,
//! which does not ask, is the only mode that goes on without. `allow` is not known: it would try plain text first.

use std::{
    io,
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, InvalidDnsNameError, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::{
    Config,
    config::SslMode,
    tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream},
};
use tokio_rustls::{TlsConnector, client};
use url::form_urlencoded;
use x509_parser::{oid_registry, prelude::FromDer as _, prelude::X509Certificate};

use super::PoolSettings;
use crate::{
    domain::{
        error::Internal,
        violations::{Fault, Violations},
    },
    tls_files::{TlsFiles, read},
};

/// What a server that begins with TLS at once wants to hear.
const ALPN: &[u8] = b"postgresql";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    /// Plain text.
    Disable,
    /// TLS where the server has it, whoever it is.
    Prefer,
    /// TLS, with whoever it is; as `VerifyCa` where authorities are configured.
    Require,
    /// TLS with a server whose certificate is by one of the authorities.
    VerifyCa,
    /// And of the host's name.
    VerifyFull,
}

/// How connections are to be protected. The files are read at each connection, so that one that is made after a rotation
/// uses the new ones.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    mode: Mode,
    ca_file: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
}

impl Tls {
    /// What the URL says, and how to connect by it. Every fault by its field; none shows a part of the URL.
    pub(super) fn parse(url: &str, settings: &PoolSettings, violations: &mut Violations) -> Option<(Config, Self)> {
        let (rest, said) = take_mode(url, violations);
        // What the library says of it may be a part of it.
        let config = rest.parse::<Config>().map_err(|_| {
            let form =
                "is not a URL of Postgres: postgres://user:password@host:port/database, the password percent-encoded";
            violations.add("database_url", Fault::new(form));
        });
        let mut config = config.ok()?;
        let mode = said.unwrap_or(match config.get_ssl_mode() {
            SslMode::Disable => Mode::Disable,
            SslMode::Require => Mode::Require,
            // The library's own default too: whoever names authorities wants the server to be held to them.
            _ if settings.tls_ca_file.is_some() => Mode::VerifyFull,
            _ => Mode::Prefer,
        });
        config.ssl_mode(match mode {
            Mode::Disable => SslMode::Disable,
            Mode::Prefer => SslMode::Prefer,
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => SslMode::Require,
        });
        let files = TlsFiles {
            table: "database",
            ca: settings.tls_ca_file.as_deref(),
            cert: settings.tls_cert_file.as_deref(),
            key: settings.tls_key_file.as_deref(),
        };
        let is_plain = matches!(mode, Mode::Disable | Mode::Prefer);
        files.check(is_plain.then_some("has no use unless the sslmode of database_url asks for TLS"), violations);
        let identity = settings.tls_cert_file.clone().zip(settings.tls_key_file.clone());
        Some((config, Self { mode, ca_file: settings.tls_ca_file.clone(), identity }))
    }

    /// For one connection, with what the files hold now.
    pub(super) async fn connector(&self) -> Result<Connector, Internal> {
        let tls = self.clone();
        let read = tokio::task::spawn_blocking(move || tls.configure()).await;
        let config = read.map_err(Internal::new)?.map_err(Internal::new)?;
        Ok(Connector(Arc::new(config).into()))
    }

    fn configure(&self) -> Result<ClientConfig, Box<dyn std::error::Error + Send + Sync>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions()?;
        let builder = builder.dangerous().with_custom_certificate_verifier(self.verifier(provider)?);
        let mut config = match &self.identity {
            Some((cert, key)) => {
                let key = PrivateKeyDer::from_pem_slice(&read(key)?)?;
                builder.with_client_auth_cert(certificates(&read(cert)?)?, key)?
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![ALPN.to_vec()];
        Ok(config)
    }

    fn verifier(
        &self,
        provider: Arc<CryptoProvider>,
    ) -> Result<Arc<dyn ServerCertVerifier>, Box<dyn std::error::Error + Send + Sync>> {
        let anybody = match self.mode {
            Mode::Disable | Mode::Prefer => true,
            Mode::Require => self.ca_file.is_none(),
            Mode::VerifyCa | Mode::VerifyFull => false,
        };
        if anybody {
            return Ok(Arc::new(Nameless { provider, chain: None }));
        }
        let mut roots = RootCertStore::empty();
        match &self.ca_file {
            Some(file) => {
                for authority in certificates(&read(file)?)? {
                    roots.add(authority)?;
                }
            }
            // Some of a machine's may be malformed; what matters is whether any is left.
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        let chain = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?;
        match self.mode {
            Mode::VerifyFull => Ok(chain),
            _ => Ok(Arc::new(Nameless { provider, chain: Some(chain) })),
        }
    }
}

/// The URL without its `sslmode`, of which the library does not know all values, and that.
fn take_mode(url: &str, violations: &mut Violations) -> (String, Option<Mode>) {
    let mut mode = None;
    let Some((front, query)) = url.split_once('?').filter(|(front, _)| front.contains("://")) else {
        return (url.to_owned(), None);
    };
    let mut kept = Vec::new();
    for pair in query.split('&') {
        let Some((name, value)) = form_urlencoded::parse(pair.as_bytes()).next() else { continue };
        match &*name {
            "sslmode" => mode = read_mode(&value, violations),
            "sslrootcert" | "sslcert" | "sslkey" => violations.add(
                "database_url",
                Fault::new(format!("must not have {name}: files are named by database.tls_ca_file and its like")),
            ),
            _ => kept.push(pair),
        }
    }
    let rest = if kept.is_empty() { front.to_owned() } else { format!("{front}?{}", kept.join("&")) };
    (rest, mode)
}

fn read_mode(text: &str, violations: &mut Violations) -> Option<Mode> {
    match text {
        "disable" => Some(Mode::Disable),
        "prefer" => Some(Mode::Prefer),
        "require" => Some(Mode::Require),
        "verify-ca" => Some(Mode::VerifyCa),
        "verify-full" => Some(Mode::VerifyFull),
        _ => {
            let known = "must have as sslmode one of disable, prefer, require, verify-ca and verify-full";
            violations.add("database_url", Fault::new(known));
            None
        }
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Box<dyn std::error::Error + Send + Sync>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>()?;
    if found.is_empty() { Err("no certificate in PEM".into()) } else { Ok(found) }
}

/// Takes a certificate of any name: by the authorities if there are any, or else anybody's. That the server has its key
/// is verified all the same.
#[derive(Debug)]
struct Nameless {
    provider: Arc<CryptoProvider>,
    chain: Option<Arc<WebPkiServerVerifier>>,
}

impl ServerCertVerifier for Nameless {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(chain) = &self.chain else { return Ok(ServerCertVerified::assertion()) };
        match chain.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // The chain is looked at first.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// Shakes hands for one connection.
#[derive(Clone)]
pub(super) struct Connector(TlsConnector);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Connector {
    type Stream = Protected<S>;
    type TlsConnect = Dial;
    type Error = std::convert::Infallible;

    /// Also asked where there will be no TLS, and of a socket file, which has no name.
    fn make_tls_connect(&mut self, host: &str) -> Result<Dial, Self::Error> {
        Ok(Dial { connector: self.0.clone(), name: ServerName::try_from(host.to_owned()) })
    }
}

pub(super) struct Dial {
    connector: TlsConnector,
    name: Result<ServerName<'static>, InvalidDnsNameError>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Dial {
    type Stream = Protected<S>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Protected<S>>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let name = self.name.map_err(io::Error::other)?;
            self.connector.connect(name, stream).await.map(|stream| Protected(Box::new(stream)))
        })
    }
}

/// A connection under TLS.
pub(super) struct Protected<S>(Box<client::TlsStream<S>>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Protected<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let certificates = self.0.get_ref().1.peer_certificates();
        let bound = certificates.and_then(|chain| binding(chain.first()?));
        bound.map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

/// RFC 5929, section 4.1: the hash of the server's certificate, by the function of its signature.
fn binding(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let (_, parsed) = X509Certificate::from_der(certificate).ok()?;
    let signed_by = &parsed.signature_algorithm.algorithm;
    let is = |known: &[oid_registry::Oid<'_>]| known.contains(signed_by);
    let by = if is(&[oid_registry::OID_PKCS1_SHA384WITHRSA, oid_registry::OID_SIG_ECDSA_WITH_SHA384]) {
        &::aws_lc_rs::digest::SHA384
    } else if is(&[oid_registry::OID_PKCS1_SHA512WITHRSA, oid_registry::OID_SIG_ECDSA_WITH_SHA512]) {
        &::aws_lc_rs::digest::SHA512
    } else if is(&[
        oid_registry::OID_PKCS1_SHA256WITHRSA,
        oid_registry::OID_SIG_ECDSA_WITH_SHA256,
        oid_registry::OID_PKCS1_SHA1WITHRSA,
    ]) {
        &::aws_lc_rs::digest::SHA256
    } else {
        // A signature that hashes in a way of its own binds nothing.
        return None;
    };
    Some(::aws_lc_rs::digest::digest(by, certificate).as_ref().to_vec())
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Protected<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.as_mut()).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Protected<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(self.0.as_mut()).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.as_mut()).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.0.as_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn parsed(url: &str, settings: &PoolSettings) -> Result<(Config, Tls), Vec<(String, String)>> {
        let mut violations = Violations::default();
        let parsed = Tls::parse(url, settings, &mut violations);
        let told = |violations: Violations| {
            violations.iter().map(|it| (it.field.clone(), it.fault.description.clone())).collect()
        };
        violations.into_result(parsed).map_err(told)
    }

    fn with_ca(file: &Path) -> PoolSettings {
        PoolSettings { tls_ca_file: Some(file.to_owned()), ..PoolSettings::default() }
    }

    #[test]
    fn each_sslmode_is_understood_and_those_that_ask_for_tls_require_it() {
        for (query, mode, required) in [
            ("", Mode::Prefer, SslMode::Prefer),
            ("?sslmode=disable", Mode::Disable, SslMode::Disable),
            ("?sslmode=prefer&application_name=x", Mode::Prefer, SslMode::Prefer),
            ("?application_name=x&sslmode=require", Mode::Require, SslMode::Require),
            ("?sslmode=verify-ca", Mode::VerifyCa, SslMode::Require),
            ("?sslmode=verify%2Dfull", Mode::VerifyFull, SslMode::Require),
        ] {
            let url = format!("postgres://vox:p%3Fss@a,b:7/db{query}");
            let (config, tls) = parsed(&url, &PoolSettings::default()).expect(&url);
            assert_eq!((tls.mode, config.get_ssl_mode()), (mode, required), "{url}");
            assert_eq!((config.get_dbname(), config.get_hosts().len()), (Some("db"), 2), "{url}");
            let named = query.contains("application_name").then_some("x");
            assert_eq!(config.get_application_name(), named, "{url}");
        }
        let (config, tls) = parsed("host=a dbname=db sslmode=require", &PoolSettings::default()).expect("a DSN");
        assert_eq!((tls.mode, config.get_ssl_mode()), (Mode::Require, SslMode::Require));
    }

    #[test]
    fn authorities_without_a_mode_are_held_to_in_full() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        let (config, tls) = parsed("postgres://a/db", &with_ca(file.path())).expect("valid");
        assert_eq!((tls.mode, config.get_ssl_mode()), (Mode::VerifyFull, SslMode::Require));
    }

    #[test]
    fn what_cannot_work_is_refused_by_name_all_at_once_and_shows_nothing_of_the_url() {
        let settings = PoolSettings { tls_cert_file: Some("/nowhere".into()), ..with_ca(Path::new("/nowhere/ca")) };
        let faults = parsed("postgres://u:hunter2@a/db?sslmode=hunter2&sslrootcert=hunter2", &settings);
        let faults = faults.expect_err("refused");
        let fields: Vec<_> = faults.iter().map(|(field, _)| field.as_str()).collect();
        let of_files = ["database.tls_ca_file", "database.tls_cert_file", "database.tls_key_file"];
        assert_eq!(fields, [&["database_url", "database_url"], &of_files[..]].concat());
        assert!(!format!("{faults:?}").contains("hunter2"), "{faults:?}");
        for mode in ["disable", "prefer"] {
            let url = format!("postgres://a/db?sslmode={mode}");
            let faults = parsed(&url, &with_ca(Path::new("/dev/null"))).expect_err("refused");
            assert_eq!((faults.len(), faults[0].0.as_str()), (1, "database.tls_ca_file"), "{faults:?}");
        }
    }
}
