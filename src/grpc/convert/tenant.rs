//! Tenants and keys on the wire.

use super::{
    WireEnum as _, number, read_mask, read_optional,
    value::{read_timestamp, timestamp},
    wire_enum,
};
use crate::{
    domain::{
        Result,
        destination::{DestinationPolicy, DestinationPolicyDraft, NumberClass},
        ids::TenantId,
        principal::Principal,
        tenant::{ApiKey, ApiKeyDraft, Scope, Tenant, TenantDraft, TenantField},
        violations::{Fault, Violations},
    },
    proto::v1,
    tenants::TenantPatch,
};

/// Paths of a tenant that the service alone writes.
const READ_ONLY: [&str; 3] = ["id", "created_at", "updated_at"];

wire_enum!(NumberClass, v1::NumberClass, { PremiumRate, Satellite, GlobalNetwork });

pub(crate) fn read_tenant(wire: Option<v1::Tenant>) -> Result<TenantDraft> {
    let wire = wire.unwrap_or_default();
    if wire.default_voice_agent_id.is_some_and(|id| !id.is_empty()) {
        let fault = Fault::new("names an agent, and a new tenant has none");
        return Err(Violations::from(("tenant.default_voice_agent_id", fault)).into());
    }
    Ok(TenantDraft {
        name: wire.name,
        default_ws_url: wire.default_ws_url,
        default_voice_agent_id: None,
        max_concurrent: wire.max_concurrent,
        destination_policy: wire.destination_policy.map(read_policy),
    })
}

fn read_policy(wire: v1::DestinationPolicy) -> DestinationPolicyDraft {
    let class = |number: i32| v1::NumberClass::try_from(number).ok().and_then(NumberClass::read);
    DestinationPolicyDraft {
        e164_allow_prefixes: wire.e164_allow_prefixes,
        e164_deny_prefixes: wire.e164_deny_prefixes,
        deny_classes: wire.deny_classes.into_iter().map(class).collect(),
        sip_allow_hosts: wire.sip_allow_hosts,
    }
}

fn write_policy(policy: &DestinationPolicy) -> v1::DestinationPolicy {
    let class = |class: &NumberClass| v1::NumberClass::from(*class).into();
    v1::DestinationPolicy {
        e164_allow_prefixes: policy.e164_allow_prefixes().map(str::to_owned).collect(),
        e164_deny_prefixes: policy.e164_deny_prefixes().map(str::to_owned).collect(),
        deny_classes: policy.deny_classes().iter().map(class).collect(),
        sip_allow_hosts: policy.sip_allow_hosts().map(str::to_owned).collect(),
    }
}

pub(crate) fn read_update(wire: v1::UpdateTenantRequest, principal: &Principal) -> Result<(TenantId, TenantPatch)> {
    let Some(tenant) = wire.tenant else {
        return Err(Violations::from(("tenant", Fault::required())).into());
    };
    let mut faults = Violations::default();
    let id = Some(tenant.id.as_str()).filter(|id| !id.is_empty()).map(str::parse).transpose();
    let id = faults.take("tenant.id", id).map(|id| id.unwrap_or(principal.tenant()));
    let fields = match wire.update_mask.filter(|mask| !mask.paths.is_empty()) {
        Some(mask) => read_mask(&mask.paths, TenantField::ALL, TenantField::from_word, &READ_ONLY, &mut faults),
        None => present(&tenant),
    };
    let agent = tenant.default_voice_agent_id.as_deref();
    let draft = TenantDraft {
        default_voice_agent_id: read_optional("tenant.default_voice_agent_id", agent, &mut faults),
        name: tenant.name,
        default_ws_url: tenant.default_ws_url,
        max_concurrent: tenant.max_concurrent,
        destination_policy: tenant.destination_policy.map(read_policy),
    };
    match id {
        Some(id) => Ok((id, TenantPatch { draft, fields, faults })),
        None => Err(faults.into()),
    }
}

/// The fields that a caller wrote: what an update without a mask changes.
fn present(wire: &v1::Tenant) -> Vec<TenantField> {
    let written = |field: &TenantField| match field {
        TenantField::Name => wire.name.is_some(),
        TenantField::DefaultWsUrl => wire.default_ws_url.is_some(),
        TenantField::DefaultVoiceAgentId => wire.default_voice_agent_id.is_some(),
        TenantField::MaxConcurrent => wire.max_concurrent.is_some(),
        TenantField::DestinationPolicy => wire.destination_policy.is_some(),
    };
    TenantField::ALL.iter().filter(|field| written(field)).copied().collect()
}

pub(crate) fn write_tenant(tenant: &Tenant) -> v1::Tenant {
    v1::Tenant {
        id: tenant.id.to_string(),
        name: Some(tenant.name.clone()),
        default_ws_url: tenant.default_ws_url.clone(),
        default_voice_agent_id: tenant.default_voice_agent_id.map(|id| id.to_string()),
        max_concurrent: Some(number(tenant.max_concurrent)),
        destination_policy: tenant.destination_policy.as_ref().map(write_policy),
        created_at: Some(timestamp(tenant.created_at)),
        updated_at: Some(timestamp(tenant.updated_at)),
    }
}

pub(crate) fn read_tenant_id(text: Option<&str>, field: &str, principal: &Principal) -> Result<TenantId> {
    let mut faults = Violations::default();
    let id = read_optional(field, text, &mut faults).unwrap_or(principal.tenant());
    Ok(faults.into_result(Some(id))?)
}

pub(crate) fn read_key(wire: v1::CreateApiKeyRequest, principal: &Principal) -> Result<(TenantId, ApiKeyDraft)> {
    let mut faults = Violations::default();
    let tenant = read_optional("tenant_id", wire.tenant_id.as_deref(), &mut faults).unwrap_or(principal.tenant());
    let expires_at = faults.take("expires_at", wire.expires_at.map(read_timestamp).transpose());
    let draft = ApiKeyDraft {
        name: wire.name,
        scopes: wire.scopes,
        rate_limit_per_min: wire.rate_limit_per_min,
        expires_at: expires_at.flatten(),
        // What comes from inside the sandbox stays inside.
        sandbox: wire.sandbox || principal.sandbox(),
    };
    Ok(faults.into_result(Some((tenant, draft)))?)
}

pub(crate) fn write_key(key: &ApiKey) -> v1::ApiKey {
    v1::ApiKey {
        id: key.id.to_string(),
        tenant_id: key.tenant.to_string(),
        name: key.name.clone(),
        prefix: key.prefix.clone(),
        scopes: key.scopes.iter().map(Scope::as_str).map(str::to_owned).collect(),
        rate_limit_per_min: number(key.rate_limit_per_min),
        expires_at: key.expires_at.map(timestamp),
        last_used_at: key.last_used_at.map(timestamp),
        created_at: Some(timestamp(key.created_at)),
        revoked_at: key.revoked_at.map(timestamp),
        sandbox: key.sandbox,
        previous_secret_expires_at: key.previous.map(|previous| timestamp(previous.expires_at)),
    }
}
