//! What a replica that was killed had said and not written, written by the others.
//!
//! Every replica looks, at every tenant: one look costs a tenant that has nothing left a read of one key.

use std::{collections::HashMap, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::{Journal, queue::Pending};
use crate::domain::{
    Result,
    ids::{SessionId, TenantId},
};

/// Tenants that are read from the database at a time, and looked at together.
const TENANTS: u16 = 500;
const AT_ONCE: usize = 16;
/// Looks at one tenant at a time: half a million entries. What is left is found by the next.
const LOOKS: usize = 1_000;

impl Journal {
    /// Looks now and again until told to stop; not at all where there is no spool.
    pub async fn adopt_until(&self, stop: CancellationToken) {
        if self.spool().is_none() {
            return;
        }
        let mut ticks = tokio::time::interval(Duration::from_millis(self.settings.orphan_after_ms));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.adopt().await {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "what other replicas left unwritten could not be looked for");
            }
        }
    }

    /// Writes what was kept long enough ago that somebody should have written it.
    pub async fn adopt(&self) -> Result<()> {
        let age = Duration::from_millis(self.settings.orphan_after_ms);
        let mut last = None;
        loop {
            let tenants = self.store.tenants(last, TENANTS).await?;
            let full = tenants.len() == usize::from(TENANTS);
            last = tenants.last().copied();
            let looks = stream::iter(tenants).map(|tenant| self.write_older_than(tenant, age));
            let outcomes: Vec<Result<()>> = looks.buffer_unordered(AT_ONCE).collect().await;
            outcomes.into_iter().collect::<Result<()>>()?;
            if !full {
                return Ok(());
            }
        }
    }

    pub(super) async fn write_older_than(&self, tenant: TenantId, age: Duration) -> Result<()> {
        let Some(spool) = self.spool() else { return Ok(()) };
        for _ in 0..LOOKS {
            let mut found = HashMap::<SessionId, Pending>::new();
            for part in spool.older_than(tenant, age).await?.into_iter().map(Pending::from) {
                match found.get_mut(&part.session) {
                    Some(known) => known.absorb(part),
                    None => drop(found.insert(part.session, part)),
                }
            }
            if found.is_empty() {
                return Ok(());
            }
            let group: Vec<Pending> = found.into_values().collect();
            let outcomes = self.write_now(tenant, group).await?;
            // What cannot be written stays, and would be found again and again.
            if outcomes.iter().all(Result::is_err) {
                return Ok(());
            }
        }
        Ok(())
    }
}
