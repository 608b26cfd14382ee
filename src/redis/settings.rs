//! How long Redis may take, and which certificates are between us.

use std::{path::PathBuf, time::Duration};

use deadpool_redis::redis::{ClientTlsConfig, TlsCertificates};

use crate::{
    domain::violations::Violations,
    tls_files::{TlsFiles, read},
};

#[derive(Debug, Clone, PartialEq, Eq, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RedisSettings {
    /// Milliseconds that one command may take, redirections and all, default 50. A healthy Redis answers in one; a
    /// caller who has waited for fifty is better served by UNAVAILABLE while it can still try again.
    pub command_timeout_ms: u64,
    /// Milliseconds that connecting may take, default 1,000: name resolution, one lost packet's retransmission, TLS.
    /// No caller waits for it beyond the time of its command.
    pub connect_timeout_ms: u64,
    /// Milliseconds by which the server's clock may run ahead of the time that passes here, default 5,000, at least 1,000.
    /// Beyond that it was set, and holders get the length of a lease to take back what ended by it. 0: time is
    /// whatever it says.
    pub clock_step_ms: u64,
    /// The authorities of the servers' certificates, PEM; absent: those of the machine. Only beside `rediss…`.
    pub tls_ca_file: Option<PathBuf>,
    /// Our own certificate and what leads to its authority, PEM, for servers that ask for one.
    pub tls_cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub tls_key_file: Option<PathBuf>,
}

impl Default for RedisSettings {
    fn default() -> Self {
        Self {
            command_timeout_ms: 50,
            connect_timeout_ms: 1_000,
            clock_step_ms: 5_000,
            tls_ca_file: None,
            tls_cert_file: None,
            tls_key_file: None,
        }
    }
}

impl RedisSettings {
    pub(super) const fn command_timeout(&self) -> Duration {
        Duration::from_millis(self.command_timeout_ms)
    }

    pub(super) const fn connect_timeout(&self) -> Duration {
        Duration::from_millis(self.connect_timeout_ms)
    }

    pub(super) fn clock_step(&self) -> Option<Duration> {
        (self.clock_step_ms > 0).then(|| Duration::from_millis(self.clock_step_ms))
    }

    /// What cannot work, each by its key: files without TLS, half a pair, and what cannot be read.
    pub(super) fn check_files(&self, is_tls: bool, violations: &mut Violations) {
        let files = TlsFiles {
            table: "redis",
            ca: self.tls_ca_file.as_deref(),
            cert: self.tls_cert_file.as_deref(),
            key: self.tls_key_file.as_deref(),
        };
        files.check((!is_tls).then_some("has no use unless the scheme of redis_url begins with rediss"), violations);
    }

    /// What the files hold now: a connection that is made after a rotation uses the new ones.
    pub(super) fn certificates(&self) -> std::io::Result<TlsCertificates> {
        let client_tls = match (&self.tls_cert_file, &self.tls_key_file) {
            (Some(cert), Some(key)) => Some(ClientTlsConfig { client_cert: read(cert)?, client_key: read(key)? }),
            _ => None,
        };
        Ok(TlsCertificates { client_tls, root_cert: self.tls_ca_file.as_deref().map(read).transpose()? })
    }
}
