//! From a credential to who is calling.

use std::sync::Arc;

use super::{Directory, KeyUses, MeshIdentities, Revocations, TokenKind, TokenSigner};
use crate::domain::{
    Env, Error, Result,
    certificate::ClientCertificate,
    error::CredentialFault,
    principal::{KeyPrincipal, Principal},
    rate::Rate,
    tenant::KeySecret,
};

#[derive(Debug, Clone)]
pub struct Authenticator {
    tenants: Arc<Directory>,
    tokens: Arc<TokenSigner>,
    revocations: Arc<Revocations>,
    mesh: Arc<MeshIdentities>,
    uses: Arc<KeyUses>,
    env: Env,
}

impl Authenticator {
    pub fn new(
        tenants: Arc<Directory>,
        tokens: Arc<TokenSigner>,
        revocations: Arc<Revocations>,
        mesh: MeshIdentities,
        uses: Arc<KeyUses>,
        env: Env,
    ) -> Self {
        Self { tenants, tokens, revocations, mesh: Arc::new(mesh), uses, env }
    }

    /// Knows a service by its certificate. The connection may be old, so its expiry is looked at each time.
    pub fn recognize(&self, certificate: &ClientCertificate) -> Result<Principal> {
        self.mesh.caller(certificate, self.env.now()).map(Principal::Mesh)
    }

    /// Reads what came behind `authorization: Bearer`.
    pub async fn authenticate(&self, bearer: Option<&str>) -> Result<Principal> {
        let bearer = bearer.ok_or(Error::Unauthenticated(CredentialFault::Missing))?;
        if let Some(kind) = TokenKind::of(bearer) {
            let bearer = self.tokens.verify(kind, bearer)?;
            self.revocations.check(&bearer)?;
            return Ok(match kind {
                TokenKind::Callback => Principal::Call(bearer),
                TokenKind::Connection => Principal::Connection(bearer),
            });
        }
        let invalid = || Error::Unauthenticated(CredentialFault::Invalid);
        let secret = KeySecret::parse(bearer).ok_or_else(invalid)?.hash();
        let (key, now) = (self.tenants.key_by_hash(secret).await?.ok_or_else(invalid)?, self.env.now());
        key.check(secret, now).map_err(Error::Unauthenticated)?;
        self.uses.note(&key, now);
        Ok(Principal::Key(KeyPrincipal {
            tenant: key.tenant,
            key: key.id,
            prefix: key.prefix.clone(),
            secret,
            scopes: key.scopes,
            sandbox: key.sandbox,
            rate: Rate::per_minute(key.rate_limit_per_min),
        }))
    }
}
