//! `VoiceAgentService`.

use prost::Message as _;
use tonic::{Request, Response, Status, async_trait};

use super::{
    Api, Incoming,
    convert::{
        read, read_enum, read_optional,
        voice_agent::{read_draft, read_mask, write},
        write_page,
    },
};
use crate::{
    agents::{Filter, Patch, Transition},
    domain::{
        Result as Answer,
        hash::Sha256,
        ids::{TenantId, VoiceAgentId},
        page::{self, Cursor, Page, PageRequest},
        violations::{Fault, Violations},
        voice_agent::{Spec, VoiceAgent},
    },
    proto::v1::{self, voice_agent_service_server::VoiceAgentService},
};

#[async_trait]
impl VoiceAgentService for Api {
    async fn create_voice_agent(
        &self,
        request: Request<v1::CreateVoiceAgentRequest>,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let (spec, request_id) = read_create(message)?;
        let agent = self.agents.create(principal.tenant(), spec, request_id).await?;
        Ok(Response::new(write(&agent)))
    }

    async fn get_voice_agent(
        &self,
        request: Request<v1::GetVoiceAgentRequest>,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let id = read_get(&message)?;
        let agent = self.agents.get(principal.tenant(), id).await?;
        Ok(Response::new(write(&agent)))
    }

    async fn list_voice_agents(
        &self,
        request: Request<v1::ListVoiceAgentsRequest>,
    ) -> Result<Response<v1::ListVoiceAgentsResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let (filter, words, request) = read_list(message)?;
        let page = self.agents.list(principal.tenant(), &filter, request).await?;
        Ok(Response::new(write_list(&page, &words)))
    }

    async fn update_voice_agent(
        &self,
        request: Request<v1::UpdateVoiceAgentRequest>,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let (id, etag, patch) = read_update(message)?;
        let agent = self.agents.update(principal.tenant(), id, etag.as_deref(), &patch).await?;
        Ok(Response::new(write(&agent)))
    }

    async fn pause_voice_agent(
        &self,
        request: Request<v1::PauseVoiceAgentRequest>,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        self.transition(principal.tenant(), &message.id, &message.etag, Transition::Pause).await
    }

    async fn resume_voice_agent(
        &self,
        request: Request<v1::ResumeVoiceAgentRequest>,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        self.transition(principal.tenant(), &message.id, &message.etag, Transition::Resume).await
    }

    async fn archive_voice_agent(
        &self,
        request: Request<v1::ArchiveVoiceAgentRequest>,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        self.transition(principal.tenant(), &message.id, &message.etag, Transition::Archive).await
    }

    async fn unarchive_voice_agent(
        &self,
        request: Request<v1::UnarchiveVoiceAgentRequest>,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        self.transition(principal.tenant(), &message.id, &message.etag, Transition::Unarchive).await
    }

    async fn delete_voice_agent(&self, request: Request<v1::DeleteVoiceAgentRequest>) -> Result<Response<()>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let id = read_id("id", &message.id)?;
        let etag = given(&message.etag).map(str::to_owned);
        self.calls.delete_agent(&principal, id, etag, message.force).await?;
        Ok(Response::new(()))
    }

    async fn set_default_voice_agent(
        &self,
        request: Request<v1::SetDefaultVoiceAgentRequest>,
    ) -> Result<Response<v1::SetDefaultVoiceAgentResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let mut faults = Violations::default();
        let id = read_optional("voice_agent_id", message.voice_agent_id.as_deref(), &mut faults);
        let id = faults.into_result(Some(id)).map_err(crate::domain::Error::from)?;
        self.agents.set_default(principal.tenant(), id).await?;
        let voice_agent_id = id.map(|id: VoiceAgentId| id.to_string());
        Ok(Response::new(v1::SetDefaultVoiceAgentResponse { voice_agent_id }))
    }

    async fn get_default_voice_agent(
        &self,
        request: Request<v1::GetDefaultVoiceAgentRequest>,
    ) -> Result<Response<v1::GetDefaultVoiceAgentResponse>, Status> {
        let Incoming { principal, .. } = Incoming::of(request)?;
        let id = self.agents.default(principal.tenant()).await?;
        let voice_agent_id = id.map(|id| id.to_string());
        Ok(Response::new(v1::GetDefaultVoiceAgentResponse { voice_agent_id }))
    }
}

impl Api {
    async fn transition(
        &self,
        tenant: TenantId,
        id: &str,
        etag: &str,
        transition: Transition,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let id = read_id("id", id)?;
        let agent = self.agents.transition(tenant, id, given(etag), transition).await?;
        Ok(Response::new(write(&agent)))
    }
}

fn write_list(page: &Page<VoiceAgent>, words: &str) -> v1::ListVoiceAgentsResponse {
    let cursor = |agent: &VoiceAgent| Cursor { created_at: agent.created_at, id: *agent.id.as_uuid() };
    let (voice_agents, next) = write_page(page, write, cursor);
    v1::ListVoiceAgentsResponse {
        voice_agents,
        next_page_token: next.map(|next| page::token(next, words)).unwrap_or_default(),
        total_size: i32::try_from(page.total_size).unwrap_or(i32::MAX),
    }
}

/// An etag that was sent.
fn given(etag: &str) -> Option<&str> {
    Some(etag).filter(|etag| !etag.is_empty())
}

fn read_id(field: &str, text: &str) -> Answer<VoiceAgentId> {
    let mut faults = Violations::default();
    let id = read(field, text, &mut faults);
    Ok(faults.into_result(id)?)
}

fn read_create(wire: v1::CreateVoiceAgentRequest) -> Answer<(Spec, Option<(uuid::Uuid, Sha256)>)> {
    let mut faults = Violations::default();
    let request_id = Some(wire.request_id.as_str())
        .filter(|id| !id.is_empty())
        .map(|id| uuid::Uuid::try_parse(id).map_err(|_| Fault::new("must be a UUID")));
    let request_id = faults.take("request_id", request_id.transpose());
    let digest = Sha256::of(wire.encode_to_vec());
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

fn read_get(wire: &v1::GetVoiceAgentRequest) -> Answer<VoiceAgentId> {
    let mut faults = Violations::default();
    let id = read("id", &wire.id, &mut faults);
    if wire.view == i32::from(v1::VoiceAgentView::Full) {
        faults.add("view", Fault::new("VOICE_AGENT_VIEW_FULL is not served by this release"));
    }
    if wire.revision != 0 {
        faults.add("revision", Fault::new("is not served by this release"));
    }
    Ok(faults.into_result(id)?)
}

/// The filter, in values and as the words that tell its page tokens from those of others.
fn read_list(wire: v1::ListVoiceAgentsRequest) -> Answer<(Filter, String, PageRequest)> {
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

fn read_update(wire: v1::UpdateVoiceAgentRequest) -> Answer<(VoiceAgentId, Option<String>, Patch)> {
    let mut faults = Violations::default();
    let Some(agent) = wire.voice_agent else {
        return Err(Violations::from(("voice_agent", Fault::required())).into());
    };
    let id = read("voice_agent.id", &agent.id, &mut faults);
    let etag = given(&agent.etag).map(str::to_owned);
    let draft = read_draft(agent, &mut faults);
    let fields = read_mask(wire.update_mask, &draft, &mut faults);
    match id {
        Some(id) => Ok((id, etag, Patch { draft, fields, faults })),
        None => Err(faults.into()),
    }
}
