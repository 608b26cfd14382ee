//! The life of an API key: its secrets' rotation, and when it was last used.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use secrecy::ExposeSecret as _;
use tonic::Code;
use voxgate::{
    domain::Env,
    proto::v1::{
        ApiKey, CreateApiKeyRequest, CreateApiKeyResponse, ListApiKeysRequest, ListVoiceAgentsRequest,
        RevokeApiKeyRequest, RotateApiKeyRequest, RotateApiKeyResponse,
    },
};

use crate::harness::{
    client::{Explained as _, faults, granted, refused},
    postgres,
    raw_node::{RawNode, hello},
    redis,
    server::TestServer,
    world::{World, on_both_backends, seconds, unique},
};

const DAY_S: i64 = 24 * 3_600;
const PATIENCE: Duration = Duration::from_secs(20);

on_both_backends!(
    a_rotated_key_has_two_secrets_that_work_and_keeps_all_else,
    without_grace_the_old_secret_dies_at_once,
    when_its_grace_ends_the_old_secret_has_expired,
    a_rotations_faulty_fields_are_named_at_once,
    a_key_that_opens_nothing_any_more_is_not_rotated,
    a_revoked_key_opens_nothing_by_either_secret,
    a_caller_rotates_no_key_that_may_do_more_than_itself,
    a_sandbox_key_does_not_rotate_a_live_key,
    of_64_rotations_at_once_two_secrets_work_and_the_others_are_refused,
    a_stream_ends_soon_after_its_secret_was_rotated_away,
    a_keys_last_use_is_shown_to_the_minute,
);

fn rotation(key: &ApiKey, grace_period: Option<i64>) -> RotateApiKeyRequest {
    RotateApiKeyRequest { id: key.id.clone(), grace_period: grace_period.map(seconds) }
}

async fn rotate(world: &World, key: &ApiKey, grace_period: Option<i64>) -> (ApiKey, String) {
    let answer = world.operator.tenants().rotate_api_key(rotation(key, grace_period)).await;
    let RotateApiKeyResponse { api_key, secret } = granted(answer);
    (api_key.expect("the key"), secret)
}

async fn new_key(world: &World) -> (ApiKey, String) {
    let CreateApiKeyResponse { api_key, secret } = world.new_key(&["voice_agents:read"]).await;
    (api_key.expect("the key"), secret)
}

/// The reason why the secret opens nothing; none if it does.
async fn refusal(world: &World, secret: &str) -> Option<String> {
    let request = ListVoiceAgentsRequest::default();
    let answer = world.operator.with(secret).agents().list_voice_agents(request).await;
    answer.err().map(|status| {
        assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
        status.reason()
    })
}

async fn works(world: &World, secret: &str) -> bool {
    refusal(world, secret).await.is_none()
}

async fn listed(world: &World, id: &str) -> ApiKey {
    let request = ListApiKeysRequest { tenant_id: Some(world.tenant.clone()), ..ListApiKeysRequest::default() };
    let page = granted(world.operator.tenants().list_api_keys(request).await);
    page.api_keys.into_iter().find(|key| key.id == id).expect("the key is listed")
}

async fn a_rotated_key_has_two_secrets_that_work_and_keeps_all_else(world: World) {
    let (created, first) = new_key(&world).await;
    assert_eq!(created.previous_secret_expires_at, None);
    let before = Env::system().now().as_secs();
    let (key, second) = rotate(&world, &created, None).await;
    let grace_end = key.previous_secret_expires_at.expect("the first secret works on").seconds;
    assert!((before + DAY_S..before + DAY_S + 60).contains(&grace_end), "a day by default");
    assert!(second.starts_with(&key.prefix) && second != first && second[..8] == first[..8]);
    let expected = ApiKey {
        prefix: key.prefix.clone(),
        previous_secret_expires_at: key.previous_secret_expires_at,
        ..created.clone()
    };
    assert_eq!(key, expected, "id, scopes, limits and expiry stay");
    assert_eq!(ApiKey { last_used_at: None, ..listed(&world, &key.id).await }, key);
    assert!(works(&world, &first).await && works(&world, &second).await);

    let (_, third) = rotate(&world, &key, Some(30 * DAY_S)).await;
    assert!(works(&world, &second).await && works(&world, &third).await);
    assert_eq!(refusal(&world, &first).await.as_deref(), Some("CREDENTIAL_INVALID"), "a still older one dies at once");
}

async fn without_grace_the_old_secret_dies_at_once(world: World) {
    let (created, first) = new_key(&world).await;
    let (_, second) = rotate(&world, &created, None).await;
    let (key, third) = rotate(&world, &created, Some(0)).await;
    assert_eq!(key.previous_secret_expires_at, None);
    for dead in [first, second] {
        assert_eq!(refusal(&world, &dead).await.as_deref(), Some("CREDENTIAL_INVALID"));
    }
    assert!(works(&world, &third).await);
}

async fn when_its_grace_ends_the_old_secret_has_expired(world: World) {
    let (created, first) = new_key(&world).await;
    let (_, second) = rotate(&world, &created, Some(1)).await;
    let started = Instant::now();
    let reason = loop {
        assert!(started.elapsed() < PATIENCE, "the old secret still works");
        if let Some(reason) = refusal(&world, &first).await {
            break reason;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    assert_eq!(reason, "CREDENTIAL_EXPIRED");
    assert!(works(&world, &second).await);
}

async fn a_rotations_faulty_fields_are_named_at_once(world: World) {
    let mut tenants = world.operator.tenants();
    for grace_period in [seconds(-1), seconds(30 * DAY_S + 1), prost_types::Duration { seconds: 1, nanos: -1 }] {
        let request = RotateApiKeyRequest { id: "not an id".into(), grace_period: Some(grace_period) };
        let mut named = faults(tenants.rotate_api_key(request).await);
        named.sort();
        assert_eq!(named, ["grace_period", "id"]);
    }
    assert_eq!(faults(tenants.rotate_api_key(RotateApiKeyRequest::default()).await), ["id"]);
    let unknown = RotateApiKeyRequest { id: Env::system().uuid().to_string(), grace_period: None };
    refused(tenants.rotate_api_key(unknown).await, Code::NotFound, "API_KEY_NOT_FOUND");
}

async fn a_key_that_opens_nothing_any_more_is_not_rotated(world: World) {
    let mut tenants = world.operator.tenants();
    let (revoked, _) = new_key(&world).await;
    granted(tenants.revoke_api_key(RevokeApiKeyRequest { id: revoked.id.clone() }).await);
    refused(tenants.rotate_api_key(rotation(&revoked, None)).await, Code::NotFound, "API_KEY_NOT_FOUND");

    // It must still be to come when the request arrives.
    let soon = Env::system().now().as_secs() + 8;
    let request = CreateApiKeyRequest {
        tenant_id: Some(world.tenant.clone()),
        name: "brief".into(),
        expires_at: Some(prost_types::Timestamp { seconds: soon, nanos: 999_999_000 }),
        ..CreateApiKeyRequest::default()
    };
    let brief = granted(tenants.create_api_key(request).await).api_key.expect("the key");
    while Env::system().now().as_secs() <= soon {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    refused(tenants.rotate_api_key(rotation(&brief, None)).await, Code::NotFound, "API_KEY_NOT_FOUND");
}

async fn a_revoked_key_opens_nothing_by_either_secret(world: World) {
    let (created, first) = new_key(&world).await;
    let (key, second) = rotate(&world, &created, None).await;
    granted(world.operator.tenants().revoke_api_key(RevokeApiKeyRequest { id: key.id }).await);
    for secret in [first, second] {
        assert_eq!(refusal(&world, &secret).await.as_deref(), Some("CREDENTIAL_INVALID"));
    }
}

async fn a_caller_rotates_no_key_that_may_do_more_than_itself(world: World) {
    let (key, secret) = new_key(&world).await;
    let administrator = world.caller_with(&["tenants:admin"]).await;
    let answer = administrator.tenants().rotate_api_key(rotation(&key, Some(0))).await;
    let status = refused(answer, Code::PermissionDenied, "SCOPE_REQUIRED");
    assert_eq!(status.metadata_of_reason()["scope"], "voice_agents:read");
    assert!(works(&world, &secret).await, "nothing was changed");
    let able = world.caller_with(&["tenants:admin", "voice_agents:read"]).await;
    granted(able.tenants().rotate_api_key(rotation(&key, Some(0))).await);
    assert!(!works(&world, &secret).await);
    let answer = world.caller.tenants().rotate_api_key(rotation(&key, None)).await;
    let status = refused(answer, Code::PermissionDenied, "SCOPE_REQUIRED");
    assert_eq!(status.metadata_of_reason()["scope"], "tenants:admin");
}

async fn a_sandbox_key_does_not_rotate_a_live_key(world: World) {
    let (live, sandbox) = world.sides().await;
    let (live_key, live_secret) = new_key(&live).await;
    let (sandbox_key, _) = new_key(&sandbox).await;
    let administrator = sandbox.caller_with(&["tenants:admin", "voice_agents:read"]).await;
    let answer = administrator.tenants().rotate_api_key(rotation(&live_key, Some(0))).await;
    refused(answer, Code::NotFound, "API_KEY_NOT_FOUND");
    assert!(works(&world, &live_secret).await);
    let rotated = granted(administrator.tenants().rotate_api_key(rotation(&sandbox_key, None)).await);
    assert!(rotated.secret.starts_with("vg_test_") && works(&world, &rotated.secret).await);
}

async fn of_64_rotations_at_once_two_secrets_work_and_the_others_are_refused(world: World) {
    let (created, first) = new_key(&world).await;
    let racers: Vec<_> = (0..64)
        .map(|_| {
            let (world, key) = (world.clone(), created.clone());
            tokio::spawn(async move { rotate(&world, &key, None).await })
        })
        .collect();
    let mut secrets = BTreeSet::from([first]);
    for racer in racers {
        secrets.insert(racer.await.expect("a racer").1);
    }
    assert_eq!(secrets.len(), 65, "each was answered a secret of its own");
    let (mut working, prefix) = (Vec::new(), listed(&world, &created.id).await.prefix);
    for secret in secrets {
        match refusal(&world, &secret).await {
            None => working.push(secret),
            Some(reason) => assert_eq!(reason, "CREDENTIAL_INVALID"),
        }
    }
    assert_eq!(working.len(), 2, "the current one, and the one before");
    assert_eq!(working.iter().filter(|secret| secret.starts_with(&prefix)).count(), 1);
}

async fn a_stream_ends_soon_after_its_secret_was_rotated_away(world: World) {
    let created = world.new_key(&["nodes:connect"]).await;
    let bearer = World { caller: world.caller.with(&created.secret), ..world.clone() };
    let (mut raw, _) = RawNode::welcomed(&bearer, hello(&world, &unique("node"))).await;
    rotate(&world, &created.api_key.expect("the key"), Some(0)).await;
    let end = tokio::time::timeout(PATIENCE, raw.inbox.message()).await.expect("it ends");
    let status = end.expect_err("it ends by a refusal");
    assert_eq!((status.code(), status.reason().as_str()), (Code::Unauthenticated, "CREDENTIAL_INVALID"));
}

async fn a_keys_last_use_is_shown_to_the_minute(world: World) {
    let (used, secret) = new_key(&world).await;
    let (unused, _) = new_key(&world).await;
    assert_eq!(listed(&world, &used.id).await.last_used_at, None);
    let before = Env::system().now().as_secs();
    assert!(works(&world, &secret).await);
    let started = Instant::now();
    let last_use = loop {
        assert!(started.elapsed() < PATIENCE, "the use was not noted");
        if let Some(moment) = listed(&world, &used.id).await.last_used_at {
            break moment;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert_eq!((last_use.seconds % 60, last_use.nanos), (0, 0));
    assert!((before - 60..before + 60).contains(&last_use.seconds), "{last_use:?} of {before}");
    assert_eq!(listed(&world, &unused.id).await.last_used_at, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_stops_writes_the_last_uses_that_it_knows_of() {
    let (database, redis) = (postgres::fresh_database(), redis::PrivateRedis::shared().url());
    let first = TestServer::production(&database, redis.expose_secret());
    let second = TestServer::production_with_key(&database, redis.expose_secret(), first.admin_key.clone());
    let world = World::on(&first.addr, &first.admin_key).await;
    let (key, secret) = new_key(&world).await;
    assert!(works(&world, &secret).await);
    first.signal("TERM");
    first.wait_for_exit(PATIENCE);
    let elsewhere = World { operator: world.through(&second.addr).caller.with(&first.admin_key), ..world };
    assert!(listed(&elsewhere, &key.id).await.last_used_at.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_use_that_could_not_be_written_is_written_when_the_database_is_back() {
    let mut postgres = postgres::PrivatePostgres::start();
    let redis = redis::PrivateRedis::shared().url();
    let server = TestServer::production(&postgres.database(), redis.expose_secret());
    let world = World::on(&server.addr, &server.admin_key).await;
    let (key, secret) = new_key(&world).await;
    assert!(works(&world, &secret).await);
    postgres.stop();
    // The outage must outlast the first attempt to write it, five seconds after the one before.
    tokio::time::sleep(Duration::from_secs(6)).await;
    postgres.start_again();
    let started = Instant::now();
    let request = ListApiKeysRequest { tenant_id: Some(world.tenant.clone()), ..ListApiKeysRequest::default() };
    loop {
        assert!(started.elapsed() < PATIENCE, "the use was forgotten");
        let page = world.operator.tenants().list_api_keys(request.clone()).await;
        let keys = page.map(|page| page.into_inner().api_keys).unwrap_or_default();
        if keys.iter().any(|listed| listed.id == key.id && listed.last_used_at.is_some()) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
