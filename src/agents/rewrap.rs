//! Brings all sealed secrets of agents under the key that seals now, while the service goes on.
//!
//! A secret that an agent's change carries on, sealed as it is, may be written behind the place where the walk is; so it
//! walks again until it finds nothing to do. A replica that still seals with an older key makes that a long walk: the
//! key ring is to be rolled out first.

use super::VoiceAgentStore;
use crate::domain::{
    Env, Result,
    keyring::{KeyRing, Rewrapped},
    voice_agent::AuthToken,
};

/// Secrets that are read in one go.
const BATCH: u16 = 200;

pub async fn rewrap(store: &dyn VoiceAgentStore, ring: &KeyRing, env: &Env) -> Result<Rewrapped> {
    Rewrapped::by_walks(async || walk(store, ring, env).await).await
}

/// How many it rewrapped, and how many it could not open.
async fn walk(store: &dyn VoiceAgentStore, ring: &KeyRing, env: &Env) -> Result<(u64, u64)> {
    let (mut after, mut rewrapped, mut unopened) = (None, 0, 0);
    loop {
        let batch = store.sealed_tokens(after.as_ref(), BATCH).await?;
        for token in &batch {
            match AuthToken::rewrapped(&token.sealed, ring, env, token.tenant, token.agent) {
                Ok(Some(sealed)) => rewrapped += u64::from(store.reseal(token, &sealed).await?),
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(
                        tenant.id = %token.tenant, voice_agent.id = %token.agent, revision = token.revision,
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
