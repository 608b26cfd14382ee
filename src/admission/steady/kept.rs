//! Releases that the store would not take: kept, and tried again until they are taken or the lease must be over.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::sync::Notify;

use crate::domain::{
    Clock, Timestamp,
    ids::{CallId, LeaseId, TenantId},
    journal::Ending,
    lease::LEASE_TTL_MAX,
};

/// Releases that are kept at once: some 20 MiB. Of more than that the leases run out.
const MOST: usize = 100_000;

/// A release that is yet to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) tenant: TenantId,
    pub(super) call: CallId,
    pub(super) lease: LeaseId,
    /// How the session ended, where the release is to say so.
    pub(super) ending: Option<Ending>,
    /// When the lease is over whatever it was.
    give_up: Timestamp,
}

#[derive(Debug)]
pub(super) struct Releases {
    clock: Arc<dyn Clock>,
    kept: Mutex<HashMap<LeaseId, Kept>>,
    news: Notify,
    most: usize,
}

impl Releases {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, kept: Mutex::default(), news: Notify::new(), most: MOST }
    }

    fn kept(&self) -> MutexGuard<'_, HashMap<LeaseId, Kept>> {
        self.kept.lock().expect("nobody panics while holding it")
    }

    /// False where there is no room: the lease will run out.
    pub(super) fn keep(&self, tenant: TenantId, call: &CallId, lease: LeaseId, ending: Option<Ending>) -> bool {
        let give_up = self.clock.now().plus(LEASE_TTL_MAX);
        let mut kept = self.kept();
        if kept.len() >= self.most && !kept.contains_key(&lease) {
            return false;
        }
        let release = || Kept { tenant, call: call.clone(), lease, ending, give_up };
        let release = kept.entry(lease).or_insert_with(release);
        release.ending = release.ending.or(ending);
        drop(kept);
        self.news.notify_one();
        true
    }

    pub(super) fn taken(&self, lease: LeaseId) {
        self.kept().remove(&lease);
    }

    /// Some that are to be tried, those whose lease must be over left out and forgotten.
    pub(super) fn some(&self, count: usize) -> Vec<Kept> {
        let now = self.clock.now();
        let mut kept = self.kept();
        kept.retain(|_, kept| kept.give_up > now);
        if kept.is_empty() {
            kept.shrink_to_fit();
        }
        kept.values().take(count).cloned().collect()
    }

    pub(super) fn len(&self) -> usize {
        self.kept().len()
    }

    /// Waits until something is kept.
    pub(super) async fn any(&self) {
        while self.len() == 0 {
            self.news.notified().await;
        }
    }

    /// Between two attempts: soon at first, then no more often than a store that is away need be asked.
    pub(super) fn pause(failures: u32) -> Duration {
        Duration::from_millis(100).saturating_mul(2_u32.saturating_pow(failures.min(5))).min(Duration::from_secs(2))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Env, clock::ManualClock, ids::VoiceAgentId, session::Outcome};

    #[test]
    fn a_release_is_kept_once_until_it_is_taken_or_its_lease_must_be_over() {
        let (env, clock) = (Env::system(), Arc::new(ManualClock::at(Timestamp::from_millis(1_800_000_000_000))));
        let releases = Releases { most: 2, ..Releases::new(clock.clone()) };
        let tenant = TenantId::new(&env);
        let call = "call".parse().expect("a call id");
        let leases: Vec<_> = (0..3).map(|_| LeaseId::new(&env, VoiceAgentId::new(&env))).collect();
        let keep = |lease: usize, ending| releases.keep(tenant, &call, leases[lease], ending);
        assert!(keep(0, None) && keep(0, None));
        clock.advance(Duration::from_secs(1));
        let ending = Some(Ending { outcome: Outcome::Hangup, at: Timestamp::from_millis(1_800_000_000_000) });
        assert!(keep(1, None) && keep(1, ending) && keep(1, None));
        assert!(!keep(2, ending), "there is room for two");
        assert_eq!((releases.len(), releases.some(1).len(), releases.some(9).len()), (2, 1, 2));
        clock.advance(Duration::from_secs(299));
        let left: Vec<_> = releases.some(9).iter().map(|kept| (kept.lease, kept.ending)).collect();
        assert_eq!(left, [(leases[1], ending)], "the ending that was said stays");
        releases.taken(leases[1]);
        assert_eq!(releases.len(), 0);
    }

    #[test]
    fn attempts_come_soon_at_first_and_every_two_seconds_at_last() {
        let pauses: Vec<_> = (0..7).map(|failures| Releases::pause(failures).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 2_000, 2_000]);
    }
}
