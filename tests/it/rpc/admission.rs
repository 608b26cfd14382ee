//! AdmissionService: slots. What holds between processes is in `replicas`, what holds through failures in `faults`.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use prost_types::{Struct, Value, value::Kind};
use tonic::Code;
use voxgate::{
    domain::{Env, Timestamp},
    proto::v1::{
        AcquireSlotRequest, ArchiveVoiceAgentRequest, DeleteVoiceAgentRequest, Direction, EndSessionRequest,
        GetSessionRequest, GetUsageRequest, LeaseRenewal, LeaseRenewalResult, LeaseState, PauseVoiceAgentRequest,
        ReleaseSlotRequest, RenewSlotsRequest, ResolutionSource, SessionOutcome, SessionStatus, Slot, Subprotocol,
        UpdateVoiceAgentRequest, VoiceAgent, end_session_request, get_session_request,
    },
};

use crate::harness::{
    client::{Explained as _, faults, granted, refused},
    world::{World, acquire, minimal_agent, on_both_backends, seconds, unique},
};

on_both_backends!(
    an_admitted_call_gets_all_that_it_needs_to_begin,
    the_secret_is_routed_only_to_those_who_may_see_it,
    a_full_agent_denies_and_explains_itself,
    racing_calls_never_exceed_the_limit,
    slots_reserved_for_inbound_calls_are_not_given_to_outbound_ones,
    the_tenants_cap_binds_over_all_of_its_agents,
    the_same_call_again_is_answered_its_own_lease,
    a_live_call_cannot_be_admitted_to_another_agent,
    paused_and_archived_agents_take_no_new_call_and_keep_their_own,
    validate_only_takes_nothing_and_answers_the_same_denial,
    lease_lives_outside_their_bounds_are_refused,
    every_faulty_field_of_an_acquire_is_named_at_once,
    another_subprotocol_than_the_agents_is_refused,
    a_renewal_tells_each_leases_fate,
    more_than_a_thousand_renewals_are_refused_and_a_thousand_are_not,
    releasing_twice_succeeds_and_says_so,
    releasing_ends_the_session_with_the_outcome_given,
    racing_releases_free_one_slot_once,
    a_late_release_never_touches_the_next_holders_slot,
    a_call_is_admitted_again_as_a_new_session_after_its_end,
    a_lease_that_nobody_renews_is_free_again,
    lowering_the_limit_ends_no_call_and_admits_none,
    usage_of_the_tenant_counts_all_of_its_agents,
    a_release_whose_reply_was_lost_is_retried_and_ends_the_session_as_stated,
    a_call_keeps_its_lease_when_its_agent_is_edited,
    metadata_that_cannot_be_kept_is_refused,
    outcomes_of_the_services_own_are_refused,
    no_session_of_a_deleted_agent_stays_active,
);

fn moment(wire: Option<prost_types::Timestamp>) -> Timestamp {
    let wire = wire.expect("a time");
    Timestamp::from_micros(wire.seconds * 1_000_000 + i64::from(wire.nanos / 1_000))
}

fn outbound(call: &str, agent: &str) -> AcquireSlotRequest {
    AcquireSlotRequest { direction: Direction::Outbound.into(), ..acquire(call, agent) }
}

fn renewal(slot: &Slot) -> LeaseRenewal {
    LeaseRenewal { call_id: slot.call_id.clone(), lease_id: slot.lease_id.clone(), lease_ttl: Some(seconds(120)) }
}

async fn renew(world: &World, leases: Vec<LeaseRenewal>) -> Vec<LeaseRenewalResult> {
    granted(world.caller.calls().renew_slots(RenewSlotsRequest { leases }).await).results
}

fn release(slot: &Slot, outcome: SessionOutcome) -> ReleaseSlotRequest {
    ReleaseSlotRequest { call_id: slot.call_id.clone(), lease_id: slot.lease_id.clone(), outcome: outcome.into() }
}

async fn session(world: &World, slot: &Slot) -> voxgate::proto::v1::Session {
    let target = Some(get_session_request::Target::SessionId(slot.session_id.clone()));
    granted(world.caller.sessions().get_session(GetSessionRequest { target }).await)
}

async fn an_admitted_call_gets_all_that_it_needs_to_begin(world: World) {
    let agent = VoiceAgent { transfer_destination: Some("+15550100".into()), ..minimal_agent() };
    let agent = world.create(agent).await;
    let slot = world.admit(&agent.id).await;
    assert!(slot.session_id.starts_with("ses_") && !slot.lease_id.is_empty() && slot.fence > 0);
    assert!(slot.callback_token.starts_with("vg_cb_"));
    assert_eq!((slot.voice_agent_id.as_str(), slot.revision), (agent.id.as_str(), 1));
    let now = Env::system().now();
    let lease = moment(slot.expires_at).since(now);
    assert!(lease > Duration::from_secs(50) && lease <= Duration::from_secs(61), "{lease:?}");
    let token = moment(slot.token_expires_at).since(now);
    assert!(token > Duration::from_mins(29) && token <= Duration::from_mins(31), "{token:?}");
    let usage = slot.usage.clone().expect("usage");
    assert_eq!((usage.used, usage.limit, usage.reserved_inbound, usage.queued), (1, 10, 0, 0));
    let routing = slot.routing.clone().expect("routing");
    assert_eq!((routing.ws_url.as_str(), routing.transfer_destination()), ("wss://ai.example/ws", "+15550100"));
    assert_eq!(routing.audio_format.expect("filled").sample_rate_hz(), 16_000);
    assert_eq!(routing.subprotocol, i32::from(Subprotocol::AudioDrachtioOrg));
    assert_eq!(slot.resolution.clone().expect("resolution").source(), ResolutionSource::Explicit);
    assert!(slot.node_id.is_none(), "no node is connected");
    let session = session(&world, &slot).await;
    assert_eq!((session.status(), session.call_id.as_str()), (SessionStatus::Active, slot.call_id.as_str()));
    assert_eq!((session.direction(), session.sandbox), (Direction::Inbound, world.sandbox));
}

async fn the_secret_is_routed_only_to_those_who_may_see_it(world: World) {
    let agent = world.create(VoiceAgent { auth_token: Some("canary-51ce".into()), ..minimal_agent() }).await;
    let scopes: [(&[&str], bool); 3] = [
        (&["slots:acquire"], false),
        (&["slots:acquire", "nodes:connect"], true),
        (&["slots:acquire", "voice_agents:secrets"], true),
    ];
    for (scopes, sees) in scopes {
        let caller = world.caller_with(scopes).await;
        let slot = granted(caller.calls().acquire_slot(acquire(&unique("call"), &agent.id)).await);
        let secret = slot.routing.expect("routing").auth_token;
        assert_eq!(secret.as_deref(), sees.then_some("canary-51ce"), "{scopes:?}");
    }
}

async fn a_full_agent_denies_and_explains_itself(world: World) {
    let agent = world.agent(2).await;
    let first = world.admit(&agent.id).await;
    world.admit(&agent.id).await;
    let denied = world.try_admit(acquire(&unique("call"), &agent.id)).await;
    let status = refused(denied, Code::ResourceExhausted, "MAX_CONCURRENT_EXCEEDED");
    let told = status.metadata_of_reason();
    assert_eq!((told["scope"].as_str(), told["used"].as_str(), told["limit"].as_str()), ("agent", "2", "2"));
    let quotas = status.quotas();
    assert_eq!(quotas[0].0, "agent", "{quotas:?}");
    assert!(quotas[0].1.contains("2 of 2"), "{quotas:?}");
    let delay = status.retry_delay().expect("RetryInfo");
    assert!(delay >= Duration::from_millis(250) && delay <= Duration::from_secs(61), "{delay:?}");
    assert!(world.release(&first).await);
    world.admit(&agent.id).await;
}

async fn racing_calls_never_exceed_the_limit(world: World) {
    let agent = world.agent(7).await;
    let racers: Vec<_> = (0..100)
        .map(|_| {
            let (world, agent) = (world.clone(), agent.id.clone());
            tokio::spawn(async move { world.try_admit(acquire(&unique("call"), &agent)).await })
        })
        .collect();
    let mut fences = BTreeSet::new();
    for racer in racers {
        match racer.await.expect("a racer") {
            Ok(slot) => assert!(fences.insert(slot.into_inner().fence), "a fence rises strictly"),
            Err(status) => assert_eq!(status.reason(), "MAX_CONCURRENT_EXCEEDED", "{status:?}"),
        }
    }
    assert_eq!(fences.len(), 7);
    assert_eq!(world.usage(&agent.id).await.used, 7);
}

async fn slots_reserved_for_inbound_calls_are_not_given_to_outbound_ones(world: World) {
    let agent = VoiceAgent { max_concurrent: Some(3), reserved_inbound: Some(2), ..minimal_agent() };
    let agent = world.create(agent).await;
    granted(world.try_admit(outbound(&unique("call"), &agent.id)).await);
    let denied = world.try_admit(outbound(&unique("call"), &agent.id)).await;
    let status = refused(denied, Code::ResourceExhausted, "MAX_CONCURRENT_EXCEEDED");
    assert_eq!(status.metadata_of_reason()["scope"], "inbound_reserve");
    let scopes: Vec<_> = status.quotas().into_iter().map(|(scope, _)| scope).collect();
    assert_eq!(scopes, ["inbound_reserve", "agent", "tenant"], "every scope, the one that binds first");
    world.admit(&agent.id).await;
    world.admit(&agent.id).await;
    let denied = world.try_admit(acquire(&unique("call"), &agent.id)).await;
    let status = refused(denied, Code::ResourceExhausted, "MAX_CONCURRENT_EXCEEDED");
    assert_eq!(status.metadata_of_reason()["scope"], "agent");
    let usage = world.usage(&agent.id).await;
    assert_eq!((usage.used, usage.used_outbound, usage.reserved_inbound), (3, 1, 2));
}

async fn the_tenants_cap_binds_over_all_of_its_agents(world: World) {
    let capped = world.capped_neighbour(2).await;
    let (one, other) = (capped.agent(10).await, capped.agent(10).await);
    let slot = capped.admit(&one.id).await;
    capped.admit(&other.id).await;
    let denied = capped.try_admit(acquire(&unique("call"), &other.id)).await;
    let status = refused(denied, Code::ResourceExhausted, "MAX_CONCURRENT_EXCEEDED");
    let told = status.metadata_of_reason();
    assert_eq!((told["scope"].as_str(), told["used"].as_str(), told["limit"].as_str()), ("tenant", "2", "2"));
    let quotas = status.quotas();
    assert!(quotas.iter().any(|(scope, text)| scope == "tenant" && text.contains("2 of 2")), "{quotas:?}");
    assert!(quotas.iter().any(|(scope, text)| scope == "agent" && text.contains("1 of 10")), "{quotas:?}");
    capped.release(&slot).await;
    capped.admit(&other.id).await;
    world.admit(&world.agent(1).await.id).await;
}

async fn the_same_call_again_is_answered_its_own_lease(world: World) {
    let agent = world.agent(1).await;
    let request = acquire(&unique("call"), &agent.id);
    let first = granted(world.try_admit(request.clone()).await);
    let again = granted(world.try_admit(request.clone()).await);
    assert_eq!((&first.lease_id, &first.session_id, first.fence), (&again.lease_id, &again.session_id, again.fence));
    assert_ne!(first.callback_token, again.callback_token, "the token is fresh");
    assert!(moment(again.expires_at) >= moment(first.expires_at));
    let shorter = AcquireSlotRequest { lease_ttl: Some(seconds(10)), ..request.clone() };
    let shorter = granted(world.try_admit(shorter).await);
    assert!(moment(shorter.expires_at) >= moment(again.expires_at), "asking again never brings the expiry nearer");
    let racers: Vec<_> = (0..20)
        .map(|_| {
            let (world, request) = (world.clone(), request.clone());
            tokio::spawn(async move { granted(world.try_admit(request).await).lease_id })
        })
        .collect();
    for racer in racers {
        assert_eq!(racer.await.expect("a racer"), first.lease_id);
    }
    assert_eq!(world.usage(&agent.id).await.used, 1);
}

async fn a_live_call_cannot_be_admitted_to_another_agent(world: World) {
    let (one, other) = (world.agent(1).await, world.agent(1).await);
    let slot = world.admit(&one.id).await;
    let denied = world.try_admit(acquire(&slot.call_id, &other.id)).await;
    let status = refused(denied, Code::FailedPrecondition, "CALL_ALREADY_ADMITTED");
    let told = status.metadata_of_reason();
    assert_eq!((told["call_id"].as_str(), told["voice_agent_id"].as_str()), (slot.call_id.as_str(), one.id.as_str()));
    assert_eq!(world.usage(&other.id).await.used, 0);
    world.release(&slot).await;
    granted(world.try_admit(acquire(&slot.call_id, &other.id)).await);
    let neighbour = world.neighbour().await;
    let theirs = neighbour.agent(1).await;
    granted(neighbour.try_admit(acquire(&slot.call_id, &theirs.id)).await);
}

async fn paused_and_archived_agents_take_no_new_call_and_keep_their_own(world: World) {
    let agent = world.agent(5).await;
    let slot = world.admit(&agent.id).await;
    let mut agents = world.caller.agents();
    let pause = PauseVoiceAgentRequest { id: agent.id.clone(), etag: String::new() };
    granted(agents.pause_voice_agent(pause).await);
    let denied = world.try_admit(acquire(&unique("call"), &agent.id)).await;
    refused(denied, Code::FailedPrecondition, "VOICE_AGENT_PAUSED");
    let again = granted(world.try_admit(acquire(&slot.call_id, &agent.id)).await);
    assert_eq!(again.lease_id, slot.lease_id, "a live call is not touched");
    let archive = ArchiveVoiceAgentRequest { id: agent.id.clone(), etag: String::new() };
    granted(agents.archive_voice_agent(archive).await);
    let denied = world.try_admit(acquire(&unique("call"), &agent.id)).await;
    let status = refused(denied, Code::FailedPrecondition, "VOICE_AGENT_ARCHIVED");
    assert_eq!(status.metadata_of_reason()["voice_agent_id"], agent.id);
    assert_eq!(renew(&world, vec![renewal(&slot)]).await[0].state(), LeaseState::Renewed);
}

async fn validate_only_takes_nothing_and_answers_the_same_denial(world: World) {
    let agent = world.agent(1).await;
    let probe = AcquireSlotRequest { validate_only: true, ..acquire(&unique("call"), &agent.id) };
    let answer = granted(world.try_admit(probe.clone()).await);
    assert_eq!((answer.session_id.as_str(), answer.lease_id.as_str(), answer.callback_token.as_str()), ("", "", ""));
    assert!(answer.routing.is_some() && answer.usage.is_some() && answer.expires_at.is_none());
    assert_eq!(world.usage(&agent.id).await.used, 0);
    world.admit(&agent.id).await;
    refused(world.try_admit(probe).await, Code::ResourceExhausted, "MAX_CONCURRENT_EXCEEDED");
}

async fn lease_lives_outside_their_bounds_are_refused(world: World) {
    let agent = world.agent(10).await;
    for (seconds, nanos) in [(9, 999_999_999), (0, 0), (-10, 0), (300, 1), (i64::MAX, 0), (20, -1)] {
        let lease_ttl = Some(prost_types::Duration { seconds, nanos });
        let request = AcquireSlotRequest { lease_ttl, ..acquire(&unique("call"), &agent.id) };
        assert_eq!(faults(world.try_admit(request).await), ["lease_ttl"], "{seconds} s {nanos} ns");
    }
    for bound in [10, 300] {
        let request = AcquireSlotRequest { lease_ttl: Some(seconds(bound)), ..acquire(&unique("call"), &agent.id) };
        let slot = granted(world.try_admit(request).await);
        let lease = moment(slot.expires_at).since(Env::system().now()).as_secs_f64();
        assert!((lease - f64::from(i32::try_from(bound).expect("small"))).abs() < 3.0, "{bound}: {lease}");
    }
    let request = AcquireSlotRequest { lease_ttl: None, ..acquire(&unique("call"), &agent.id) };
    let lease = moment(granted(world.try_admit(request).await).expires_at).since(Env::system().now());
    assert!((57..=61).contains(&lease.as_secs()), "the default is 60 s: {lease:?}");
}

async fn every_faulty_field_of_an_acquire_is_named_at_once(world: World) {
    let request = AcquireSlotRequest {
        call_id: "a b".into(),
        voice_agent_id: Some("not an id".into()),
        direction: 99,
        priority: 101,
        node_id: Some("x".repeat(129)),
        subprotocol: 99,
        lease_ttl: Some(seconds(1)),
        ..AcquireSlotRequest::default()
    };
    let mut named = faults(world.try_admit(request).await);
    named.sort();
    assert_eq!(named, ["call_id", "direction", "lease_ttl", "node_id", "priority", "subprotocol", "voice_agent_id"]);
    assert_eq!(faults(world.try_admit(AcquireSlotRequest::default()).await), ["call_id"]);
    for call in ["", "tab\t", "ünï", &"x".repeat(129)] {
        let agent = Env::system().uuid().to_string();
        assert_eq!(faults(world.try_admit(acquire(call, &agent)).await), ["call_id"], "{call:?}");
    }
    let release = ReleaseSlotRequest { lease_id: "x".into(), outcome: 99, ..ReleaseSlotRequest::default() };
    let mut named = faults(world.caller.calls().release_slot(release).await);
    named.sort();
    assert_eq!(named, ["call_id", "lease_id", "outcome"]);
    let usage = GetUsageRequest { voice_agent_id: Some("x".into()) };
    assert_eq!(faults(world.caller.calls().get_usage(usage).await), ["voice_agent_id"]);
}

async fn another_subprotocol_than_the_agents_is_refused(world: World) {
    let agent = world.agent(1).await;
    let request = |subprotocol: Subprotocol| AcquireSlotRequest {
        subprotocol: subprotocol.into(),
        ..acquire(&unique("call"), &agent.id)
    };
    let denied = world.try_admit(request(Subprotocol::AudioJambonzOrg)).await;
    let status = refused(denied, Code::FailedPrecondition, "SUBPROTOCOL_MISMATCH");
    let told = status.metadata_of_reason();
    assert_eq!(told["requested"], "audio.jambonz.org");
    assert_eq!(told["configured"], "audio.drachtio.org");
    granted(world.try_admit(request(Subprotocol::AudioDrachtioOrg)).await);
}

async fn a_renewal_tells_each_leases_fate(world: World) {
    let agent = world.agent(3).await;
    let (live, released) = (world.admit(&agent.id).await, world.admit(&agent.id).await);
    world.release(&released).await;
    let never = LeaseRenewal { call_id: unique("call"), ..renewal(&live) };
    let fates = renew(&world, vec![renewal(&released), renewal(&live), never]).await;
    let states: Vec<_> = fates.iter().map(LeaseRenewalResult::state).collect();
    assert_eq!(states[1], LeaseState::Renewed, "{fates:?}");
    assert!(matches!(states[0], LeaseState::Released | LeaseState::Lost), "{fates:?}");
    assert_eq!(states[2], LeaseState::Lost, "{fates:?}");
    assert!(fates[0].expires_at.is_none() && fates[2].expires_at.is_none());
    assert!(moment(fates[1].expires_at) > moment(live.expires_at));
    assert_eq!(fates.iter().map(|fate| &fate.call_id).collect::<Vec<_>>()[1], &live.call_id, "in their order");
    // A neighbour's renewal of our lease is as good as of none.
    let theirs = renew(&world.neighbour().await, vec![renewal(&live)]).await;
    assert_eq!(theirs[0].state(), LeaseState::Lost);
}

async fn more_than_a_thousand_renewals_are_refused_and_a_thousand_are_not(world: World) {
    let agent = world.agent(1).await;
    let slot = world.admit(&agent.id).await;
    let mut calls = world.caller.calls();
    let request = |count| RenewSlotsRequest { leases: vec![renewal(&slot); count] };
    assert_eq!(faults(calls.renew_slots(request(1_001)).await), ["leases"]);
    assert_eq!(faults(calls.renew_slots(request(0)).await), ["leases"]);
    let results = granted(calls.renew_slots(request(1_000)).await).results;
    assert_eq!(results.len(), 1_000);
    assert!(results.iter().all(|fate| fate.state() == LeaseState::Renewed));
    let faulty = LeaseRenewal { call_id: String::new(), lease_id: "x".into(), lease_ttl: Some(seconds(1)) };
    let request = RenewSlotsRequest { leases: vec![renewal(&slot), faulty] };
    let mut named = faults(calls.renew_slots(request).await);
    named.sort();
    assert_eq!(named, ["leases[1].call_id", "leases[1].lease_id", "leases[1].lease_ttl"]);
}

async fn releasing_twice_succeeds_and_says_so(world: World) {
    let agent = world.agent(1).await;
    let slot = world.admit(&agent.id).await;
    let mut calls = world.caller.calls();
    let first = granted(calls.release_slot(release(&slot, SessionOutcome::Unspecified)).await);
    let second = granted(calls.release_slot(release(&slot, SessionOutcome::Unspecified)).await);
    assert_eq!((first.released, second.released), (true, false));
    let usage = first.usage.expect("usage");
    assert_eq!((usage.used, usage.limit), (0, 1));
    assert_eq!(session(&world, &slot).await.outcome(), SessionOutcome::Released);
    let neighbour = world.neighbour().await;
    let held = world.admit(&agent.id).await;
    assert!(!neighbour.release(&held).await, "a neighbour frees nothing of ours");
    assert_eq!(world.usage(&agent.id).await.used, 1);
}

async fn releasing_ends_the_session_with_the_outcome_given(world: World) {
    let agent = world.agent(1).await;
    let slot = world.admit(&agent.id).await;
    granted(world.caller.calls().release_slot(release(&slot, SessionOutcome::CallerHangup)).await);
    let ended = session(&world, &slot).await;
    assert_eq!((ended.status(), ended.outcome()), (SessionStatus::Ended, SessionOutcome::CallerHangup));
    assert!(ended.ended_at.is_some());
}

async fn racing_releases_free_one_slot_once(world: World) {
    let agent = world.agent(2).await;
    let (slot, _other) = (world.admit(&agent.id).await, world.admit(&agent.id).await);
    let racers: Vec<_> = (0..50)
        .map(|_| {
            let (world, slot) = (world.clone(), slot.clone());
            tokio::spawn(async move { world.release(&slot).await })
        })
        .collect();
    let mut released = 0;
    for racer in racers {
        released += usize::from(racer.await.expect("a racer"));
    }
    assert_eq!((released, world.usage(&agent.id).await.used), (1, 1));
}

async fn a_late_release_never_touches_the_next_holders_slot(world: World) {
    let agent = world.agent(1).await;
    let first = world.admit(&agent.id).await;
    world.release(&first).await;
    let second = granted(world.try_admit(acquire(&first.call_id, &agent.id)).await);
    assert!(second.fence > first.fence && second.lease_id != first.lease_id);
    assert!(!world.release(&first).await);
    let fates = renew(&world, vec![renewal(&first), renewal(&second)]).await;
    assert_ne!(fates[0].state(), LeaseState::Renewed);
    assert_eq!(fates[1].state(), LeaseState::Renewed);
    assert_eq!(world.usage(&agent.id).await.used, 1);
}

async fn a_call_is_admitted_again_as_a_new_session_after_its_end(world: World) {
    let agent = world.agent(1).await;
    let first = world.admit(&agent.id).await;
    world.release(&first).await;
    let second = granted(world.try_admit(acquire(&first.call_id, &agent.id)).await);
    assert_ne!(first.session_id, second.session_id);
    let target = Some(get_session_request::Target::CallId(first.call_id.clone()));
    let latest = granted(world.caller.sessions().get_session(GetSessionRequest { target }).await);
    assert_eq!((latest.id, latest.status), (second.session_id, SessionStatus::Active.into()));
    assert_eq!(session(&world, &first).await.status(), SessionStatus::Ended);
}

async fn a_lease_that_nobody_renews_is_free_again(world: World) {
    let agent = world.agent(1).await;
    // The shortest lease there is: nobody else has its slot until it is over, and then somebody has.
    let request = AcquireSlotRequest { lease_ttl: Some(seconds(10)), ..acquire(&unique("call"), &agent.id) };
    let asked = Instant::now();
    let slot = granted(world.try_admit(request).await);
    loop {
        match world.try_admit(acquire(&unique("call"), &agent.id)).await {
            Ok(_) => break,
            Err(status) => assert_eq!(status.reason(), "MAX_CONCURRENT_EXCEEDED", "{status:?}"),
        }
        assert!(asked.elapsed() < Duration::from_secs(12), "it does not end");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert!(asked.elapsed() >= Duration::from_secs(10), "{:?}", asked.elapsed());
    assert_eq!(renew(&world, vec![renewal(&slot)]).await[0].state(), LeaseState::Lost);
    for _ in 0..100 {
        let ended = session(&world, &slot).await;
        if ended.outcome() == SessionOutcome::LeaseExpired {
            assert_eq!(ended.status(), SessionStatus::Expired);
            assert!(!world.release(&slot).await);
            assert_eq!(session(&world, &slot).await, ended, "a late release changes nothing");
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the session of the expired lease is still {:?}", session(&world, &slot).await);
}

async fn lowering_the_limit_ends_no_call_and_admits_none(world: World) {
    let agent = world.agent(3).await;
    let slots = [world.admit(&agent.id).await, world.admit(&agent.id).await, world.admit(&agent.id).await];
    let patch = VoiceAgent { id: agent.id.clone(), max_concurrent: Some(1), ..VoiceAgent::default() };
    let request = UpdateVoiceAgentRequest { voice_agent: Some(patch), update_mask: None };
    granted(world.caller.agents().update_voice_agent(request).await);
    let usage = world.usage(&agent.id).await;
    assert_eq!((usage.used, usage.limit), (3, 1));
    assert!(renew(&world, slots.iter().map(renewal).collect()).await.iter().all(|f| f.state() == LeaseState::Renewed));
    for slot in &slots {
        let denied = world.try_admit(acquire(&unique("call"), &agent.id)).await;
        refused(denied, Code::ResourceExhausted, "MAX_CONCURRENT_EXCEEDED");
        world.release(slot).await;
    }
    assert_eq!(world.admit(&agent.id).await.revision, 2);
}

async fn usage_of_the_tenant_counts_all_of_its_agents(world: World) {
    let capped = world.capped_neighbour(5).await;
    let (one, other) = (capped.agent(2).await, capped.agent(2).await);
    capped.admit(&one.id).await;
    granted(capped.try_admit(outbound(&unique("call"), &other.id)).await);
    let usage = granted(capped.caller.calls().get_usage(GetUsageRequest::default()).await);
    assert_eq!((usage.used, usage.limit, usage.voice_agent_id.as_str()), (2, 5, ""));
    let uncapped = granted(world.caller.calls().get_usage(GetUsageRequest::default()).await);
    assert_eq!((uncapped.used, uncapped.limit), (0, 0));
}

async fn a_release_whose_reply_was_lost_is_retried_and_ends_the_session_as_stated(world: World) {
    let agent = world.agent(1).await;
    for round in 0..20_u64 {
        let slot = world.admit(&agent.id).await;
        let (mut calls, request) = (world.caller.calls(), release(&slot, SessionOutcome::CallerHangup));
        let first = request.clone();
        let vanishing = tokio::spawn(async move { calls.release_slot(first).await });
        tokio::time::sleep(Duration::from_micros(round * 300)).await;
        vanishing.abort();
        granted(world.caller.calls().release_slot(request).await);
        // The first one may still be about to end it.
        assert_eq!(world.outcome(&slot).await, SessionOutcome::CallerHangup, "round {round}");
        assert_eq!(world.usage(&agent.id).await.used, 0, "round {round}");
    }
}

async fn a_call_keeps_its_lease_when_its_agent_is_edited(world: World) {
    let agent = world.agent(1).await;
    let request =
        AcquireSlotRequest { subprotocol: Subprotocol::AudioDrachtioOrg.into(), ..acquire(&unique("call"), &agent.id) };
    let first = granted(world.try_admit(request.clone()).await);
    let patch = VoiceAgent {
        id: agent.id.clone(),
        subprotocol: Some(Subprotocol::AudioJambonzOrg.into()),
        ..VoiceAgent::default()
    };
    let update = UpdateVoiceAgentRequest { voice_agent: Some(patch), update_mask: None };
    granted(world.caller.agents().update_voice_agent(update).await);
    let again = granted(world.try_admit(request).await);
    assert_eq!((&again.lease_id, &again.session_id, again.revision), (&first.lease_id, &first.session_id, 1));
    assert_eq!(again.routing.expect("routing").subprotocol(), Subprotocol::AudioDrachtioOrg);
}

fn nested(depth: usize) -> Struct {
    let mut kind = Kind::StringValue("x".into());
    for _ in 1..depth {
        kind = Kind::StructValue(object("k", kind));
    }
    object("k", kind)
}

fn object(key: &str, kind: Kind) -> Struct {
    Struct { fields: [(key.to_owned(), Value { kind: Some(kind) })].into() }
}

async fn metadata_that_cannot_be_kept_is_refused(world: World) {
    let agent = world.agent(2).await;
    let with = |metadata| AcquireSlotRequest { metadata: Some(metadata), ..acquire(&unique("call"), &agent.id) };
    let text = |length| Kind::StringValue("x".repeat(length));
    // {"k":"…"} is 8 bytes longer than its text.
    let largest = 16 * 1024 - 8;
    let faulty = [
        ("a NUL in a key", object("a\0b", text(1))),
        ("17 levels", nested(17)),
        ("more than 16 KiB", object("k", text(largest + 1))),
    ];
    for (what, metadata) in faulty {
        assert_eq!(faults(world.try_admit(with(metadata)).await), ["metadata"], "{what}");
    }
    assert_eq!(world.usage(&agent.id).await.used, 0);
    granted(world.try_admit(with(nested(16))).await);
    granted(world.try_admit(with(object("k", text(largest)))).await);
}

async fn outcomes_of_the_services_own_are_refused(world: World) {
    let agent = world.agent(1).await;
    let slot = world.admit(&agent.id).await;
    let own = [
        SessionOutcome::NodeLost,
        SessionOutcome::LeaseExpired,
        SessionOutcome::AgentDeleted,
        SessionOutcome::MaxDuration,
        SessionOutcome::MaxTurns,
        SessionOutcome::TokenExpired,
    ];
    for outcome in own {
        let answer = world.caller.calls().release_slot(release(&slot, outcome)).await;
        assert_eq!(faults(answer), ["outcome"], "{outcome:?}");
        let target = Some(end_session_request::Target::SessionId(slot.session_id.clone()));
        let end = EndSessionRequest { target, outcome: outcome.into() };
        assert_eq!(faults(world.caller.sessions().end_session(end).await), ["outcome"], "{outcome:?}");
    }
    assert_eq!(session(&world, &slot).await.status(), SessionStatus::Active);
    assert_eq!(world.usage(&agent.id).await.used, 1);
}

async fn no_session_of_a_deleted_agent_stays_active(world: World) {
    for round in 0..24 {
        let agent = world.agent(5).await;
        let racers: Vec<_> = (0..3)
            .map(|_| {
                let (world, agent) = (world.clone(), agent.id.clone());
                tokio::spawn(async move { world.try_admit(acquire(&unique("call"), &agent)).await })
            })
            .collect();
        let delete = DeleteVoiceAgentRequest { id: agent.id, etag: String::new(), force: round % 2 == 0 };
        let deleted = world.caller.agents().delete_voice_agent(delete).await;
        for racer in racers {
            match racer.await.expect("a racer") {
                Ok(slot) if deleted.is_ok() => {
                    assert_eq!(world.outcome(slot.get_ref()).await, SessionOutcome::AgentDeleted, "round {round}");
                }
                Ok(slot) => assert!(world.release(slot.get_ref()).await),
                Err(status) => assert_eq!(status.reason(), "VOICE_AGENT_NOT_FOUND", "round {round}: {status:?}"),
            }
        }
        if let Err(status) = deleted {
            assert_eq!(status.reason(), "VOICE_AGENT_IN_USE", "round {round}: {status:?}");
        }
    }
}
