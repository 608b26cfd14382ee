//! What a caller wrote of an agent, and which of its fields a change is about.

use std::collections::BTreeMap;

use super::{
    super::{
        behavior::{self, BehaviorDraft},
        words::words,
    },
    Subprotocol, TokenLifetime, WsDisconnectAction,
    audio::AudioFormatDraft,
    auth_token::AuthToken,
};

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
    pub behavior: Option<BehaviorDraft>,
}

words!(
    /// The agent's own fields.
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
        Behavior = "behavior",
    }
);

/// A path that an `update_mask` may name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Path {
    Field(Field),
    /// `behavior.` and one of its fields.
    Behavior(behavior::Field),
}

impl From<Field> for Path {
    fn from(field: Field) -> Self {
        Self::Field(field)
    }
}

impl Path {
    /// Whether it is of the behavior, or all of it.
    pub const fn is_behavior(self) -> bool {
        matches!(self, Self::Behavior(_) | Self::Field(Field::Behavior))
    }

    pub fn parse(path: &str) -> Option<Self> {
        match path.strip_prefix("behavior.") {
            Some(inner) => behavior::Field::from_word(inner).map(Self::Behavior),
            None => Field::from_word(path).map(Self::Field),
        }
    }

    /// Every field as a whole; what is inside of one goes with it.
    pub fn all() -> Vec<Self> {
        Field::ALL.iter().copied().map(Self::Field).collect()
    }
}

impl Draft {
    /// The fields that a caller wrote: what an update without a mask changes.
    pub fn present(&self) -> Vec<Path> {
        let format = &self.audio_format;
        let written = |field: &Field| match field {
            Field::Name => self.name.is_some(),
            Field::WsUrl => self.ws_url.is_some(),
            Field::AuthToken => self.auth_token.is_some(),
            // Field by field, so that the others stay.
            Field::AudioFormat | Field::Behavior => false,
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
        let own = Field::ALL.iter().filter(|field| written(field)).copied().map(Path::Field);
        let inner = self.behavior.iter().flat_map(BehaviorDraft::present).map(Path::Behavior);
        own.chain(inner).collect()
    }

    /// Takes what stands there over from `patch`, absent values included.
    pub(super) fn overlay(&mut self, patch: &Self, at: Path) {
        match at {
            Path::Field(field) => self.overlay_field(patch, field),
            Path::Behavior(field) => BehaviorDraft::overlay(&mut self.behavior, patch.behavior.as_ref(), field),
        }
    }

    fn overlay_field(&mut self, patch: &Self, field: Field) {
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
            Field::Behavior => self.behavior.clone_from(&patch.behavior),
        }
    }
}
