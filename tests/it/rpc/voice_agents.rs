//! VoiceAgentService: the life of an agent's configuration. The rules of each field are in `field_rules`.

use std::collections::BTreeSet;

use tonic::{Code, Status};
use voxgate::{
    domain::Env,
    proto::v1::{
        AcquireSlotRequest, ArchiveVoiceAgentRequest, AudioEncoding, AudioFormat, CreateVoiceAgentRequest,
        DeleteVoiceAgentRequest, EndSessionRequest, GetDefaultVoiceAgentRequest, GetOperationRequest,
        GetSessionRequest, GetUsageRequest, GetVoiceAgentRequest, ListVoiceAgentsRequest, ListVoiceAgentsResponse,
        PauseVoiceAgentRequest, ResumeVoiceAgentRequest, SessionOutcome, SetDefaultVoiceAgentRequest,
        UnarchiveVoiceAgentRequest, UpdateVoiceAgentRequest, VoiceAgent, VoiceAgentStatus, end_session_request,
        get_session_request,
    },
};

use crate::harness::{
    client::{Caller, Explained as _, faults, granted, refused},
    world::{World, acquire, minimal_agent, on_both_backends, unique},
};

on_both_backends!(
    a_created_agent_has_the_contracts_defaults,
    a_created_agent_is_read_back_as_it_was_answered,
    a_request_id_makes_creating_idempotent,
    racing_creates_of_one_request_id_make_one_agent,
    the_auth_token_is_never_answered,
    an_update_without_a_mask_changes_what_is_present,
    an_update_with_a_mask_changes_exactly_its_paths,
    unknown_and_output_only_paths_are_refused_by_name,
    an_etag_that_is_no_longer_current_is_refused,
    every_change_is_one_revision_and_no_change_is_none,
    racing_updates_are_all_kept,
    a_status_moves_only_along_its_edges,
    lists_filter_count_and_stay_stable_while_agents_are_added,
    page_tokens_are_bound_to_their_filter,
    deleting_needs_force_while_calls_are_live,
    the_default_agent_is_set_read_and_cleared,
    another_tenants_id_answers_byte_for_byte_as_an_unknown_one,
);

async fn get(world: &World, id: &str) -> VoiceAgent {
    granted(world.caller.agents().get_voice_agent(by_id(id)).await)
}

fn by_id(id: &str) -> GetVoiceAgentRequest {
    GetVoiceAgentRequest { id: id.to_owned(), ..GetVoiceAgentRequest::default() }
}

fn update(patch: VoiceAgent, paths: &[&str]) -> UpdateVoiceAgentRequest {
    let paths: Vec<String> = paths.iter().map(ToString::to_string).collect();
    let update_mask = (!paths.is_empty()).then_some(prost_types::FieldMask { paths });
    UpdateVoiceAgentRequest { voice_agent: Some(patch), update_mask }
}

fn patch_of(agent: &VoiceAgent) -> VoiceAgent {
    VoiceAgent { id: agent.id.clone(), ..VoiceAgent::default() }
}

async fn list(world: &World, request: ListVoiceAgentsRequest) -> ListVoiceAgentsResponse {
    granted(world.caller.agents().list_voice_agents(request).await)
}

/// An agent with nothing left to its default.
fn full_agent() -> VoiceAgent {
    VoiceAgent {
        auth_token: Some("canary-7f3a".into()),
        audio_format: Some(AudioFormat {
            encoding: Some(AudioEncoding::Pcma.into()),
            sample_rate_hz: Some(8_000),
            channels: Some(2),
            frame_ms: Some(40),
        }),
        external_agent_id: Some("crm-1".into()),
        transfer_destination: Some("+15550100".into()),
        max_concurrent: Some(5),
        reserved_inbound: Some(2),
        metadata: [("team".to_owned(), "sales".to_owned())].into(),
        ..minimal_agent()
    }
}

async fn a_created_agent_has_the_contracts_defaults(world: World) {
    let agent = world.create(VoiceAgent { name: Some("  Ada  ".into()), ..minimal_agent() }).await;
    assert_eq!(agent.name(), "Ada");
    assert_eq!(agent.tenant_id, world.tenant);
    let format = agent.audio_format.expect("filled");
    let pcm = (AudioEncoding::PcmS16le, 16_000, 1, 20);
    assert_eq!((format.encoding(), format.sample_rate_hz(), format.channels(), format.frame_ms()), pcm);
    assert_eq!((agent.max_concurrent, agent.reserved_inbound), (Some(10), Some(0)));
    assert_eq!(agent.token_lifetime, Some(1));
    assert_eq!(agent.subprotocol, Some(1));
    assert_eq!(agent.ws_disconnect_action, Some(1));
    assert_eq!(agent.status(), VoiceAgentStatus::Active);
    assert_eq!(agent.revision, 1);
    assert!(!agent.has_auth_token && !agent.etag.is_empty() && agent.created_at == agent.updated_at);
    assert!(agent.external_agent_id.is_none() && agent.transfer_destination.is_none() && agent.metadata.is_empty());
    let narrow = AudioFormat { encoding: Some(AudioEncoding::Pcmu.into()), ..AudioFormat::default() };
    let agent = world.create(VoiceAgent { audio_format: Some(narrow), ..minimal_agent() }).await;
    assert_eq!(agent.audio_format.expect("filled").sample_rate_hz(), 8_000, "the one rate that PCMU has");
}

async fn a_created_agent_is_read_back_as_it_was_answered(world: World) {
    let created = world.create(full_agent()).await;
    assert_eq!(get(&world, &created.id).await, created);
    assert_eq!(list(&world, ListVoiceAgentsRequest::default()).await.voice_agents, [created]);
}

async fn a_request_id_makes_creating_idempotent(world: World) {
    let request_id = Env::system().uuid().to_string();
    let request = CreateVoiceAgentRequest { voice_agent: Some(full_agent()), request_id: request_id.clone() };
    let mut agents = world.caller.agents();
    let first = granted(agents.create_voice_agent(request.clone()).await);
    let second = granted(agents.create_voice_agent(request.clone()).await);
    assert_eq!(first, second);
    let other = CreateVoiceAgentRequest { voice_agent: Some(minimal_agent()), request_id };
    let status = refused(agents.create_voice_agent(other).await, Code::FailedPrecondition, "IDEMPOTENCY_KEY_REUSED");
    assert!(status.metadata_of_reason().contains_key("idempotency_key"), "{status:?}");
    // Another tenant's use of the same id is its own.
    let elsewhere = granted(world.neighbour().await.caller.agents().create_voice_agent(request).await);
    assert_ne!(elsewhere.id, first.id);
    assert_eq!(list(&world, ListVoiceAgentsRequest::default()).await.total_size, 1);
}

async fn racing_creates_of_one_request_id_make_one_agent(world: World) {
    let request =
        CreateVoiceAgentRequest { voice_agent: Some(full_agent()), request_id: Env::system().uuid().to_string() };
    let racers = (0..20).map(|_| {
        let (mut agents, request) = (world.caller.agents(), request.clone());
        tokio::spawn(async move { granted(agents.create_voice_agent(request).await).id })
    });
    let mut ids = BTreeSet::new();
    for racer in racers.collect::<Vec<_>>() {
        ids.insert(racer.await.expect("a racer"));
    }
    assert_eq!(ids.len(), 1, "{ids:?}");
}

async fn the_auth_token_is_never_answered(world: World) {
    let created = world.create(full_agent()).await;
    assert!(created.has_auth_token && created.auth_token.is_none());
    assert!(get(&world, &created.id).await.auth_token.is_none());
    assert!(!format!("{:?}", list(&world, ListVoiceAgentsRequest::default()).await).contains("canary-7f3a"));
    let renamed = VoiceAgent { name: Some("Grace".into()), ..patch_of(&created) };
    let updated = granted(world.caller.agents().update_voice_agent(update(renamed, &[])).await);
    assert!(updated.has_auth_token && updated.auth_token.is_none(), "an update leaves it");
    let cleared = granted(world.caller.agents().update_voice_agent(update(patch_of(&created), &["auth_token"])).await);
    assert!(!cleared.has_auth_token, "a masked field that is absent is cleared");
}

async fn an_update_without_a_mask_changes_what_is_present(world: World) {
    let agent = world.create(full_agent()).await;
    let patch = VoiceAgent {
        name: Some("Grace".into()),
        reserved_inbound: Some(0),
        audio_format: Some(AudioFormat { frame_ms: Some(60), ..AudioFormat::default() }),
        ..patch_of(&agent)
    };
    let updated = granted(world.caller.agents().update_voice_agent(update(patch, &[])).await);
    let mut expected = agent.clone();
    expected.name = Some("Grace".into());
    expected.reserved_inbound = Some(0);
    expected.audio_format.get_or_insert_default().frame_ms = Some(60);
    expected.revision = 2;
    expected.etag.clone_from(&updated.etag);
    expected.updated_at = updated.updated_at;
    assert_eq!(updated, expected);
    assert!(updated.etag != agent.etag && updated.updated_at != agent.updated_at);
    assert_eq!(get(&world, &agent.id).await, updated);
}

async fn an_update_with_a_mask_changes_exactly_its_paths(world: World) {
    let agent = world.create(full_agent()).await;
    let mut agents = world.caller.agents();
    let patch = VoiceAgent { name: Some("Grace".into()), max_concurrent: Some(9), ..patch_of(&agent) };
    let paths = ["max_concurrent", "transfer_destination", "metadata"];
    let updated = granted(agents.update_voice_agent(update(patch, &paths)).await);
    assert_eq!(updated.max_concurrent(), 9);
    assert!(updated.transfer_destination.is_none() && updated.metadata.is_empty(), "absent and masked: cleared");
    assert_eq!(updated.name(), "Ada", "present and not masked: left");
    // A default is what clearing goes back to, and what is required cannot be cleared.
    let updated =
        granted(agents.update_voice_agent(update(patch_of(&agent), &["audio_format", "reserved_inbound"])).await);
    assert_eq!((updated.audio_format.unwrap_or_default().sample_rate_hz(), updated.reserved_inbound()), (16_000, 0));
    let named = faults(agents.update_voice_agent(update(patch_of(&agent), &["name", "ws_url"])).await);
    assert_eq!(named, ["voice_agent.name", "voice_agent.ws_url"]);
}

async fn unknown_and_output_only_paths_are_refused_by_name(world: World) {
    let agent = world.create(full_agent()).await;
    let paths =
        ["name", "nonsense", "status", "id", "revision", "tenant_id", "created_at", "audio_format.nonsense", ""];
    let patch = VoiceAgent { name: Some("Grace".into()), ..patch_of(&agent) };
    let named = faults(world.caller.agents().update_voice_agent(update(patch, &paths)).await);
    for path in paths.iter().skip(1).filter(|path| !path.is_empty()) {
        assert!(named.iter().any(|field| field.contains(path)), "{path} is not among {named:?}");
    }
    assert_eq!(named.len(), paths.len() - 1, "{named:?}");
    assert_eq!(get(&world, &agent.id).await, agent);
}

async fn an_etag_that_is_no_longer_current_is_refused(world: World) {
    let agent = world.create(full_agent()).await;
    let mut agents = world.caller.agents();
    let patch = |etag: &str, name: &str| {
        update(VoiceAgent { etag: etag.to_owned(), name: Some(name.to_owned()), ..patch_of(&agent) }, &["name"])
    };
    let updated = granted(agents.update_voice_agent(patch(&agent.etag, "second")).await);
    let status = refused(agents.update_voice_agent(patch(&agent.etag, "third")).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(status.metadata_of_reason()["etag"], updated.etag);
    let (id, etag) = (agent.id.clone(), agent.etag.clone());
    let stale = |status: Result<tonic::Response<VoiceAgent>, Status>| refused(status, Code::Aborted, "ETAG_MISMATCH");
    stale(agents.pause_voice_agent(PauseVoiceAgentRequest { id: id.clone(), etag: etag.clone() }).await);
    stale(agents.resume_voice_agent(ResumeVoiceAgentRequest { id: id.clone(), etag: etag.clone() }).await);
    stale(agents.archive_voice_agent(ArchiveVoiceAgentRequest { id: id.clone(), etag: etag.clone() }).await);
    stale(agents.unarchive_voice_agent(UnarchiveVoiceAgentRequest { id: id.clone(), etag: etag.clone() }).await);
    let delete = DeleteVoiceAgentRequest { id: id.clone(), etag, force: true };
    refused(agents.delete_voice_agent(delete).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(get(&world, &agent.id).await, updated);
    let delete = DeleteVoiceAgentRequest { id, etag: updated.etag, force: false };
    granted(agents.delete_voice_agent(delete).await);
    refused(agents.get_voice_agent(by_id(&agent.id)).await, Code::NotFound, "VOICE_AGENT_NOT_FOUND");
}

async fn every_change_is_one_revision_and_no_change_is_none(world: World) {
    let agent = world.create(full_agent()).await;
    let mut agents = world.caller.agents();
    let request = |id: &str| PauseVoiceAgentRequest { id: id.to_owned(), etag: String::new() };
    let paused = granted(agents.pause_voice_agent(request(&agent.id)).await);
    assert_eq!((paused.revision, paused.status()), (2, VoiceAgentStatus::Paused));
    let again = granted(agents.pause_voice_agent(request(&agent.id)).await);
    assert_eq!(again, paused, "pausing a paused agent changes nothing");
    let unchanged = granted(agents.update_voice_agent(update(patch_of(&agent), &[])).await);
    assert_eq!(unchanged, paused, "an update that names nothing changes nothing");
}

async fn racing_updates_are_all_kept(world: World) {
    let agent = world.create(full_agent()).await;
    let racers = (0..10).map(|number| {
        let mut agents = world.caller.agents();
        let patch = VoiceAgent { max_concurrent: Some(100 + number), ..patch_of(&agent) };
        tokio::spawn(async move { granted(agents.update_voice_agent(update(patch, &[])).await).revision })
    });
    let mut revisions = BTreeSet::new();
    for racer in racers.collect::<Vec<_>>() {
        revisions.insert(racer.await.expect("a racer"));
    }
    assert_eq!(revisions, (2..=11).collect(), "each change is a revision of its own");
    assert_eq!(get(&world, &agent.id).await.revision, 11);
}

async fn a_status_moves_only_along_its_edges(world: World) {
    let id = world.create(full_agent()).await.id;
    let mut agents = world.caller.agents();
    let etag = String::new;
    granted(agents.pause_voice_agent(PauseVoiceAgentRequest { id: id.clone(), etag: etag() }).await);
    let resumed = granted(agents.resume_voice_agent(ResumeVoiceAgentRequest { id: id.clone(), etag: etag() }).await);
    assert_eq!(resumed.status(), VoiceAgentStatus::Active);
    let archive = ArchiveVoiceAgentRequest { id: id.clone(), etag: etag() };
    assert_eq!(granted(agents.archive_voice_agent(archive).await).status(), VoiceAgentStatus::Archived);
    let pause = agents.pause_voice_agent(PauseVoiceAgentRequest { id: id.clone(), etag: etag() }).await;
    let status = refused(pause, Code::FailedPrecondition, "VOICE_AGENT_ARCHIVED");
    assert_eq!(status.metadata_of_reason()["voice_agent_id"], id);
    let resume = agents.resume_voice_agent(ResumeVoiceAgentRequest { id: id.clone(), etag: etag() }).await;
    refused(resume, Code::FailedPrecondition, "VOICE_AGENT_ARCHIVED");
    assert_eq!(get(&world, &id).await.status(), VoiceAgentStatus::Archived, "it can still be read");
    let unarchive = UnarchiveVoiceAgentRequest { id: id.clone(), etag: etag() };
    assert_eq!(granted(agents.unarchive_voice_agent(unarchive).await).status(), VoiceAgentStatus::Active);
}

async fn lists_filter_count_and_stay_stable_while_agents_are_added(world: World) {
    let mut ids = Vec::new();
    for number in 0..5 {
        let agent = VoiceAgent {
            name: Some(format!("{} {number}", if number % 2 == 0 { "Sales_%" } else { "Service" })),
            external_agent_id: Some(format!("crm-{number}")),
            ..minimal_agent()
        };
        ids.push(world.create(agent).await.id);
    }
    ids.reverse();
    let page = |token: &str| ListVoiceAgentsRequest { page_size: 2, page_token: token.into(), ..Default::default() };
    let first = list(&world, page("")).await;
    world.create(minimal_agent()).await;
    let second = list(&world, page(&first.next_page_token)).await;
    let third = list(&world, page(&second.next_page_token)).await;
    let seen: Vec<_> = [&first, &second, &third].into_iter().flat_map(|page| &page.voice_agents).collect();
    assert_eq!(
        seen.iter().map(|agent| agent.id.as_str()).collect::<Vec<_>>(),
        ids,
        "newest first, the new one not seen"
    );
    assert_eq!((first.total_size, third.total_size, third.next_page_token.as_str()), (5, 6, ""));

    let names = |listed: ListVoiceAgentsResponse| {
        listed.voice_agents.into_iter().map(|agent| agent.name.unwrap_or_default()).collect::<Vec<_>>()
    };
    let prefix = ListVoiceAgentsRequest { name_prefix: "Sales_%".into(), ..Default::default() };
    assert_eq!(names(list(&world, prefix).await), ["Sales_% 4", "Sales_% 2", "Sales_% 0"]);
    let wildcard = ListVoiceAgentsRequest { name_prefix: "%e".into(), ..Default::default() };
    assert_eq!(list(&world, wildcard).await.total_size, 0, "a prefix is no pattern");
    let external = ListVoiceAgentsRequest { external_agent_id: "crm-3".into(), ..Default::default() };
    assert_eq!(names(list(&world, external).await), ["Service 3"]);
    let request = PauseVoiceAgentRequest { id: ids[0].clone(), etag: String::new() };
    granted(world.caller.agents().pause_voice_agent(request).await);
    let paused = ListVoiceAgentsRequest { status: VoiceAgentStatus::Paused.into(), ..Default::default() };
    let paused = list(&world, paused).await;
    assert_eq!((paused.total_size, paused.voice_agents[0].id.as_str()), (1, ids[0].as_str()));
    let huge = ListVoiceAgentsRequest { page_size: i32::MAX, ..Default::default() };
    assert_eq!(list(&world, huge).await.voice_agents.len(), 6, "a page that is too large is clamped");
    let other = world.neighbour().await;
    assert_eq!(list(&other, ListVoiceAgentsRequest::default()).await.total_size, 0);
}

async fn page_tokens_are_bound_to_their_filter(world: World) {
    for _ in 0..3 {
        world.create(minimal_agent()).await;
    }
    let token = list(&world, ListVoiceAgentsRequest { page_size: 1, ..Default::default() }).await.next_page_token;
    let mut agents = world.caller.agents();
    for (page_token, name_prefix) in [(token.as_str(), "A"), ("garbage", ""), (&token[1..], "")] {
        let request = ListVoiceAgentsRequest {
            page_token: page_token.into(),
            name_prefix: name_prefix.into(),
            ..Default::default()
        };
        refused(agents.list_voice_agents(request).await, Code::InvalidArgument, "PAGE_TOKEN_INVALID");
    }
    let negative = ListVoiceAgentsRequest { page_size: -1, ..Default::default() };
    assert_eq!(faults(agents.list_voice_agents(negative).await), ["page_size"]);
}

async fn deleting_needs_force_while_calls_are_live(world: World) {
    let agent = world.agent(2).await;
    let slot = world.admit(&agent.id).await;
    let mut agents = world.caller.agents();
    let delete = |force| DeleteVoiceAgentRequest { id: agent.id.clone(), etag: String::new(), force };
    let status =
        refused(agents.delete_voice_agent(delete(false)).await, Code::FailedPrecondition, "VOICE_AGENT_IN_USE");
    assert_eq!(status.metadata_of_reason()["active_sessions"], "1");
    granted(agents.delete_voice_agent(delete(true)).await);
    refused(agents.delete_voice_agent(delete(true)).await, Code::NotFound, "VOICE_AGENT_NOT_FOUND");
    let target = Some(get_session_request::Target::SessionId(slot.session_id));
    let session = granted(world.caller.sessions().get_session(GetSessionRequest { target }).await);
    assert_eq!(session.outcome(), SessionOutcome::AgentDeleted);
}

async fn the_default_agent_is_set_read_and_cleared(world: World) {
    let agent = world.create(minimal_agent()).await;
    let mut agents = world.caller.agents();
    let read = granted(agents.get_default_voice_agent(GetDefaultVoiceAgentRequest {}).await);
    assert_eq!(read.voice_agent_id, None);
    let set = |id: Option<&str>| SetDefaultVoiceAgentRequest { voice_agent_id: id.map(ToOwned::to_owned) };
    assert_eq!(granted(agents.set_default_voice_agent(set(Some(&agent.id))).await).voice_agent_id(), agent.id);
    assert_eq!(
        granted(agents.get_default_voice_agent(GetDefaultVoiceAgentRequest {}).await).voice_agent_id(),
        agent.id
    );
    let unknown = Env::system().uuid().to_string();
    let answer = agents.set_default_voice_agent(set(Some(&unknown))).await;
    refused(answer, Code::NotFound, "VOICE_AGENT_NOT_FOUND");
    assert_eq!(granted(agents.set_default_voice_agent(set(None)).await).voice_agent_id, None);
    assert_eq!(granted(agents.get_default_voice_agent(GetDefaultVoiceAgentRequest {}).await).voice_agent_id, None);
    let archive = ArchiveVoiceAgentRequest { id: agent.id.clone(), etag: String::new() };
    granted(agents.archive_voice_agent(archive).await);
    let answer = agents.set_default_voice_agent(set(Some(&agent.id))).await;
    refused(answer, Code::FailedPrecondition, "VOICE_AGENT_ARCHIVED");
}

/// Everything about the refusal that a caller can see, with the id it asked for made anonymous.
fn seen(status: &Status, id: &str) -> (Code, String, Vec<u8>) {
    let message = status.message().replace(id, "<id>");
    let mut details = status.details().to_vec();
    while let Some(start) = details.windows(id.len()).position(|window| window == id.as_bytes()) {
        details.splice(start..start + id.len(), *b"<id>");
    }
    (status.code(), message, details)
}

/// Asks every RPC that takes an id about `id`.
async fn ask_about(caller: &Caller, id: &str) -> Vec<(&'static str, Status)> {
    let (mut agents, mut calls) = (caller.agents(), caller.calls());
    let (id, etag) = (id.to_owned(), String::new);
    let patch = VoiceAgent { id: id.clone(), name: Some("mine now".into()), ..VoiceAgent::default() };
    let admit = AcquireSlotRequest { node_id: None, ..acquire(&unique("call"), &id) };
    let probe = AcquireSlotRequest { validate_only: true, ..acquire(&unique("call"), &id) };
    macro_rules! refusals {
        ($($name:literal: $answer:expr),+ $(,)?) => {
            vec![$(($name, $answer.await.err().expect($name))),+]
        };
    }
    refusals! {
        "Get": agents.get_voice_agent(by_id(&id)),
        "Update": caller.agents().update_voice_agent(update(patch, &[])),
        "Pause": caller.agents().pause_voice_agent(PauseVoiceAgentRequest { id: id.clone(), etag: etag() }),
        "Resume": caller.agents().resume_voice_agent(ResumeVoiceAgentRequest { id: id.clone(), etag: etag() }),
        "Archive": caller.agents().archive_voice_agent(ArchiveVoiceAgentRequest { id: id.clone(), etag: etag() }),
        "Unarchive": caller.agents().unarchive_voice_agent(UnarchiveVoiceAgentRequest { id: id.clone(), etag: "x".into() }),
        "Delete": caller.agents().delete_voice_agent(DeleteVoiceAgentRequest { id: id.clone(), etag: etag(), force: true }),
        "SetDefault": caller.agents().set_default_voice_agent(SetDefaultVoiceAgentRequest { voice_agent_id: Some(id.clone()) }),
        "AcquireSlot": calls.acquire_slot(admit),
        "AcquireSlot, validate_only": caller.calls().acquire_slot(probe),
        "GetUsage": caller.calls().get_usage(GetUsageRequest { voice_agent_id: Some(id.clone()) }),
    }
}

async fn another_tenants_id_answers_byte_for_byte_as_an_unknown_one(world: World) {
    let owner = world.neighbour().await;
    let agent = owner.agent(3).await;
    let slot = owner.admit(&agent.id).await;
    let unknown = Env::system().uuid().to_string();
    let theirs = ask_about(&world.caller, &agent.id).await;
    let nobodys = ask_about(&world.caller, &unknown).await;
    for ((rpc, theirs), (_, nobodys)) in theirs.iter().zip(&nobodys) {
        assert_eq!(theirs.code(), Code::NotFound, "{rpc}: {theirs:?}");
        assert_eq!(seen(theirs, &agent.id), seen(nobodys, &unknown), "{rpc}");
    }
    let mut sessions = world.caller.sessions();
    let unknown = format!("ses_{unknown}");
    for (theirs, nobodys) in [(&slot.session_id, &unknown), (&slot.call_id, &unique("call"))] {
        let mut answers = Vec::new();
        for id in [theirs, nobodys] {
            let get = if id.starts_with("ses_") {
                get_session_request::Target::SessionId(id.clone())
            } else {
                get_session_request::Target::CallId(id.clone())
            };
            let end = if id.starts_with("ses_") {
                end_session_request::Target::SessionId(id.clone())
            } else {
                end_session_request::Target::CallId(id.clone())
            };
            let get = sessions.get_session(GetSessionRequest { target: Some(get) }).await;
            let get = refused(get, Code::NotFound, "SESSION_NOT_FOUND");
            let end = sessions.end_session(EndSessionRequest { target: Some(end), ..Default::default() }).await;
            let end = refused(end, Code::NotFound, "SESSION_NOT_FOUND");
            let hold = voxgate::proto::v1::HoldRequest { call_id: id.clone(), ..Default::default() };
            let hold = refused(world.caller.calls().hold(hold).await, Code::NotFound, "SESSION_NOT_FOUND");
            answers.push([seen(&get, id), seen(&end, id), seen(&hold, id)]);
        }
        assert_eq!(answers[0], answers[1]);
    }
    let operation = GetOperationRequest { operation_id: format!("op_{}", Env::system().uuid()) };
    refused(sessions.get_operation(operation).await, Code::NotFound, "OPERATION_NOT_FOUND");
    assert_eq!(owner.usage(&agent.id).await.used, 1, "and nothing of it was touched");
    assert_eq!(get(&owner, &agent.id).await, agent);
}
