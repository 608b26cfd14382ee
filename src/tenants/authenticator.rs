//! From a credential to who is calling.

use std::sync::Arc;

use super::{Directory, MeshIdentities, TokenSigner, token};
use crate::domain::{
    Env, Error, Result,
    certificate::ClientCertificate,
    error::CredentialFault,
    principal::{KeyPrincipal, Principal},
    tenant::KeySecret,
};

#[derive(Debug, Clone)]
pub struct Authenticator {
    tenants: Arc<Directory>,
    tokens: Arc<TokenSigner>,
    mesh: Arc<MeshIdentities>,
    env: Env,
}

impl Authenticator {
    pub fn new(tenants: Arc<Directory>, tokens: Arc<TokenSigner>, mesh: MeshIdentities, env: Env) -> Self {
        Self { tenants, tokens, mesh: Arc::new(mesh), env }
    }

    /// Knows a service by its certificate. The connection may be old, so its expiry is looked at each time.
    pub fn recognize(&self, certificate: &ClientCertificate) -> Result<Principal> {
        self.mesh.caller(certificate, self.env.now()).map(Principal::Mesh)
    }

    /// Reads what came behind `authorization: Bearer`.
    pub async fn authenticate(&self, bearer: Option<&str>) -> Result<Principal> {
        let bearer = bearer.ok_or(Error::Unauthenticated(CredentialFault::Missing))?;
        if bearer.starts_with(token::PREFIX) {
            return self.tokens.verify(bearer).map(Principal::Call);
        }
        let invalid = || Error::Unauthenticated(CredentialFault::Invalid);
        let secret = KeySecret::parse(bearer).ok_or_else(invalid)?;
        let key = self.tenants.key_by_hash(secret.hash()).await?.ok_or_else(invalid)?;
        key.check(self.env.now()).map_err(Error::Unauthenticated)?;
        Ok(Principal::Key(KeyPrincipal {
            tenant: key.tenant,
            key: key.id,
            prefix: key.prefix.clone(),
            scopes: key.scopes,
            sandbox: key.sandbox,
        }))
    }
}
