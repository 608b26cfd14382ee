//! Every change is kept: who made it, when, and what the agent was like. No update is lost.

use std::collections::BTreeSet;

use tonic::Code;
use voxgate::proto::v1::{
    ArchiveVoiceAgentRequest, DeleteVoiceAgentRequest, GetVoiceAgentRequest, ListVoiceAgentRevisionsRequest,
    PauseVoiceAgentRequest, RollbackVoiceAgentRequest, UpdateVoiceAgentRequest, VoiceAgent, VoiceAgentStatus,
};

use crate::harness::{
    client::{Explained as _, faults, granted, refused},
    world::{World, minimal_agent, on_both_backends},
};

on_both_backends!(
    every_revision_stays_readable_with_who_and_when,
    rolling_back_is_a_change_and_loses_nothing,
    revisions_are_listed_in_pages_newest_first,
    what_never_was_is_not_found_and_what_is_wrong_is_named,
    every_change_can_be_refused_by_its_etag,
    of_sixty_four_writers_with_etags_no_success_is_lost,
);

async fn renamed(world: &World, agent: &VoiceAgent, name: &str) -> VoiceAgent {
    let patch = VoiceAgent { id: agent.id.clone(), name: Some(name.to_owned()), ..VoiceAgent::default() };
    let request = UpdateVoiceAgentRequest { voice_agent: Some(patch), update_mask: None };
    granted(world.caller.agents().update_voice_agent(request).await)
}

fn at(agent: &VoiceAgent, revision: i64) -> GetVoiceAgentRequest {
    GetVoiceAgentRequest { id: agent.id.clone(), revision, ..GetVoiceAgentRequest::default() }
}

fn rollback(agent: &VoiceAgent, revision: i64, etag: &str) -> RollbackVoiceAgentRequest {
    RollbackVoiceAgentRequest { id: agent.id.clone(), revision, etag: etag.to_owned() }
}

fn revisions_of(agent: &VoiceAgent, page_size: i32, page_token: &str) -> ListVoiceAgentRevisionsRequest {
    ListVoiceAgentRevisionsRequest { id: agent.id.clone(), page_size, page_token: page_token.to_owned() }
}

async fn every_revision_stays_readable_with_who_and_when(world: World) {
    let first = world.create(VoiceAgent { auth_token: Some("s3cret".into()), ..minimal_agent() }).await;
    let second = renamed(&world, &first, "second").await;
    let pause = PauseVoiceAgentRequest { id: first.id.clone(), ..PauseVoiceAgentRequest::default() };
    let third = granted(world.caller.agents().pause_voice_agent(pause).await);
    for written in [&first, &second, &third] {
        let read = granted(world.caller.agents().get_voice_agent(at(&first, written.revision)).await);
        assert_eq!(&read, written, "as it was answered then");
    }
    assert_eq!((first.revision, second.revision, third.revision), (1, 2, 3));
    assert_eq!(third.status(), VoiceAgentStatus::Paused);
    let prefix = format!("key:{}", &world.key[..16]);
    assert!([&first, &second, &third].iter().all(|it| it.updated_by == prefix), "{} is not {prefix}", first.updated_by);
    let when = |agent: &VoiceAgent| agent.updated_at.map(|moment| (moment.seconds, moment.nanos));
    assert!(when(&first) < when(&second) && when(&second) < when(&third));
    let etags: BTreeSet<_> = [&first, &second, &third].iter().map(|agent| agent.etag.clone()).collect();
    assert_eq!(etags.len(), 3);
}

async fn rolling_back_is_a_change_and_loses_nothing(world: World) {
    let first = world.create(VoiceAgent { auth_token: Some("s3cret".into()), ..minimal_agent() }).await;
    let clear = UpdateVoiceAgentRequest {
        voice_agent: Some(VoiceAgent { id: first.id.clone(), name: Some("bare".into()), ..VoiceAgent::default() }),
        update_mask: Some(prost_types::FieldMask { paths: vec!["name".into(), "auth_token".into()] }),
    };
    let second = granted(world.caller.agents().update_voice_agent(clear).await);
    assert!(!second.has_auth_token);
    let pause = PauseVoiceAgentRequest { id: first.id.clone(), ..PauseVoiceAgentRequest::default() };
    granted(world.caller.agents().pause_voice_agent(pause).await);
    let back = granted(world.caller.agents().rollback_voice_agent(rollback(&first, 1, "")).await);
    assert_eq!((back.revision, back.name(), back.has_auth_token), (4, "Ada", true));
    assert_eq!(back.status(), VoiceAgentStatus::Paused, "the status stays as it is");
    let forward = granted(world.caller.agents().rollback_voice_agent(rollback(&first, 2, &back.etag)).await);
    assert_eq!((forward.revision, forward.name(), forward.has_auth_token), (5, "bare", false));
    let slot = granted(world.caller.agents().get_voice_agent(at(&first, 4)).await);
    assert_eq!(slot, back, "what was rolled over stays readable too");
}

async fn revisions_are_listed_in_pages_newest_first(world: World) {
    let agent = world.create(minimal_agent()).await;
    for number in 2..=7 {
        renamed(&world, &agent, &format!("{number}")).await;
    }
    let (mut token, mut seen) = (String::new(), Vec::new());
    loop {
        let page = granted(world.caller.agents().list_voice_agent_revisions(revisions_of(&agent, 3, &token)).await);
        assert!(page.revisions.iter().all(|revision| revision.auth_token.is_none()));
        seen.extend(page.revisions.iter().map(|revision| revision.revision));
        // One more while we read: it is newer than what we have seen and does not come up.
        renamed(&world, &agent, "later").await;
        token = page.next_page_token;
        if token.is_empty() {
            break;
        }
    }
    assert_eq!(seen, [7, 6, 5, 4, 3, 2, 1]);
    let other = world.create(minimal_agent()).await;
    let page = granted(world.caller.agents().list_voice_agent_revisions(revisions_of(&agent, 1, "")).await);
    let stolen = revisions_of(&other, 1, &page.next_page_token);
    refused(
        world.caller.agents().list_voice_agent_revisions(stolen).await,
        Code::InvalidArgument,
        "PAGE_TOKEN_INVALID",
    );
}

async fn what_never_was_is_not_found_and_what_is_wrong_is_named(world: World) {
    let agent = world.create(minimal_agent()).await;
    let mut agents = world.caller.agents();
    for revision in [2, i64::MAX] {
        let missing = agents.get_voice_agent(at(&agent, revision)).await;
        let status = refused(missing, Code::NotFound, "VOICE_AGENT_NOT_FOUND");
        assert_eq!(status.metadata_of_reason()["revision"], revision.to_string());
        let missing = agents.rollback_voice_agent(rollback(&agent, revision, "")).await;
        refused(missing, Code::NotFound, "VOICE_AGENT_NOT_FOUND");
    }
    assert_eq!(faults(agents.get_voice_agent(at(&agent, -1)).await), ["revision"]);
    let bad = RollbackVoiceAgentRequest { id: "x".into(), ..RollbackVoiceAgentRequest::default() };
    assert_eq!(faults(agents.rollback_voice_agent(bad).await), ["id", "revision"]);
    let theirs = world.neighbour().await;
    let mut agents = theirs.caller.agents();
    refused(agents.get_voice_agent(at(&agent, 1)).await, Code::NotFound, "VOICE_AGENT_NOT_FOUND");
    refused(agents.rollback_voice_agent(rollback(&agent, 1, "")).await, Code::NotFound, "VOICE_AGENT_NOT_FOUND");
    let listed = agents.list_voice_agent_revisions(revisions_of(&agent, 0, "")).await;
    refused(listed, Code::NotFound, "VOICE_AGENT_NOT_FOUND");
}

async fn every_change_can_be_refused_by_its_etag(world: World) {
    let agent = world.create(minimal_agent()).await;
    renamed(&world, &agent, "newer").await;
    let (id, etag) = (agent.id.clone(), agent.etag.clone());
    let mut agents = world.caller.agents();
    let stale = VoiceAgent { etag: etag.clone(), ..agent.clone() };
    let update = UpdateVoiceAgentRequest { voice_agent: Some(stale), update_mask: None };
    let status = refused(agents.update_voice_agent(update).await, Code::Aborted, "ETAG_MISMATCH");
    assert!(status.metadata_of_reason().contains_key("etag"));
    let pause = PauseVoiceAgentRequest { id: id.clone(), etag: etag.clone() };
    refused(agents.pause_voice_agent(pause).await, Code::Aborted, "ETAG_MISMATCH");
    let archive = ArchiveVoiceAgentRequest { id: id.clone(), etag: etag.clone() };
    refused(agents.archive_voice_agent(archive).await, Code::Aborted, "ETAG_MISMATCH");
    refused(agents.rollback_voice_agent(rollback(&agent, 1, &etag)).await, Code::Aborted, "ETAG_MISMATCH");
    let delete = DeleteVoiceAgentRequest { id, etag, force: true };
    refused(agents.delete_voice_agent(delete).await, Code::Aborted, "ETAG_MISMATCH");
    assert_eq!(granted(agents.get_voice_agent(at(&agent, 0)).await).revision, 2);
}

/// Each writer changes a key of the metadata of its own, on what it has read, until it has succeeded often enough.
async fn of_sixty_four_writers_with_etags_no_success_is_lost(world: World) {
    const WRITERS: usize = 64;
    const SUCCESSES: i64 = 2;
    let agent = world.create(VoiceAgent { max_concurrent: Some(10_000), ..minimal_agent() }).await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (mut agents, agent) = (world.caller.agents(), agent.clone());
            tokio::spawn(async move {
                let (mut successes, mut losses) = (0, 0);
                let mut current = agent;
                while successes < SUCCESSES {
                    // The whole agent as it was read, with one thing added: what would be lost is lost by this.
                    let mut wanted = current.clone();
                    wanted.metadata.insert(format!("w{}", writer % 32), format!("{writer}:{successes}"));
                    wanted.max_concurrent = Some(wanted.max_concurrent() - 1);
                    let request = UpdateVoiceAgentRequest { voice_agent: Some(wanted), update_mask: None };
                    match agents.update_voice_agent(request).await {
                        Ok(written) => {
                            successes += 1;
                            current = written.into_inner();
                        }
                        Err(status) => {
                            assert_eq!((status.code(), status.reason().as_str()), (Code::Aborted, "ETAG_MISMATCH"));
                            losses += 1;
                            current = granted(agents.get_voice_agent(at(&current, 0)).await);
                        }
                    }
                }
                (successes, losses)
            })
        })
        .collect();
    let (mut successes, mut losses) = (0, 0);
    for writer in writers {
        let (won, lost) = writer.await.expect("a writer");
        (successes, losses) = (successes + won, losses + lost);
    }
    let last = granted(world.caller.agents().get_voice_agent(at(&agent, 0)).await);
    assert_eq!(last.revision, 1 + successes, "with {losses} losers");
    assert_eq!(i64::from(last.max_concurrent()), 10_000 - successes, "each success took one, and none was lost");
    assert!(losses > 0, "they met");
}
