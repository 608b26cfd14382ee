//! Which tenants this replica has seen in the slot store, when, and how long their leases are.
//!
//! What is seen is evidence of a loss later: a tenant whose books were open is not new. Evidence is ordered by tickets,
//! not by clocks: what was seen after a question was asked says nothing about its answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use quick_cache::sync::Cache;

use crate::domain::{Clock, Timestamp, ids::TenantId, lease::LEASE_TTL_DEFAULT};

/// For so long after its last use a tenant's books are surely there: they are kept for 12 minutes, again with each use
/// that comes a minute later than the one before. A minute less, so that clocks may differ in pace.
const SURE_FOR: Duration = Duration::from_mins(10);
/// Tenants that are remembered. Of one that is not, the database tells.
const TENANTS: usize = 100_000;

#[derive(Debug, Clone, Copy)]
struct Sight {
    ticket: u64,
    at: Timestamp,
    /// The longest lease that was given or renewed since the sights began.
    longest: Duration,
}

#[derive(Debug)]
pub(super) struct Seen {
    clock: Arc<dyn Clock>,
    tickets: AtomicU64,
    sights: Cache<TenantId, Sight>,
}

/// What this replica can say of a tenant that the store does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Testimony {
    Nothing,
    /// Somebody has used it since the store was asked.
    KnownAgain,
    /// It was there. Its longest lease.
    WasThere(Duration),
}

impl Seen {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, tickets: AtomicU64::new(1), sights: Cache::new(TENANTS) }
    }

    /// To be taken before the store is asked.
    pub(super) fn ticket(&self) -> u64 {
        self.tickets.fetch_add(1, Ordering::SeqCst)
    }

    /// The tenant's books are open, and were used with leases of this life.
    pub(super) fn note(&self, tenant: TenantId, life: Duration) {
        let at = self.clock.now();
        let before = self.sights.get(&tenant).filter(|sight| at.since(sight.at) < SURE_FOR);
        let longest = before.map_or(life, |before| before.longest.max(life));
        self.sights.insert(tenant, Sight { ticket: self.ticket(), at, longest });
    }

    /// What is known against the store's word, which was asked for with `ticket`.
    pub(super) fn testify(&self, tenant: TenantId, ticket: u64) -> Testimony {
        match self.sights.get(&tenant) {
            Some(sight) if sight.ticket > ticket => Testimony::KnownAgain,
            Some(sight) if self.clock.now().since(sight.at) < SURE_FOR => {
                Testimony::WasThere(if sight.longest.is_zero() { LEASE_TTL_DEFAULT } else { sight.longest })
            }
            _ => Testimony::Nothing,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Env, clock::ManualClock};

    #[test]
    fn a_sight_is_evidence_for_ten_minutes_and_only_of_what_was_asked_after_it() {
        let clock = Arc::new(ManualClock::at(Timestamp::from_millis(1_800_000_000_000)));
        let (seen, tenant) = (Seen::new(clock.clone()), TenantId::new(&Env::system()));
        assert_eq!(seen.testify(tenant, seen.ticket()), Testimony::Nothing);
        let before = seen.ticket();
        seen.note(tenant, Duration::from_secs(20));
        seen.note(tenant, Duration::from_secs(10));
        assert_eq!(seen.testify(tenant, before), Testimony::KnownAgain);
        clock.advance(Duration::from_millis(599_999));
        assert_eq!(seen.testify(tenant, seen.ticket()), Testimony::WasThere(Duration::from_secs(20)));
        clock.advance(Duration::from_millis(1));
        assert_eq!(seen.testify(tenant, seen.ticket()), Testimony::Nothing);
        seen.note(tenant, Duration::from_secs(10));
        assert_eq!(seen.testify(tenant, seen.ticket()), Testimony::WasThere(Duration::from_secs(10)));
    }
}
