//! TLS of the gRPC port: which files, and who must show a certificate.

use std::path::PathBuf;

use serde::Deserialize;

use crate::tenants::{MeshIdentities, MeshSettings};

/// Whether a client must show a certificate. One that is shown is verified either way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientCerts {
    #[default]
    Optional,
    Required,
}

/// Without files, the port speaks plain text.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// The certificate and what leads to its authority, PEM.
    pub cert_file: Option<PathBuf>,
    /// Its private key, PEM.
    pub key_file: Option<PathBuf>,
    /// The authorities of clients, PEM; absent: clients are not asked for certificates.
    pub client_ca_file: Option<PathBuf>,
    /// Default optional: whoever bears a key or a token needs no certificate.
    pub client_certs: Option<ClientCerts>,
    /// How often the files are read again (default 10,000 ms: far below the overlap of any rotation; they are small).
    pub reload_interval_ms: u64,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self { cert_file: None, key_file: None, client_ca_file: None, client_certs: None, reload_interval_ms: 10_000 }
    }
}

impl TlsSettings {
    pub const fn is_on(&self) -> bool {
        self.cert_file.is_some() && self.key_file.is_some()
    }

    /// What cannot work, each by its key. The files themselves are read at the start.
    pub(super) fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        match (&self.cert_file, &self.key_file) {
            (Some(_), None) => faults.push("tls.key_file is required beside tls.cert_file".to_owned()),
            (None, Some(_)) => faults.push("tls.cert_file is required beside tls.key_file".to_owned()),
            (None, None) if self.client_ca_file.is_some() => {
                faults.push("tls.cert_file and tls.key_file are required beside tls.client_ca_file".to_owned());
            }
            _ => {}
        }
        if self.client_certs.is_some() && self.client_ca_file.is_none() {
            faults.push("tls.client_ca_file is required beside tls.client_certs".to_owned());
        }
        faults
    }

    /// What cannot work about the identities: without authorities, nobody could prove to be one of them.
    pub(super) fn mesh_faults(&self, mesh: &MeshSettings) -> Vec<String> {
        let mut faults = Vec::new();
        if self.client_ca_file.is_none() && !mesh.identities.is_empty() {
            faults.push("tls.client_ca_file is required beside mesh.identities".to_owned());
        }
        if let Err(wrong) = MeshIdentities::parse(mesh) {
            faults.extend(wrong.iter().map(|it| format!("{} {}", it.field, it.fault.description)));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::load;

    #[test]
    fn half_a_configuration_of_tls_is_refused_by_name() {
        let lacking = [
            ("[tls]\ncert_file = 'a'", "tls.key_file is required beside tls.cert_file"),
            ("[tls]\nkey_file = 'a'", "tls.cert_file is required beside tls.key_file"),
            ("[tls]\nclient_ca_file = 'a'", "tls.cert_file and tls.key_file are required"),
            ("[tls]\ncert_file = 'a'\nkey_file = 'b'\nclient_certs = 'required'", "tls.client_ca_file is required"),
            ("[tls]\nreload_interval_ms = 0", "tls.reload_interval_ms must be from 1 to 86400000, not 0"),
        ];
        for (text, fault) in lacking {
            let error = load(text).expect_err("refused").to_string();
            assert!(error.contains(fault), "{text}: {error}");
        }
        assert!(load("[tls]\nclient_certs = 'sometimes'").is_err());
        assert!(load("[tls]\nca = 'x'").is_err());
    }

    #[test]
    fn everything_wrong_about_identities_is_named_at_once() {
        let text = "[[mesh.identities]]\nsan = '*.svc'\ntenant = 'acme'\nscopes = ['slots:acquire', 'slots:all']\n\
                    [[mesh.identities]]\nsan = 'a.svc'\ntenant = '01a1fc37-557e-7073-af5b-11a40e4465d0'\nscopes = []";
        let error = load(text).expect_err("refused").to_string();
        for fault in [
            "tls.client_ca_file is required beside mesh.identities",
            "mesh.identities[0].san must name one service: no wildcards",
            "mesh.identities[0].tenant is not the id of a tenant (a UUID)",
            "mesh.identities[0].scopes[1] is not a scope",
            "mesh.identities[1].scopes is required",
        ] {
            assert!(error.contains(fault), "{fault}: {error}");
        }
        assert!(load("[[mesh.identities]]\nname = 'x'").is_err(), "a key that is not ours");
    }

    #[test]
    fn identities_are_read_as_they_are_documented() {
        let text = "[tls]\ncert_file = 'a'\nkey_file = 'b'\nclient_ca_file = 'c'\n\
                    [[mesh.identities]]\nsan = 'spiffe://mesh/flow'\ntenant = '01a1fc37-557e-7073-af5b-11a40e4465d0'\n\
                    scopes = ['slots:acquire']\nsandbox = true\nrate_limit_per_min = 60";
        let config = load(text).expect("valid");
        assert!(config.tls.is_on() && config.mesh.identities[0].sandbox);
        assert!(!load("").expect("valid").tls.is_on());
    }
}
