//! Who is calling.

use super::{
    error::{Error, Result},
    ids::{ApiKeyId, CallId, SessionId, TenantId},
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
    pub scopes: Scopes,
    pub sandbox: bool,
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

    /// Who it is, for the record of what they changed.
    pub fn actor(&self) -> String {
        match self {
            Self::Key(key) => format!("key:{}", key.prefix),
            Self::Call(call) => format!("call:{}", call.call),
        }
    }

    pub fn has(&self, scope: Scope) -> bool {
        match self {
            Self::Key(key) => key.scopes.contains(scope),
            Self::Call(_) => false,
        }
    }

    pub fn require(&self, scope: Scope) -> Result<()> {
        if self.has(scope) { Ok(()) } else { Err(Error::ScopeRequired(scope)) }
    }

    pub const fn sandbox(&self) -> bool {
        match self {
            Self::Key(key) => key.sandbox,
            Self::Call(_) => false,
        }
    }
}
