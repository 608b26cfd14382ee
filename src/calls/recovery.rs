//! Live calls come back after the slot store lost its data.
//!
//! The store says which leases are missing; their holders have proved what they were. A lease comes back unless its
//! session has ended meanwhile. Where the database cannot say, the proof alone suffices: a call that is counted although
//! it has ended is freed by the sweep's look back, a call that is not counted would be one too many.

use std::{collections::HashMap, sync::Arc, time::Duration};

use async_trait::async_trait;

use super::Calls;
use crate::{
    admission::LiveCalls,
    domain::{
        Error, Result,
        error::Dependency,
        ids::{SessionId, TenantId},
        lease::{Proven, Renewed},
        session::SessionStatus,
    },
    sessions::SessionStore,
};

/// How long the database gets before the proof alone must do: a heartbeat must not wait for it.
const SESSION_PATIENCE: Duration = Duration::from_secs(1);

/// What sessions tell of a tenant's calls.
#[derive(Debug)]
pub struct SessionLiveCalls(pub Arc<dyn SessionStore>);

#[async_trait]
impl LiveCalls for SessionLiveCalls {
    async fn longest_lease(&self, tenant: TenantId) -> Result<Option<Duration>> {
        self.0.longest_lease(tenant).await
    }
}

impl Calls {
    pub(super) async fn bring_back(&self, tenant: TenantId, missing: Vec<Proven>) -> Result<Vec<Renewed>> {
        let statuses = self.statuses(tenant, &missing).await?;
        let mut fates = vec![Renewed::Lost; missing.len()];
        let (mut places, mut living) = (Vec::new(), Vec::new());
        for (place, lease) in missing.into_iter().enumerate() {
            match statuses.get(&lease.claim.session) {
                // Its session may be on its way into the database.
                None | Some(SessionStatus::Active) => {
                    places.push(place);
                    living.push(lease);
                }
                Some(SessionStatus::Ended) => fates[place] = Renewed::Released,
                Some(SessionStatus::Expired) => {}
            }
        }
        for (place, fate) in places.into_iter().zip(self.slots.readmit(tenant, &living).await?) {
            fates[place] = fate;
        }
        Ok(fates)
    }

    async fn statuses(&self, tenant: TenantId, leases: &[Proven]) -> Result<HashMap<SessionId, SessionStatus>> {
        let ids: Vec<SessionId> = leases.iter().map(|lease| lease.claim.session).collect();
        let look = tokio::time::timeout(SESSION_PATIENCE, self.sessions.statuses(tenant, &ids));
        match look.await.unwrap_or_else(|_| Err(Error::unavailable(Dependency::Database, "it is too slow"))) {
            Err(error @ Error::Unavailable(..)) => {
                tracing::warn!(
                    tenant.id = %tenant, leases.count = leases.len(), error = &error as &dyn std::error::Error,
                    "leases come back although their sessions cannot be looked at"
                );
                Ok(HashMap::new())
            }
            answer => answer,
        }
    }
}
