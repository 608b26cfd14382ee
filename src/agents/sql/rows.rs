//! Voice agents and their revisions as rows.

use diesel::prelude::{AsChangeset, Insertable, Queryable, Selectable};

use crate::{
    db::{
        corrupt,
        schema::{voice_agent_create_requests, voice_agent_revisions, voice_agents},
        types::{At, Json, Uid, from_integer, to_integer},
    },
    domain::{
        Error, Result,
        ids::TenantId,
        keyring::Sealed,
        voice_agent::{AuthToken, Spec, Status, Subprotocol, TokenLifetime, VoiceAgent, WsDisconnectAction},
    },
};

#[derive(Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = voice_agents, primary_key(tenant_id, id), treat_none_as_null = true)]
pub(super) struct VoiceAgentRow {
    pub(super) tenant_id: Uid,
    pub(super) id: Uid,
    name: String,
    ws_url: String,
    sealed_auth_token: Option<Vec<u8>>,
    audio_format: Json,
    external_agent_id: Option<String>,
    transfer_destination: Option<String>,
    max_concurrent: i32,
    reserved_inbound: i32,
    token_lifetime: String,
    subprotocol: String,
    ws_disconnect_action: String,
    metadata: Json,
    status: String,
    revision: i64,
    pub(super) created_at: At,
    updated_at: At,
    updated_by: String,
    behavior: Option<Json>,
}

impl VoiceAgentRow {
    pub(super) fn of(tenant: TenantId, agent: &VoiceAgent) -> Result<Self> {
        let spec = &agent.spec;
        Ok(Self {
            tenant_id: tenant.into(),
            id: agent.id.into(),
            name: spec.name.clone(),
            ws_url: spec.ws_url.clone(),
            sealed_auth_token: kept(spec)?,
            audio_format: Json::of(&spec.audio_format)?,
            external_agent_id: spec.external_agent_id.clone(),
            transfer_destination: spec.transfer_destination.clone(),
            max_concurrent: to_integer(spec.max_concurrent),
            reserved_inbound: to_integer(spec.reserved_inbound),
            token_lifetime: spec.token_lifetime.as_str().to_owned(),
            subprotocol: spec.subprotocol.as_str().to_owned(),
            ws_disconnect_action: spec.ws_disconnect_action.as_str().to_owned(),
            metadata: Json::of(&spec.metadata)?,
            status: agent.status.as_str().to_owned(),
            revision: agent.revision,
            created_at: agent.created_at.into(),
            updated_at: agent.updated_at.into(),
            updated_by: agent.updated_by.clone(),
            behavior: spec.behavior.as_ref().map(Json::of).transpose()?,
        })
    }
}

impl TryFrom<VoiceAgentRow> for VoiceAgent {
    type Error = Error;

    fn try_from(row: VoiceAgentRow) -> Result<Self> {
        let spec = Spec {
            name: row.name,
            ws_url: row.ws_url,
            auth_token: sealed(row.sealed_auth_token),
            audio_format: row.audio_format.read("voice_agents.audio_format")?,
            external_agent_id: row.external_agent_id,
            transfer_destination: row.transfer_destination,
            max_concurrent: from_integer(row.max_concurrent, "voice_agents.max_concurrent")?,
            reserved_inbound: from_integer(row.reserved_inbound, "voice_agents.reserved_inbound")?,
            token_lifetime: TokenLifetime::from_word(&row.token_lifetime)
                .ok_or_else(|| corrupt("voice_agents.token_lifetime"))?,
            subprotocol: Subprotocol::from_word(&row.subprotocol).ok_or_else(|| corrupt("voice_agents.subprotocol"))?,
            ws_disconnect_action: WsDisconnectAction::from_word(&row.ws_disconnect_action)
                .ok_or_else(|| corrupt("voice_agents.ws_disconnect_action"))?,
            metadata: row.metadata.read("voice_agents.metadata")?,
            behavior: row.behavior.map(|behavior| behavior.read("voice_agents.behavior")).transpose()?,
        };
        Ok(Self {
            id: row.id.into(),
            tenant: row.tenant_id.into(),
            spec,
            status: Status::from_word(&row.status).ok_or_else(|| corrupt("voice_agents.status"))?,
            revision: row.revision,
            created_at: row.created_at.into(),
            updated_at: row.updated_at.into(),
            updated_by: row.updated_by,
        })
    }
}

/// An agent as a change left it.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = voice_agent_revisions, treat_none_as_default_value = false)]
pub(super) struct RevisionRow {
    pub(super) tenant_id: Uid,
    pub(super) voice_agent_id: Uid,
    pub(super) revision: i64,
    spec: Json,
    sealed_auth_token: Option<Vec<u8>>,
    status: String,
    updated_by: String,
    updated_at: At,
}

impl RevisionRow {
    pub(super) fn of(tenant: TenantId, agent: &VoiceAgent) -> Result<Self> {
        Ok(Self {
            tenant_id: tenant.into(),
            voice_agent_id: agent.id.into(),
            revision: agent.revision,
            spec: Json::of(&agent.spec)?,
            sealed_auth_token: kept(&agent.spec)?,
            status: agent.status.as_str().to_owned(),
            updated_by: agent.updated_by.clone(),
            updated_at: agent.updated_at.into(),
        })
    }

    /// The agent as it was; it was created once for all revisions.
    pub(super) fn read(self, created_at: At) -> Result<VoiceAgent> {
        let mut spec: Spec = self.spec.read("voice_agent_revisions.spec")?;
        spec.auth_token = sealed(self.sealed_auth_token);
        Ok(VoiceAgent {
            id: self.voice_agent_id.into(),
            tenant: self.tenant_id.into(),
            spec,
            status: Status::from_word(&self.status).ok_or_else(|| corrupt("voice_agent_revisions.status"))?,
            revision: self.revision,
            created_at: created_at.into(),
            updated_at: self.updated_at.into(),
            updated_by: self.updated_by,
        })
    }
}

/// The secret, which must have been sealed on its way here.
fn kept(spec: &Spec) -> Result<Option<Vec<u8>>> {
    match &spec.auth_token {
        None => Ok(None),
        Some(AuthToken::Sealed(sealed)) => Ok(Some(sealed.as_bytes().to_vec())),
        Some(AuthToken::Clear(_)) => Err(Error::internal("a secret came to the database in the clear")),
    }
}

fn sealed(bytes: Option<Vec<u8>>) -> Option<AuthToken> {
    bytes.map(Sealed::from_bytes).map(AuthToken::Sealed)
}

#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = voice_agent_create_requests, treat_none_as_default_value = false)]
pub(super) struct CreateRequestRow {
    pub(super) tenant_id: Uid,
    pub(super) request_id: Uid,
    pub(super) digest: Vec<u8>,
    pub(super) voice_agent_id: Uid,
    pub(super) created_at: At,
}
