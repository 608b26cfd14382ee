//! What replicas keep in memory: never older than promised, and good enough to go on with while the database is away.
//!
//! Waits have generous bounds where a notice is what is tested, and the promise itself (5 s, 1 s) where it is that.

use std::time::{Duration, Instant};

use secrecy::ExposeSecret as _;
use tonic::Code;
use voxgate::proto::v1::{
    ConferenceAddRequest, ConferenceStartRequest, DeleteVoiceAgentRequest, DestinationPolicy, GetVoiceAgentRequest,
    ListVoiceAgentsRequest, ParticipantType, PauseVoiceAgentRequest, ResolveVoiceAgentRequest, RevokeApiKeyRequest,
    SetDefaultVoiceAgentRequest, Tenant, UpdateTenantRequest, UpdateVoiceAgentRequest, VoiceAgent,
};

use crate::harness::{
    client::{Caller, Explained as _, granted, refused},
    postgres::{PrivatePostgres, as_superuser, execute, fresh_database},
    raw_node::{RawNode, hello},
    redis::PrivateRedis,
    server::TestServer,
    world::{TENANT_SCOPES, World, acquire, eventually, unique},
};

/// Two replicas on the same stores.
struct Pair {
    here: World,
    there: World,
    _servers: [TestServer; 2],
}

async fn pair(database: &str, redis: &PrivateRedis) -> Pair {
    let first = TestServer::production(database, redis.url().expose_secret());
    let second = TestServer::production_with_key(database, redis.url().expose_secret(), first.admin_key.clone());
    let here = World::on(&first.addr, &first.admin_key).await;
    let there = here.through(&second.addr);
    Pair { here, there, _servers: [first, second] }
}

async fn get(world: &World, id: &str) -> VoiceAgent {
    let request = GetVoiceAgentRequest { id: id.to_owned(), ..GetVoiceAgentRequest::default() };
    granted(world.caller.agents().get_voice_agent(request).await)
}

async fn rename(world: &World, id: &str, name: &str) -> VoiceAgent {
    let patch = VoiceAgent { id: id.to_owned(), name: Some(name.to_owned()), ..VoiceAgent::default() };
    let request = UpdateVoiceAgentRequest { voice_agent: Some(patch), update_mask: None };
    granted(world.caller.agents().update_voice_agent(request).await)
}

/// How long it takes until `there` answers `revision`. Asks all the time, so what is in memory never gets cold.
async fn seen_after(there: &World, id: &str, revision: i64) -> Duration {
    let changed = Instant::now();
    while get(there, id).await.revision < revision {
        assert!(changed.elapsed() < Duration::from_secs(10), "the change does not come through");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    changed.elapsed()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_here_is_seen_there_by_its_notice_and_without_it_within_five_seconds() {
    let (database, redis) = (fresh_database(), PrivateRedis::start());
    let Pair { here, there, _servers } = pair(&database, &redis).await;
    let agent = here.agent(5).await;
    let mut slowest = Duration::ZERO;
    for round in 0..20 {
        assert_eq!(get(&there, &agent.id).await.revision, round + 1, "it is in memory there");
        let changed = rename(&here, &agent.id, &format!("round {round}")).await;
        assert_eq!(get(&here, &agent.id).await, changed, "whoever wrote it reads it");
        slowest = slowest.max(seen_after(&there, &agent.id, changed.revision).await);
    }
    println!("seen on the other replica after at most {slowest:?}");
    // Its age alone would have brought it after 5 s: on any machine, this was the notice.
    assert!(slowest < Duration::from_millis(2_500), "{slowest:?}");

    execute(&as_superuser(&database), "DROP TRIGGER tell ON voice_agents").expect("notices are lost from here on");
    get(&there, &agent.id).await;
    let changed = rename(&here, &agent.id, "unnoticed").await;
    let late = seen_after(&there, &agent.id, changed.revision).await;
    println!("seen without a notice after {late:?}");
    assert!(late < Duration::from_secs(6), "{late:?}");
    // A change that is built on what is there now is no loser because of what is in memory.
    get(&there, &agent.id).await;
    let changed = rename(&here, &agent.id, "again unnoticed").await;
    let patch = VoiceAgent {
        etag: changed.etag.clone(),
        id: agent.id.clone(),
        name: Some("last".into()),
        ..VoiceAgent::default()
    };
    let request = UpdateVoiceAgentRequest { voice_agent: Some(patch), update_mask: None };
    let last = granted(there.caller.agents().update_voice_agent(request).await);
    assert_eq!(last.revision, changed.revision + 1);
    assert_eq!(get(&there, &agent.id).await, last);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paused_deleted_pinned_or_capped_here_is_so_for_calls_there() {
    let (database, redis) = (fresh_database(), PrivateRedis::start());
    let Pair { here, there, _servers } = pair(&database, &redis).await;
    let (paused, deleted, pinned) = (here.agent(5).await, here.agent(5).await, here.agent(5).await);
    for agent in [&paused, &deleted, &pinned] {
        let slot = there.admit(&agent.id).await;
        there.release(&slot).await;
    }
    let pause = PauseVoiceAgentRequest { id: paused.id.clone(), ..PauseVoiceAgentRequest::default() };
    granted(here.caller.agents().pause_voice_agent(pause).await);
    let delete = DeleteVoiceAgentRequest { id: deleted.id.clone(), ..DeleteVoiceAgentRequest::default() };
    granted(here.caller.agents().delete_voice_agent(delete).await);
    let hints = ResolveVoiceAgentRequest::default;
    refused(
        there.caller.agents().resolve_voice_agent(hints()).await,
        Code::FailedPrecondition,
        "NO_VOICE_AGENT_CONFIGURED",
    );
    let default = SetDefaultVoiceAgentRequest { voice_agent_id: Some(pinned.id.clone()) };
    granted(here.caller.agents().set_default_voice_agent(default).await);
    let cap = Tenant { id: here.tenant.clone(), max_concurrent: Some(1), ..Tenant::default() };
    let cap = UpdateTenantRequest { tenant: Some(cap), update_mask: None };
    granted(here.operator.tenants().update_tenant(cap).await);
    let reason = |answer: Result<_, tonic::Status>| answer.err().map(|status: tonic::Status| status.reason());
    eventually("the pause", async || {
        let answer = there.try_admit(acquire(&unique("call"), &paused.id)).await;
        if let Ok(slot) = &answer {
            there.release(slot.get_ref()).await;
        }
        (reason(answer.map(|_| ())).as_deref() == Some("VOICE_AGENT_PAUSED")).then_some(())
    })
    .await;
    eventually("the deletion", async || {
        let answer = there.try_admit(acquire(&unique("call"), &deleted.id)).await;
        (reason(answer.map(|_| ())).as_deref() == Some("VOICE_AGENT_NOT_FOUND")).then_some(())
    })
    .await;
    let answer = granted(there.caller.agents().resolve_voice_agent(hints()).await);
    assert_eq!(answer.voice_agent.expect("an agent").id, pinned.id, "that there is none is never remembered");
    eventually("the cap", async || {
        let one = there.admit(&pinned.id).await;
        let two = there.try_admit(acquire(&unique("call"), &pinned.id)).await;
        if let Ok(two) = &two {
            there.release(two.get_ref()).await;
        }
        there.release(&one).await;
        (reason(two.map(|_| ())).as_deref() == Some("MAX_CONCURRENT_EXCEEDED")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_is_denied_here_is_denied_to_calls_there() {
    let (database, redis) = (fresh_database(), PrivateRedis::start());
    let Pair { here, there, _servers } = pair(&database, &redis).await;
    let (raw, _) = RawNode::welcomed(&there, hello(&there, &unique("node"))).await;
    let commands = raw.obey();
    let slot = there.admit(&there.agent(1).await.id).await;
    let mut service = there.caller.with(&slot.callback_token).calls();
    let start = ConferenceStartRequest { call_id: slot.call_id.clone(), ..ConferenceStartRequest::default() };
    granted(service.conference_start(start).await);
    let add = ConferenceAddRequest {
        call_id: slot.call_id.clone(),
        participant_type: ParticipantType::E164.into(),
        destination: "+97912345".into(),
        ..ConferenceAddRequest::default()
    };
    granted(service.conference_add(add.clone()).await);
    let policy = DestinationPolicy { e164_deny_prefixes: vec!["+979".into()], ..DestinationPolicy::default() };
    let tenant = Tenant { id: here.tenant.clone(), destination_policy: Some(policy), ..Tenant::default() };
    let request = UpdateTenantRequest { tenant: Some(tenant), update_mask: None };
    granted(here.operator.tenants().update_tenant(request).await);
    eventually("the denial", async || {
        let answer = there.caller.with(&slot.callback_token).calls().conference_add(add.clone()).await;
        answer.err().filter(|status| status.reason() == "DESTINATION_NOT_ALLOWED")
    })
    .await;
    let dialled = commands.of_call(&slot.call_id).len();
    // A call takes ten verbs a second.
    tokio::time::sleep(Duration::from_secs(1)).await;
    refused(service.conference_add(add).await, Code::PermissionDenied, "DESTINATION_NOT_ALLOWED");
    assert_eq!(commands.of_call(&slot.call_id).len(), dialled);
}

/// Asks with the key until it is refused, and answers how long that took.
async fn refused_after(caller: &Caller) -> Duration {
    let revoked = Instant::now();
    loop {
        match caller.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await {
            Err(status) => {
                assert_eq!((status.code(), status.reason().as_str()), (Code::Unauthenticated, "CREDENTIAL_INVALID"));
                return revoked.elapsed();
            }
            Ok(_) => assert!(revoked.elapsed() < Duration::from_secs(5), "the key still opens"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_is_refused_by_every_replica_within_a_second_also_without_a_notice() {
    let (database, redis) = (fresh_database(), PrivateRedis::start());
    let Pair { here, there, _servers } = pair(&database, &redis).await;
    for notices in [true, false] {
        if !notices {
            execute(&as_superuser(&database), "DROP TRIGGER tell ON api_keys").expect("dropped");
        }
        let made = here.new_key(&TENANT_SCOPES).await;
        let callers = [here.caller.with(&made.secret), there.caller.with(&made.secret)];
        for caller in &callers {
            granted(caller.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await);
        }
        let id = made.api_key.expect("the key").id;
        granted(here.operator.tenants().revoke_api_key(RevokeApiKeyRequest { id }).await);
        let [here, there] = [refused_after(&callers[0]).await, refused_after(&callers[1]).await];
        println!("refused after {here:?} here and {there:?} there; notices: {notices}");
        assert!(here < Duration::from_secs(1) && there < Duration::from_secs(1), "{here:?} {there:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_database_is_away_what_is_known_is_answered_and_nothing_else() {
    let (mut postgres, redis) = (PrivatePostgres::start(), PrivateRedis::start());
    let database = postgres.database();
    let server = TestServer::production(&database, redis.url().expose_secret());
    let world = World::on(&server.addr, &server.admin_key).await;
    let (known, other) = (world.agent(5).await, world.agent(5).await);
    get(&world, &known.id).await;
    tokio::task::block_in_place(|| postgres.stop());
    // Longer than anything may be kept without asking.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let asked = Instant::now();
    for _ in 0..100 {
        assert_eq!(get(&world, &known.id).await.id, known.id);
    }
    assert!(asked.elapsed() < Duration::from_secs(20), "known answers do not wait for the database each time");
    let unknown = GetVoiceAgentRequest { id: other.id.clone(), ..GetVoiceAgentRequest::default() };
    let status = refused(
        world.caller.agents().get_voice_agent(unknown.clone()).await,
        Code::Unavailable,
        "DATABASE_UNAVAILABLE",
    );
    assert!(status.retry_delay().is_some());
    let patch = VoiceAgent { id: known.id.clone(), name: Some("x".into()), ..VoiceAgent::default() };
    let request = UpdateVoiceAgentRequest { voice_agent: Some(patch), update_mask: None };
    let changed = world.caller.agents().update_voice_agent(request).await;
    refused(changed, Code::Unavailable, "DATABASE_UNAVAILABLE");
    tokio::task::block_in_place(|| postgres.start_again());
    eventually("the database", async || world.caller.agents().get_voice_agent(unknown.clone()).await.ok()).await;
    assert_eq!(rename(&world, &known.id, "after").await.revision, 2);
    assert_eq!(get(&world, &known.id).await.name(), "after");
}
