//! Who is calling.

use super::{
    error::{Error, Result},
    hash::Sha256,
    ids::{ApiKeyId, CallId, SessionId, TenantId},
    rate::{Rate, RateScope, Subject},
    tenant::{Scope, Scopes},
};

/// A caller whose credential was checked.
#[derive(Debug, Clone)]
pub enum Principal {
    Key(KeyPrincipal),
    Call(CallPrincipal),
}

/// The bearer of an API key.
#[derive(Debug, Clone)]
pub struct KeyPrincipal {
    pub tenant: TenantId,
    pub key: ApiKeyId,
    pub prefix: String,
    /// The hash of the secret that was presented: of two that are good, one ends before the other.
    pub secret: Sha256,
    pub scopes: Scopes,
    pub sandbox: bool,
    pub rate: Rate,
}

/// The bearer of a callback token: the AI service, for one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallPrincipal {
    pub tenant: TenantId,
    pub call: CallId,
    pub session: SessionId,
    pub fence: i64,
    pub jti: String,
}

impl Principal {
    pub const fn tenant(&self) -> TenantId {
        match self {
            Self::Key(key) => key.tenant,
            Self::Call(call) => call.tenant,
        }
    }

    pub fn scopes(&self) -> Scopes {
        match self {
            Self::Key(key) => key.scopes,
            Self::Call(_) => Scopes::default(),
        }
    }

    pub fn has(&self, scope: Scope) -> bool {
        self.scopes().contains(scope)
    }

    pub fn require(&self, scope: Scope) -> Result<()> {
        if self.has(scope) { Ok(()) } else { Err(Error::ScopeRequired(scope)) }
    }

    /// What the caller's requests are counted against; a callback token's are counted a call.
    pub fn rate(&self) -> Option<(Subject, Rate)> {
        match self {
            Self::Key(key) => Some((Subject { scope: RateScope::ApiKey, id: *key.key.as_uuid() }, key.rate)),
            Self::Call(_) => None,
        }
    }

    pub const fn sandbox(&self) -> bool {
        match self {
            Self::Key(key) => key.sandbox,
            Self::Call(_) => false,
        }
    }
}
