//! Tenants and their keys.

use std::{fmt, time::Duration};

use super::{
    clock::{Env, Timestamp},
    destination::{DestinationPolicy, DestinationPolicyDraft},
    error::CredentialFault,
    hash::{Sha256, hex},
    ids::{ApiKeyId, TenantId, VoiceAgentId},
    text::{bounded_text, parse_ws_url},
    violations::{Fault, Violations},
    words::words,
};

pub const RATE_LIMIT_PER_MIN_DEFAULT: u32 = 600;
pub const RATE_LIMIT_PER_MIN_MAX: u32 = 100_000;
pub const TENANT_MAX_CONCURRENT_MAX: u32 = 1_000_000;
/// How long a secret works on after its rotation.
pub const GRACE_PERIOD_DEFAULT: Duration = Duration::from_hours(24);
pub const GRACE_PERIOD_MAX: Duration = Duration::from_hours(30 * 24);
const NAME_MAX_CHARS: usize = 200;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tenant {
    pub id: TenantId,
    pub name: String,
    pub default_ws_url: Option<String>,
    pub default_voice_agent_id: Option<VoiceAgentId>,
    /// Cap over all of the tenant's agents; 0 means no cap of its own.
    pub max_concurrent: u32,
    /// Absent: its calls may be sent anywhere.
    pub destination_policy: Option<DestinationPolicy>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
}

/// What may be set about a tenant, unchecked.
#[derive(Debug, Clone, Default)]
pub struct TenantDraft {
    pub name: Option<String>,
    pub default_ws_url: Option<String>,
    /// Whether there is such an agent is for the store to find out.
    pub default_voice_agent_id: Option<VoiceAgentId>,
    pub max_concurrent: Option<i32>,
    pub destination_policy: Option<DestinationPolicyDraft>,
}

words!(
    /// The paths that an `update_mask` may name.
    TenantField {
        Name = "name",
        DefaultWsUrl = "default_ws_url",
        DefaultVoiceAgentId = "default_voice_agent_id",
        MaxConcurrent = "max_concurrent",
        DestinationPolicy = "destination_policy",
    }
);

impl TenantDraft {
    /// Takes `field` over from `patch`, absent values included.
    fn overlay(&mut self, patch: &Self, field: TenantField) {
        match field {
            TenantField::Name => self.name.clone_from(&patch.name),
            TenantField::DefaultWsUrl => self.default_ws_url.clone_from(&patch.default_ws_url),
            TenantField::DefaultVoiceAgentId => self.default_voice_agent_id = patch.default_voice_agent_id,
            TenantField::MaxConcurrent => self.max_concurrent = patch.max_concurrent,
            TenantField::DestinationPolicy => self.destination_policy.clone_from(&patch.destination_policy),
        }
    }
}

impl Tenant {
    pub fn create(env: &Env, draft: TenantDraft) -> Result<Self, Violations> {
        let now = env.now();
        Self::parse(draft, TenantId::new(env), now, now)
    }

    /// This tenant with `fields` taken from `patch`; a field absent there goes back to its default.
    pub fn patched(&self, patch: &TenantDraft, fields: &[TenantField], now: Timestamp) -> Result<Self, Violations> {
        let mut draft = TenantDraft {
            name: Some(self.name.clone()),
            default_ws_url: self.default_ws_url.clone(),
            default_voice_agent_id: self.default_voice_agent_id,
            max_concurrent: i32::try_from(self.max_concurrent).ok(),
            destination_policy: self.destination_policy.as_ref().map(Into::into),
        };
        for field in fields {
            draft.overlay(patch, *field);
        }
        Self::parse(draft, self.id, self.created_at, self.changed_at(now))
    }

    /// The time of a change at `now`. Later than the last one's whatever the replicas' clocks say: the newest cap is
    /// told by it.
    pub fn changed_at(&self, now: Timestamp) -> Timestamp {
        now.max(self.updated_at.plus(Duration::from_micros(1)))
    }

    fn parse(
        draft: TenantDraft,
        id: TenantId,
        created_at: Timestamp,
        updated_at: Timestamp,
    ) -> Result<Self, Violations> {
        let mut faults = Violations::default();
        let name = faults.take(
            "name",
            draft
                .name
                .ok_or_else(Fault::required)
                .and_then(|name| bounded_text(name.trim().to_owned(), NAME_MAX_CHARS)),
        );
        let default_ws_url = faults.take("default_ws_url", draft.default_ws_url.map(parse_ws_url).transpose());
        let max_concurrent = faults.take("max_concurrent", {
            let value = u32::try_from(draft.max_concurrent.unwrap_or(0)).ok();
            value
                .filter(|value| *value <= TENANT_MAX_CONCURRENT_MAX)
                .ok_or_else(|| Fault::new(format!("must be 0 (no cap) to {TENANT_MAX_CONCURRENT_MAX}")))
        });
        let destination_policy = draft.destination_policy.map(DestinationPolicy::parse).transpose();
        let destination_policy = destination_policy.map_err(|part| faults.absorb("destination_policy", part)).ok();
        let tenant = (|| {
            Some(Self {
                id,
                name: name?,
                default_ws_url: default_ws_url?,
                default_voice_agent_id: draft.default_voice_agent_id,
                max_concurrent: max_concurrent?,
                destination_policy: destination_policy?,
                created_at,
                updated_at,
            })
        })();
        faults.into_result(tenant)
    }
}

words!(
    /// What a key may do. A key carries what it was given and nothing by default.
    Scope {
        VoiceAgentsRead = "voice_agents:read",
        VoiceAgentsWrite = "voice_agents:write",
        VoiceAgentsSecrets = "voice_agents:secrets",
        SlotsAcquire = "slots:acquire",
        AiSessionsRead = "ai_sessions:read",
        AiSessionsControlAdmin = "ai_sessions:control_admin",
        EventsRead = "events:read",
        NodesConnect = "nodes:connect",
        TenantsAdmin = "tenants:admin",
    }
);

/// A set of scopes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u16);

impl Scopes {
    pub fn all() -> Self {
        Scope::ALL.iter().copied().collect()
    }

    pub const fn contains(self, scope: Scope) -> bool {
        self.0 & (1 << scope as u16) != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Scope> {
        Scope::ALL.iter().copied().filter(move |scope| self.contains(*scope))
    }

    /// Reads scopes by their words, naming each that is unknown as `scopes[i]`.
    pub fn parse<'a>(words: impl IntoIterator<Item = &'a str>) -> Result<Self, Violations> {
        let mut faults = Violations::default();
        let mut scopes = Self::default();
        for (index, word) in words.into_iter().enumerate() {
            let known = Scope::from_word(word).ok_or_else(|| Fault::new("is not a scope"));
            if let Some(scope) = faults.take(&format!("scopes[{index}]"), known) {
                scopes.0 |= 1 << scope as u16;
            }
        }
        faults.into_result(Some(scopes))
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | 1 << scope as u16))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(Scope::as_str)).finish()
    }
}

/// The secret before the last rotation, which works on for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PreviousSecret {
    pub hash: Sha256,
    pub expires_at: Timestamp,
}

/// A key as it is kept: everything but the secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiKey {
    pub id: ApiKeyId,
    pub tenant: TenantId,
    pub name: String,
    /// Enough of the secret to tell keys apart, and no more.
    pub prefix: String,
    pub hash: Sha256,
    pub previous: Option<PreviousSecret>,
    pub scopes: Scopes,
    pub sandbox: bool,
    pub rate_limit_per_min: u32,
    pub created_at: Timestamp,
    pub expires_at: Option<Timestamp>,
    pub revoked_at: Option<Timestamp>,
    pub last_used_at: Option<Timestamp>,
}

/// What may be asked of a new key, unchecked.
#[derive(Debug, Clone, Default)]
pub struct ApiKeyDraft {
    pub name: String,
    pub scopes: Vec<String>,
    pub rate_limit_per_min: Option<i32>,
    pub expires_at: Option<Timestamp>,
    pub sandbox: bool,
}

impl ApiKey {
    /// Whether the key opens anything at `now`, whatever its secret. A revoked one is answered like one that never
    /// was: its bearer may be a thief.
    pub fn check_lifetime(&self, now: Timestamp) -> Result<(), CredentialFault> {
        if self.revoked_at.is_some() {
            return Err(CredentialFault::Invalid);
        }
        if self.expires_at.is_some_and(|expiry| expiry <= now) {
            return Err(CredentialFault::Expired);
        }
        Ok(())
    }

    /// Whether the secret of this hash opens anything at `now`.
    pub fn check(&self, secret: Sha256, now: Timestamp) -> Result<(), CredentialFault> {
        self.check_lifetime(now)?;
        if secret == self.hash {
            return Ok(());
        }
        match self.previous.filter(|previous| previous.hash == secret) {
            Some(previous) if previous.expires_at > now => Ok(()),
            Some(_) => Err(CredentialFault::Expired),
            None => Err(CredentialFault::Invalid),
        }
    }

    /// Mints a key; the secret is in the answer and nowhere else.
    pub fn mint(env: &Env, tenant: TenantId, draft: &ApiKeyDraft) -> Result<(Self, KeySecret), Violations> {
        let now = env.now();
        let mut faults = Violations::default();
        let name = faults.take("name", bounded_text(draft.name.trim().to_owned(), NAME_MAX_CHARS));
        let scopes =
            Scopes::parse(draft.scopes.iter().map(String::as_str)).map_err(|part| faults.absorb("", part)).ok();
        let rate_limit_per_min = faults.take(
            "rate_limit_per_min",
            match draft.rate_limit_per_min {
                None => Ok(RATE_LIMIT_PER_MIN_DEFAULT),
                Some(value) => u32::try_from(value)
                    .ok()
                    .filter(|value| (1..=RATE_LIMIT_PER_MIN_MAX).contains(value))
                    .ok_or_else(|| Fault::new(format!("must be 1 to {RATE_LIMIT_PER_MIN_MAX}"))),
            },
        );
        if draft.expires_at.is_some_and(|moment| moment <= now) {
            faults.add("expires_at", Fault::new("must be in the future"));
        }
        let secret = KeySecret::mint(env, draft.sandbox);
        let key = (|| {
            Some(Self {
                id: ApiKeyId::new(env),
                tenant,
                name: name?,
                prefix: secret.prefix().to_owned(),
                hash: secret.hash(),
                previous: None,
                scopes: scopes?,
                sandbox: draft.sandbox,
                rate_limit_per_min: rate_limit_per_min?,
                created_at: now,
                expires_at: draft.expires_at,
                revoked_at: None,
                last_used_at: None,
            })
        })();
        faults.into_result(key).map(|key| (key, secret))
    }
}

/// `vg_live_…` or `vg_test_…`: 192 random bits and a checksum, in hexadecimal. Does not print itself.
#[derive(Clone)]
pub struct KeySecret(String);

impl KeySecret {
    const RANDOM_BYTES: usize = 24;
    const CHECKSUM_BYTES: usize = 4;
    /// `vg_live_` and eight digits.
    const PREFIX_CHARS: usize = 16;

    pub fn mint(env: &Env, sandbox: bool) -> Self {
        let kind = if sandbox { "vg_test_" } else { "vg_live_" };
        let body = format!("{kind}{}", hex(&env.bytes::<{ Self::RANDOM_BYTES }>()));
        let checksum = Self::checksum(&body);
        Self(body + &checksum)
    }

    /// Reads a presented key; the checksum turns a mistyped one away before any store is asked.
    pub fn parse(text: &str) -> Option<Self> {
        let length = "vg_live_".len() + 2 * (Self::RANDOM_BYTES + Self::CHECKSUM_BYTES);
        let kind = text.starts_with("vg_live_") || text.starts_with("vg_test_");
        if !kind || text.len() != length || !text.is_ascii() {
            return None;
        }
        let (body, checksum) = text.split_at(length - 2 * Self::CHECKSUM_BYTES);
        (Self::checksum(body) == checksum).then(|| Self(text.to_owned()))
    }

    fn checksum(body: &str) -> String {
        hex(&Sha256::of(body).as_bytes()[..Self::CHECKSUM_BYTES])
    }

    pub fn hash(&self) -> Sha256 {
        Sha256::of(&self.0)
    }

    pub fn prefix(&self) -> &str {
        &self.0[..Self::PREFIX_CHARS]
    }

    /// The one place where the secret leaves: the answer to the caller who made the key.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for KeySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}…", self.prefix())
    }
}

#[cfg(test)]
mod tests;
