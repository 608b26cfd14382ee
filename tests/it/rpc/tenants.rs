//! TenantService: tenants, their keys, and what a key may do.

use std::time::Duration;

use tonic::Code;
use voxgate::{
    domain::Env,
    proto::v1::{
        ApiKey, CreateApiKeyRequest, CreateTenantRequest, GetTenantRequest, ListApiKeysRequest, ListVoiceAgentsRequest,
        RevokeApiKeyRequest, Tenant,
    },
};

use crate::harness::{
    client::{Caller, Explained as _, faults, granted, refused},
    world::{World, minimal_agent, on_both_backends, unique},
};

on_both_backends!(
    a_tenant_is_created_and_read_back,
    a_tenants_faulty_fields_are_named_at_once,
    an_unknown_tenant_is_not_found,
    a_key_is_shown_once_and_listed_without_its_secret,
    keys_are_listed_newest_first_page_by_page,
    a_keys_faulty_fields_and_unknown_scopes_are_named,
    a_key_does_what_its_scopes_say_and_nothing_else,
    a_revoked_key_opens_nothing_and_revoking_twice_succeeds,
    an_expired_key_says_that_it_has_expired,
    a_key_that_an_operator_made_for_another_tenant_is_revoked_by_the_operator,
);

fn key_request(world: &World, name: &str, scopes: &[&str]) -> CreateApiKeyRequest {
    CreateApiKeyRequest {
        tenant_id: Some(world.tenant.clone()),
        name: name.to_owned(),
        scopes: scopes.iter().map(ToString::to_string).collect(),
        ..CreateApiKeyRequest::default()
    }
}

async fn list(world: &World, page_size: i32, page_token: &str) -> (Vec<ApiKey>, String) {
    let request =
        ListApiKeysRequest { tenant_id: Some(world.tenant.clone()), page_size, page_token: page_token.to_owned() };
    let page = granted(world.operator.tenants().list_api_keys(request).await);
    (page.api_keys, page.next_page_token)
}

async fn a_tenant_is_created_and_read_back(world: World) {
    let name = unique("Ünïcode GmbH ");
    let tenant = Tenant {
        name: Some(format!("  {name}  ")),
        default_ws_url: Some("wss://ai.example/default".into()),
        max_concurrent: Some(7),
        ..Tenant::default()
    };
    let request = CreateTenantRequest { tenant: Some(tenant) };
    let created = granted(world.operator.tenants().create_tenant(request).await);
    assert_eq!(created.name(), name.trim());
    assert_eq!((created.default_ws_url(), created.max_concurrent()), ("wss://ai.example/default", 7));
    assert!(created.default_voice_agent_id.is_none() && created.created_at.is_some());
    let request = GetTenantRequest { id: created.id.clone() };
    assert_eq!(granted(world.operator.tenants().get_tenant(request).await), created);
    let own = granted(world.operator.tenants().get_tenant(GetTenantRequest::default()).await);
    assert_ne!(own.id, created.id, "no id means the caller's own tenant");
}

async fn a_tenants_faulty_fields_are_named_at_once(world: World) {
    let tenant = Tenant {
        name: Some(" ".into()),
        default_ws_url: Some("https://ai.example".into()),
        max_concurrent: Some(-1),
        ..Tenant::default()
    };
    let mut tenants = world.operator.tenants();
    let named = faults(tenants.create_tenant(CreateTenantRequest { tenant: Some(tenant) }).await);
    assert_eq!(named, ["tenant.name", "tenant.default_ws_url", "tenant.max_concurrent"]);
    let named = faults(tenants.create_tenant(CreateTenantRequest::default()).await);
    assert_eq!(named.len(), 1, "{named:?}");
    let malformed = GetTenantRequest { id: "not an id".into() };
    assert_eq!(faults(tenants.get_tenant(malformed).await), ["id"]);
}

async fn an_unknown_tenant_is_not_found(world: World) {
    let unknown = Env::system().uuid().to_string();
    let mut tenants = world.operator.tenants();
    let request = GetTenantRequest { id: unknown.clone() };
    refused(tenants.get_tenant(request).await, Code::NotFound, "TENANT_NOT_FOUND");
    let request = CreateApiKeyRequest { tenant_id: Some(unknown.clone()), ..key_request(&world, "k", &[]) };
    refused(tenants.create_api_key(request).await, Code::NotFound, "TENANT_NOT_FOUND");
    let request = ListApiKeysRequest { tenant_id: Some(unknown), ..ListApiKeysRequest::default() };
    refused(tenants.list_api_keys(request).await, Code::NotFound, "TENANT_NOT_FOUND");
}

async fn a_key_is_shown_once_and_listed_without_its_secret(world: World) {
    let request = key_request(&world, "  campaigns ", &["slots:acquire", "voice_agents:read", "slots:acquire"]);
    let created = granted(world.operator.tenants().create_api_key(request).await);
    let key = created.api_key.expect("the key");
    assert!(created.secret.starts_with(if world.sandbox { "vg_test_" } else { "vg_live_" }));
    assert!(created.secret.starts_with(&key.prefix) && key.prefix.len() < created.secret.len() / 2);
    assert_eq!((key.name.as_str(), key.rate_limit_per_min), ("campaigns", 600));
    assert_eq!(key.scopes, ["voice_agents:read", "slots:acquire"], "once each, in the order of the list of scopes");
    assert!(key.expires_at.is_none() && key.revoked_at.is_none());
    let (keys, _) = list(&world, 0, "").await;
    let listed = keys.iter().find(|listed| listed.id == key.id).expect("the key is listed");
    assert_eq!(listed, &key);
    let secret_part = &created.secret[key.prefix.len()..];
    assert!(!format!("{keys:?}").contains(secret_part));
}

async fn keys_are_listed_newest_first_page_by_page(world: World) {
    for number in 0..4 {
        granted(world.operator.tenants().create_api_key(key_request(&world, &format!("k{number}"), &[])).await);
    }
    let (first, next) = list(&world, 3, "").await;
    let (second, end) = list(&world, 3, &next).await;
    let names: Vec<_> = first.iter().chain(&second).map(|key| key.name.as_str()).collect();
    assert_eq!(names, ["k3", "k2", "k1", "k0", "test"]);
    assert_eq!(end, "");
    let negative = ListApiKeysRequest { page_size: -1, ..ListApiKeysRequest::default() };
    assert_eq!(faults(world.operator.tenants().list_api_keys(negative).await), ["page_size"]);
    let forged = ListApiKeysRequest { page_token: "x".into(), ..ListApiKeysRequest::default() };
    refused(world.operator.tenants().list_api_keys(forged).await, Code::InvalidArgument, "PAGE_TOKEN_INVALID");
}

async fn a_keys_faulty_fields_and_unknown_scopes_are_named(world: World) {
    let request = CreateApiKeyRequest {
        rate_limit_per_min: Some(100_001),
        expires_at: Some(prost_types::Timestamp { seconds: 1, nanos: 0 }),
        ..key_request(&world, "", &["slots:acquire", "slots:steal", "*", ""])
    };
    let mut named = faults(world.operator.tenants().create_api_key(request).await);
    named.sort();
    assert_eq!(named, ["expires_at", "name", "rate_limit_per_min", "scopes[1]", "scopes[2]", "scopes[3]"]);
}

async fn a_key_does_what_its_scopes_say_and_nothing_else(world: World) {
    let reader = world.caller_with(&["voice_agents:read"]).await;
    let mut agents = reader.agents();
    granted(agents.list_voice_agents(ListVoiceAgentsRequest::default()).await);
    let request =
        voxgate::proto::v1::CreateVoiceAgentRequest { voice_agent: Some(minimal_agent()), ..Default::default() };
    let status = refused(agents.create_voice_agent(request).await, Code::PermissionDenied, "SCOPE_REQUIRED");
    assert_eq!(status.metadata_of_reason()["scope"], "voice_agents:write");
    let request = key_request(&world, "k", &["voice_agents:read"]);
    let status =
        refused(world.caller.tenants().create_api_key(request).await, Code::PermissionDenied, "SCOPE_REQUIRED");
    assert_eq!(status.metadata_of_reason()["scope"], "tenants:admin");
}

async fn a_revoked_key_opens_nothing_and_revoking_twice_succeeds(world: World) {
    let request = key_request(&world, "short-lived", &["voice_agents:read"]);
    let created = granted(world.operator.tenants().create_api_key(request).await);
    let bearer = world.operator.with(&created.secret);
    granted(bearer.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await);
    let id = created.api_key.expect("the key").id;
    let mut tenants = world.caller_with(&["tenants:admin"]).await.tenants();
    let first = granted(tenants.revoke_api_key(RevokeApiKeyRequest { id: id.clone() }).await);
    let second = granted(tenants.revoke_api_key(RevokeApiKeyRequest { id }).await);
    assert!(first.revoked_at.is_some());
    assert_eq!(first.revoked_at, second.revoked_at);
    let listed = bearer.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await;
    refused(listed, Code::Unauthenticated, "CREDENTIAL_INVALID");
    let unknown = RevokeApiKeyRequest { id: Env::system().uuid().to_string() };
    refused(tenants.revoke_api_key(unknown).await, Code::NotFound, "API_KEY_NOT_FOUND");
}

async fn an_expired_key_says_that_it_has_expired(world: World) {
    let soon = Env::system().now().plus(Duration::from_millis(1_500)).as_millis();
    let nanos = i32::try_from(soon % 1_000 * 1_000_000).expect("below a billion");
    let request = CreateApiKeyRequest {
        expires_at: Some(prost_types::Timestamp { seconds: soon / 1_000, nanos }),
        ..key_request(&world, "brief", &["voice_agents:read"])
    };
    let created = granted(world.operator.tenants().create_api_key(request).await);
    let bearer: Caller = world.operator.with(&created.secret);
    granted(bearer.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await);
    tokio::time::sleep(Duration::from_millis(1_700)).await;
    let listed = bearer.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await;
    refused(listed, Code::Unauthenticated, "CREDENTIAL_EXPIRED");
}

async fn a_key_that_an_operator_made_for_another_tenant_is_revoked_by_the_operator(world: World) {
    let (created, own) = (world.new_key(&["voice_agents:read"]).await, GetTenantRequest::default());
    assert_ne!(granted(world.operator.tenants().get_tenant(own).await).id, world.tenant);
    let bearer = world.operator.with(&created.secret);
    granted(bearer.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await);
    let request = RevokeApiKeyRequest { id: created.api_key.expect("the key").id };
    assert!(granted(world.operator.tenants().revoke_api_key(request).await).revoked_at.is_some());
    let listed = bearer.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await;
    refused(listed, Code::Unauthenticated, "CREDENTIAL_INVALID");
}
