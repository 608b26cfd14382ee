//! The certificates that the configuration names: whether they load, whose key they are, and until when they are good.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use rustls::{
    RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::CertifiedKey,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    super::tls::{self, Tls},
    report::Finding,
};
use crate::{
    config::Config,
    domain::{Clock, Timestamp},
    tls_files,
};

/// From here on somebody should know: renewal mostly happens a month ahead.
const SOON: Duration = Duration::from_hours(14 * 24);

/// When a certificate is good.
#[derive(Clone, Copy)]
struct Validity {
    not_before: Timestamp,
    not_after: Timestamp,
}

/// Reads all that is named. Blocks.
pub(super) fn examine(config: &Config, clock: &Arc<dyn Clock>) -> Vec<Finding> {
    let now = clock.now();
    let database_pair = config.database.tls_cert_file.as_deref().zip(config.database.tls_key_file.as_deref());
    let redis_pair = config.redis.tls_cert_file.as_deref().zip(config.redis.tls_key_file.as_deref());
    [
        serving(config, clock),
        config.tls.client_ca_file.as_deref().map(|path| authorities("tls.client_ca", path, now)),
        database_pair.map(|(cert, key)| shown("database.tls", cert, key, now)),
        config.database.tls_ca_file.as_deref().map(|path| authorities("database.tls_ca", path, now)),
        redis_pair.map(|(cert, key)| shown("redis.tls", cert, key, now)),
        config.redis.tls_ca_file.as_deref().map(|path| authorities("redis.tls_ca", path, now)),
        Some(receivers(config.webhooks.ca_file.as_deref(), now)),
        config.traces.ca_file.as_deref().map(|path| authorities("traces.ca", path, now)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The port's own, by the very steps by which the service loads it.
fn serving(config: &Config, clock: &Arc<dyn Clock>) -> Option<Finding> {
    const CHECK: &str = "tls";
    let advice = "give it a certificate that is valid now and the key that belongs to it, both PEM; a service that runs \
        takes them up by itself, one that starts refuses these";
    match Tls::load(&config.tls, clock.clone()) {
        Ok(None) => None,
        Ok(Some(_)) => {
            let path = config.tls.cert_file.as_deref()?;
            Some(match leaf(path) {
                Ok(validity) => judge(CHECK, &format!("{} loads with its key", path.display()), validity, clock.now()),
                Err(error) => Finding::fault(CHECK, format!("{error:#}"), advice),
            })
        }
        Err(error) => Some(Finding::fault(CHECK, format!("{error:#}"), advice)),
    }
}

/// What a store is shown.
fn shown(check: &'static str, cert: &Path, key: &Path, now: Timestamp) -> Finding {
    let loaded = || {
        let chain = tls::certificates(&tls_files::read(cert)?)?;
        let key = PrivateKeyDer::from_pem_slice(&tls_files::read(key)?)
            .map_err(|error| anyhow::anyhow!("no private key in PEM: {error}"))?;
        CertifiedKey::from_der(chain, key, &aws_lc_rs::default_provider()).context("the two are no pair")?;
        leaf(cert)
    };
    match loaded() {
        Ok(validity) => judge(check, &format!("{} loads with its key", cert.display()), validity, now),
        Err(error) => {
            let found = format!("{check}_cert_file {} and {check}_key_file: {error:#}", cert.display());
            Finding::fault(check, found, "give it a certificate and the key that belongs to it, both PEM")
        }
    }
}

/// Authorities that others' certificates are held against.
fn authorities(check: &'static str, path: &Path, now: Timestamp) -> Finding {
    match authorities_in(path) {
        Ok(all) => {
            let found = format!("{} loads with {} authorities", path.display(), all.len());
            let good = all.iter().filter(|it| it.not_after >= now).copied();
            // One that is left behind by a rotation does no harm beside another.
            let longest = good.max_by_key(|it| it.not_after).or_else(|| all.first().copied());
            longest.map_or_else(|| Finding::ok(check, found.clone()), |longest| judge(check, &found, longest, now))
        }
        Err(error) => {
            let found = format!("{}: {error:#}", path.display());
            Finding::fault(check, found, "give it the certificates of the authorities, PEM")
        }
    }
}

/// Of webhooks' receivers: the machine's, and those of a file.
fn receivers(file: Option<&Path>, now: Timestamp) -> Finding {
    const CHECK: &str = "webhooks.ca";
    let own = rustls_native_certs::load_native_certs().certs.len();
    match file {
        Some(file) => {
            let mut finding = authorities(CHECK, file, now);
            finding.found = format!("{}, beside {own} of this machine", finding.found);
            finding
        }
        None if own == 0 => {
            let found = "this machine knows no authority, so no https webhook can be delivered";
            Finding::warning(CHECK, found, "install the package ca-certificates, or set webhooks.ca_file")
        }
        None => Finding::ok(CHECK, format!("this machine knows {own} authorities")),
    }
}

fn judge(check: &'static str, found: &str, validity: Validity, now: Timestamp) -> Finding {
    let Validity { not_before, not_after } = validity;
    if not_after < now {
        return Finding::fault(check, format!("{found}, and has expired at {not_after}"), "renew it");
    }
    if now < not_before {
        let advice = "see this machine's clock, or wait: whoever verifies it before refuses it";
        return Finding::fault(check, format!("{found}, and is valid from {not_before} on only"), advice);
    }
    let found = format!("{found}, valid until {not_after}");
    if not_after < now.plus(SOON) {
        let days = not_after.since(now).as_secs() / 86_400;
        return Finding::warning(
            check,
            format!("{found}, which is in {days} days"),
            "renew it, and see what should have",
        );
    }
    Finding::ok(check, found)
}

/// Of the first certificate in a file.
fn leaf(path: &Path) -> anyhow::Result<Validity> {
    let chain = tls::certificates(&tls_files::read(path)?)?;
    validity(chain.first().context("no certificate in PEM")?)
}

fn authorities_in(path: &Path) -> anyhow::Result<Vec<Validity>> {
    let mut roots = RootCertStore::empty();
    let found = tls::certificates(&tls_files::read(path)?)?;
    let all = found.iter().map(validity).collect::<anyhow::Result<Vec<_>>>()?;
    for authority in found {
        roots.add(authority).context("a certificate in it is no authority")?;
    }
    Ok(all)
}

fn validity(der: &CertificateDer<'_>) -> anyhow::Result<Validity> {
    let (_, certificate) = X509Certificate::from_der(der).map_err(|error| anyhow::anyhow!("is no X.509: {error}"))?;
    let moment = |seconds: i64| Timestamp::from_millis(seconds.saturating_mul(1_000));
    let found = certificate.validity();
    Ok(Validity { not_before: moment(found.not_before.timestamp()), not_after: moment(found.not_after.timestamp()) })
}

#[cfg(test)]
mod tests {
    use super::{super::report::Outcome, *};

    #[test]
    fn a_certificate_is_judged_by_its_two_ends() {
        let at = |days: i64| Timestamp::from_millis(days * 86_400_000);
        let outcome =
            |from, to| judge("tls", "x", Validity { not_before: at(from), not_after: at(to) }, at(100)).outcome;
        assert_eq!(
            [outcome(0, 99), outcome(0, 113), outcome(0, 115), outcome(101, 200)],
            [Outcome::Fault, Outcome::Warning, Outcome::Ok, Outcome::Fault]
        );
    }
}
