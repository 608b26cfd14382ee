//! Tokens that were revoked: known to every replica within a second, and to the one that was asked at once.
//!
//! There are few, and each matters for a day at most, so a replica keeps all of them and asks nobody when a token is
//! presented. It reads what is new twice a second, by the database's clock; what it may have missed while the database
//! was away it reads whole. Meanwhile the revocations that it knows hold, and no new one can be written.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{TenantStore, TokenSigner, token::LIFETIME_MAX};
use crate::domain::{
    Env, Error, Result,
    clock::Timestamp,
    ids::TenantId,
    principal::{CallPrincipal, Principal},
    violations::Fault,
};

/// How often a replica looks for new ones.
const LOOK_EVERY: Duration = Duration::from_millis(400);
/// How far back a look reaches: what was written by a transaction that began so long ago is seen still.
pub(super) const LOOK_BACK: Duration = Duration::from_secs(10);

/// A token that is good for nothing any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Revocation {
    pub tenant: TenantId,
    pub jti: Uuid,
    /// A sandbox key's hands do not reach a live call: what it has revoked is a sandbox call's token, or none.
    pub sandbox: bool,
    /// After this the token is void anyway.
    pub until: Timestamp,
}

/// Which token is meant.
#[derive(Debug, Clone)]
pub enum Revoked {
    Token(String),
    Jti(Uuid),
}

#[derive(Debug)]
pub struct Revocations {
    store: Arc<dyn TenantStore>,
    known: RwLock<HashMap<(TenantId, Uuid), Revocation>>,
    env: Env,
}

impl Revocations {
    pub fn new(store: Arc<dyn TenantStore>, env: Env) -> Self {
        Self { store, known: RwLock::default(), env }
    }

    /// Revokes a token of the principal's tenant; twice is as good as once.
    pub async fn revoke(&self, principal: &Principal, which: Revoked, tokens: &TokenSigner) -> Result<Revocation> {
        let (tenant, sandbox) = (principal.tenant(), principal.sandbox());
        let (jti, until) = match which {
            Revoked::Jti(jti) => (jti, self.env.now().plus(LIFETIME_MAX)),
            Revoked::Token(text) => match tokens.read(&text) {
                Ok((bearer, until)) if bearer.tenant == tenant => (bearer.jti, until),
                // Another tenant's is as good as none.
                _ => {
                    return Err(Error::Invalid(
                        ("token", Fault::new("must be a callback or connection token of the tenant")).into(),
                    ));
                }
            },
        };
        let revocation = Revocation { tenant, jti, sandbox, until };
        self.store.revoke_token(&revocation).await?;
        self.learn([revocation]);
        Ok(revocation)
    }

    pub(super) fn check(&self, bearer: &CallPrincipal) -> Result<()> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        match known.get(&(bearer.tenant, bearer.jti)) {
            Some(revocation) if !revocation.sandbox || bearer.sandbox => Err(Error::TokenRevoked { jti: bearer.jti }),
            _ => Ok(()),
        }
    }

    fn learn(&self, new: impl IntoIterator<Item = Revocation>) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for revocation in new {
            let entry = known.entry((revocation.tenant, revocation.jti)).or_insert(revocation);
            entry.sandbox &= revocation.sandbox;
        }
    }

    fn forget_expired(&self) {
        let now = self.env.now();
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        known.retain(|_, revocation| revocation.until > now);
    }

    /// Reads all of them: before any token is taken for good.
    pub async fn load(&self) -> Result<()> {
        self.learn(self.store.revocations(false).await?);
        Ok(())
    }

    /// Follows what other replicas revoke, until `closing`.
    pub async fn follow_until(&self, closing: CancellationToken) {
        let work = async {
            let (mut last, mut tidied) = (Instant::now(), Instant::now());
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let started = Instant::now();
                // Half of it is for a look that takes long.
                let only_new = started.duration_since(last) < LOOK_BACK / 2;
                match self.store.revocations(only_new).await {
                    Ok(new) => {
                        self.learn(new);
                        last = started;
                    }
                    Err(error) => {
                        tracing::debug!(error = &error as &dyn std::error::Error, "revoked tokens cannot be read");
                    }
                }
                if tidied.elapsed() > Duration::from_mins(1) {
                    self.forget_expired();
                    tidied = Instant::now();
                }
            }
        };
        closing.run_until_cancelled(work).await;
    }
}
