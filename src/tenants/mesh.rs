//! Services of the mesh: which name in a client's certificate stands for which caller.
//!
//! The mapping is configuration, read at the start and fixed until the next one. One certificate is one caller: with two
//! names that are mapped it is refused, because neither its tenant nor its scopes would be certain.

use std::collections::{HashMap, HashSet, hash_map::Entry};

use serde::Deserialize;

use crate::domain::{
    Error, Result, Timestamp,
    certificate::{ClientCertificate, San},
    error::CredentialFault,
    ids::TenantId,
    principal::MeshPrincipal,
    tenant::{RATE_LIMIT_PER_MIN_DEFAULT, RATE_LIMIT_PER_MIN_MAX, Scopes},
    violations::{Fault, Violations},
};

/// A mesh has tens of services, and a file of thousands of identities is a mistake.
const IDENTITIES_MAX: usize = 1_000;

/// Who the mesh's services are.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MeshSettings {
    pub identities: Vec<IdentitySettings>,
}

/// One service, unchecked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct IdentitySettings {
    /// A SPIFFE id or a DNS name, as its certificate has it.
    pub san: String,
    /// The tenant's id.
    pub tenant: String,
    pub scopes: Vec<String>,
    /// As a `vg_test_` key: its calls only ever reach sandbox nodes (default false).
    pub sandbox: bool,
    /// As a key's (default 600, at most 100,000).
    pub rate_limit_per_min: Option<i64>,
}

/// What a service may do, once its certificate has named it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Grant {
    tenant: TenantId,
    scopes: Scopes,
    sandbox: bool,
    rate_limit_per_min: u32,
}

/// The callers that certificates stand for.
#[derive(Debug, Clone, Default)]
pub struct MeshIdentities(HashMap<San, Grant>);

impl MeshIdentities {
    /// Names everything that is wrong, by its path in the file.
    pub fn parse(settings: &MeshSettings) -> Result<Self, Violations> {
        let mut faults = Violations::default();
        let mut known = HashMap::new();
        if settings.identities.len() > IDENTITIES_MAX {
            faults.add("mesh.identities", Fault::new(format!("must be at most {IDENTITIES_MAX}")));
        }
        for (index, identity) in settings.identities.iter().take(IDENTITIES_MAX).enumerate() {
            let path = format!("mesh.identities[{index}]");
            let san = faults.take(&format!("{path}.san"), required(&identity.san).and_then(San::parse));
            let grant = Grant::parse(identity).map_err(|part| faults.absorb(&path, part)).ok();
            match san.map(|san| known.entry(san)) {
                Some(Entry::Occupied(_)) => faults.add(format!("{path}.san"), Fault::new("is configured twice")),
                Some(Entry::Vacant(free)) => {
                    free.insert(grant);
                }
                None => {}
            }
        }
        let known = known.into_iter().map(|(san, grant)| Some((san, grant?))).collect::<Option<HashMap<_, _>>>();
        faults.into_result(known).map(Self)
    }

    /// The caller whose certificate this is, if it is valid at `now`.
    pub fn caller(&self, certificate: &ClientCertificate, now: Timestamp) -> Result<MeshPrincipal> {
        let refuse = |fault| Err(Error::Unauthenticated(fault));
        let names: HashSet<_> = certificate.names.iter().collect();
        let mut mapped = names.into_iter().filter_map(|name| Some((name, self.0.get(name)?)));
        let (Some((name, grant)), None) = (mapped.next(), mapped.next()) else {
            return refuse(CredentialFault::Invalid);
        };
        if certificate.not_after < now {
            return refuse(CredentialFault::Expired);
        }
        Ok(MeshPrincipal {
            tenant: grant.tenant,
            identity: name.to_string(),
            scopes: grant.scopes,
            sandbox: grant.sandbox,
            rate_limit_per_min: grant.rate_limit_per_min,
            not_after: certificate.not_after,
        })
    }
}

impl Grant {
    fn parse(identity: &IdentitySettings) -> Result<Self, Violations> {
        let mut faults = Violations::default();
        let tenant = required(&identity.tenant)
            .and_then(|text| text.parse().map_err(|_| Fault::new("is not the id of a tenant (a UUID)")));
        let tenant: Option<TenantId> = faults.take("tenant", tenant);
        if identity.scopes.is_empty() {
            faults.add("scopes", Fault::required());
        }
        let scopes = Scopes::parse(identity.scopes.iter().map(String::as_str));
        let scopes = scopes.map_err(|part| faults.absorb("", part)).ok();
        let rate_limit_per_min = identity.rate_limit_per_min.unwrap_or(RATE_LIMIT_PER_MIN_DEFAULT.into());
        let rate_limit_per_min = u32::try_from(rate_limit_per_min)
            .ok()
            .filter(|value| (1..=RATE_LIMIT_PER_MIN_MAX).contains(value))
            .ok_or_else(|| Fault::new(format!("must be 1 to {RATE_LIMIT_PER_MIN_MAX}")));
        let rate_limit_per_min = faults.take("rate_limit_per_min", rate_limit_per_min);
        let grant = (|| {
            Some(Self {
                tenant: tenant?,
                scopes: scopes?,
                sandbox: identity.sandbox,
                rate_limit_per_min: rate_limit_per_min?,
            })
        })();
        faults.into_result(grant)
    }
}

fn required(text: &str) -> Result<&str, Fault> {
    if text.is_empty() { Err(Fault::required()) } else { Ok(text) }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{principal::Principal, tenant::Scope};

    const TENANT: &str = "01a1fc37-557e-7073-af5b-11a40e4465d0";
    const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

    fn identity(san: &str) -> IdentitySettings {
        IdentitySettings {
            san: san.into(),
            tenant: TENANT.into(),
            scopes: vec!["slots:acquire".into()],
            ..IdentitySettings::default()
        }
    }

    fn mesh() -> MeshIdentities {
        let identities =
            vec![identity("spiffe://mesh/flow"), IdentitySettings { sandbox: true, ..identity("Campaign.prod.svc") }];
        MeshIdentities::parse(&MeshSettings { identities }).expect("valid")
    }

    fn certificate(names: &[San]) -> ClientCertificate {
        ClientCertificate { names: names.to_vec(), not_after: NOW }
    }

    fn refusal(names: &[San], now: Timestamp) -> CredentialFault {
        match mesh().caller(&certificate(names), now) {
            Err(Error::Unauthenticated(fault)) => fault,
            other => panic!("expected a refusal, got {other:?}"),
        }
    }

    #[test]
    fn a_mapped_name_is_its_caller_whatever_else_the_certificate_names() {
        let names = [San::dns("CAMPAIGN.prod.svc"), San::dns("campaign.prod.svc"), San::uri("spiffe://mesh/other")];
        let caller = mesh().caller(&certificate(&names), NOW).expect("known");
        assert_eq!(
            (caller.identity.as_str(), caller.sandbox, caller.rate_limit_per_min),
            ("campaign.prod.svc", true, 600)
        );
        assert_eq!(caller.tenant.to_string(), TENANT);
        assert_eq!(caller.scopes, [Scope::SlotsAcquire].into_iter().collect());
        assert_eq!(Principal::Mesh(caller).actor(), "mesh:campaign.prod.svc");
    }

    #[test]
    fn names_that_only_look_like_a_mapped_one_are_nobody() {
        let strangers = [
            San::uri("spiffe://mesh/FLOW"),
            San::uri("spiffe://mesh/flow/"),
            San::dns("*.prod.svc"),
            San::dns("spiffe://mesh/flow"),
        ];
        for name in strangers {
            assert_eq!(refusal(std::slice::from_ref(&name), NOW), CredentialFault::Invalid, "{name}");
        }
        assert_eq!(refusal(&[], NOW), CredentialFault::Invalid);
    }

    #[test]
    fn a_certificate_of_two_callers_is_neither() {
        let names = [San::uri("spiffe://mesh/flow"), San::dns("campaign.prod.svc")];
        assert_eq!(refusal(&names, NOW), CredentialFault::Invalid);
    }

    #[test]
    fn a_certificate_is_a_caller_until_it_expires_and_no_longer() {
        let later = NOW.plus(Duration::from_micros(1));
        assert_eq!(refusal(&[San::uri("spiffe://mesh/flow")], later), CredentialFault::Expired);
    }

    #[test]
    fn everything_wrong_is_named_at_once() {
        let identities = vec![
            identity("campaign.svc"),
            IdentitySettings { tenant: "acme".into(), scopes: vec!["all".into()], ..identity("Campaign.SVC") },
            IdentitySettings { rate_limit_per_min: Some(0), ..identity("*.svc") },
            IdentitySettings::default(),
        ];
        let faults = MeshIdentities::parse(&MeshSettings { identities }).expect_err("wrong");
        let named: Vec<_> = faults.iter().map(|it| it.field.strip_prefix("mesh.identities").expect("a path")).collect();
        let expected = [
            "[1].tenant",
            "[1].scopes[0]",
            "[1].san",
            "[2].san",
            "[2].rate_limit_per_min",
            "[3].san",
            "[3].tenant",
            "[3].scopes",
        ];
        assert_eq!(named, expected);
    }
}
