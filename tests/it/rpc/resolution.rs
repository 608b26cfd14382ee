//! Which agent takes a call that names none.

use std::collections::BTreeSet;

use tonic::Code;
use voxgate::proto::v1::{
    AcquireSlotRequest, ArchiveVoiceAgentRequest, CreateTenantRequest, GetDefaultVoiceAgentRequest,
    GetVoiceAgentRequest, ListVoiceAgentsRequest, PauseVoiceAgentRequest, ResolutionResult, ResolutionSource,
    ResolveVoiceAgentRequest, ResolveVoiceAgentResponse, SetDefaultVoiceAgentRequest, Subprotocol, Tenant,
    TokenLifetime, VoiceAgent,
};

use crate::harness::{
    client::{Explained as _, faults, granted, refused},
    pair::Pair,
    world::{World, acquire, on_both_backends, unique},
};

on_both_backends!(
    the_flow_node_comes_before_the_campaign_and_that_before_the_default,
    a_pinned_agent_is_never_skipped,
    without_anything_to_go_by_nothing_is_guessed,
    the_first_resolution_makes_the_default_once,
    validating_makes_nothing_and_says_what_it_would,
    a_call_that_names_no_agent_is_admitted_by_its_hints,
    hints_that_are_no_ids_are_named,
);

const WS_URL: &str = "wss://ai.example/default";

/// A tenant with a `default_ws_url`.
async fn with_default_url(world: &World) -> World {
    let tenant = Tenant { name: Some(unique("tenant")), default_ws_url: Some(WS_URL.to_owned()), ..Tenant::default() };
    let made = granted(world.operator.tenants().create_tenant(CreateTenantRequest { tenant: Some(tenant) }).await);
    let world = World { tenant: made.id, ..world.clone() };
    let key = world.new_key(&crate::harness::world::TENANT_SCOPES).await.secret;
    World { caller: world.operator.with(&key), key, ..world }
}

async fn resolve(
    world: &World,
    flow_node: Option<&VoiceAgent>,
    campaign: Option<&VoiceAgent>,
) -> ResolveVoiceAgentResponse {
    granted(world.caller.agents().resolve_voice_agent(hints(flow_node, campaign)).await)
}

fn hints(flow_node: Option<&VoiceAgent>, campaign: Option<&VoiceAgent>) -> ResolveVoiceAgentRequest {
    ResolveVoiceAgentRequest {
        flow_node_voice_agent_id: flow_node.map(|agent| agent.id.clone()),
        campaign_voice_agent_id: campaign.map(|agent| agent.id.clone()),
        validate_only: false,
    }
}

fn steps(answer: &ResolveVoiceAgentResponse) -> Vec<(ResolutionSource, ResolutionResult)> {
    answer.steps.iter().map(|step| (step.source(), step.result())).collect()
}

async fn set_default(world: &World, agent: Option<&VoiceAgent>) {
    let voice_agent_id = agent.map(|agent| agent.id.clone());
    granted(world.caller.agents().set_default_voice_agent(SetDefaultVoiceAgentRequest { voice_agent_id }).await);
}

async fn count(world: &World) -> i32 {
    granted(world.caller.agents().list_voice_agents(ListVoiceAgentsRequest::default()).await).total_size
}

async fn the_flow_node_comes_before_the_campaign_and_that_before_the_default(world: World) {
    use ResolutionResult::{Chosen, NotSet};
    use ResolutionSource::{Campaign, FlowNode, TenantDefault};
    let (flow, campaign, default) = (world.agent(1).await, world.agent(1).await, world.agent(1).await);
    set_default(&world, Some(&default)).await;
    let first = resolve(&world, Some(&flow), Some(&campaign)).await;
    assert_eq!((first.source(), steps(&first)), (FlowNode, vec![(FlowNode, Chosen)]));
    assert_eq!(first.voice_agent, Some(flow));
    let second = resolve(&world, None, Some(&campaign)).await;
    assert_eq!((second.source(), steps(&second)), (Campaign, vec![(FlowNode, NotSet), (Campaign, Chosen)]));
    assert_eq!(second.steps[1].voice_agent_id, Some(campaign.id));
    let third = resolve(&world, None, None).await;
    let looked_at = vec![(FlowNode, NotSet), (Campaign, NotSet), (TenantDefault, Chosen)];
    assert_eq!((third.source(), steps(&third)), (TenantDefault, looked_at));
    assert_eq!(third.voice_agent.expect("an agent").id, default.id);
}

async fn a_pinned_agent_is_never_skipped(world: World) {
    let (good, paused, archived) = (world.agent(1).await, world.agent(1).await, world.agent(1).await);
    set_default(&world, Some(&good)).await;
    let mut agents = world.caller.agents();
    let pause = PauseVoiceAgentRequest { id: paused.id.clone(), ..PauseVoiceAgentRequest::default() };
    granted(agents.pause_voice_agent(pause).await);
    let archive = ArchiveVoiceAgentRequest { id: archived.id.clone(), ..ArchiveVoiceAgentRequest::default() };
    granted(agents.archive_voice_agent(archive).await);
    let theirs = world.neighbour().await.agent(1).await;
    let faulty = [
        (&paused, Code::FailedPrecondition, "VOICE_AGENT_PAUSED"),
        (&archived, Code::FailedPrecondition, "VOICE_AGENT_ARCHIVED"),
        (&theirs, Code::NotFound, "VOICE_AGENT_NOT_FOUND"),
    ];
    for (pinned, code, reason) in faulty {
        refused(agents.resolve_voice_agent(hints(Some(pinned), Some(&good))).await, code, reason);
        refused(agents.resolve_voice_agent(hints(None, Some(pinned))).await, code, reason);
        let call = AcquireSlotRequest {
            voice_agent_id: None,
            flow_node_voice_agent_id: Some(pinned.id.clone()),
            ..acquire(&unique("call"), "")
        };
        refused(world.try_admit(call).await, code, reason);
    }
    let pause = PauseVoiceAgentRequest { id: good.id.clone(), ..PauseVoiceAgentRequest::default() };
    granted(agents.pause_voice_agent(pause).await);
    let answer = agents.resolve_voice_agent(hints(None, None)).await;
    refused(answer, Code::FailedPrecondition, "VOICE_AGENT_PAUSED");
}

async fn without_anything_to_go_by_nothing_is_guessed(world: World) {
    world.agent(1).await;
    let answer = world.caller.agents().resolve_voice_agent(hints(None, None)).await;
    let status = refused(answer, Code::FailedPrecondition, "NO_VOICE_AGENT_CONFIGURED");
    assert_eq!(status.metadata_of_reason().get("tenant_id"), Some(&world.tenant));
    let call = world.try_admit(acquire(&unique("call"), "")).await;
    refused(call, Code::FailedPrecondition, "NO_VOICE_AGENT_CONFIGURED");
}

async fn the_first_resolution_makes_the_default_once(world: World) {
    let world = with_default_url(&world).await;
    let first = resolve(&world, None, None).await;
    assert_eq!(first.source(), ResolutionSource::LazyDefault);
    assert_eq!(steps(&first).last(), Some(&(ResolutionSource::LazyDefault, ResolutionResult::Created)));
    let made = first.voice_agent.expect("an agent");
    assert_eq!((made.ws_url(), made.max_concurrent(), made.has_auth_token), (WS_URL, 100, false));
    assert_eq!(made.subprotocol(), Subprotocol::AudioDrachtioOrg);
    assert_eq!(made.token_lifetime(), TokenLifetime::ThirtyMinWithRefresh);
    let second = resolve(&world, None, None).await;
    assert_eq!(second.source(), ResolutionSource::TenantDefault, "pinned from now on");
    assert_eq!(second.voice_agent.as_ref(), Some(&made));
    let default = world.caller.agents().get_default_voice_agent(GetDefaultVoiceAgentRequest {}).await;
    assert_eq!(granted(default).voice_agent_id.as_ref(), Some(&made.id));
    let read = GetVoiceAgentRequest { id: made.id.clone(), revision: 1, ..GetVoiceAgentRequest::default() };
    assert_eq!(granted(world.caller.agents().get_voice_agent(read).await), made);
    assert_eq!(count(&world).await, 1);
}

async fn validating_makes_nothing_and_says_what_it_would(world: World) {
    let world = with_default_url(&world).await;
    let request = ResolveVoiceAgentRequest { validate_only: true, ..hints(None, None) };
    let answer = granted(world.caller.agents().resolve_voice_agent(request).await);
    assert_eq!(steps(&answer).last(), Some(&(ResolutionSource::LazyDefault, ResolutionResult::WouldCreate)));
    let described = answer.voice_agent.expect("described");
    assert_eq!((described.id.as_str(), described.revision, described.ws_url()), ("", 0, WS_URL));
    let call = AcquireSlotRequest { validate_only: true, ..acquire(&unique("call"), "") };
    let slot = granted(world.try_admit(call).await);
    assert_eq!((slot.voice_agent_id.as_str(), slot.revision, slot.lease_id.as_str()), ("", 0, ""));
    assert_eq!(slot.usage.expect("usage").limit, 100);
    assert_eq!(slot.resolution.expect("told").source(), ResolutionSource::LazyDefault);
    assert_eq!(count(&world).await, 0);
}

async fn a_call_that_names_no_agent_is_admitted_by_its_hints(world: World) {
    let world = with_default_url(&world).await;
    let call = unique("call");
    let slot = granted(world.try_admit(acquire(&call, "")).await);
    let resolution = slot.resolution.expect("told");
    assert_eq!(resolution.source(), ResolutionSource::LazyDefault);
    assert_eq!(resolution.steps.last().and_then(|step| step.voice_agent_id.clone()), Some(slot.voice_agent_id.clone()));
    let again = granted(world.try_admit(acquire(&call, "")).await);
    let slot_of_default = slot.lease_id;
    assert_eq!(
        (&again.lease_id, again.resolution.expect("told").source()),
        (&slot_of_default, ResolutionSource::TenantDefault)
    );
    let campaign = world.agent(1).await;
    let hinted =
        AcquireSlotRequest { campaign_voice_agent_id: Some(campaign.id.clone()), ..acquire(&unique("call"), "") };
    let slot = granted(world.try_admit(hinted.clone()).await);
    assert_eq!(slot.voice_agent_id, campaign.id);
    // The same call again keeps its lease, whatever its hints lead to by now.
    set_default(&world, Some(&campaign)).await;
    let elsewhere = granted(world.try_admit(acquire(&call, "")).await);
    assert_eq!(
        (&elsewhere.lease_id, elsewhere.resolution.expect("told").source()),
        (&slot_of_default, ResolutionSource::Explicit)
    );
    set_default(&world, None).await;
    assert_eq!(granted(world.try_admit(acquire(&call, "")).await).lease_id, slot_of_default);
    assert_eq!(count(&world).await, 2, "no other default was made for it");
    // And although its agent is paused by now.
    let pause = PauseVoiceAgentRequest { id: campaign.id.clone(), ..PauseVoiceAgentRequest::default() };
    granted(world.caller.agents().pause_voice_agent(pause).await);
    assert_eq!(granted(world.try_admit(hinted).await).lease_id, slot.lease_id);
}

async fn hints_that_are_no_ids_are_named(world: World) {
    let bad = ResolveVoiceAgentRequest {
        flow_node_voice_agent_id: Some("x".into()),
        campaign_voice_agent_id: Some("ü".into()),
        validate_only: false,
    };
    let named = ["flow_node_voice_agent_id", "campaign_voice_agent_id"];
    assert_eq!(faults(world.caller.agents().resolve_voice_agent(bad).await), named);
    let bad = AcquireSlotRequest {
        flow_node_voice_agent_id: Some("x".into()),
        campaign_voice_agent_id: Some("ü".into()),
        ..acquire(&unique("call"), "")
    };
    assert_eq!(faults(world.try_admit(bad).await), named);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_first_resolutions_on_two_replicas_make_one_agent() {
    let pair = Pair::start().await;
    let world = with_default_url(&pair.worlds[0]).await;
    let worlds = [world.clone(), world.through(&pair.servers[1].addr)];
    let racers: Vec<_> = (0..200)
        .map(|racer| {
            let world = worlds[racer % 2].clone();
            tokio::spawn(async move { resolve(&world, None, None).await })
        })
        .collect();
    let (mut ids, mut made) = (BTreeSet::new(), 0);
    for racer in racers {
        let answer = racer.await.expect("a racer");
        made += usize::from(answer.source() == ResolutionSource::LazyDefault);
        ids.insert(answer.voice_agent.expect("an agent").id);
    }
    assert_eq!((ids.len(), made), (1, 1), "{ids:?}");
    for world in &worlds {
        let default = world.caller.agents().get_default_voice_agent(GetDefaultVoiceAgentRequest {}).await;
        assert_eq!(granted(default).voice_agent_id.as_ref(), ids.first());
        assert_eq!(count(world).await, 1);
    }
}
