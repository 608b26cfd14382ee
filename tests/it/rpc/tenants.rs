//! TenantService: tenants, their keys, and what a key may do.

use std::time::Duration;

use tonic::Code;
use voxgate::{
    domain::Env,
    proto::v1::{
        ApiKey, ArchiveVoiceAgentRequest, CreateApiKeyRequest, CreateTenantRequest, GetDefaultVoiceAgentRequest,
        GetTenantRequest, ListApiKeysRequest, ListTenantsRequest, ListVoiceAgentsRequest, RevokeApiKeyRequest, Tenant,
        UpdateTenantRequest,
    },
};

use crate::harness::{
    client::{Caller, Explained as _, faults, granted, refused},
    world::{World, acquire, eventually, minimal_agent, on_both_backends, unique},
};

on_both_backends!(
    a_tenant_is_created_and_read_back,
    a_tenants_faulty_fields_are_named_at_once,
    an_unknown_tenant_is_not_found,
    tenants_are_listed_newest_first_while_others_are_made,
    an_update_with_a_mask_changes_exactly_its_paths,
    an_update_without_a_mask_changes_what_is_present,
    unknown_and_output_only_paths_are_refused_by_name_with_all_else_at_fault,
    the_default_agent_is_pinned_by_an_update_only_if_it_may_be,
    racing_updates_of_a_tenant_are_all_kept,
    a_lowered_cap_binds_at_once,
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

fn update(patch: Tenant, paths: &[&str]) -> UpdateTenantRequest {
    let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
    let update_mask = (!paths.is_empty()).then_some(prost_types::FieldMask { paths });
    UpdateTenantRequest { tenant: Some(patch), update_mask }
}

fn patch_of(world: &World) -> Tenant {
    Tenant { id: world.tenant.clone(), ..Tenant::default() }
}

async fn get(world: &World) -> Tenant {
    granted(world.operator.tenants().get_tenant(GetTenantRequest { id: world.tenant.clone() }).await)
}

async fn tenants_are_listed_newest_first_while_others_are_made(world: World) {
    let mut made = vec![world.tenant.clone()];
    for _ in 0..4 {
        made.insert(0, world.neighbour().await.tenant);
    }
    let (mut listed, mut page_token) = (Vec::new(), String::new());
    while listed.len() < 200 {
        let request = ListTenantsRequest { page_size: 2, page_token: page_token.clone() };
        let page = granted(world.operator.tenants().list_tenants(request).await);
        assert!(page.tenants.len() <= 2);
        listed.extend(page.tenants);
        page_token = page.next_page_token;
        if page_token.is_empty() || made.iter().all(|id| listed.iter().any(|tenant| tenant.id == *id)) {
            break;
        }
        world.neighbour().await;
    }
    // Other tests make tenants at the same time.
    let ours: Vec<_> = listed.iter().map(|tenant| &tenant.id).filter(|id| made.contains(id)).collect();
    assert_eq!(ours, made.iter().collect::<Vec<_>>());
    let moments: Vec<_> = listed.iter().map(|tenant| tenant.created_at.expect("a time")).collect();
    assert!(moments.is_sorted_by_key(|moment| std::cmp::Reverse((moment.seconds, moment.nanos))));
    let own = listed.iter().find(|tenant| tenant.id == world.tenant).expect("listed");
    assert_eq!(own, &get(&world).await);

    let mut tenants = world.operator.tenants();
    let clamped = ListTenantsRequest { page_size: i32::MAX, page_token: String::new() };
    assert!(granted(tenants.list_tenants(clamped).await).tenants.len() <= 100);
    let negative = ListTenantsRequest { page_size: -1, page_token: String::new() };
    assert_eq!(faults(tenants.list_tenants(negative).await), ["page_size"]);
    let (_, of_keys) = list(&world, 1, "").await;
    for forged in ["x".to_owned(), of_keys].into_iter().filter(|token| !token.is_empty()) {
        let request = ListTenantsRequest { page_size: 1, page_token: forged };
        refused(tenants.list_tenants(request).await, Code::InvalidArgument, "PAGE_TOKEN_INVALID");
    }
    let request = ListTenantsRequest::default();
    refused(world.caller.tenants().list_tenants(request).await, Code::PermissionDenied, "SCOPE_REQUIRED");
}

async fn an_update_with_a_mask_changes_exactly_its_paths(world: World) {
    let mut tenants = world.operator.tenants();
    let before = get(&world).await;
    let patch = Tenant {
        name: Some(" Bea ".into()),
        default_ws_url: Some("wss://ai.example/new".into()),
        max_concurrent: Some(3),
        ..patch_of(&world)
    };
    let changed = granted(tenants.update_tenant(update(patch.clone(), &["default_ws_url", "max_concurrent"])).await);
    let expected = Tenant {
        default_ws_url: patch.default_ws_url.clone(),
        max_concurrent: Some(3),
        updated_at: changed.updated_at,
        ..before.clone()
    };
    assert_eq!(changed, expected);
    assert_ne!(changed.updated_at, before.updated_at);
    assert_eq!(get(&world).await, changed);
    let cleared = update(patch_of(&world), &["default_ws_url", "max_concurrent"]);
    let cleared = granted(tenants.update_tenant(cleared).await);
    assert_eq!((cleared.default_ws_url, cleared.max_concurrent), (None, Some(0)));
    assert_eq!(faults(tenants.update_tenant(update(patch_of(&world), &["name"])).await), ["tenant.name"]);
    assert_eq!(faults(tenants.update_tenant(update(patch_of(&world), &["*"])).await), ["tenant.name"]);
    let all = granted(tenants.update_tenant(update(patch, &["*"])).await);
    assert_eq!((all.name(), all.max_concurrent()), ("Bea", 3));
}

async fn an_update_without_a_mask_changes_what_is_present(world: World) {
    let mut tenants = world.operator.tenants();
    let before = get(&world).await;
    assert_eq!(granted(tenants.update_tenant(update(patch_of(&world), &[])).await), before, "nothing is present");
    let patch = Tenant { max_concurrent: Some(9), ..patch_of(&world) };
    let changed = granted(tenants.update_tenant(update(patch, &[])).await);
    assert_eq!((changed.name(), changed.max_concurrent()), (before.name(), 9));
    let wrong = Tenant { max_concurrent: Some(1_000_001), default_ws_url: Some(String::new()), ..patch_of(&world) };
    let named = faults(tenants.update_tenant(update(wrong, &[])).await);
    assert_eq!(named, ["tenant.default_ws_url", "tenant.max_concurrent"]);
    let unknown = Tenant { id: Env::system().uuid().to_string(), max_concurrent: Some(1), ..Tenant::default() };
    refused(tenants.update_tenant(update(unknown, &[])).await, Code::NotFound, "TENANT_NOT_FOUND");
    let own = granted(tenants.update_tenant(update(Tenant::default(), &[])).await);
    assert_eq!(own, granted(tenants.get_tenant(GetTenantRequest::default()).await), "no id means the caller's own");
    let request = update(patch_of(&world), &[]);
    refused(world.caller.tenants().update_tenant(request).await, Code::PermissionDenied, "SCOPE_REQUIRED");
}

async fn unknown_and_output_only_paths_are_refused_by_name_with_all_else_at_fault(world: World) {
    let mut tenants = world.operator.tenants();
    let patch = Tenant { name: Some(String::new()), default_voice_agent_id: Some("x".into()), ..patch_of(&world) };
    let paths = ["id", "created_at", "updated_at", "secret", "name", "name.first"];
    let mut named = faults(tenants.update_tenant(update(patch, &paths)).await);
    named.sort();
    let expected = [
        "tenant.default_voice_agent_id",
        "tenant.name",
        "update_mask.created_at",
        "update_mask.id",
        "update_mask.name.first",
        "update_mask.secret",
        "update_mask.updated_at",
    ];
    assert_eq!(named, expected);
    let malformed = Tenant { id: "not an id".into(), ..Tenant::default() };
    let mut named = faults(tenants.update_tenant(update(malformed, &["x"])).await);
    named.sort();
    assert_eq!(named, ["tenant.id", "update_mask.x"]);
    assert_eq!(faults(tenants.update_tenant(UpdateTenantRequest::default()).await), ["tenant"]);
    assert_eq!(faults(tenants.update_tenant(update(patch_of(&world), &["*", "name"])).await)[0], "update_mask");
}

async fn the_default_agent_is_pinned_by_an_update_only_if_it_may_be(world: World) {
    let mut tenants = world.operator.tenants();
    let agent = world.agent(1).await;
    let pin = |id: &str| Tenant { default_voice_agent_id: Some(id.to_owned()), ..patch_of(&world) };
    let pinned = granted(tenants.update_tenant(update(pin(&agent.id), &[])).await);
    assert_eq!(pinned.default_voice_agent_id(), agent.id);
    let request = GetDefaultVoiceAgentRequest::default();
    assert_eq!(granted(world.caller.agents().get_default_voice_agent(request).await).voice_agent_id(), agent.id);
    for foreign in [world.neighbour().await.agent(1).await.id, Env::system().uuid().to_string()] {
        let answer = tenants.update_tenant(update(pin(&foreign), &["default_voice_agent_id"])).await;
        refused(answer, Code::NotFound, "VOICE_AGENT_NOT_FOUND");
    }
    let request = ArchiveVoiceAgentRequest { id: agent.id.clone(), ..ArchiveVoiceAgentRequest::default() };
    granted(world.caller.agents().archive_voice_agent(request).await);
    let answer = tenants.update_tenant(update(pin(&agent.id), &[])).await;
    refused(answer, Code::FailedPrecondition, "VOICE_AGENT_ARCHIVED");
    let renamed = Tenant { name: Some("Bea".into()), ..patch_of(&world) };
    let renamed = granted(tenants.update_tenant(update(renamed, &[])).await);
    assert_eq!(renamed.default_voice_agent_id(), agent.id, "one that was archived since does not stand in the way");
    let unpinned = granted(tenants.update_tenant(update(pin(""), &[])).await);
    assert_eq!(unpinned.default_voice_agent_id, None);
    let masked = update(patch_of(&world), &["default_voice_agent_id"]);
    assert_eq!(granted(tenants.update_tenant(masked).await).default_voice_agent_id, None);
}

async fn racing_updates_of_a_tenant_are_all_kept(world: World) {
    let agent = world.agent(1).await;
    let patches = [
        Tenant { name: Some("Bea".into()), ..patch_of(&world) },
        Tenant { default_ws_url: Some("wss://ai.example/raced".into()), ..patch_of(&world) },
        Tenant { max_concurrent: Some(77), ..patch_of(&world) },
        Tenant { default_voice_agent_id: Some(agent.id.clone()), ..patch_of(&world) },
    ];
    let racers: Vec<_> = (0..32)
        .map(|number| {
            let (mut tenants, patch) = (world.operator.tenants(), patches[number % patches.len()].clone());
            tokio::spawn(async move { granted(tenants.update_tenant(update(patch, &[])).await) })
        })
        .collect();
    for racer in racers {
        racer.await.expect("a racer");
    }
    let kept = get(&world).await;
    assert_eq!((kept.name(), kept.default_ws_url()), ("Bea", "wss://ai.example/raced"));
    assert_eq!((kept.max_concurrent(), kept.default_voice_agent_id()), (77, agent.id.as_str()));
}

async fn a_lowered_cap_binds_at_once(world: World) {
    let agent = world.agent(10).await;
    let slots = [world.admit(&agent.id).await, world.admit(&agent.id).await];
    let cap = |limit| update(Tenant { max_concurrent: Some(limit), ..patch_of(&world) }, &[]);
    granted(world.operator.tenants().update_tenant(cap(1)).await);
    let answer = world.try_admit(acquire(&unique("call"), &agent.id)).await;
    let status = refused(answer, Code::ResourceExhausted, "MAX_CONCURRENT_EXCEEDED");
    assert_eq!(status.metadata_of_reason()["scope"], "tenant");
    for slot in &slots {
        assert!(world.release(slot).await, "it ended no call");
    }
    granted(world.operator.tenants().update_tenant(cap(0)).await);
    world.admit(&agent.id).await;
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
    // It must still be to come when the key is first used.
    let soon = Env::system().now().plus(Duration::from_secs(8)).as_millis();
    let nanos = i32::try_from(soon % 1_000 * 1_000_000).expect("below a billion");
    let request = CreateApiKeyRequest {
        expires_at: Some(prost_types::Timestamp { seconds: soon / 1_000, nanos }),
        rate_limit_per_min: Some(100_000),
        ..key_request(&world, "brief", &["voice_agents:read"])
    };
    let created = granted(world.operator.tenants().create_api_key(request).await);
    let bearer: Caller = world.operator.with(&created.secret);
    granted(bearer.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await);
    let refusal = async || bearer.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await.err();
    let status = eventually("the end of the key", refusal).await;
    assert_eq!((status.code(), &*status.reason()), (Code::Unauthenticated, "CREDENTIAL_EXPIRED"));
    assert!(Env::system().now().as_millis() >= soon, "not before its time");
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
