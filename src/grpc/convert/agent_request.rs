//! Requests for voice agents, and the lists that answer them.

use prost::Message as _;

use super::{
    fitting, read, read_enum, read_optional,
    voice_agent::{read_draft, read_mask, write},
    write_page,
};
use crate::{
    agents::{Filter, Hints, Patch},
    domain::{
        Result as Answer,
        clock::Timestamp,
        hash::Sha256,
        ids::VoiceAgentId,
        page::{self, Cursor, Page, PageRequest},
        violations::{Fault, Violations},
        voice_agent::{Spec, VoiceAgent},
    },
    proto::v1,
};

pub(crate) fn write_list(page: &Page<VoiceAgent>, words: &str) -> v1::ListVoiceAgentsResponse {
    let cursor = |agent: &VoiceAgent| Cursor { created_at: agent.created_at, id: *agent.id.as_uuid() };
    let (voice_agents, next) = write_page(page, write, cursor);
    v1::ListVoiceAgentsResponse {
        voice_agents,
        next_page_token: next.map(|next| page::token(next, words)).unwrap_or_default(),
        total_size: i32::try_from(page.total_size).unwrap_or(i32::MAX),
    }
}

/// An etag that was sent.
pub(crate) fn given(etag: &str) -> Option<&str> {
    Some(etag).filter(|etag| !etag.is_empty())
}

pub(crate) fn read_id(field: &str, text: &str) -> Answer<VoiceAgentId> {
    let mut faults = Violations::default();
    let id = read(field, text, &mut faults);
    Ok(faults.into_result(id)?)
}

/// Of what is asked for, but for the secret: a digest of it, kept beside all the rest, would let it be guessed. That the
/// secret is the same is for the service to see.
fn digest(wire: &v1::CreateVoiceAgentRequest) -> Sha256 {
    let mut wire = wire.clone();
    if let Some(agent) = &mut wire.voice_agent {
        agent.auth_token = agent.auth_token.take().map(|_| String::new());
    }
    Sha256::of(wire.encode_to_vec())
}

pub(crate) fn read_create(wire: v1::CreateVoiceAgentRequest) -> Answer<(Spec, Option<(uuid::Uuid, Sha256)>)> {
    let mut faults = Violations::default();
    let request_id = Some(wire.request_id.as_str())
        .filter(|id| !id.is_empty())
        .map(|id| uuid::Uuid::try_parse(id).map_err(|_| Fault::new("must be a UUID")));
    let request_id = faults.take("request_id", request_id.transpose());
    let digest = digest(&wire);
    let spec = match wire.voice_agent {
        None => faults.take("voice_agent", Err(Fault::required())),
        Some(agent) => {
            let draft = read_draft(agent, &mut faults);
            Spec::parse(draft).map_err(|part| faults.absorb("voice_agent", part)).ok()
        }
    };
    let request = request_id.flatten().map(|id| (id, digest));
    Ok(faults.into_result(spec.map(|spec| (spec, request)))?)
}

/// What GetVoiceAgent is asked for.
pub(crate) struct Get {
    pub(crate) id: VoiceAgentId,
    /// Absent: the current one.
    pub(crate) revision: Option<i64>,
    pub(crate) full: bool,
}

pub(crate) fn read_get(wire: &v1::GetVoiceAgentRequest) -> Answer<Get> {
    let mut faults = Violations::default();
    let id = read("id", &wire.id, &mut faults);
    let view = v1::VoiceAgentView::try_from(wire.view).map_err(|_| Fault::new("is not a value of the enum"));
    let full = faults.take("view", view) == Some(v1::VoiceAgentView::Full);
    if wire.revision < 0 {
        faults.add("revision", Fault::new("must not be negative"));
    }
    let revision = Some(wire.revision).filter(|revision| *revision != 0);
    Ok(faults.into_result(id.map(|id| Get { id, revision, full }))?)
}

pub(crate) fn read_hints(wire: &v1::ResolveVoiceAgentRequest) -> Answer<Hints> {
    let mut faults = Violations::default();
    let hints = Hints {
        flow_node: read_optional("flow_node_voice_agent_id", wire.flow_node_voice_agent_id.as_deref(), &mut faults),
        campaign: read_optional("campaign_voice_agent_id", wire.campaign_voice_agent_id.as_deref(), &mut faults),
    };
    Ok(faults.into_result(Some(hints))?)
}

pub(crate) fn read_rollback(wire: &v1::RollbackVoiceAgentRequest) -> Answer<(VoiceAgentId, i64)> {
    let mut faults = Violations::default();
    let id = read("id", &wire.id, &mut faults);
    let revision = if wire.revision < 1 { Err(Fault::new("must be 1 or more")) } else { Ok(wire.revision) };
    let revision = faults.take("revision", revision);
    Ok(faults.into_result(id.zip(revision))?)
}

/// What ListVoiceAgentRevisions is asked for.
pub(crate) struct RevisionList {
    pub(crate) id: VoiceAgentId,
    pub(crate) size: u16,
    pub(crate) before: Option<i64>,
}

pub(crate) fn read_revision_list(wire: &v1::ListVoiceAgentRevisionsRequest) -> Answer<RevisionList> {
    let mut faults = Violations::default();
    let id = read("id", &wire.id, &mut faults);
    let id: VoiceAgentId = faults.into_result(id)?;
    let page = PageRequest::parse(wire.page_size, &wire.page_token, &id.to_string())?;
    // Revisions are counted, so the position in their list is a number and not a time.
    let before = page.after.map(|cursor| cursor.created_at.as_micros());
    Ok(RevisionList { id, size: page.size, before })
}

/// `found` has one more than `size` where there are more.
pub(crate) fn write_revisions(
    found: &[VoiceAgent],
    id: VoiceAgentId,
    size: u16,
) -> v1::ListVoiceAgentRevisionsResponse {
    let revisions = fitting(found.iter().take(size.into()).map(write));
    let more = revisions.len() < found.len();
    let last = revisions.last().filter(|_| more).map(|last| Timestamp::from_micros(last.revision));
    let next = last.map(|before| Cursor { created_at: before, id: *id.as_uuid() });
    let next_page_token = next.map(|next| page::token(next, &id.to_string())).unwrap_or_default();
    v1::ListVoiceAgentRevisionsResponse { revisions, next_page_token }
}

/// The filter, in values and as the words that tell its page tokens from those of others.
pub(crate) fn read_list(wire: v1::ListVoiceAgentsRequest) -> Answer<(Filter, String, PageRequest)> {
    let mut faults = Violations::default();
    let status = read_enum("status", wire.status, &mut faults);
    for (field, text) in [("external_agent_id", &wire.external_agent_id), ("name_prefix", &wire.name_prefix)] {
        if text.chars().count() > 200 || text.contains('\0') {
            faults.add(field, Fault::new("must be at most 200 characters"));
        }
    }
    faults.into_result(Some(()))?;
    let words = format!("{}\n{}\n{}", wire.status, wire.external_agent_id, wire.name_prefix);
    let page = PageRequest::parse(wire.page_size, &wire.page_token, &words)?;
    let some = |text: String| Some(text).filter(|text| !text.is_empty());
    let filter =
        Filter { status, external_agent_id: some(wire.external_agent_id), name_prefix: some(wire.name_prefix) };
    Ok((filter, words, page))
}

pub(crate) fn read_update(wire: v1::UpdateVoiceAgentRequest) -> Answer<(VoiceAgentId, Option<String>, Patch)> {
    let mut faults = Violations::default();
    let Some(agent) = wire.voice_agent else {
        return Err(Violations::from(("voice_agent", Fault::required())).into());
    };
    let id = read("voice_agent.id", &agent.id, &mut faults);
    let etag = given(&agent.etag).map(str::to_owned);
    let draft = read_draft(agent, &mut faults);
    let paths = read_mask(wire.update_mask, &draft, &mut faults);
    match id {
        Some(id) => Ok((id, etag, Patch { draft, paths, faults })),
        None => Err(faults.into()),
    }
}
