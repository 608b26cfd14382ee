//! Authorities and certificates of a test's own.

use std::{
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType, date_time_ymd,
};
use tonic::transport::{Certificate, ClientTlsConfig, Identity};
use voxgate::domain::{Env, Timestamp};

const DAY: Duration = Duration::from_hours(24);

/// Signs certificates.
#[derive(Debug)]
pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its own certificate, PEM.
    pub(crate) pem: String,
}

/// A certificate and its key, PEM.
#[derive(Debug, Clone)]
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Another name than that of what it signs: OpenSSL would take one for the other.
        params.distinguished_name.push(DnType::CommonName, "the tests' authority");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let pem = params.self_signed(&key).expect("signed").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// For a server on 127.0.0.1.
    pub(crate) fn server(&self) -> Pair {
        self.server_until(tomorrow())
    }

    pub(crate) fn server_until(&self, not_after: Timestamp) -> Pair {
        let name = SanType::IpAddress(IpAddr::V4(Ipv4Addr::LOCALHOST));
        self.sign(vec![name], ExtendedKeyUsagePurpose::ServerAuth, not_after)
    }

    /// For a server of this name.
    pub(crate) fn server_called(&self, name: &str) -> Pair {
        let name = SanType::DnsName(name.try_into().expect("ASCII"));
        self.sign(vec![name], ExtendedKeyUsagePurpose::ServerAuth, tomorrow())
    }

    /// For a client of these names: URIs have `://`.
    pub(crate) fn client(&self, names: &[&str]) -> Pair {
        self.client_until(names, tomorrow())
    }

    pub(crate) fn client_until(&self, names: &[&str], not_after: Timestamp) -> Pair {
        let san = |name: &&str| {
            let text = (*name).try_into().expect("ASCII");
            if name.contains("://") { SanType::URI(text) } else { SanType::DnsName(text) }
        };
        self.sign(names.iter().map(san).collect(), ExtendedKeyUsagePurpose::ClientAuth, not_after)
    }

    fn sign(&self, names: Vec<SanType>, usage: ExtendedKeyUsagePurpose, not_after: Timestamp) -> Pair {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.subject_alt_names = names;
        params.extended_key_usages = vec![usage];
        let since_epoch = |moment: Timestamp| moment.since(Timestamp::from_micros(0));
        let not_before = not_after.minus(2 * DAY).min(Env::system().now().minus(DAY));
        params.not_before = date_time_ymd(1970, 1, 1) + since_epoch(not_before);
        params.not_after = date_time_ymd(1970, 1, 1) + since_epoch(not_after);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("signed").pem();
        Pair { cert, key: key.serialize_pem() }
    }

    /// A client that trusts this authority, and shows `pair` if it is asked for one.
    pub(crate) fn trusted_by(&self, pair: Option<&Pair>) -> ClientTlsConfig {
        let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(&self.pem));
        match pair {
            Some(pair) => config.identity(Identity::from_pem(&pair.cert, &pair.key)),
            None => config,
        }
    }
}

fn tomorrow() -> Timestamp {
    Env::system().now().plus(DAY)
}
