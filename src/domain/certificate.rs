//! The names that a client's certificate proves.
//!
//! A name is read once, from the configuration or from a certificate, and compared as a value: URIs byte for byte
//! (SPIFFE ids are case-sensitive), DNS names without regard to case. A wildcard in a certificate is a name like any other
//! that nobody can configure, so it matches nothing. That the certificate is genuine is for the handshake to find out.

use std::fmt;

use super::{clock::Timestamp, violations::Fault};

/// What the SPIFFE standard allows, and more than DNS does.
const URI_MAX_BYTES: usize = 2_048;
const DNS_MAX_BYTES: usize = 253;
const LABEL_MAX_BYTES: usize = 63;
const SPIFFE: &str = "spiffe://";

/// A subject alternative name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum San {
    Uri(String),
    Dns(String),
}

impl San {
    /// As a certificate has it.
    pub fn uri(text: &str) -> Self {
        Self::Uri(text.to_owned())
    }

    /// As a certificate has it.
    pub fn dns(text: &str) -> Self {
        Self::Dns(text.to_ascii_lowercase())
    }

    /// As a person writes it: a SPIFFE id or a DNS name.
    pub fn parse(text: &str) -> Result<Self, Fault> {
        if text.starts_with(SPIFFE) {
            return if is_spiffe_id(text) { Ok(Self::uri(text)) } else { Err(Fault::new("is not a SPIFFE id")) };
        }
        if text.contains("://") {
            return Err(Fault::new("must be a SPIFFE id (spiffe://…) or a DNS name"));
        }
        if text.contains('*') {
            return Err(Fault::new("must name one service: no wildcards"));
        }
        if is_dns_name(text) { Ok(Self::dns(text)) } else { Err(Fault::new("is not a DNS name")) }
    }
}

impl fmt::Display for San {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(name) | Self::Dns(name) => f.write_str(name),
        }
    }
}

/// `spiffe://trust-domain/path`, as SPIFFE-ID.md section 2 spells it: one that can never match should not be configured.
fn is_spiffe_id(text: &str) -> bool {
    let Some((domain, path)) = text.strip_prefix(SPIFFE).and_then(|rest| rest.split_once('/')) else { return false };
    let in_domain = |it: u8| it.is_ascii_lowercase() || it.is_ascii_digit() || b"-._".contains(&it);
    let in_path = |it: u8| it.is_ascii_alphanumeric() || b"-._".contains(&it);
    let is_segment = |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(in_path);
    text.len() <= URI_MAX_BYTES
        && (1..=255).contains(&domain.len())
        && domain.bytes().all(in_domain)
        && path.split('/').all(is_segment)
}

fn is_dns_name(text: &str) -> bool {
    let is_label = |label: &str| {
        (1..=LABEL_MAX_BYTES).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|it| it.is_ascii_alphanumeric() || b"-_".contains(&it))
    };
    let is_address = text.parse::<std::net::IpAddr>().is_ok();
    text.len() <= DNS_MAX_BYTES && !is_address && text.split('.').all(is_label)
}

/// A certificate that a client has proved to be its own when it connected.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    pub names: Vec<San>,
    /// The last moment at which it is valid. A connection may outlive it.
    pub not_after: Timestamp,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spiffe_ids_and_dns_names_are_read() {
        for text in ["spiffe://mesh.example/ns/prod/sa/Flow_1", "spiffe://a/b.c", "flow.prod.svc", "a", "_x.b-c"] {
            assert_eq!(San::parse(text).map(|san| san.to_string()), Ok(text.to_owned()));
        }
    }

    #[test]
    fn uris_differ_by_case_and_dns_names_do_not() {
        assert_eq!(San::parse("Flow.Prod"), Ok(San::dns("fLOW.pROD")));
        assert_ne!(San::parse("spiffe://mesh/Flow"), Ok(San::uri("spiffe://mesh/flow")));
        assert_ne!(San::uri("flow.prod"), San::dns("flow.prod"));
    }

    #[test]
    fn what_could_never_match_or_match_too_much_is_refused() {
        let long = format!("spiffe://mesh/{}", "a".repeat(URI_MAX_BYTES));
        let wrong = [
            "",
            "*.prod.svc",
            "https://mesh/flow",
            "spiffe://",
            "spiffe://mesh",
            "spiffe://mesh/",
            "spiffe://Mesh/flow",
            "spiffe://mesh/flow/",
            "spiffe://mesh/../flow",
            "spiffe://mesh/flow?x",
            "spiffe://u@mesh/flow",
            "spiffe://mesh:1/flow",
            "10.0.0.1",
            "::1",
            "flow..svc",
            "-flow.svc",
            "flow.svc.",
            "flow svc",
            &long,
        ];
        for text in wrong {
            assert!(San::parse(text).is_err(), "{text:?}");
        }
    }
}
