//! Rate limits of keys: what a caller is told, and that replicas share one account.

use std::time::{Duration, Instant};

use tonic::{Code, Status};
use voxgate::proto::v1::{
    CreateApiKeyRequest, GetCallStateRequest, Heartbeat, ListVoiceAgentsRequest, PauseVoiceAgentRequest,
    node_message::Message as Said,
};

use crate::harness::{
    client::{Caller, Explained as _, granted, refused},
    pair::Pair,
    process::wait_for,
    raw_node::{RawNode, hello},
    server::TestServer,
    world::{TENANT_SCOPES, World, on_both_backends, unique},
};

on_both_backends!(
    a_key_beyond_its_rate_is_told_its_limit_and_when_to_come_back,
    a_refused_request_counts_like_any_other,
    a_stream_counts_once_when_it_opens,
    a_callback_token_is_not_held_to_the_rate_of_a_key,
);

/// A caller of the world's tenant, with every scope of a tenant, whose key has this rate.
async fn caller_at(world: &World, per_minute: i32) -> Caller {
    let request = CreateApiKeyRequest {
        tenant_id: Some(world.tenant.clone()),
        name: "limited".into(),
        scopes: TENANT_SCOPES.map(str::to_owned).to_vec(),
        rate_limit_per_min: Some(per_minute),
        sandbox: world.sandbox,
        ..CreateApiKeyRequest::default()
    };
    world.operator.with(&granted(world.operator.tenants().create_api_key(request).await).secret)
}

async fn ask(caller: &Caller) -> Result<(), Status> {
    caller.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await.map(|_| ())
}

async fn a_key_beyond_its_rate_is_told_its_limit_and_when_to_come_back(world: World) {
    // One in 12 seconds, and five at once.
    let (limited, other) = (caller_at(&world, 5).await, caller_at(&world, 5).await);
    let started = Instant::now();
    for _ in 0..5 {
        ask(&limited).await.expect("within the burst");
    }
    let answer = limited.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await;
    if started.elapsed() < Duration::from_secs(12) {
        let status = refused(answer, Code::ResourceExhausted, "RATE_LIMITED");
        let told = status.metadata_of_reason();
        assert_eq!((&*told["scope"], &*told["limit"], &*told["window_seconds"]), ("api_key", "5", "60"));
        let wait = status.retry_delay().expect("it may be tried again");
        assert!(!wait.is_zero() && wait <= Duration::from_millis(14_400), "{wait:?}: 12 s and up to a fifth");
    }
    ask(&other).await.expect("another key's requests are its own");
}

async fn a_refused_request_counts_like_any_other(world: World) {
    let limited = caller_at(&world, 1).await;
    let request = PauseVoiceAgentRequest { id: "not an id".into(), ..PauseVoiceAgentRequest::default() };
    let answer = limited.agents().pause_voice_agent(request.clone()).await;
    refused(answer, Code::InvalidArgument, "VALIDATION_FAILED");
    refused(limited.agents().pause_voice_agent(request).await, Code::ResourceExhausted, "RATE_LIMITED");
    let powerless = caller_at(&world, 1).await;
    let request = voxgate::proto::v1::GetTenantRequest::default();
    refused(powerless.tenants().get_tenant(request.clone()).await, Code::PermissionDenied, "SCOPE_REQUIRED");
    refused(powerless.tenants().get_tenant(request).await, Code::ResourceExhausted, "RATE_LIMITED");
}

async fn a_stream_counts_once_when_it_opens(world: World) {
    let bearer = World { caller: caller_at(&world, 1).await, ..world.clone() };
    let (raw, _) = RawNode::welcomed(&bearer, hello(&world, &unique("node"))).await;
    for _ in 0..10 {
        raw.say(Said::Heartbeat(Heartbeat { calls: Vec::new() })).await;
    }
    let again = RawNode::begin(&bearer, Said::Hello(hello(&world, &unique("node")))).await.expect_err("the second");
    assert_eq!((again.code(), again.reason().as_str()), (Code::ResourceExhausted, "RATE_LIMITED"));
}

async fn a_callback_token_is_not_held_to_the_rate_of_a_key(world: World) {
    let bearer = World { caller: caller_at(&world, 1).await, ..world.clone() };
    let agent = world.agent(1).await;
    let slot = bearer.admit(&agent.id).await;
    let service = bearer.caller.with(&slot.callback_token);
    for _ in 0..10 {
        let request = GetCallStateRequest { call_id: slot.call_id.clone(), ..GetCallStateRequest::default() };
        granted(service.calls().get_call_state(request).await);
    }
    assert!(world.release(&slot).await);
}

/// As many at once on each caller, again and again, for so long; answers how many were let through.
async fn flood(callers: &[Caller], at_once: usize, span: Duration) -> usize {
    let until = Instant::now() + span;
    let workers: Vec<_> = (0..callers.len() * at_once)
        .map(|number| {
            let caller = callers[number % callers.len()].clone();
            tokio::spawn(async move {
                let mut through = 0;
                while Instant::now() < until {
                    match ask(&caller).await {
                        Ok(()) => through += 1,
                        Err(status) => assert_eq!(status.reason(), "RATE_LIMITED", "{status:?}"),
                    }
                }
                through
            })
        })
        .collect();
    let mut through = 0;
    for worker in workers {
        through += worker.await.expect("a worker");
    }
    through
}

impl Pair {
    /// A new key, presented to each.
    async fn callers_at(&self, per_minute: i32) -> [Caller; 2] {
        let first = caller_at(&self.worlds[0], per_minute).await;
        let second = first.to(&self.servers[1].addr);
        [first, second]
    }

    /// Whether one of them has judged a request alone.
    fn fell_back(&self) -> bool {
        let metrics = |server: &TestServer| server.get("/metrics").expect("metrics");
        self.servers.iter().any(|server| metrics(server).contains("\nvoxgate_rate_limit_fallbacks_total "))
    }

    /// How many scripts Redis has run.
    fn scripts_run(&self) -> u64 {
        let stats = self.redis.command("INFO commandstats");
        let calls = |line: &str| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok();
        stats.lines().filter(|line| line.starts_with("cmdstat_evalsha:")).filter_map(calls).sum()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_let_through_what_one_account_holds() {
    let replicas = Pair::start().await;
    let callers = replicas.callers_at(600).await;
    let started = Instant::now();
    let through = flood(&callers, 8, Duration::from_secs(3)).await;
    // The burst, the rate over the window, and what was borrowed within a second of it. A machine that stalls for longer
    // than a request waits for Redis gives each replica the same on its own.
    let accounts = if replicas.fell_back() { 3.0 } else { 1.0 };
    let most = accounts * (60.0 + 10.0 * (started.elapsed().as_secs_f64() + 1.0));
    let through = f64::from(u32::try_from(through).expect("few"));
    assert!(through <= most, "{through} of at most {most}");
    assert!(through >= 60.0 + 10.0 * 2.0, "{through}: a flood does not starve those who may pass");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fast_keys_requests_cost_few_round_trips_and_denied_ones_none() {
    let replicas = Pair::start().await;
    let callers = replicas.callers_at(100_000).await;
    let before = replicas.scripts_run();
    let through = flood(&callers, 4, Duration::from_secs(3)).await;
    let trips = replicas.scripts_run() - before;
    assert!(through > 200, "{through}");
    // Two replicas with loans that double from one to 166; and a loan that is not spent within a second is lost.
    let most = 40 + u64::try_from(through).expect("few") / 50;
    assert!(trips <= most, "{trips} round trips for {through} requests");

    let callers = replicas.callers_at(1).await;
    // One of them is let through; by its second each replica has heard of the denial.
    for caller in callers.iter().chain(&callers) {
        let _ = ask(caller).await;
    }
    let before = replicas.scripts_run();
    assert_eq!(flood(&callers, 4, Duration::from_secs(1)).await, 0);
    assert_eq!(replicas.scripts_run(), before, "denials are remembered");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_hangs_each_replica_goes_by_the_rate_on_its_own() {
    let replicas = Pair::start().await;
    let callers = replicas.callers_at(60).await;
    replicas.redis.signal("STOP");
    let started = Instant::now();
    let through = flood(&callers, 2, Duration::from_secs(2)).await;
    let most = 2.0 * (10.0 + started.elapsed().as_secs_f64() + 1.0);
    assert!(f64::from(u32::try_from(through).expect("few")) <= most, "{through} of at most {most}");
    assert!(through >= 20, "{through}: each replica's burst");
    assert!(replicas.fell_back(), "it is counted");
    replicas.redis.signal("CONT");
    let before = replicas.scripts_run();
    let handle = tokio::runtime::Handle::current();
    let asked_again = || {
        let fresh = handle.block_on(replicas.callers_at(60));
        let _ = handle.block_on(ask(&fresh[0]));
        (replicas.scripts_run() > before).then_some(())
    };
    tokio::task::block_in_place(|| wait_for("Redis to be asked again", Duration::from_secs(10), asked_again));
}
