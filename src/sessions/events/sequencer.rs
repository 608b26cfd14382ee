//! Gives events their positions: of what this replica has committed at once, of what others left within a second.
//!
//! Any number of replicas may do so for one tenant. They come one after the other, and who comes late finds nothing to do.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::{StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{EventNews, EventStore};
use crate::domain::{Result, ids::TenantId};

/// How often it is looked for what others have left.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Events that get their positions in one transaction.
const BATCH: u16 = 1_000;
/// Tenants that are worked on at once: a connection each.
const AT_ONCE: usize = 4;

/// The sequencer of this replica.
#[derive(Debug)]
pub struct Sequencer {
    store: Arc<dyn EventStore>,
    news: EventNews,
}

/// What has come to its end.
enum Done {
    /// The tenant's events have their positions: some, if it was told so.
    Sequenced(TenantId, Result<bool>),
    Looked(Result<Vec<TenantId>>),
}

/// Tenants that wait, each once, the first to come first.
#[derive(Default)]
struct Line {
    order: VecDeque<TenantId>,
    all: HashSet<TenantId>,
}

impl Line {
    fn extend(&mut self, tenants: impl IntoIterator<Item = TenantId>) {
        self.order.extend(tenants.into_iter().filter(|tenant| self.all.insert(*tenant)));
    }

    /// The first that nobody works on.
    fn take(&mut self, busy: &HashSet<TenantId>) -> Option<TenantId> {
        let at = self.order.iter().position(|tenant| !busy.contains(tenant))?;
        let tenant = self.order.remove(at)?;
        self.all.remove(&tenant);
        Some(tenant)
    }
}

impl Sequencer {
    pub const fn new(store: Arc<dyn EventStore>, news: EventNews) -> Self {
        Self { store, news }
    }

    /// Works until `closing`. `told` hears of each tenant whose events can be read now.
    pub async fn run_until(&self, told: impl Fn(TenantId), closing: CancellationToken) {
        let mut look = tokio::time::interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut running = FuturesUnordered::<BoxFuture<'_, Done>>::new();
        let (mut waiting, mut busy, mut looking) = (Line::default(), HashSet::new(), false);
        loop {
            tokio::select! {
                () = closing.cancelled() => return,
                () = self.news.rung() => waiting.extend(self.news.take()),
                _ = look.tick(), if !looking => {
                    looking = true;
                    running.push(Box::pin(async { Done::Looked(self.store.unsequenced().await) }));
                }
                Some(done) = running.next() => match done {
                    Done::Looked(found) => {
                        looking = false;
                        // While the database is away there is nothing to be done.
                        waiting.extend(found.unwrap_or_default());
                    }
                    Done::Sequenced(tenant, some) => {
                        busy.remove(&tenant);
                        match some {
                            Ok(true) => told(tenant),
                            Ok(false) => {}
                            Err(error) => {
                                let error = &error as &dyn std::error::Error;
                                tracing::warn!(tenant.id = %tenant, error, "events get their positions later");
                            }
                        }
                    }
                },
            }
            while busy.len() < AT_ONCE
                && let Some(tenant) = waiting.take(&busy)
            {
                busy.insert(tenant);
                running.push(Box::pin(async move { Done::Sequenced(tenant, self.sequence(tenant).await) }));
            }
        }
    }

    /// Gives the tenant's events their positions; whether there were any.
    pub async fn sequence(&self, tenant: TenantId) -> Result<bool> {
        let mut some = false;
        loop {
            let count = self.store.sequence(tenant, BATCH).await?;
            some |= count > 0;
            if count < usize::from(BATCH) {
                return Ok(some);
            }
        }
    }
}
