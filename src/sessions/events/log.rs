//! Events as they come: one look at a tenant's for all who follow them on this replica.
//!
//! Whoever follows holds a place in the tail of its tenant. A tail reads what is new when this replica or another one says
//! that there is something, and within a second when nobody says so; a thousand who follow cost one read. It keeps the last
//! [`KEPT`] events: who is further behind reads the database itself until it has caught up.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::{
    sync::{
        Notify,
        broadcast::{Receiver, Sender},
    },
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{EventNews, EventPage, EventSignal, EventStore, Heard, Position, Sequencer, TenantEvent};
use crate::domain::{
    Result,
    event::EventFilter,
    ids::{EventId, TenantId},
};

/// How often it is looked for what nobody has told of.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Events of a tenant that are kept for those who follow.
const KEPT: usize = 1_024;
/// Events that are read at once.
const PAGE: u16 = 200;
/// Between two attempts while the database is away.
const RETRY: Duration = Duration::from_millis(250);
/// How long a tail outlives the last who followed it.
const LINGER: Duration = Duration::from_secs(10);
/// Tenants whose events other replicas are told of at once.
const AT_ONCE: usize = 8;

/// The events of all tenants, as this replica reads them.
#[derive(Debug)]
pub struct EventLog {
    store: Arc<dyn EventStore>,
    sequencer: Sequencer,
    /// None where there is one replica alone.
    signal: Option<Arc<dyn EventSignal>>,
    /// Of whose events the others are still to be told.
    to_signal: EventNews,
    tails: Mutex<HashMap<TenantId, Arc<Tail>>>,
    sequenced: Arc<Notify>,
}

#[derive(Debug)]
struct Tail {
    sender: Sender<Arc<TenantEvent>>,
    /// What was read and sent.
    head: Mutex<u64>,
    wake: Notify,
}

impl Tail {
    fn head(&self) -> MutexGuard<'_, u64> {
        self.head.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// All events behind the position will come.
    fn join(&self) -> (Receiver<Arc<TenantEvent>>, u64) {
        let head = self.head();
        (self.sender.subscribe(), *head)
    }
}

impl EventLog {
    /// `news` is rung by the stores that write events.
    pub fn new(store: Arc<dyn EventStore>, news: EventNews, signal: Option<Arc<dyn EventSignal>>) -> Arc<Self> {
        let sequencer = Sequencer::new(store.clone(), news);
        let (to_signal, tails) = (EventNews::default(), Mutex::default());
        Arc::new(Self { store, sequencer, signal, to_signal, tails, sequenced: Arc::default() })
    }

    /// Rung when this replica has given events their positions, of whichever tenant.
    pub fn sequenced(&self) -> Arc<Notify> {
        self.sequenced.clone()
    }

    /// Gives events their positions and brings them to those who follow, until `closing`.
    pub async fn run_until(&self, closing: CancellationToken) {
        let work = async { tokio::join!(self.tell_others(), self.hear_others(), self.look()) };
        tokio::join!(
            self.sequencer.run_until(|tenant| self.tell(tenant), closing.clone()),
            closing.run_until_cancelled(work)
        );
    }

    /// A place in the tenant's tail, and behind which position it begins.
    pub async fn follow(self: &Arc<Self>, tenant: TenantId) -> Result<(Receiver<Arc<TenantEvent>>, u64)> {
        if let Some(tail) = self.tails().get(&tenant) {
            return Ok(tail.join());
        }
        // What has been committed by now is the past.
        self.sequence(tenant).await?;
        let head = self.store.last(tenant).await?;
        let mut tails = self.tails();
        if let Some(tail) = tails.get(&tenant) {
            return Ok(tail.join());
        }
        let tail = Arc::new(Tail { sender: Sender::new(KEPT), head: Mutex::new(head), wake: Notify::new() });
        let place = tail.join();
        tails.insert(tenant, tail.clone());
        // What came while it was being made was told to nobody.
        tail.wake.notify_one();
        tokio::spawn(self.clone().keep(tenant, tail).in_current_span());
        Ok(place)
    }

    /// Some of the events behind a position.
    pub async fn after(&self, tenant: TenantId, position: u64, filter: &EventFilter) -> Result<EventPage> {
        self.store.after(tenant, position, filter, PAGE).await
    }

    /// Where an event stands; nothing if there is none, or none any more.
    pub async fn position(&self, tenant: TenantId, id: EventId) -> Result<Option<u64>> {
        if let Some(Position::Unsequenced) = self.store.position(tenant, id).await? {
            self.sequence(tenant).await?;
        }
        Ok(match self.store.position(tenant, id).await? {
            Some(Position::At(position)) => Some(position),
            Some(Position::Unsequenced) | None => None,
        })
    }

    /// Until nobody has followed for a while.
    async fn keep(self: Arc<Self>, tenant: TenantId, tail: Arc<Tail>) {
        let mut alone_since = None;
        loop {
            let woken = tokio::time::timeout(LOOK_EVERY, tail.wake.notified()).await.is_ok();
            {
                let mut tails = self.tails();
                let alone = tail.sender.receiver_count() == 0;
                alone_since = alone.then(|| alone_since.unwrap_or_else(Instant::now));
                if alone_since.is_some_and(|since| since.elapsed() > LINGER) {
                    tails.remove(&tenant);
                    return;
                }
            }
            if woken && !self.read_on(tenant, &tail).await {
                tokio::time::sleep(RETRY).await;
                tail.wake.notify_one();
            }
        }
    }

    /// Whether it could be done.
    async fn read_on(&self, tenant: TenantId, tail: &Tail) -> bool {
        let read = self.read(tenant, tail).await;
        if let Err(error) = &read {
            let error = error as &dyn std::error::Error;
            tracing::warn!(tenant.id = %tenant, error, "events are told later");
        }
        read.is_ok()
    }

    /// Sends what is new.
    async fn read(&self, tenant: TenantId, tail: &Tail) -> Result<()> {
        loop {
            let before = *tail.head();
            let page = self.after(tenant, before, &EventFilter::default()).await?;
            let mut head = tail.head();
            for event in page.events {
                // Nobody may be there to take it.
                let _ = tail.sender.send(Arc::new(event));
            }
            *head = page.through;
            if page.is_last {
                return Ok(());
            }
        }
    }

    async fn sequence(&self, tenant: TenantId) -> Result<()> {
        if self.sequencer.sequence(tenant).await? {
            self.tell(tenant);
        }
        Ok(())
    }

    /// There are events that can be read.
    fn tell(&self, tenant: TenantId) {
        self.wake(tenant);
        self.sequenced.notify_one();
        if self.signal.is_some() {
            self.to_signal.tell(tenant);
        }
    }

    fn wake(&self, tenant: TenantId) {
        if let Some(tail) = self.tails().get(&tenant) {
            tail.wake.notify_one();
        }
    }

    fn tails(&self) -> MutexGuard<'_, HashMap<TenantId, Arc<Tail>>> {
        self.tails.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn tell_others(&self) {
        let Some(signal) = &self.signal else { return };
        loop {
            self.to_signal.rung().await;
            let telling = stream::iter(self.to_signal.take()).map(|tenant| signal.tell(tenant));
            // What is not heard is found by the others' own look.
            telling.buffer_unordered(AT_ONCE).for_each(|()| async {}).await;
        }
    }

    async fn hear_others(&self) {
        let Some(signal) = &self.signal else { return };
        let mut heard = signal.listen();
        while let Some(heard) = heard.recv().await {
            match heard {
                Heard::Events(tenant) => self.wake(tenant),
                Heard::Missed => self.tails().values().for_each(|tail| tail.wake.notify_one()),
            }
        }
    }

    async fn look(&self) {
        let mut ticks = tokio::time::interval(LOOK_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let tenants: Vec<TenantId> = self.tails().keys().copied().collect();
            if tenants.is_empty() {
                continue;
            }
            // Without an answer the next look finds the same.
            for (tenant, last) in self.store.heads(&tenants).await.unwrap_or_default() {
                if let Some(tail) = self.tails().get(&tenant)
                    && *tail.head() < last
                {
                    tail.wake.notify_one();
                }
            }
        }
    }
}
