//! Where a tenant's calls may be sent, and what its nodes may be told to fetch.

use std::collections::BTreeSet;

use tonic::{Code, Response, Status};
use voxgate::proto::v1::{
    CallState, ConferenceAddRequest, ConferenceAddResponse, ConferenceStartRequest, CreateTenantRequest,
    CreateVoiceAgentRequest, DestinationPolicy, GetCallStateRequest, GetTenantRequest, HoldRequest, NumberClass,
    ParticipantType, PlayAudioRequest, SessionOutcome, SessionStatus, Slot, Tenant, TransferDestination,
    TransferRequest, TransferResponse, UnholdRequest, UpdateTenantRequest, VoiceAgent, WsDisconnectAction,
    WsDisconnected, call_event::Event, control_message::Message as Told, transfer_destination::Destination,
};

use super::descriptors::fields_of;
use crate::harness::{
    client::{Caller, Explained as _, faults, granted, refused},
    raw_node::{Commands, RawNode, hello},
    server::TestServer,
    world::{World, minimal_agent, on_both_backends, unique},
};

on_both_backends!(
    a_policy_is_written_by_create_and_as_a_whole_by_update,
    every_faulty_field_of_a_policy_is_named_at_once,
    without_a_policy_every_destination_is_allowed,
    transfers_and_parties_go_where_the_longest_prefix_allows,
    a_denied_class_is_not_dialled,
    a_sip_uri_needs_an_allowed_host_and_the_number_that_it_carries_allowed_too,
    a_transfer_by_default_obeys_the_policy_too,
    people_and_queues_of_the_platform_are_not_judged,
    no_sip_value_smuggles_a_header,
    a_refused_verb_changes_nothing_and_leaves_its_key_free,
    a_dropped_websockets_transfer_to_a_denied_destination_ends_the_call_instead,
    faulty_media_urls_are_named_with_all_else_at_fault,
);

fn words(items: &[&str]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn numbers(allowed: &[&str], denied: &[&str]) -> DestinationPolicy {
    DestinationPolicy {
        e164_allow_prefixes: words(allowed),
        e164_deny_prefixes: words(denied),
        ..DestinationPolicy::default()
    }
}

fn full() -> DestinationPolicy {
    DestinationPolicy {
        deny_classes: vec![NumberClass::PremiumRate.into(), NumberClass::GlobalNetwork.into()],
        sip_allow_hosts: words(&["pbx.example", "*.trunk.example", "192.0.2.7", "[2001:db8::1]"]),
        ..numbers(&["+49", "+1"], &["+4930", "+1900"])
    }
}

fn update(world: &World, patch: Tenant, paths: &[&str]) -> UpdateTenantRequest {
    let tenant = Some(Tenant { id: world.tenant.clone(), ..patch });
    let update_mask = (!paths.is_empty()).then(|| prost_types::FieldMask { paths: words(paths) });
    UpdateTenantRequest { tenant, update_mask }
}

fn having(policy: Option<DestinationPolicy>) -> Tenant {
    Tenant { destination_policy: policy, ..Tenant::default() }
}

async fn decree(world: &World, policy: DestinationPolicy) {
    granted(world.operator.tenants().update_tenant(update(world, having(Some(policy)), &[])).await);
}

/// A call in a conference on an obedient node, and its AI service.
struct Guarded {
    world: World,
    slot: Slot,
    service: Caller,
    commands: Commands,
}

impl Guarded {
    async fn on(world: World) -> Self {
        Self::of(world, minimal_agent()).await
    }

    async fn of(world: World, agent: VoiceAgent) -> Self {
        let (raw, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
        let commands = raw.obey();
        let slot = world.admit(&world.create(agent).await.id).await;
        let service = world.caller.with(&slot.callback_token);
        let request = ConferenceStartRequest { call_id: slot.call_id.clone(), ..ConferenceStartRequest::default() };
        granted(service.calls().conference_start(request).await);
        Self { world, slot, service, commands }
    }

    async fn transfer(&self, destination: Option<Destination>) -> Result<Response<TransferResponse>, Status> {
        self.transfer_by("", destination).await
    }

    async fn transfer_by(
        &self,
        key: &str,
        destination: Option<Destination>,
    ) -> Result<Response<TransferResponse>, Status> {
        let destination = destination.map(|destination| TransferDestination { destination: Some(destination) });
        let request = TransferRequest {
            call_id: self.slot.call_id.clone(),
            idempotency_key: key.to_owned(),
            destination,
            ..TransferRequest::default()
        };
        patiently(async || self.service.calls().transfer(request.clone()).await).await
    }

    async fn add(&self, kind: ParticipantType, destination: &str) -> Result<Response<ConferenceAddResponse>, Status> {
        let request = ConferenceAddRequest {
            call_id: self.slot.call_id.clone(),
            participant_type: kind.into(),
            destination: destination.to_owned(),
            ..ConferenceAddRequest::default()
        };
        patiently(async || self.service.calls().conference_add(request.clone()).await).await
    }

    async fn state(&self) -> CallState {
        let request = GetCallStateRequest { call_id: self.slot.call_id.clone(), ..GetCallStateRequest::default() };
        let answer = patiently(async || self.service.calls().get_call_state(request.clone()).await).await;
        granted(answer).call_state.expect("a state")
    }

    /// Verbs that have reached the node.
    fn commanded(&self) -> usize {
        self.commands.of_call(&self.slot.call_id).len()
    }

    /// Neither a transfer nor an invitation to `address` reaches the node, and neither refusal repeats it.
    async fn refuses(&self, kind: ParticipantType, address: &str) {
        let before = self.commanded();
        let (destination, word) = match kind {
            ParticipantType::E164 => (Destination::E164(address.to_owned()), "e164"),
            ParticipantType::SipUri => (Destination::SipUri(address.to_owned()), "sip_uri"),
            other => panic!("{other:?} is not judged"),
        };
        let transfer = self.transfer(Some(destination)).await.map(|_| ());
        let add = self.add(kind, address).await.map(|_| ());
        for answer in [transfer, add] {
            let status = refused(answer.map(Response::new), Code::PermissionDenied, "DESTINATION_NOT_ALLOWED");
            let told = [("call_id", self.slot.call_id.as_str()), ("destination_type", word)];
            let told = told.map(|(key, value)| (key.to_owned(), value.to_owned()));
            assert_eq!(status.metadata_of_reason(), told.into(), "{address}");
            assert!(!format!("{status:?}").contains(address), "{status:?}");
        }
        assert_eq!(self.commanded(), before, "{address} reached the node");
    }

    async fn dials(&self, kind: ParticipantType, address: &str) {
        granted(self.add(kind, address).await);
    }
}

/// Asks again where the verbs that a call is given in a second were used up.
async fn patiently<T>(ask: impl AsyncFn() -> Result<Response<T>, Status>) -> Result<Response<T>, Status> {
    loop {
        match ask().await {
            Err(status) if status.reason() == "RATE_LIMITED" => {
                tokio::time::sleep(status.retry_delay().expect("a delay")).await;
            }
            answer => return answer,
        }
    }
}

async fn a_policy_is_written_by_create_and_as_a_whole_by_update(world: World) {
    let mut tenants = world.operator.tenants();
    let tenant = Tenant { name: Some(unique("tenant")), ..having(Some(full())) };
    let created = granted(tenants.create_tenant(CreateTenantRequest { tenant: Some(tenant) }).await);
    assert_eq!(created.destination_policy, Some(full()));
    assert_eq!(granted(tenants.get_tenant(GetTenantRequest { id: created.id.clone() }).await), created);

    let own = || GetTenantRequest { id: world.tenant.clone() };
    assert_eq!(granted(tenants.get_tenant(own()).await).destination_policy, None, "there is none by default");
    let set = granted(tenants.update_tenant(update(&world, having(Some(full())), &[])).await);
    assert_eq!(set.destination_policy, Some(full()), "without a mask what is present changes");
    let renamed = Tenant { name: Some("Bea".into()), ..having(None) };
    let kept = granted(tenants.update_tenant(update(&world, renamed, &[])).await);
    assert_eq!((kept.name(), &kept.destination_policy), ("Bea", &Some(full())), "and what is absent stays");
    let other = Tenant { name: Some("Cea".into()), ..having(Some(numbers(&["+44"], &[]))) };
    let replaced = granted(tenants.update_tenant(update(&world, other.clone(), &["destination_policy"])).await);
    let expected = Tenant { destination_policy: Some(numbers(&["+44"], &[])), updated_at: replaced.updated_at, ..kept };
    assert_eq!(replaced, expected, "as a whole, and nothing else");
    let beside = granted(tenants.update_tenant(update(&world, having(Some(full())), &["max_concurrent"])).await);
    assert_eq!(beside.destination_policy, Some(numbers(&["+44"], &[])), "not in the mask");
    let inner = update(&world, other, &["destination_policy.e164_allow_prefixes"]);
    assert_eq!(faults(tenants.update_tenant(inner).await), ["update_mask.destination_policy.e164_allow_prefixes"]);
    let cleared = granted(tenants.update_tenant(update(&world, having(None), &["destination_policy"])).await);
    assert_eq!(cleared.destination_policy, None, "masked and absent");
    assert_eq!(granted(tenants.get_tenant(own()).await), cleared);

    let spelt = DestinationPolicy { sip_allow_hosts: words(&["PBX.Example."]), ..DestinationPolicy::default() };
    let read = granted(tenants.update_tenant(update(&world, having(Some(spelt)), &[])).await);
    assert_eq!(read.destination_policy.expect("a policy").sip_allow_hosts, ["pbx.example"]);
}

async fn every_faulty_field_of_a_policy_is_named_at_once(world: World) {
    let policy = DestinationPolicy {
        e164_allow_prefixes: words(&["+49", "0049", "+1234567890123456"]),
        e164_deny_prefixes: vec!["+1".to_owned(); 1_001],
        deny_classes: vec![NumberClass::Satellite.into(), 0, 99],
        sip_allow_hosts: words(&["pbx.example", "*", "sip:pbx.example", "pbx.example\r\nX: y"]),
    };
    let wrong = Tenant { name: Some(" ".into()), ..having(Some(policy)) };
    let expected = [
        "tenant.name",
        "tenant.destination_policy.e164_allow_prefixes[1]",
        "tenant.destination_policy.e164_allow_prefixes[2]",
        "tenant.destination_policy.e164_deny_prefixes",
        "tenant.destination_policy.deny_classes[1]",
        "tenant.destination_policy.deny_classes[2]",
        "tenant.destination_policy.sip_allow_hosts[1]",
        "tenant.destination_policy.sip_allow_hosts[2]",
        "tenant.destination_policy.sip_allow_hosts[3]",
    ];
    let mut tenants = world.operator.tenants();
    let create = CreateTenantRequest { tenant: Some(wrong.clone()) };
    assert_eq!(faults(tenants.create_tenant(create).await), expected);
    assert_eq!(faults(tenants.update_tenant(update(&world, wrong, &[])).await), expected);
    let named: BTreeSet<_> =
        expected.iter().filter_map(|path| path.strip_prefix("tenant.destination_policy.")?.split('[').next()).collect();
    assert_eq!(named, fields_of("DestinationPolicy").iter().map(String::as_str).collect(), "each has its rule here");

    let long = numbers(&vec!["+1"; 101], &[]);
    let hosts = DestinationPolicy { sip_allow_hosts: vec!["h".into(); 101], ..long };
    let named = faults(tenants.update_tenant(update(&world, having(Some(hosts)), &[])).await);
    let lists = ["e164_allow_prefixes", "sip_allow_hosts"].map(|list| format!("tenant.destination_policy.{list}"));
    assert_eq!(named, lists);
}

async fn without_a_policy_every_destination_is_allowed(world: World) {
    let call = Guarded::on(world).await;
    call.dials(ParticipantType::E164, "+97912345").await;
    call.dials(ParticipantType::SipUri, "sip:+8811234567@192.0.2.1;user=phone").await;
    decree(&call.world, DestinationPolicy::default()).await;
    call.dials(ParticipantType::E164, "+97912345").await;
    let away = call.transfer(Some(Destination::SipUri("sip:a@anywhere.example".into()))).await;
    assert_eq!(granted(away).outcome(), SessionOutcome::TransferredSipUri);
}

async fn transfers_and_parties_go_where_the_longest_prefix_allows(world: World) {
    let call = Guarded::on(world).await;
    decree(&call.world, numbers(&["+49", "+4930123", "+1"], &["+4930", "+1"])).await;
    for bad in ["+49304567890", "+15550100", "+33123456789"] {
        call.refuses(ParticipantType::E164, bad).await;
    }
    for good in ["+4940123456", "+49301234567"] {
        call.dials(ParticipantType::E164, good).await;
    }
    decree(&call.world, numbers(&[], &["+49"])).await;
    call.refuses(ParticipantType::E164, "+49301234567").await;
    let away = call.transfer(Some(Destination::E164("+15550100".into()))).await;
    assert_eq!(granted(away).outcome(), SessionOutcome::TransferredE164);
}

async fn a_denied_class_is_not_dialled(world: World) {
    let call = Guarded::on(world).await;
    let classes = [NumberClass::PremiumRate, NumberClass::Satellite].map(Into::into).to_vec();
    decree(&call.world, DestinationPolicy { deny_classes: classes, ..numbers(&["+1", "+8", "+9005550100"], &[]) })
        .await;
    for bad in ["+97912345", "+19005550100", "+870123456", "+8811234567", "+882161234"] {
        call.refuses(ParticipantType::E164, bad).await;
    }
    call.refuses(ParticipantType::SipUri, "sip:%2B1-(900)-555.0100@gw.example;user=phone").await;
    for good in ["+15550100", "+883123456"] {
        call.dials(ParticipantType::E164, good).await;
    }
}

async fn a_sip_uri_needs_an_allowed_host_and_the_number_that_it_carries_allowed_too(world: World) {
    let call = Guarded::on(world).await;
    let hosts = words(&["pbx.example", "*.trunk.example"]);
    decree(&call.world, DestinationPolicy { sip_allow_hosts: hosts, ..numbers(&["+49"], &["+4930"]) }).await;
    for bad in [
        "sip:desk@evil.example",
        "sip:desk@trunk.example",
        "sip:pbx.example@evil.example",
        "sip:desk@192.0.2.1",
        "sip:desk@pbx.example;maddr=192.0.2.1",
        "sip:+15550100@pbx.example",
        "sip:%2b49-30-123456@pbx.example;user=phone",
        "sips:+4930123456:secret@a.trunk.example:5061",
    ] {
        call.refuses(ParticipantType::SipUri, bad).await;
    }
    for good in ["sip:desk@PBX.example.:5060", "sips:a@b.a.Trunk.Example", "sip:+4940123456@pbx.example;user=phone"] {
        call.dials(ParticipantType::SipUri, good).await;
    }
}

async fn a_transfer_by_default_obeys_the_policy_too(world: World) {
    let agent = VoiceAgent { transfer_destination: Some("+97912345".into()), ..minimal_agent() };
    let call = Guarded::of(world, agent).await;
    decree(&call.world, numbers(&[], &["+979"])).await;
    refused(call.transfer(None).await, Code::PermissionDenied, "DESTINATION_NOT_ALLOWED");
    decree(&call.world, numbers(&["+979"], &[])).await;
    assert_eq!(granted(call.transfer(None).await).outcome(), SessionOutcome::TransferredE164);
}

async fn people_and_queues_of_the_platform_are_not_judged(world: World) {
    let call = Guarded::on(world).await;
    let hosts = words(&["pbx.example"]);
    decree(&call.world, DestinationPolicy { sip_allow_hosts: hosts, ..numbers(&["+49"], &[]) }).await;
    call.dials(ParticipantType::Agent, "+97912345").await;
    call.dials(ParticipantType::Supervisor, "sip:ada@evil.example").await;
    let away = call.transfer(Some(Destination::AgentQueue("+97912345".into()))).await;
    assert_eq!(granted(away).outcome(), SessionOutcome::TransferredAgentQueue);
}

async fn no_sip_value_smuggles_a_header(world: World) {
    let call = Guarded::on(world).await;
    let before = call.commanded();
    for smuggler in [
        "sip:a@pbx.example\r\nX-Evil: 1",
        "sip:a@pbx.example\n",
        "sip:a\r@pbx.example",
        "sip:a@pbx.example%0d%0aX-Evil:1",
        "sip:a%0D%0AX-Evil:1@pbx.example",
        "sip:a@pbx.example;x=%0a",
        "sip:a@pbx.example?X-Evil=1",
        "sip:a@pbx.example;x?Route=%3Csip:evil.example%3E",
        "sip:a@pbx.example>;tag=1",
        "<sip:a@pbx.example>",
        "\"A\" sip:a@pbx.example",
        "sip:a@pbx.example@evil.example",
        "sip:a@pbx.example\0",
    ] {
        let transfer = call.transfer(Some(Destination::SipUri(smuggler.into()))).await;
        assert_eq!(faults(transfer), ["destination.sip_uri"], "{smuggler:?}");
        assert_eq!(faults(call.add(ParticipantType::SipUri, smuggler).await), ["destination"], "{smuggler:?}");
        let agent = VoiceAgent { transfer_destination: Some(smuggler.into()), ..minimal_agent() };
        let request = CreateVoiceAgentRequest { voice_agent: Some(agent), request_id: String::new() };
        let created = call.world.caller.agents().create_voice_agent(request).await;
        assert_eq!(faults(created), ["voice_agent.transfer_destination"], "{smuggler:?}");
    }
    assert_eq!(call.commanded(), before);
}

async fn a_refused_verb_changes_nothing_and_leaves_its_key_free(world: World) {
    let call = Guarded::on(world).await;
    decree(&call.world, numbers(&["+49"], &[])).await;
    let (before, commanded) = (call.state().await, call.commanded());
    for _ in 0..2 {
        let away = call.transfer_by("key", Some(Destination::E164("+97912345".into()))).await;
        refused(away, Code::PermissionDenied, "DESTINATION_NOT_ALLOWED");
    }
    assert_eq!(call.state().await, before);
    assert_eq!(call.world.session(&call.slot).await.status(), SessionStatus::Active);
    assert_eq!(call.commanded(), commanded, "the node has heard of nothing");
    let allowed = granted(call.transfer_by("key", Some(Destination::E164("+49301234567".into()))).await);
    assert_eq!((allowed.outcome(), allowed.replayed), (SessionOutcome::TransferredE164, false));
    assert_eq!(call.commanded(), commanded + 1);
    // What has happened is answered again, whatever the rules say by now.
    decree(&call.world, numbers(&[], &["+49"])).await;
    assert!(granted(call.transfer_by("key", Some(Destination::E164("+49301234567".into()))).await).replayed);
}

async fn a_dropped_websockets_transfer_to_a_denied_destination_ends_the_call_instead(world: World) {
    decree(&world, numbers(&[], &["+1555"])).await;
    let (mut raw, _) = RawNode::welcomed(&world, hello(&world, &unique("node"))).await;
    let agent = VoiceAgent {
        ws_disconnect_action: Some(WsDisconnectAction::TransferToQueue.into()),
        transfer_destination: Some("+15550100".into()),
        ..minimal_agent()
    };
    let slot = world.admit(&world.create(agent).await.id).await;
    raw.assigned().await;
    raw.report(&slot.call_id, Event::WsDisconnected(WsDisconnected { code: 1006, reason: String::new() })).await;
    match raw.hear().await.expect("no end") {
        Some(Told::EndCall(end)) => assert_eq!(end.call_id, slot.call_id),
        other => panic!("expected the end of the call, heard {other:?}"),
    }
    assert_eq!(world.outcome(&slot).await, SessionOutcome::WsDisconnected);
    world.freed(&slot.voice_agent_id).await;
}

async fn faulty_media_urls_are_named_with_all_else_at_fault(world: World) {
    let mut calls = world.caller.calls();
    for url in ["http://media.example/a", "https://[64:ff9b::10.0.0.1]/a", "https://198.18.0.1/a"] {
        let key = "k".repeat(129);
        let hold = HoldRequest { idempotency_key: key.clone(), moh_url: Some(url.into()), ..HoldRequest::default() };
        assert_eq!(faults(calls.hold(hold).await), ["call_id", "idempotency_key", "moh_url"], "{url}");
        let play =
            PlayAudioRequest { idempotency_key: key, audio_url: Some(url.into()), ..PlayAudioRequest::default() };
        assert_eq!(faults(calls.play_audio(play).await), ["call_id", "idempotency_key", "audio_url"], "{url}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_configuration_allows_it_media_is_fetched_from_inside() {
    let server = TestServer::embedded_with("[calls]\nmedia_url_allow_private = true\n");
    let world = World::on(&server.addr, &server.admin_key).await;
    let call = Guarded::on(world).await;
    let call_id = || call.slot.call_id.clone();
    for url in ["http://media.internal:8080/a.wav", "https://10.1.2.3/a.wav"] {
        let hold = HoldRequest { call_id: call_id(), moh_url: Some(url.into()), ..HoldRequest::default() };
        granted(call.service.calls().hold(hold).await);
        let unhold = UnholdRequest { call_id: call_id(), ..UnholdRequest::default() };
        granted(call.service.calls().unhold(unhold).await);
        let play = PlayAudioRequest { call_id: call_id(), audio_url: Some(url.into()), ..PlayAudioRequest::default() };
        granted(call.service.calls().play_audio(play).await);
    }
    for url in ["file:///etc/passwd", "ftp://media.internal/a", "/a"] {
        let hold = HoldRequest { call_id: call_id(), moh_url: Some(url.into()), ..HoldRequest::default() };
        assert_eq!(faults(patiently(async || call.service.calls().hold(hold.clone()).await).await), ["moh_url"]);
    }
}
