//! `VoiceAgentService`.

use std::sync::Arc;

use tonic::{Request, Response, Status, async_trait};

use super::{
    Api, Incoming,
    convert::{
        agent_request::{
            Get, RevisionList, given, read_create, read_get, read_hints, read_id, read_list, read_revision_list,
            read_rollback, read_update, write_list, write_revisions,
        },
        behavior::read_preview,
        read_optional,
        voice_agent::{write, write_full, write_resolved},
    },
};
use crate::{
    agents::{Transition, heavy},
    domain::{ids::VoiceAgentId, principal::Principal, tenant::Scope, violations::Violations},
    proto::v1::{self, voice_agent_service_server::VoiceAgentService},
};

#[async_trait]
impl VoiceAgentService for Api {
    async fn create_voice_agent(
        &self,
        request: Request<v1::CreateVoiceAgentRequest>,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let heavy = message.voice_agent.as_ref().is_some_and(|agent| agent.behavior.is_some());
        let (spec, request) = heavy::check(heavy, move || read_create(message)).await?;
        let agent = self.agents.create(principal.tenant(), spec, request, principal.actor()).await?;
        Ok(Response::new(write(&agent)))
    }

    async fn get_voice_agent(
        &self,
        request: Request<v1::GetVoiceAgentRequest>,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let Get { id, revision, full } = read_get(&message)?;
        if full {
            principal.require(Scope::VoiceAgentsSecrets)?;
        }
        let agent = match revision {
            // A secret is shown as the database has it now, to a credential that is good now.
            None if full => Arc::new(self.agents.current(principal.tenant(), id).await?),
            None => self.agents.get(principal.tenant(), id).await?,
            Some(revision) => Arc::new(self.agents.at(principal.tenant(), id, revision).await?),
        };
        let secret = if full { self.agents.reveal(&agent)? } else { None };
        Ok(Response::new(write_full(&agent, secret.as_ref())))
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
        let agent = self.agents.update(principal.tenant(), id, etag.as_deref(), patch, &principal.actor()).await?;
        Ok(Response::new(write(&agent)))
    }

    async fn pause_voice_agent(
        &self,
        request: Request<v1::PauseVoiceAgentRequest>,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        self.transition(&principal, &message.id, &message.etag, Transition::Pause).await
    }

    async fn resume_voice_agent(
        &self,
        request: Request<v1::ResumeVoiceAgentRequest>,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        self.transition(&principal, &message.id, &message.etag, Transition::Resume).await
    }

    async fn archive_voice_agent(
        &self,
        request: Request<v1::ArchiveVoiceAgentRequest>,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        self.transition(&principal, &message.id, &message.etag, Transition::Archive).await
    }

    async fn unarchive_voice_agent(
        &self,
        request: Request<v1::UnarchiveVoiceAgentRequest>,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        self.transition(&principal, &message.id, &message.etag, Transition::Unarchive).await
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

    async fn resolve_voice_agent(
        &self,
        request: Request<v1::ResolveVoiceAgentRequest>,
    ) -> Result<Response<v1::ResolveVoiceAgentResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let hints = read_hints(&message)?;
        let resolved = self.agents.resolve_active(principal.tenant(), hints, message.validate_only).await?;
        Ok(Response::new(write_resolved(&resolved)))
    }

    async fn list_voice_agent_revisions(
        &self,
        request: Request<v1::ListVoiceAgentRevisionsRequest>,
    ) -> Result<Response<v1::ListVoiceAgentRevisionsResponse>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let RevisionList { id, size, before } = read_revision_list(&message)?;
        let found = self.agents.revisions(principal.tenant(), id, before, size + 1).await?;
        Ok(Response::new(write_revisions(&found, id, size)))
    }

    async fn rollback_voice_agent(
        &self,
        request: Request<v1::RollbackVoiceAgentRequest>,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let Incoming { principal, message, .. } = Incoming::of(request)?;
        let (id, revision) = read_rollback(&message)?;
        let (tenant, actor) = (principal.tenant(), principal.actor());
        let agent = self.agents.roll_back(tenant, id, given(&message.etag), revision, &actor).await?;
        Ok(Response::new(write(&agent)))
    }

    async fn preview_system_instruction(
        &self,
        request: Request<v1::PreviewSystemInstructionRequest>,
    ) -> Result<Response<v1::PreviewSystemInstructionResponse>, Status> {
        let Incoming { message, .. } = Incoming::of(request)?;
        let system_instruction = heavy::check(true, move || read_preview(message)).await?.system_instruction;
        Ok(Response::new(v1::PreviewSystemInstructionResponse { system_instruction }))
    }
}

impl Api {
    async fn transition(
        &self,
        principal: &Principal,
        id: &str,
        etag: &str,
        transition: Transition,
    ) -> Result<Response<v1::VoiceAgent>, Status> {
        let id = read_id("id", id)?;
        let (tenant, actor) = (principal.tenant(), principal.actor());
        let agent = self.agents.transition(tenant, id, given(etag), transition, &actor).await?;
        Ok(Response::new(write(&agent)))
    }
}
