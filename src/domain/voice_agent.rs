//! A voice agent: the routing alias that says where a call's audio goes and under which limits.
//!
//! A [`Draft`] is what a caller wrote, a [`Spec`] is what is allowed to exist; [`Spec::parse`] is the only
//! way from one to the other and names every field at fault. A PATCH is a draft laid over the current
//! spec and parsed again, so that rules between fields hold after every change.

use std::collections::BTreeMap;

use secrecy::{ExposeSecret as _, SecretString};

use super::{
    clock::{Env, Timestamp},
    error::Error,
    hash::{Sha256, hex},
    ids::{TenantId, VoiceAgentId},
    keyring::{KeyRing, Place, Sealed},
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
words!(AudioEncoding { PcmS16le = "PCM_S16LE", Pcmu = "PCMU", Pcma = "PCMA" });

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AudioFormat {
    pub encoding: AudioEncoding,
    pub sample_rate_hz: u32,
    pub channels: u8,
    pub frame_ms: u8,
}

impl Default for AudioFormat {
    fn default() -> Self {
        Self { encoding: AudioEncoding::PcmS16le, sample_rate_hz: 16_000, channels: 1, frame_ms: 20 }
    }
}

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
}

/// The agent's secret: as a caller has just written it, or as it is kept.
#[derive(Debug, Clone)]
pub enum AuthToken {
    Clear(SecretString),
    Sealed(Sealed),
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
        hex(&Sha256::of(format!("{}/{}", self.id, self.revision)).as_bytes()[..8])
    }
}

/// What a caller wrote: nothing is checked yet, and absent means absent.
#[derive(Debug, Clone, Default)]
pub struct Draft {
    pub name: Option<String>,
    pub ws_url: Option<String>,
    pub auth_token: Option<AuthToken>,
    pub audio_format: AudioFormatDraft,
    pub external_agent_id: Option<String>,
    pub transfer_destination: Option<String>,
    pub max_concurrent: Option<i32>,
    pub reserved_inbound: Option<i32>,
    pub token_lifetime: Option<TokenLifetime>,
    pub subprotocol: Option<Subprotocol>,
    pub ws_disconnect_action: Option<WsDisconnectAction>,
    pub metadata: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, Default)]
pub struct AudioFormatDraft {
    pub encoding: Option<AudioEncoding>,
    pub sample_rate_hz: Option<i32>,
    pub channels: Option<i32>,
    pub frame_ms: Option<i32>,
}

words!(
    /// The paths that an `update_mask` may name.
    Field {
        Name = "name",
        WsUrl = "ws_url",
        AuthToken = "auth_token",
        AudioFormat = "audio_format",
        AudioEncoding = "audio_format.encoding",
        AudioSampleRate = "audio_format.sample_rate_hz",
        AudioChannels = "audio_format.channels",
        AudioFrame = "audio_format.frame_ms",
        ExternalAgentId = "external_agent_id",
        TransferDestination = "transfer_destination",
        MaxConcurrent = "max_concurrent",
        ReservedInbound = "reserved_inbound",
        TokenLifetime = "token_lifetime",
        Subprotocol = "subprotocol",
        WsDisconnectAction = "ws_disconnect_action",
        Metadata = "metadata",
    }
);

impl Draft {
    /// The fields that a caller wrote: what an update without a mask changes.
    pub fn present(&self) -> Vec<Field> {
        let format = &self.audio_format;
        let written = |field: &Field| match field {
            Field::Name => self.name.is_some(),
            Field::WsUrl => self.ws_url.is_some(),
            Field::AuthToken => self.auth_token.is_some(),
            Field::AudioFormat => false,
            Field::AudioEncoding => format.encoding.is_some(),
            Field::AudioSampleRate => format.sample_rate_hz.is_some(),
            Field::AudioChannels => format.channels.is_some(),
            Field::AudioFrame => format.frame_ms.is_some(),
            Field::ExternalAgentId => self.external_agent_id.is_some(),
            Field::TransferDestination => self.transfer_destination.is_some(),
            Field::MaxConcurrent => self.max_concurrent.is_some(),
            Field::ReservedInbound => self.reserved_inbound.is_some(),
            Field::TokenLifetime => self.token_lifetime.is_some(),
            Field::Subprotocol => self.subprotocol.is_some(),
            Field::WsDisconnectAction => self.ws_disconnect_action.is_some(),
            Field::Metadata => !self.metadata.is_empty(),
        };
        Field::ALL.iter().filter(|field| written(field)).copied().collect()
    }

    /// Takes `field` over from `patch`, absent values included.
    fn overlay(&mut self, patch: &Self, field: Field) {
        match field {
            Field::Name => self.name.clone_from(&patch.name),
            Field::WsUrl => self.ws_url.clone_from(&patch.ws_url),
            Field::AuthToken => self.auth_token.clone_from(&patch.auth_token),
            Field::AudioFormat => self.audio_format = patch.audio_format,
            Field::AudioEncoding => self.audio_format.encoding = patch.audio_format.encoding,
            Field::AudioSampleRate => self.audio_format.sample_rate_hz = patch.audio_format.sample_rate_hz,
            Field::AudioChannels => self.audio_format.channels = patch.audio_format.channels,
            Field::AudioFrame => self.audio_format.frame_ms = patch.audio_format.frame_ms,
            Field::ExternalAgentId => self.external_agent_id.clone_from(&patch.external_agent_id),
            Field::TransferDestination => self.transfer_destination.clone_from(&patch.transfer_destination),
            Field::MaxConcurrent => self.max_concurrent = patch.max_concurrent,
            Field::ReservedInbound => self.reserved_inbound = patch.reserved_inbound,
            Field::TokenLifetime => self.token_lifetime = patch.token_lifetime,
            Field::Subprotocol => self.subprotocol = patch.subprotocol,
            Field::WsDisconnectAction => self.ws_disconnect_action = patch.ws_disconnect_action,
            Field::Metadata => self.metadata.clone_from(&patch.metadata),
        }
    }
}

impl AuthToken {
    fn place(tenant: TenantId, agent: VoiceAgentId) -> Place {
        Place::of(tenant, *agent.as_uuid(), "auth_token")
    }

    /// The same, fit to be kept with the agent; `revision` is the one that it comes with.
    pub fn sealed(
        self,
        ring: &KeyRing,
        env: &Env,
        agent: (TenantId, VoiceAgentId),
        revision: i64,
    ) -> Result<Self, Error> {
        let Self::Clear(clear) = self else { return Ok(self) };
        let place = Self::place(agent.0, agent.1);
        ring.seal(env, place, revision, clear.expose_secret().as_bytes()).map(Self::Sealed)
    }

    /// The secret itself, for the node that dials and for those who may see it.
    pub fn reveal(&self, ring: &KeyRing, tenant: TenantId, agent: VoiceAgentId) -> Result<SecretString, Error> {
        match self {
            Self::Clear(clear) => Ok(clear.clone()),
            Self::Sealed(sealed) => ring.open_text(Self::place(tenant, agent), sealed),
        }
    }

    /// A kept secret under the key that seals now; nothing if it is already.
    pub fn rewrapped(
        sealed: &Sealed,
        ring: &KeyRing,
        env: &Env,
        tenant: TenantId,
        agent: VoiceAgentId,
    ) -> Result<Option<Sealed>, Error> {
        ring.rewrap(env, Self::place(tenant, agent), sealed)
    }
}

impl Spec {
    pub fn parse(draft: Draft) -> Result<Self, Violations> {
        let mut faults = Violations::default();
        let name = faults.take("name", parse_name(draft.name));
        let ws_url = faults.take("ws_url", draft.ws_url.ok_or_else(Fault::required).and_then(parse_ws_url));
        let auth_token = faults.take("auth_token", draft.auth_token.map(parse_auth_token).transpose());
        let audio_format = parse_audio_format(draft.audio_format, &mut faults);
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
            })
        })();
        faults.into_result(spec)
    }

    /// This spec with `fields` taken from `patch`; a field absent there goes back to its default.
    pub fn patched(&self, patch: &Draft, fields: &[Field]) -> Result<Self, Violations> {
        let mut draft = self.to_draft();
        for field in fields {
            draft.overlay(patch, *field);
        }
        Self::parse(draft)
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

fn parse_audio_format(draft: AudioFormatDraft, faults: &mut Violations) -> Option<AudioFormat> {
    let default = AudioFormat::default();
    let encoding = draft.encoding.unwrap_or(default.encoding);
    let narrow = encoding != AudioEncoding::PcmS16le;
    let rates: &[u32] = if narrow { &[8_000] } else { &[8_000, 16_000, 24_000, 48_000] };
    // A caller who names only PCMU means telephony's one rate, not the default that PCMU cannot have.
    let rate_default = if narrow { 8_000 } else { default.sample_rate_hz };
    let sample_rate_hz = faults
        .take("audio_format.sample_rate_hz", one_of(draft.sample_rate_hz, rates, rate_default, encoding.as_str()));
    let channels = faults.take("audio_format.channels", ranged(draft.channels, 1, 2, u32::from(default.channels)));
    let frame_ms = faults
        .take("audio_format.frame_ms", one_of(draft.frame_ms, &[10, 20, 30, 40, 60], u32::from(default.frame_ms), ""));
    Some(AudioFormat {
        encoding,
        sample_rate_hz: sample_rate_hz?,
        channels: u8::try_from(channels?).ok()?,
        frame_ms: u8::try_from(frame_ms?).ok()?,
    })
}

fn one_of(value: Option<i32>, allowed: &[u32], default: u32, of: &str) -> Result<u32, Fault> {
    let Some(value) = value else { return Ok(default) };
    u32::try_from(value).ok().filter(|value| allowed.contains(value)).ok_or_else(|| {
        let list = allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        let of = if of.is_empty() { String::new() } else { format!(" for {of}") };
        Fault::new(format!("must be one of {list}{of}"))
    })
}

fn ranged(value: Option<i32>, min: u32, max: u32, default: u32) -> Result<u32, Fault> {
    let Some(value) = value else { return Ok(default) };
    u32::try_from(value)
        .ok()
        .filter(|value| (min..=max).contains(value))
        .ok_or_else(|| Fault::new(format!("must be {min} to {max}")))
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
        assert!(spec.patched(&patch, &[Field::MaxConcurrent]).is_err());
    }

    #[test]
    fn a_masked_field_that_is_absent_goes_back_to_its_default() {
        let spec = Spec::parse(Draft { max_concurrent: Some(3), ..minimal() }).expect("valid");
        assert_eq!(spec.patched(&Draft::default(), &[Field::MaxConcurrent]).expect("valid").max_concurrent, 10);
        assert!(spec.patched(&Draft::default(), &[Field::Name]).is_err());
    }
}
