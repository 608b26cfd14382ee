//! A voice agent: the routing alias that says where a call's audio goes and under which limits.
//!
//! A [`Draft`] is what a caller wrote, a [`Spec`] is what is allowed to exist; [`Spec::parse`] is the only
//! way from one to the other and names every field at fault. A PATCH is a draft laid over the current
//! spec and parsed again, so that rules between fields hold after every change.

mod audio;
mod auth_token;
mod draft;

use std::{collections::BTreeMap, sync::Arc};

use secrecy::ExposeSecret as _;

pub use self::{
    audio::{AudioEncoding, AudioFormat, AudioFormatDraft},
    auth_token::AuthToken,
    draft::{Draft, Field, Path},
};
use super::{
    behavior::{Behavior, BehaviorDraft},
    clock::Timestamp,
    hash::hex,
    ids::{TenantId, VoiceAgentId},
    number::ranged,
    text::{bounded_text, check_e164, check_sip_uri, parse_ws_url},
    violations::{Fault, Violations},
    words::words,
};

/// Limits of contract section 2.
pub const NAME_MAX_CHARS: usize = 200;
pub const AUTH_TOKEN_MAX_BYTES: usize = 4096;
pub const EXTERNAL_AGENT_ID_MAX_CHARS: usize = 200;
pub const MAX_CONCURRENT_MAX: u32 = 10_000;
pub const MAX_CONCURRENT_DEFAULT: u32 = 10;
pub const METADATA_MAX_ENTRIES: usize = 32;
pub const METADATA_KEY_MAX_CHARS: usize = 64;
pub const METADATA_VALUE_MAX_CHARS: usize = 500;

words!(Status { Active = "ACTIVE", Paused = "PAUSED", Archived = "ARCHIVED" });
words!(
    /// How long a callback token lives.
    TokenLifetime { ThirtyMinWithRefresh = "THIRTY_MIN_WITH_REFRESH", WsSession = "WS_SESSION" }
);
words!(
    /// The WebSocket subprotocol, in the words that go on the wire.
    Subprotocol { AudioDrachtioOrg = "audio.drachtio.org", AudioJambonzOrg = "audio.jambonz.org" }
);
words!(
    /// What happens to the call when its WebSocket drops.
    WsDisconnectAction { Hangup = "HANGUP", TransferToQueue = "TRANSFER_TO_QUEUE" }
);

/// Everything about an agent that its tenant may set, checked. As JSON it lacks its secret, which is kept apart.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub struct Spec {
    pub name: String,
    pub ws_url: String,
    #[serde(skip)]
    pub auth_token: Option<AuthToken>,
    pub audio_format: AudioFormat,
    pub external_agent_id: Option<String>,
    pub transfer_destination: Option<String>,
    pub max_concurrent: u32,
    pub reserved_inbound: u32,
    pub token_lifetime: TokenLifetime,
    pub subprotocol: Subprotocol,
    pub ws_disconnect_action: WsDisconnectAction,
    pub metadata: BTreeMap<String, String>,
    /// Shared: every call of the agent carries it.
    pub behavior: Option<Arc<Behavior>>,
}

#[derive(Debug, Clone)]
pub struct VoiceAgent {
    pub id: VoiceAgentId,
    pub tenant: TenantId,
    pub spec: Spec,
    pub status: Status,
    /// 1 at creation, one more by every change.
    pub revision: i64,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    /// Who made this revision, as `Principal::actor` names them.
    pub updated_by: String,
}

impl VoiceAgent {
    /// Changes with every change of the agent; opaque to callers.
    pub fn etag(&self) -> String {
        // The factor is odd, so no two revisions of an agent have the same.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let (_, own) = self.id.as_uuid().as_u64_pair();
        hex(&(own ^ self.revision.cast_unsigned().wrapping_mul(SPREAD)).to_be_bytes())
    }
}

impl Spec {
    pub fn parse(draft: Draft) -> Result<Self, Violations> {
        let mut faults = Violations::default();
        let name = faults.take("name", parse_name(draft.name));
        let ws_url = faults.take("ws_url", draft.ws_url.ok_or_else(Fault::required).and_then(parse_ws_url));
        let auth_token = faults.take("auth_token", draft.auth_token.map(parse_auth_token).transpose());
        let audio_format = audio::parse(draft.audio_format, &mut faults);
        let external_agent_id = faults.take(
            "external_agent_id",
            draft.external_agent_id.map(|id| bounded_text(id, EXTERNAL_AGENT_ID_MAX_CHARS)).transpose(),
        );
        let transfer_destination =
            faults.take("transfer_destination", draft.transfer_destination.map(parse_transfer_destination).transpose());
        let max_concurrent =
            faults.take("max_concurrent", ranged(draft.max_concurrent, 1, MAX_CONCURRENT_MAX, MAX_CONCURRENT_DEFAULT));
        let reserved_inbound = faults.take(
            "reserved_inbound",
            ranged(draft.reserved_inbound, 0, max_concurrent.unwrap_or(MAX_CONCURRENT_MAX), 0)
                .map_err(|fault| Fault::new(format!("{}, the agent's max_concurrent", fault.description))),
        );
        check_metadata(&draft.metadata, &mut faults);
        let behavior = draft.behavior.map(Behavior::parse).transpose();
        let behavior = behavior.map_err(|part| faults.absorb("behavior", part)).ok();

        let spec = (|| {
            Some(Self {
                name: name?,
                ws_url: ws_url?,
                auth_token: auth_token?,
                audio_format: audio_format?,
                external_agent_id: external_agent_id?,
                transfer_destination: transfer_destination?,
                max_concurrent: max_concurrent?,
                reserved_inbound: reserved_inbound?,
                token_lifetime: draft.token_lifetime.unwrap_or(TokenLifetime::ThirtyMinWithRefresh),
                subprotocol: draft.subprotocol.unwrap_or(Subprotocol::AudioDrachtioOrg),
                ws_disconnect_action: draft.ws_disconnect_action.unwrap_or(WsDisconnectAction::Hangup),
                metadata: draft.metadata,
                behavior: behavior?.map(Arc::new),
            })
        })();
        faults.into_result(spec)
    }

    /// This spec with `paths` taken from `patch`; a field absent there goes back to its default.
    pub fn patched(&self, patch: &Draft, paths: &[Path]) -> Result<Self, Violations> {
        let mut draft = self.to_draft();
        for path in paths {
            draft.overlay(patch, *path);
        }
        if paths.iter().any(|path| path.is_behavior()) {
            return Self::parse(draft);
        }
        // It was checked when it was written, which was work.
        draft.behavior = None;
        Ok(Self { behavior: self.behavior.clone(), ..Self::parse(draft)? })
    }

    /// The same, checked and compiled as if it were written now.
    pub fn written_anew(&self) -> Result<Self, Violations> {
        Self::parse(self.to_draft())
    }

    fn to_draft(&self) -> Draft {
        let number = |value: u32| i32::try_from(value).ok();
        Draft {
            name: Some(self.name.clone()),
            ws_url: Some(self.ws_url.clone()),
            auth_token: self.auth_token.clone(),
            audio_format: AudioFormatDraft {
                encoding: Some(self.audio_format.encoding),
                sample_rate_hz: number(self.audio_format.sample_rate_hz),
                channels: Some(i32::from(self.audio_format.channels)),
                frame_ms: Some(i32::from(self.audio_format.frame_ms)),
            },
            external_agent_id: self.external_agent_id.clone(),
            transfer_destination: self.transfer_destination.clone(),
            max_concurrent: number(self.max_concurrent),
            reserved_inbound: number(self.reserved_inbound),
            token_lifetime: Some(self.token_lifetime),
            subprotocol: Some(self.subprotocol),
            ws_disconnect_action: Some(self.ws_disconnect_action),
            metadata: self.metadata.clone(),
            behavior: self.behavior.as_deref().map(BehaviorDraft::from),
        }
    }
}

fn parse_name(name: Option<String>) -> Result<String, Fault> {
    let name = name.ok_or_else(Fault::required)?;
    if name.trim().is_empty() {
        return Err(Fault::required());
    }
    bounded_text(name.trim().to_owned(), NAME_MAX_CHARS)
}

fn parse_auth_token(token: AuthToken) -> Result<AuthToken, Fault> {
    // What is kept was checked when it was written.
    let AuthToken::Clear(clear) = &token else { return Ok(token) };
    let text = clear.expose_secret();
    if text.is_empty() || text.len() > AUTH_TOKEN_MAX_BYTES || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(Fault::new(format!("must be 1 to {AUTH_TOKEN_MAX_BYTES} visible ASCII characters")));
    }
    Ok(token)
}

fn parse_transfer_destination(text: String) -> Result<String, Fault> {
    let checked = if text.starts_with('+') { check_e164(&text) } else { check_sip_uri(&text) };
    checked.map(|()| text)
}

fn check_metadata(metadata: &BTreeMap<String, String>, faults: &mut Violations) {
    if metadata.len() > METADATA_MAX_ENTRIES {
        faults.add("metadata", Fault::new(format!("must have at most {METADATA_MAX_ENTRIES} entries")));
    }
    for (key, value) in metadata.iter().take(METADATA_MAX_ENTRIES) {
        let field = || format!("metadata[{:?}]", key.chars().take(METADATA_KEY_MAX_CHARS).collect::<String>());
        if key.is_empty() || key.chars().count() > METADATA_KEY_MAX_CHARS || key.chars().any(char::is_control) {
            let rule = format!("must have a key of 1 to {METADATA_KEY_MAX_CHARS} characters, none a control character");
            faults.add(field(), Fault::new(rule));
        }
        if value.chars().count() > METADATA_VALUE_MAX_CHARS {
            let rule = format!("must have a value of at most {METADATA_VALUE_MAX_CHARS} characters");
            faults.add(field(), Fault::new(rule));
        }
        if value.contains('\0') {
            faults.add(field(), Fault::new("must not contain a NUL character"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minimal() -> Draft {
        Draft { name: Some("Ada".into()), ws_url: Some("wss://ai.example/ws".into()), ..Draft::default() }
    }

    #[test]
    fn a_minimal_draft_gets_the_contracts_defaults() {
        let spec = Spec::parse(minimal()).expect("valid");
        assert_eq!((spec.max_concurrent, spec.reserved_inbound), (10, 0));
        assert_eq!(spec.audio_format, AudioFormat::default());
        assert_eq!(spec.subprotocol.as_str(), "audio.drachtio.org");
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let draft = Draft { max_concurrent: Some(0), reserved_inbound: Some(-1), ..Draft::default() };
        let faults = Spec::parse(draft).expect_err("four faults");
        let fields: Vec<_> = faults.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["name", "ws_url", "max_concurrent", "reserved_inbound"]);
    }

    #[test]
    fn a_patch_cannot_break_a_rule_between_fields() {
        let spec = Spec::parse(Draft { reserved_inbound: Some(5), ..minimal() }).expect("valid");
        let patch = Draft { max_concurrent: Some(3), ..Draft::default() };
        assert!(spec.patched(&patch, &[Field::MaxConcurrent.into()]).is_err());
    }

    #[test]
    fn a_masked_field_that_is_absent_goes_back_to_its_default() {
        let spec = Spec::parse(Draft { max_concurrent: Some(3), ..minimal() }).expect("valid");
        assert_eq!(spec.patched(&Draft::default(), &[Field::MaxConcurrent.into()]).expect("valid").max_concurrent, 10);
        assert!(spec.patched(&Draft::default(), &[Field::Name.into()]).is_err());
    }
}
