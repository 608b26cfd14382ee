//! Looks for sessions whose lease is gone, and ends them: no session outlives its slot.
//!
//! Every replica sweeps. That is safe because only one of them ends a given session, and cheap because only those are
//! asked about whose lease was last known to run out by now. Leases that nobody else renews are renewed here.

use std::{collections::BTreeMap, time::Duration};

use tokio_util::sync::CancellationToken;

use super::{Calls, finish::Node};
use crate::domain::{
    Result, Timestamp,
    direct::renew_at,
    ids::{CallId, TenantId},
    lease::{LEASE_TTL_MAX, Renewed},
    session::{Outcome, Session},
};

/// How far back a fresh replica looks for sessions that ended and whose slot a crash may have kept from being freed.
const FIRST_LOOK_BACK: Duration = Duration::from_mins(10);
/// How often it looks again, at what ended since a little before its last look.
const LOOK_BACK_EVERY: Duration = Duration::from_secs(30);

/// Sessions whose leases run out between two looks, without one that was renewed, are an alarm: rather than so many
/// nodes, the slot store's clock or the network has failed.
const MASS: usize = 20;
/// Sessions that are looked at in one go: each may carry a behavior of 150 KiB.
const BATCH: u16 = 100;

impl Calls {
    /// Sweeps until told to stop.
    pub async fn sweep_until(&self, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(Duration::from_millis(self.settings.sweep_interval_ms));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut looked_at = self.env.now().minus(FIRST_LOOK_BACK);
        let mut look_at = self.env.now();
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            if let Err(error) = self.end_what_is_over().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "sessions could not be ended in time");
            }
            if let Err(error) = self.sweep().await {
                tracing::warn!(error = &error as &dyn std::error::Error, "the sweep could not finish");
            }
            let now = self.env.now();
            if now >= look_at {
                match self.free_ended_since(looked_at).await {
                    Ok(()) => looked_at = now.minus(LOOK_BACK_EVERY),
                    Err(error) => tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the slots of ended sessions could not be looked at"
                    ),
                }
                look_at = now.plus(LOOK_BACK_EVERY);
            }
        }
    }

    /// Ends the sessions that have lasted as long as they may.
    async fn end_what_is_over(&self) -> Result<()> {
        loop {
            let over = self.sessions.over(self.env.now(), BATCH).await?;
            for session in &over {
                self.finish(session, session.outcome_at_its_time(), Node::Tell).await?;
            }
            if over.len() < usize::from(BATCH) {
                return Ok(());
            }
        }
    }

    /// Ends what is overdue; answers how many sessions that were.
    pub async fn sweep(&self) -> Result<usize> {
        let (mut ended, mut lived) = (0, 0);
        loop {
            let due = self.sessions.due(self.env.now(), BATCH).await?;
            let full = due.len() == usize::from(BATCH);
            for (tenant, sessions) in by_tenant(due) {
                let looked_at = sessions.len();
                let over = self.sweep_tenant(tenant, sessions).await?;
                (ended, lived) = (ended + over, lived + looked_at - over);
            }
            if !full {
                if ended >= MASS && lived == 0 {
                    tracing::warn!(sessions.ended = ended, "leases ran out in a mass, and none was renewed");
                    metrics::counter!("voxgate_mass_expiries_total").increment(1);
                }
                return Ok(ended);
            }
        }
    }

    /// Frees the slots that sessions kept although they ended: a replica that crashed between the two.
    pub async fn free_ended_since(&self, mut from: Timestamp) -> Result<()> {
        loop {
            let ended = self.sessions.ended_since(from, BATCH).await?;
            let last = ended.last().and_then(|session| session.ended_at);
            let full = ended.len() == usize::from(BATCH);
            for (tenant, sessions) in by_tenant(ended) {
                let calls: Vec<CallId> = sessions.iter().map(|session| session.call.clone()).collect();
                let leases = self.slots.leases(tenant, &calls).await?;
                for (session, lease) in sessions.iter().zip(leases) {
                    if lease.is_some_and(|lease| lease.id == session.lease) {
                        tracing::warn!(call.id = %session.call, lease.id = %session.lease, "freeing a forgotten slot");
                        self.slots.release(tenant, &session.call, session.lease).await?;
                    }
                }
            }
            match last {
                Some(last) if full => from = last.plus(Duration::from_micros(1)),
                _ => return Ok(()),
            }
        }
    }

    async fn sweep_tenant(&self, tenant: TenantId, sessions: Vec<Session>) -> Result<usize> {
        let (direct, hosted): (Vec<_>, Vec<_>) = sessions.into_iter().partition(|session| session.direct.is_some());
        let leases: Vec<_> = hosted.iter().map(|session| (session.call.clone(), session.lease)).collect();
        let mut fates = if leases.is_empty() { Vec::new() } else { self.slots.fates(tenant, &leases).await? };
        fates.extend(self.renew_direct(tenant, &direct).await?);
        let mut ended = 0;
        for (session, fate) in hosted.into_iter().chain(direct).zip(fates) {
            // Not before the next sweep, even if our clock is ahead of the store's.
            let now = self.env.now();
            let next = now.plus(Duration::from_millis(self.settings.sweep_interval_ms));
            match fate {
                Renewed::Renewed { expires_at } | Renewed::Readmitted { expires_at } => {
                    let life = expires_at.since(now).min(LEASE_TTL_MAX);
                    let look_at = if session.direct.is_some() { renew_at(expires_at) } else { expires_at };
                    self.sessions.lease_known_until(tenant, session.id, look_at.max(next), life).await?;
                }
                // The store has lost it: its holder has until the end of the recovery to bring it back.
                Renewed::Missing => {
                    self.sessions.lease_known_until(tenant, session.id, next, Duration::ZERO).await?;
                }
                Renewed::Lost | Renewed::Released => {
                    let outcome = if session.node.is_some() { Outcome::NodeLost } else { Outcome::LeaseExpired };
                    ended += usize::from(self.finish(&session, outcome, Node::Tell).await?.is_some());
                }
            }
        }
        Ok(ended)
    }
}

fn by_tenant(sessions: Vec<Session>) -> BTreeMap<TenantId, Vec<Session>> {
    let mut by_tenant = BTreeMap::<TenantId, Vec<Session>>::new();
    for session in sessions {
        by_tenant.entry(session.tenant).or_default().push(session);
    }
    by_tenant
}
