//! Who is calling.

use uuid::Uuid;

use super::{
    clock::Timestamp,
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
    Mesh(MeshPrincipal),
    Call(CallPrincipal),
    /// The AI service with what the client of a direct session has shown it.
    Connection(CallPrincipal),
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

/// A service of the mesh, known by its certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshPrincipal {
    pub tenant: TenantId,
    /// The name in the certificate, as it is configured.
    pub identity: String,
    pub scopes: Scopes,
    pub sandbox: bool,
    pub rate_limit_per_min: u32,
    /// The last moment at which its certificate is valid.
    pub not_after: Timestamp,
}

/// The bearer of a token of one call's session: the AI service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallPrincipal {
    pub tenant: TenantId,
    pub call: CallId,
    pub session: SessionId,
    pub fence: i64,
    /// The token's own id.
    pub jti: Uuid,
    pub issued_at: Timestamp,
    /// Whether the call is one of a sandbox key.
    pub sandbox: bool,
}

impl MeshPrincipal {
    /// Names it where an id of 128 bits is asked for.
    fn rate_id(&self) -> Uuid {
        let digest = Sha256::of(format!("{}|{}", self.tenant, self.identity));
        digest.as_bytes().first_chunk().map_or(Uuid::nil(), |half| Uuid::from_bytes(*half))
    }
}

impl Principal {
    pub const fn tenant(&self) -> TenantId {
        match self {
            Self::Key(key) => key.tenant,
            Self::Mesh(service) => service.tenant,
            Self::Call(call) | Self::Connection(call) => call.tenant,
        }
    }

    /// Who it is, for the record of what was done.
    pub fn actor(&self) -> String {
        match self {
            Self::Key(key) => format!("key:{}", key.prefix),
            Self::Mesh(service) => format!("mesh:{}", service.identity),
            Self::Call(call) => format!("call:{}", call.call),
            Self::Connection(call) => format!("connection:{}", call.call),
        }
    }

    /// Who it is in the audit log: a key's public prefix, a certificate's name or a token's jti.
    pub fn credential_name(&self) -> String {
        match self {
            Self::Key(key) => key.prefix.clone(),
            Self::Mesh(service) => service.identity.clone(),
            Self::Call(call) | Self::Connection(call) => call.jti.to_string(),
        }
    }

    /// Of which session its token is, where it bears one.
    pub const fn of_session(&self) -> Option<&CallPrincipal> {
        match self {
            Self::Call(bearer) | Self::Connection(bearer) => Some(bearer),
            Self::Key(_) | Self::Mesh(_) => None,
        }
    }

    /// A token has none: what it may do follows from its call.
    pub fn scopes(&self) -> Scopes {
        match self {
            Self::Key(key) => key.scopes,
            Self::Mesh(service) => service.scopes,
            Self::Call(_) | Self::Connection(_) => Scopes::default(),
        }
    }

    pub fn has(&self, scope: Scope) -> bool {
        self.scopes().contains(scope)
    }

    pub fn require(&self, scope: Scope) -> Result<()> {
        if self.has(scope) { Ok(()) } else { Err(Error::ScopeRequired(scope)) }
    }

    /// What the caller's requests are counted against; a token's are counted a call.
    pub fn rate(&self) -> Option<(Subject, Rate)> {
        match self {
            Self::Key(key) => Some((Subject { scope: RateScope::ApiKey, id: *key.key.as_uuid() }, key.rate)),
            Self::Mesh(service) => {
                let subject = Subject { scope: RateScope::MeshIdentity, id: service.rate_id() };
                Some((subject, Rate::per_minute(service.rate_limit_per_min)))
            }
            Self::Call(_) | Self::Connection(_) => None,
        }
    }

    pub const fn sandbox(&self) -> bool {
        match self {
            Self::Key(key) => key.sandbox,
            Self::Mesh(service) => service.sandbox,
            Self::Call(_) | Self::Connection(_) => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Env;

    #[test]
    fn whoever_it_is_the_record_tells_the_kind_of_credential_and_no_secret() {
        let env = Env::system();
        let (tenant, scopes) = (TenantId::new(&env), [Scope::EventsRead].into_iter().collect());
        let prefix = "vg_test_ab12".to_owned();
        let key = KeyPrincipal {
            tenant,
            key: ApiKeyId::new(&env),
            prefix,
            secret: Sha256::of("secret"),
            scopes,
            sandbox: true,
            rate: Rate::per_minute(1),
        };
        let service = MeshPrincipal {
            tenant,
            identity: "spiffe://mesh/flow".into(),
            scopes,
            sandbox: true,
            rate_limit_per_min: 600,
            not_after: env.now(),
        };
        let call = "call-1".parse().expect("a call id");
        let call = CallPrincipal {
            tenant,
            call,
            session: SessionId::new(&env),
            fence: 1,
            jti: env.uuid(),
            issued_at: env.now(),
            sandbox: false,
        };
        let all = [
            (Principal::Key(key), "key:vg_test_ab12", true),
            (Principal::Mesh(service), "mesh:spiffe://mesh/flow", true),
            (Principal::Call(call.clone()), "call:call-1", false),
            (Principal::Connection(call), "connection:call-1", false),
        ];
        for (principal, actor, is_key_like) in all {
            assert_eq!((principal.actor().as_str(), principal.tenant()), (actor, tenant));
            assert_eq!((principal.has(Scope::EventsRead), principal.sandbox()), (is_key_like, is_key_like), "{actor}");
            assert!(!principal.has(Scope::TenantsAdmin), "{actor}");
        }
    }
}
