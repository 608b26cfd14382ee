//! The slot store inside the process: the embedded default, with the same promises as Redis for one replica.
//!
//! Every operation runs under one mutex and never waits inside it, so it is as atomic as a script. What is asked
//! of a tenant is decided by its [`Ledger`]. Restarting forgets every lease; the calls come back as they do when Redis lost
//! its data.

mod ledger;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tokio::sync::mpsc;

use self::ledger::{KEEP_MS, Ledger, Mode, Now};
use super::SlotStore;
use crate::domain::{
    Clock, Error, Result,
    ids::{CallId, LeaseId, TenantId, VoiceAgentId},
    journal::{Ending, Freed, Unwritten},
    lease::{Acquire, Acquired, Lease, Opening, Proven, RENEW_MAX, Released, Renewal, Renewed, Usage},
    queue::{Enqueued, Heard, Leave, Left, ReplicaId, TEND_MAX, Tend, Tended, Ticket, Wake},
};

/// Wakes that wait for their reader.
const UNHEARD_MAX: usize = 1_024;

/// [`SlotStore`] for a single replica.
#[derive(Debug)]
pub struct MemorySlotStore {
    clock: Arc<dyn Clock>,
    tenants: Mutex<Tenants>,
    listeners: Mutex<HashMap<ReplicaId, mpsc::Sender<Heard>>>,
}

#[derive(Debug, Default)]
struct Tenants {
    ledgers: HashMap<TenantId, Ledger>,
    sweep_at_ms: i64,
}

impl MemorySlotStore {
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, tenants: Mutex::default(), listeners: Mutex::default() }
    }

    /// Forgets every lease, as a restart does.
    pub fn forget(&self) {
        *self.tenants.lock().expect("nobody panics while holding it") = Tenants::default();
    }

    /// Runs one operation on a tenant's ledger, from which everything that is over by now has been removed.
    fn with<T>(&self, tenant: TenantId, operation: impl FnOnce(&mut Ledger, Now) -> T) -> T {
        let now = Now::from(self.clock.now());
        let mut tenants = self.tenants.lock().expect("nobody panics while holding it");
        tenants.sweep(now);
        let ledger = tenants.ledgers.entry(tenant).or_default();
        ledger.settle(now);
        let answer = operation(ledger, now);
        let wakes = ledger.take_wakes();
        drop(tenants);
        if !wakes.is_empty() {
            self.tell(tenant, wakes);
        }
        answer
    }

    /// One whose reader is far behind, or gone, finds by itself what it is not told.
    fn tell(&self, tenant: TenantId, wakes: Vec<(ReplicaId, CallId, Wake)>) {
        let listeners = self.listeners.lock().expect("nobody panics while holding it");
        for (replica, call, wake) in wakes {
            if let Some(listener) = listeners.get(&replica) {
                let _ = listener.try_send(Heard::Wake(tenant, call, wake));
            }
        }
    }
}

impl Tenants {
    /// Once in a while forgets everyone who has been idle; so what is kept is bounded by what was used lately,
    /// at a cost that is spread over all that happened in between.
    fn sweep(&mut self, now: Now) {
        if now.ms < self.sweep_at_ms {
            return;
        }
        self.sweep_at_ms = now.ms + KEEP_MS;
        self.ledgers.retain(|_, ledger| {
            ledger.settle(now);
            ledger.forget_idle(now);
            !ledger.is_empty()
        });
        self.ledgers.shrink_to_fit();
    }
}

#[async_trait]
impl SlotStore for MemorySlotStore {
    async fn acquire(&self, tenant: TenantId, request: &Acquire) -> Result<Acquired> {
        self.with(tenant, |ledger, now| ledger.acquire(now, request, Mode::Take))
    }

    async fn probe(&self, tenant: TenantId, request: &Acquire) -> Result<Acquired> {
        self.with(tenant, |ledger, now| ledger.acquire(now, request, Mode::Probe))
    }

    async fn renew(&self, tenant: TenantId, leases: &[Renewal]) -> Result<Vec<Renewed>> {
        at_most_renew_max(leases.len())?;
        self.with(tenant, |ledger, now| leases.iter().map(|renewal| ledger.renew(now, renewal)).collect())
    }

    async fn release(&self, tenant: TenantId, call: &CallId, lease: LeaseId) -> Result<Released> {
        self.with(tenant, |ledger, now| ledger.release(now, call, lease))
    }

    async fn open(&self, tenant: TenantId, opening: Opening) -> Result<()> {
        self.with(tenant, |ledger, now| ledger.open(now, opening));
        Ok(())
    }

    async fn readmit(&self, tenant: TenantId, leases: &[Proven]) -> Result<Vec<Renewed>> {
        at_most_renew_max(leases.len())?;
        self.with(tenant, |ledger, now| leases.iter().map(|lease| ledger.readmit(now, lease)).collect())
    }

    async fn fates(&self, tenant: TenantId, leases: &[(CallId, LeaseId)]) -> Result<Vec<Renewed>> {
        at_most_renew_max(leases.len())?;
        self.with(tenant, |ledger, now| leases.iter().map(|(call, lease)| ledger.fate(now, call, *lease)).collect())
    }

    async fn give_up(&self, tenant: TenantId, call: &CallId, lease: LeaseId, ending: &Ending) -> Result<Freed> {
        self.with(tenant, |ledger, now| {
            if ledger.is_unshared(call, lease) {
                return release_ending(ledger, now, call, lease, ending);
            }
            let released = Released { released: false, usage: ledger.usage(now, lease.agent()) };
            Ok(Freed { released, session: None })
        })
    }

    async fn release_ending(&self, tenant: TenantId, call: &CallId, lease: LeaseId, ending: &Ending) -> Result<Freed> {
        self.with(tenant, |ledger, now| release_ending(ledger, now, call, lease, ending))
    }

    async fn leases(&self, tenant: TenantId, calls: &[CallId]) -> Result<Vec<Option<Lease>>> {
        at_most_renew_max(calls.len())?;
        Ok(self.with(tenant, |ledger, _| calls.iter().map(|call| ledger.lease(call)).collect()))
    }

    async fn live(&self, tenant: TenantId, most: usize) -> Result<Vec<Lease>> {
        Ok(self.with(tenant, |ledger, _| ledger.live_leases(most)))
    }

    async fn usage(&self, tenant: TenantId, agent: VoiceAgentId) -> Result<Usage> {
        Ok(self.with(tenant, |ledger, now| ledger.usage(now, agent)))
    }

    async fn tenant_usage(&self, tenant: TenantId) -> Result<Usage> {
        Ok(self.with(tenant, Ledger::tenant_usage))
    }

    async fn enqueue(&self, tenant: TenantId, ticket: &Ticket) -> Result<Enqueued> {
        self.with(tenant, |ledger, now| ledger.enqueue(now, ticket, Mode::Take))
    }

    async fn probe_queue(&self, tenant: TenantId, ticket: &Ticket) -> Result<Enqueued> {
        self.with(tenant, |ledger, now| ledger.enqueue(now, ticket, Mode::Probe))
    }

    async fn tend(&self, tenant: TenantId, tend: &Tend) -> Result<Tended> {
        if tend.calls.len() > TEND_MAX {
            return Err(Error::invalid("calls", format!("must be at most {TEND_MAX}")));
        }
        Ok(self.with(tenant, |ledger, now| ledger.tend(now, tend)))
    }

    async fn leave(&self, tenant: TenantId, leave: &Leave) -> Result<Left> {
        Ok(self.with(tenant, |ledger, now| ledger.leave(now, leave)))
    }

    fn listen(&self, replica: ReplicaId) -> mpsc::Receiver<Heard> {
        let (sender, receiver) = mpsc::channel(UNHEARD_MAX);
        let mut listeners = self.listeners.lock().expect("nobody panics while holding it");
        listeners.retain(|_, listener| !listener.is_closed());
        listeners.insert(replica, sender);
        receiver
    }

    async fn ping(&self) -> Result<()> {
        Ok(())
    }
}

fn release_ending(ledger: &mut Ledger, now: Now, call: &CallId, lease: LeaseId, ending: &Ending) -> Result<Freed> {
    let session = ledger.lease(call).filter(|held| held.id == lease).map(|held| held.session);
    let released = ledger.release(now, call, lease)?;
    let session = session.map(|session| Unwritten { session, opening: None, ending: Some(*ending) });
    Ok(Freed { released, session })
}

fn at_most_renew_max(count: usize) -> Result<()> {
    if count <= RENEW_MAX { Ok(()) } else { Err(Error::invalid("leases", format!("must be at most {RENEW_MAX}"))) }
}
