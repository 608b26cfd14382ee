//! The leases that this replica keeps, as far as it knows: for whoever adds and removes replicas.
//!
//! A lease is in flight here while its call is counted as that of a node whose stream is here; or, where no node's stream
//! renews it, from its grant or its renewal through this replica until its release through this replica, or until it
//! would run out. So the sum over replicas counts a lease twice only for as long as it may live after its renewals have
//! moved to another replica, or where its holder renews it beside its node's stream. Nobody's decision rests on it.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::Calls;
use crate::domain::{
    direct::LEASE_TTL,
    ids::{LeaseId, TenantId, VoiceAgentId},
    lease::{LEASE_TTL_MAX, Lease, Renewed},
    session::Session,
};

/// The lease of a direct session is renewed by a sweep, half a lease before it runs out or a little later.
pub(super) const RENEWED_WITHIN: Duration = Duration::from_secs(LEASE_TTL.as_secs() / 2 + 10);

/// Leases that are not renewed by a node's stream, each with its tenant and until when it lives if nobody renews it.
#[derive(Debug, Default)]
pub(super) struct Kept(Mutex<HashMap<LeaseId, (TenantId, Instant)>>);

impl Kept {
    fn leases(&self) -> MutexGuard<'_, HashMap<LeaseId, (TenantId, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn forget(&self, lease: LeaseId) {
        self.leases().remove(&lease);
    }

    /// What became of leases that somebody presented, each to live for so long if it was renewed.
    pub(super) fn note(&self, tenant: TenantId, fates: impl Iterator<Item = (LeaseId, Duration, Renewed)>) {
        let (now, mut kept) = (Instant::now(), self.leases());
        for (lease, life, fate) in fates {
            match fate {
                Renewed::Renewed { .. } | Renewed::Readmitted { .. } => kept.insert(lease, (tenant, now + life)),
                Renewed::Missing | Renewed::Lost | Renewed::Released => kept.remove(&lease),
            };
        }
    }

    /// Those that live, by this replica's time.
    fn living(&self) -> Vec<(TenantId, LeaseId)> {
        let now = Instant::now();
        let mut kept = self.leases();
        kept.retain(|_, (_, until)| *until > now);
        kept.iter().map(|(lease, (tenant, _))| (*tenant, *lease)).collect()
    }
}

impl Calls {
    /// How many leases this replica keeps, of each agent that has any.
    pub fn in_flight(&self) -> HashMap<(TenantId, VoiceAgentId), usize> {
        let leases: HashSet<_> = self.nodes.leases().into_iter().chain(self.kept.living()).collect();
        let mut held = HashMap::new();
        for (tenant, lease) in leases {
            *held.entry((tenant, lease.agent())).or_default() += 1;
        }
        held
    }

    /// The session's lease is renewed by nobody's stream.
    pub(super) fn keep(&self, session: &Session, lease: &Lease) {
        let expires_at = lease.expires_at;
        // A direct session's is renewed by whichever replica's sweep comes first.
        let life = if session.direct.is_some() { RENEWED_WITHIN } else { expires_at.since(self.env.now()) };
        let fate = Renewed::Renewed { expires_at };
        self.kept.note(session.tenant, std::iter::once((lease.id, life.min(LEASE_TTL_MAX), fate)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Env, clock::Timestamp};

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_kept_from_its_renewal_until_it_runs_out_or_somebody_says_otherwise() {
        let env = Env::system();
        let (kept, tenant) = (Kept::default(), TenantId::new(&env));
        let leases: Vec<_> = (0..3).map(|_| LeaseId::new(&env, VoiceAgentId::new(&env))).collect();
        let renewed = Renewed::Renewed { expires_at: Timestamp::from_micros(0) };
        let life = |seconds| Duration::from_secs(seconds);
        kept.note(tenant, leases.iter().zip([10, 20, 30]).map(|(lease, seconds)| (*lease, life(seconds), renewed)));
        assert_eq!(kept.living().len(), 3);
        tokio::time::advance(life(11)).await;
        assert_eq!(kept.living().len(), 2, "the first ran out");
        kept.note(tenant, [(leases[1], life(20), renewed), (leases[2], life(20), Renewed::Lost)].into_iter());
        tokio::time::advance(life(15)).await;
        assert_eq!(kept.living(), [(tenant, leases[1])], "the second was renewed, the third is gone");
        kept.forget(leases[1]);
        assert!(kept.living().is_empty() && kept.leases().is_empty());
    }
}
