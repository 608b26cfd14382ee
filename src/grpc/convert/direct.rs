//! CreateSession on the wire.

use super::{
    read_optional,
    session::write,
    value::{read_duration, read_object, timestamp},
};
use crate::{
    agents::Hints,
    calls::{CreateSession, Created},
    domain::{
        Result,
        behavior::INITIAL_MESSAGE_MAX_CHARS,
        direct::{CONTEXT_MAX_CHARS, DirectRequest, MAX_DURATION_MIN, TTL_DEFAULT, TTL_MAX, TTL_MIN},
        text::optional_prose,
        violations::Violations,
    },
    proto::v1,
};

pub(crate) fn read_create(wire: v1::CreateSessionRequest) -> Result<CreateSession> {
    let mut faults = Violations::default();
    let agent = read_optional("voice_agent_id", wire.voice_agent_id.as_deref(), &mut faults);
    let hints = Hints {
        flow_node: read_optional("flow_node_voice_agent_id", wire.flow_node_voice_agent_id.as_deref(), &mut faults),
        campaign: read_optional("campaign_voice_agent_id", wire.campaign_voice_agent_id.as_deref(), &mut faults),
    };
    let ttl = wire.ttl.map(|ttl| read_duration("ttl", Some(ttl), (TTL_MIN, TTL_MAX), TTL_DEFAULT, &mut faults));
    let longest = if faults.is_empty() { ttl.unwrap_or(TTL_MAX) } else { TTL_MAX };
    let max_duration = wire.max_duration.map(|most| {
        read_duration("max_duration", Some(most), (MAX_DURATION_MIN, longest), MAX_DURATION_MIN, &mut faults)
    });
    let initial_message =
        faults.take("initial_message", optional_prose(wire.initial_message, INITIAL_MESSAGE_MAX_CHARS));
    let participant = wire.participant.map(|participant| read_object(Some(participant))).transpose();
    let participant = faults.take("participant", participant);
    let context = faults.take("context", optional_prose(wire.context, CONTEXT_MAX_CHARS));
    let metadata = faults.take("metadata", read_object(wire.metadata));
    let create = (|| {
        let (participant, context, initial_message) = (participant?, context?, initial_message?);
        let direct = DirectRequest { ttl, max_duration, participant, context, initial_message };
        Some(CreateSession { agent, hints, direct, metadata: metadata? })
    })();
    Ok(faults.into_result(create)?)
}

pub(crate) fn write_created(Created { session, token }: &Created) -> v1::CreateSessionResponse {
    let written = write(session);
    v1::CreateSessionResponse {
        connection_token: token.text.clone(),
        session_id: written.id.clone(),
        websocket_url: written.websocket_url.clone().unwrap_or_default(),
        expires_at: Some(timestamp(session.expires_at())),
        status: written.status,
        session: Some(written),
    }
}
