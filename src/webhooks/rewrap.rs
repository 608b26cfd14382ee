//! Brings all signing secrets under the key that seals now, while the service goes on.
//!
//! A rotation moves the secret in use as it is sealed, and may do so behind the walk; so it walks again until it finds
//! nothing to do.

use super::WebhookStore;
use crate::domain::{
    Env, Result,
    keyring::{KeyRing, Rewrapped},
};

/// Endpoints that are read in one go.
const BATCH: u16 = 200;

pub async fn rewrap(store: &dyn WebhookStore, ring: &KeyRing, env: &Env) -> Result<Rewrapped> {
    Rewrapped::by_walks(async || walk(store, ring, env).await).await
}

/// Of how many endpoints it rewrapped the secrets, and of how many it could not open them.
async fn walk(store: &dyn WebhookStore, ring: &KeyRing, env: &Env) -> Result<(u64, u64)> {
    let (mut after, mut rewrapped, mut unopened) = (None, 0, 0);
    loop {
        let batch = store.sealed_secrets(after.as_ref(), BATCH).await?;
        for held in &batch {
            match held.secrets.rewrapped(ring, env, held.tenant, held.endpoint) {
                Ok(Some(secrets)) => rewrapped += u64::from(store.reseal(held, &secrets).await?),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        tenant.id = %held.tenant, webhook_endpoint.id = %held.endpoint,
                        error = &error as &dyn std::error::Error, "a secret does not open and is left as it is"
                    );
                    unopened += 1;
                }
            }
        }
        match batch.last() {
            Some(last) if batch.len() == usize::from(BATCH) => after = Some(last.clone()),
            _ => return Ok((rewrapped, unopened)),
        }
    }
}
