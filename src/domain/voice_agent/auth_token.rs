//! The secret that a node sends when it dials an agent's WebSocket.

use secrecy::{ExposeSecret as _, SecretString};

use crate::domain::{
    Env, Error,
    ids::{TenantId, VoiceAgentId},
    keyring::{KeyRing, Place, Sealed},
};

/// The agent's secret: as a caller has just written it, or as it is kept.
#[derive(Debug, Clone)]
pub enum AuthToken {
    Clear(SecretString),
    Sealed(Sealed),
}

impl AuthToken {
    fn place(tenant: TenantId, agent: VoiceAgentId) -> Place {
        Place::of(tenant, *agent.as_uuid(), "auth_token")
    }

    /// The same under the key that seals now, fit to be kept with the agent; `revision` is the one that it comes with.
    pub fn sealed(
        self,
        ring: &KeyRing,
        env: &Env,
        agent: (TenantId, VoiceAgentId),
        revision: i64,
    ) -> Result<Self, Error> {
        let place = Self::place(agent.0, agent.1);
        match self {
            Self::Clear(clear) => ring.seal(env, place, revision, clear.expose_secret().as_bytes()).map(Self::Sealed),
            // One that does not open is carried on as it is: the change may be about something else.
            Self::Sealed(sealed) => Ok(Self::Sealed(ring.rewrap(env, place, &sealed).ok().flatten().unwrap_or(sealed))),
        }
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
