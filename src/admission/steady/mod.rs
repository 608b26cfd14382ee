//! A slot store whose losses are noticed and whose refused releases are kept.
//!
//! Around any [`SlotStore`]. Where that one does not know a tenant, this one finds out whether the tenant is new or its
//! data is gone, opens the tenant's books accordingly and asks again; so what stands on it never sees
//! [`Error::Unopened`]. Data was lost if this replica has itself seen the tenant a moment ago, or if the tenant has live
//! calls ([`LiveCalls`]); where neither can be known, that counts as a loss: the store never guesses.
//!
//! A recovery lasts one lease: the longest that a live call is known to be given. Whoever holds one renews it within.
//!
//! Deliberately absent: which leases may come back. That takes sessions, and `calls` knows them.

mod kept;
mod seen;

use std::{
    hash::{BuildHasher as _, RandomState},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Mutex, mpsc};
use tokio_util::sync::CancellationToken;

use self::{
    kept::{Kept, Releases},
    seen::{Seen, Testimony},
};
use super::SlotStore;
use crate::domain::{
    Clock, Error, Result,
    error::Dependency,
    ids::{CallId, LeaseId, TenantId, VoiceAgentId},
    journal::{Ending, Freed},
    lease::{
        Acquire, Acquired, LEASE_TTL_DEFAULT, LEASE_TTL_MAX, Lease, Opening, Proven, RECOVERY_MIN, Released, Renewal,
        Renewed, Usage,
    },
    queue::{Enqueued, Heard, Leave, Left, ReplicaId, Tend, Tended, Ticket},
};

/// Tenants that share a turn to be opened.
const STRIPES: usize = 64;
/// Books that are gone as often as they are opened are no loss but a fault.
const ATTEMPTS: usize = 3;
/// How long the database gets to say whether a tenant has live calls. It cannot then: it is away.
const LIVE_CALLS_PATIENCE: Duration = Duration::from_secs(2);
/// Releases that are tried at a time.
const BATCH: usize = 64;

/// What is known of a tenant's calls elsewhere than in the slot store.
#[async_trait]
pub trait LiveCalls: Send + Sync + std::fmt::Debug {
    /// The longest life that the lease of a live call of the tenant is given at once; nothing if it has no live call.
    async fn longest_lease(&self, tenant: TenantId) -> Result<Option<Duration>>;
}

/// See the module.
#[derive(Debug)]
pub struct SteadySlots {
    store: Arc<dyn SlotStore>,
    live_calls: Arc<dyn LiveCalls>,
    seen: Seen,
    opening: [Mutex<()>; STRIPES],
    hasher: RandomState,
    releases: Releases,
}

impl SteadySlots {
    pub fn new(store: Arc<dyn SlotStore>, live_calls: Arc<dyn LiveCalls>, clock: Arc<dyn Clock>) -> Self {
        Self {
            store,
            live_calls,
            seen: Seen::new(clock.clone()),
            opening: std::array::from_fn(|_| Mutex::new(())),
            hasher: RandomState::new(),
            releases: Releases::new(clock),
        }
    }

    /// Asks the store, and again once the tenant's books are open.
    async fn opened<T, F: Future<Output = Result<T>>>(&self, tenant: TenantId, ask: impl Fn() -> F) -> Result<T> {
        for _ in 0..ATTEMPTS {
            let ticket = self.seen.ticket();
            match ask().await {
                Err(Error::Unopened) => self.open_books(tenant, ticket).await?,
                answer => return answer,
            }
        }
        Err(Error::unavailable(Dependency::SlotStore, "a tenant's books do not stay open"))
    }

    async fn open_books(&self, tenant: TenantId, ticket: u64) -> Result<()> {
        let stripe = usize::try_from(self.hasher.hash_one(tenant) % STRIPES as u64).unwrap_or(0);
        let _turn = self.opening[stripe].lock().await;
        let testimony = self.seen.testify(tenant, ticket);
        if testimony == Testimony::KnownAgain {
            return Ok(());
        }
        let told = tokio::time::timeout(LIVE_CALLS_PATIENCE, self.live_calls.longest_lease(tenant));
        let told = told.await.unwrap_or_else(|_| Err(Error::unavailable(Dependency::Database, "it is too slow")));
        let opening = judge(testimony, &told);
        if let Opening::Recovering { span, witnessed } = opening {
            let unknown = told.err();
            tracing::warn!(
                tenant.id = %tenant, recovery.seconds = span.as_secs_f64(), recovery.witnessed = witnessed,
                error = unknown.as_ref().map(|error| error as &dyn std::error::Error),
                "the slot store does not know a tenant that may have live calls: it recovers"
            );
            metrics::counter!("voxgate_recoveries_total").increment(1);
        }
        self.store.open(tenant, opening).await
    }

    /// Notes the longest life that was given, if any was.
    fn note_living(&self, tenant: TenantId, lives: impl Iterator<Item = Duration>, fates: &[Renewed]) {
        let given = |(life, fate): (Duration, &Renewed)| match fate {
            Renewed::Renewed { .. } | Renewed::Readmitted { .. } => Some(life),
            Renewed::Missing | Renewed::Lost | Renewed::Released => None,
        };
        if let Some(longest) = lives.zip(fates).filter_map(given).max() {
            self.seen.note(tenant, longest);
        }
    }

    /// Tries releases that the store has refused again, until told to stop and then once more.
    pub async fn retry_releases_until(&self, stop: CancellationToken) {
        let mut failures = 0;
        while !stop.is_cancelled() {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.releases.any() => {}
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(Releases::pause(failures)) => {}
            }
            failures = if self.retry_releases().await { 0 } else { failures.saturating_add(1) };
        }
        self.retry_releases().await;
    }

    /// Whether the store takes releases now.
    async fn retry_releases(&self) -> bool {
        loop {
            let some = self.releases.some(BATCH);
            self.count_kept();
            if some.is_empty() {
                return true;
            }
            for kept in some {
                let Kept { call, lease, .. } = &kept;
                match self.release_again(&kept).await {
                    Err(Error::Unavailable(..)) => return false,
                    Ok(()) => self.releases.taken(*lease),
                    Err(error) => {
                        tracing::error!(
                            call.id = %call, lease.id = %lease, error = &error as &dyn std::error::Error,
                            "a slot cannot be released and will run out"
                        );
                        self.releases.taken(*lease);
                    }
                }
            }
        }
    }

    /// What the store then keeps of the session, whoever looks for unwritten ones writes.
    async fn release_again(&self, Kept { tenant, call, lease, ending, .. }: &Kept) -> Result<()> {
        match ending {
            Some(ending) => {
                let release = || self.store.release_ending(*tenant, call, *lease, ending);
                self.opened(*tenant, release).await.map(|_| ())
            }
            None => self.opened(*tenant, || self.store.release(*tenant, call, *lease)).await.map(|_| ()),
        }
    }

    /// A release that the store cannot take now is tried again.
    fn keep_refused<T>(
        &self,
        answer: &Result<T>,
        tenant: TenantId,
        (call, lease): (&CallId, LeaseId),
        ending: Option<Ending>,
    ) {
        if matches!(answer, Err(Error::Unavailable(..))) && !self.releases.keep(tenant, call, lease, ending) {
            tracing::warn!(call.id = %call, lease.id = %lease, "too many releases are kept: this slot will run out");
        }
    }

    fn count_kept(&self) {
        metrics::gauge!("voxgate_releases_kept").set(u32::try_from(self.releases.len()).unwrap_or(u32::MAX));
    }
}

/// How to begin, by what this replica has seen and what the database tells.
fn judge(testimony: Testimony, told: &Result<Option<Duration>>) -> Opening {
    let recovering = |longest: Duration, witnessed| Opening::Recovering {
        span: longest.clamp(RECOVERY_MIN, LEASE_TTL_MAX),
        witnessed,
    };
    match (testimony, told) {
        (Testimony::WasThere(seen), Ok(told)) => recovering(seen.max(told.unwrap_or_default()), true),
        (Testimony::WasThere(seen), Err(_)) => recovering(seen.max(LEASE_TTL_DEFAULT), true),
        (_, Ok(Some(told))) => recovering(*told, false),
        (_, Ok(None)) => Opening::Fresh,
        (_, Err(_)) => recovering(LEASE_TTL_DEFAULT, false),
    }
}

#[async_trait]
impl SlotStore for SteadySlots {
    async fn open(&self, tenant: TenantId, opening: Opening) -> Result<()> {
        self.store.open(tenant, opening).await
    }

    async fn acquire(&self, tenant: TenantId, request: &Acquire) -> Result<Acquired> {
        let acquired = self.opened(tenant, || self.store.acquire(tenant, request)).await?;
        let granted = matches!(acquired, Acquired::Granted { .. } | Acquired::Existing { .. });
        self.seen.note(tenant, if granted { request.ttl } else { Duration::ZERO });
        Ok(acquired)
    }

    async fn probe(&self, tenant: TenantId, request: &Acquire) -> Result<Acquired> {
        self.opened(tenant, || self.store.probe(tenant, request)).await
    }

    async fn renew(&self, tenant: TenantId, leases: &[Renewal]) -> Result<Vec<Renewed>> {
        let fates = self.opened(tenant, || self.store.renew(tenant, leases)).await?;
        self.note_living(tenant, leases.iter().map(|renewal| renewal.ttl), &fates);
        Ok(fates)
    }

    async fn readmit(&self, tenant: TenantId, leases: &[Proven]) -> Result<Vec<Renewed>> {
        let fates = self.opened(tenant, || self.store.readmit(tenant, leases)).await?;
        self.note_living(tenant, leases.iter().map(|lease| lease.ttl), &fates);
        Ok(fates)
    }

    async fn fates(&self, tenant: TenantId, leases: &[(CallId, LeaseId)]) -> Result<Vec<Renewed>> {
        self.opened(tenant, || self.store.fates(tenant, leases)).await
    }

    /// A release that the store cannot take now is an error to the caller, and is tried again all the same.
    async fn release(&self, tenant: TenantId, call: &CallId, lease: LeaseId) -> Result<Released> {
        let answer = self.opened(tenant, || self.store.release(tenant, call, lease)).await;
        self.keep_refused(&answer, tenant, (call, lease), None);
        answer
    }

    /// The same, and how the session ended is kept with it.
    async fn release_ending(&self, tenant: TenantId, call: &CallId, lease: LeaseId, ending: &Ending) -> Result<Freed> {
        let answer = self.opened(tenant, || self.store.release_ending(tenant, call, lease, ending)).await;
        self.keep_refused(&answer, tenant, (call, lease), Some(*ending));
        answer
    }

    async fn give_up(&self, tenant: TenantId, call: &CallId, lease: LeaseId, ending: &Ending) -> Result<Freed> {
        self.opened(tenant, || self.store.give_up(tenant, call, lease, ending)).await
    }

    async fn leases(&self, tenant: TenantId, calls: &[CallId]) -> Result<Vec<Option<Lease>>> {
        self.store.leases(tenant, calls).await
    }

    async fn live(&self, tenant: TenantId, most: usize) -> Result<Vec<Lease>> {
        self.store.live(tenant, most).await
    }

    async fn usage(&self, tenant: TenantId, agent: VoiceAgentId) -> Result<Usage> {
        self.store.usage(tenant, agent).await
    }

    async fn tenant_usage(&self, tenant: TenantId) -> Result<Usage> {
        self.store.tenant_usage(tenant).await
    }

    async fn enqueue(&self, tenant: TenantId, ticket: &Ticket) -> Result<Enqueued> {
        self.opened(tenant, || self.store.enqueue(tenant, ticket)).await
    }

    async fn probe_queue(&self, tenant: TenantId, ticket: &Ticket) -> Result<Enqueued> {
        self.opened(tenant, || self.store.probe_queue(tenant, ticket)).await
    }

    async fn tend(&self, tenant: TenantId, tend: &Tend) -> Result<Tended> {
        self.store.tend(tenant, tend).await
    }

    async fn leave(&self, tenant: TenantId, leave: &Leave) -> Result<Left> {
        self.store.leave(tenant, leave).await
    }

    fn listen(&self, replica: ReplicaId) -> mpsc::Receiver<Heard> {
        self.store.listen(replica)
    }

    async fn ping(&self) -> Result<()> {
        self.store.ping().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn away() -> Result<Option<Duration>> {
        Err(Error::unavailable(Dependency::Database, "away"))
    }

    #[test]
    fn a_tenant_without_live_calls_begins_afresh_and_any_doubt_is_a_loss() {
        let recovering = |seconds, witnessed| Opening::Recovering { span: secs(seconds), witnessed };
        let was_there = |seconds| Testimony::WasThere(secs(seconds));
        assert_eq!(judge(Testimony::Nothing, &Ok(None)), Opening::Fresh);
        assert_eq!(judge(Testimony::Nothing, &Ok(Some(secs(45)))), recovering(45, false));
        assert_eq!(judge(Testimony::Nothing, &away()), recovering(60, false));
        assert_eq!(judge(was_there(20), &Ok(None)), recovering(20, true));
        assert_eq!(judge(was_there(20), &Ok(Some(secs(45)))), recovering(45, true));
        assert_eq!(judge(was_there(20), &away()), recovering(60, true));
        assert_eq!(judge(was_there(120), &away()), recovering(120, true));
    }

    #[test]
    fn a_recovery_lasts_ten_seconds_at_least_and_five_minutes_at_most() {
        let span = |told| match judge(Testimony::Nothing, &Ok(Some(told))) {
            Opening::Recovering { span, .. } => span,
            Opening::Fresh => panic!("a live call is no fresh start"),
        };
        assert_eq!((span(secs(1)), span(secs(9_999))), (secs(10), secs(300)));
    }
}
