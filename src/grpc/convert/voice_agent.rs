//! Voice agents on the wire. Their secret is written only by [`write_full`] and [`write_routing`], whose callers have asked
//! whether it may be seen.

use secrecy::{ExposeSecret as _, SecretString};

use super::{
    behavior::{read_behavior, write_behavior},
    number, read_present_enum,
    value::timestamp,
    wire_enum,
};
use crate::{
    agents::{Found, Resolved, Source, Step},
    domain::{
        session::Routing,
        violations::{Fault, Violations},
        voice_agent as domain,
    },
    proto::v1,
};

wire_enum!(domain::Status, v1::VoiceAgentStatus, { Active, Paused, Archived });
wire_enum!(domain::TokenLifetime, v1::TokenLifetime, { ThirtyMinWithRefresh, WsSession });
wire_enum!(domain::Subprotocol, v1::Subprotocol, { AudioDrachtioOrg, AudioJambonzOrg });
wire_enum!(domain::WsDisconnectAction, v1::WsDisconnectAction, { Hangup, TransferToQueue });
wire_enum!(domain::AudioEncoding, v1::AudioEncoding, { PcmS16le, Pcmu, Pcma });

/// Paths of the message that the service alone writes.
const READ_ONLY: [&str; 8] = [
    "tenant_id",
    "has_auth_token",
    "status",
    "behavior.system_instruction",
    "revision",
    "created_at",
    "updated_at",
    "updated_by",
];

pub(crate) fn read_draft(wire: v1::VoiceAgent, faults: &mut Violations) -> domain::Draft {
    domain::Draft {
        name: wire.name,
        ws_url: wire.ws_url,
        auth_token: wire.auth_token.map(SecretString::from).map(domain::AuthToken::Clear),
        audio_format: wire.audio_format.map(|format| read_audio_format(format, faults)).unwrap_or_default(),
        external_agent_id: wire.external_agent_id,
        transfer_destination: wire.transfer_destination,
        max_concurrent: wire.max_concurrent,
        reserved_inbound: wire.reserved_inbound,
        token_lifetime: read_present_enum("voice_agent.token_lifetime", wire.token_lifetime, faults),
        subprotocol: read_present_enum("voice_agent.subprotocol", wire.subprotocol, faults),
        ws_disconnect_action: read_present_enum("voice_agent.ws_disconnect_action", wire.ws_disconnect_action, faults),
        metadata: wire.metadata,
        behavior: wire.behavior.map(|behavior| read_behavior("voice_agent.behavior", behavior, faults)),
    }
}

fn read_audio_format(wire: v1::AudioFormat, faults: &mut Violations) -> domain::AudioFormatDraft {
    domain::AudioFormatDraft {
        encoding: read_present_enum("voice_agent.audio_format.encoding", wire.encoding, faults),
        sample_rate_hz: wire.sample_rate_hz,
        channels: wire.channels,
        frame_ms: wire.frame_ms,
    }
}

/// The fields that an update changes: those of the mask, or those that are present where there is none.
pub(crate) fn read_mask(
    mask: Option<prost_types::FieldMask>,
    draft: &domain::Draft,
    faults: &mut Violations,
) -> Vec<domain::Path> {
    let Some(mask) = mask.filter(|mask| !mask.paths.is_empty()) else { return draft.present() };
    if mask.paths.iter().any(|path| path == "*") {
        if mask.paths.len() > 1 {
            faults.add("update_mask", Fault::new("must not name other paths beside *"));
        }
        return domain::Path::all();
    }
    let mut paths = Vec::new();
    for path in &mask.paths {
        let known = domain::Path::parse(path).ok_or_else(|| match path.as_str() {
            "id" | "etag" => Fault::read_only(),
            path if READ_ONLY.contains(&path) => Fault::read_only(),
            _ => Fault::unknown(),
        });
        let shown: String = path.chars().take(100).collect();
        // Once each: a path may be long to carry out, and a message has room for thousands of them.
        paths.extend(faults.take(&format!("update_mask.{shown}"), known).filter(|path| !paths.contains(path)));
    }
    paths
}

pub(crate) fn write(agent: &domain::VoiceAgent) -> v1::VoiceAgent {
    let spec = &agent.spec;
    v1::VoiceAgent {
        id: agent.id.to_string(),
        tenant_id: agent.tenant.to_string(),
        name: Some(spec.name.clone()),
        ws_url: Some(spec.ws_url.clone()),
        auth_token: None,
        has_auth_token: spec.auth_token.is_some(),
        audio_format: Some(write_audio_format(spec.audio_format)),
        external_agent_id: spec.external_agent_id.clone(),
        transfer_destination: spec.transfer_destination.clone(),
        max_concurrent: Some(number(spec.max_concurrent)),
        reserved_inbound: Some(number(spec.reserved_inbound)),
        token_lifetime: Some(v1::TokenLifetime::from(spec.token_lifetime).into()),
        subprotocol: Some(v1::Subprotocol::from(spec.subprotocol).into()),
        ws_disconnect_action: Some(v1::WsDisconnectAction::from(spec.ws_disconnect_action).into()),
        status: v1::VoiceAgentStatus::from(agent.status).into(),
        metadata: spec.metadata.clone(),
        behavior: spec.behavior.as_deref().map(write_behavior),
        revision: agent.revision,
        etag: agent.etag(),
        created_at: Some(timestamp(agent.created_at)),
        updated_at: Some(timestamp(agent.updated_at)),
        updated_by: agent.updated_by.clone(),
    }
}

/// With the secret, for those who may see it.
pub(crate) fn write_full(agent: &domain::VoiceAgent, secret: Option<&SecretString>) -> v1::VoiceAgent {
    v1::VoiceAgent { auth_token: secret.map(|secret| secret.expose_secret().to_owned()), ..write(agent) }
}

/// An agent that would only be made has no id yet, and nothing that comes with being kept.
pub(crate) fn write_resolved(resolved: &Resolved) -> v1::ResolveVoiceAgentResponse {
    let mut agent = write(&resolved.agent);
    if !resolved.exists() {
        agent = v1::VoiceAgent {
            id: String::new(),
            revision: 0,
            etag: String::new(),
            created_at: None,
            updated_at: None,
            updated_by: String::new(),
            ..agent
        };
    }
    let resolution = write_resolution(resolved);
    v1::ResolveVoiceAgentResponse { voice_agent: Some(agent), source: resolution.source, steps: resolution.steps }
}

pub(crate) fn write_resolution(resolved: &Resolved) -> v1::Resolution {
    let step = |step: &Step| v1::ResolutionStep {
        source: write_source(step.source).into(),
        result: write_found(step.found).into(),
        voice_agent_id: step.agent.map(|agent| agent.to_string()),
    };
    v1::Resolution { source: write_source(resolved.source()).into(), steps: resolved.steps.iter().map(step).collect() }
}

const fn write_source(source: Source) -> v1::ResolutionSource {
    match source {
        Source::Explicit => v1::ResolutionSource::Explicit,
        Source::FlowNode => v1::ResolutionSource::FlowNode,
        Source::Campaign => v1::ResolutionSource::Campaign,
        Source::TenantDefault => v1::ResolutionSource::TenantDefault,
        Source::LazyDefault => v1::ResolutionSource::LazyDefault,
    }
}

const fn write_found(found: Found) -> v1::ResolutionResult {
    match found {
        Found::NotSet => v1::ResolutionResult::NotSet,
        Found::Chosen => v1::ResolutionResult::Chosen,
        Found::Created => v1::ResolutionResult::Created,
        Found::WouldCreate => v1::ResolutionResult::WouldCreate,
    }
}

fn write_audio_format(format: domain::AudioFormat) -> v1::AudioFormat {
    v1::AudioFormat {
        encoding: Some(v1::AudioEncoding::from(format.encoding).into()),
        sample_rate_hz: Some(number(format.sample_rate_hz)),
        channels: Some(i32::from(format.channels)),
        frame_ms: Some(i32::from(format.frame_ms)),
    }
}

/// `auth_token` is the caller's to decide: only some may see it.
pub(crate) fn write_routing(routing: &Routing, auth_token: Option<String>) -> v1::Routing {
    v1::Routing {
        ws_url: routing.ws_url.clone(),
        auth_token,
        audio_format: Some(write_audio_format(routing.audio_format)),
        subprotocol: v1::Subprotocol::from(routing.subprotocol).into(),
        ws_disconnect_action: v1::WsDisconnectAction::from(routing.ws_disconnect_action).into(),
        transfer_destination: routing.transfer_destination.clone(),
        behavior: routing.behavior.as_deref().map(write_behavior),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_that_is_named_a_thousand_times_is_carried_out_once() {
        let paths = ["behavior", "name", "behavior.tools"].into_iter().map(str::to_owned).cycle().take(3_000).collect();
        let mut faults = Violations::default();
        let read = read_mask(Some(prost_types::FieldMask { paths }), &domain::Draft::default(), &mut faults);
        assert_eq!((read.len(), faults.is_empty()), (3, true));
    }
}
