//! History is written behind, in batches, and loses nothing.
//!
//! Who admits or releases a call says so here and goes on. Until the database has it, what was said is in two places:
//! in this replica's queue, from which it is written within milliseconds, and in the [`Spool`] beside the slots, put
//! there by the very step that granted or freed the slot. So a database that is away costs nothing until the queue is
//! full, and a replica that is killed costs nothing at all: the others find what it left (`orphans`).
//!
//! On the embedded stores there is no second place. There the one who says something waits until it is committed, in one
//! transaction with all who wait at that moment.
//!
//! Everything may be written twice, by whoever finds it. Deliberately absent: a limit for ends, of which there is one for
//! each session that was begun.

mod orphans;
mod queue;
mod reader;
mod writer;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
};

use serde::Deserialize;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use self::queue::{Item, Pending, Queue};
use super::{Entry, History, Routings};
use crate::domain::{
    Env, Error, Result,
    error::Dependency,
    ids::TenantId,
    journal::{Spool, Unwritten},
    session::Session,
};

/// Limits of what is written behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct JournalSettings {
    /// Sessions that may wait to be written (default 100,000: a minute and a half of an outage at a thousand calls a
    /// second, in some 200 MiB; with the largest metadata 2 GiB). With as many, calls are refused.
    pub max_entries: usize,
    /// How long the writer waits for more (default 5 ms: what a commit takes).
    pub linger_ms: u64,
    /// Age at which what another replica was to write is written by whoever sees it (default 10,000 ms), and how often
    /// each replica looks.
    pub orphan_after_ms: u64,
}

impl Default for JournalSettings {
    fn default() -> Self {
        Self { max_entries: 100_000, linger_ms: 5, orphan_after_ms: 10_000 }
    }
}

/// Where what is not written yet is safe.
#[derive(Debug, Clone)]
pub enum Place {
    /// Beside the slots: nobody waits for the database.
    Spool(Arc<dyn Spool>),
    /// Nowhere else: whoever says something waits until it is committed.
    Database,
}

/// Sessions whose agent was deleted before they were written, which somebody has to tell their nodes. What finds no room
/// is found by the sweep, half a minute later.
const ORPHANED: usize = 1_024;

pub struct Journal {
    store: Arc<dyn History>,
    routings: Arc<dyn Routings>,
    place: Place,
    settings: JournalSettings,
    env: Env,
    room: Arc<Semaphore>,
    queue: Mutex<Queue>,
    wake: Notify,
    /// The last attempt to write has failed.
    away: AtomicBool,
    alarmed: AtomicBool,
    without_agent: mpsc::Sender<Session>,
}

/// A place in the queue.
#[derive(Debug)]
pub struct Room(OwnedSemaphorePermit);

impl Journal {
    /// The journal, and the sessions that it had to end because their agent is gone: their leases are still held.
    pub fn new(
        store: Arc<dyn History>,
        routings: Arc<dyn Routings>,
        place: Place,
        settings: JournalSettings,
        env: Env,
    ) -> (Arc<Self>, mpsc::Receiver<Session>) {
        let (without_agent, orphaned) = mpsc::channel(ORPHANED);
        metrics::gauge!("voxgate_journal_entries_max").set(u32::try_from(settings.max_entries).unwrap_or(u32::MAX));
        let journal = Self {
            store,
            routings,
            place,
            settings,
            env,
            room: Arc::new(Semaphore::new(settings.max_entries)),
            queue: Mutex::default(),
            wake: Notify::new(),
            away: AtomicBool::new(false),
            alarmed: AtomicBool::new(false),
            without_agent,
        };
        (Arc::new(journal), orphaned)
    }

    /// Takes a place for a session that is about to be granted a slot; where none is left, no slot should be.
    pub fn room(&self) -> Result<Room> {
        self.watch_room();
        let place = self.room.clone().try_acquire_owned();
        place.map(Room).map_err(|_| Error::unavailable(Dependency::Database, "the journal is full"))
    }

    /// Whether calls can be taken that the database does not take now.
    pub fn outlasts_database(&self) -> bool {
        self.spool().is_some() && self.room.available_permits() > 0
    }

    /// A session has begun. On the embedded stores it is written when this returns, and unwritten if it fails.
    pub async fn opened(&self, session: Session, Room(place): Room) -> Result<()> {
        let (tenant, id) = (session.tenant, session.id);
        let entry = Entry { session: id, opening: Some(Arc::new(session)), ending: None };
        self.say(tenant, entry.into(), Some(place)).await
    }

    /// A session has ended, with its opening if that was not written when its slot was freed.
    pub async fn ended(&self, tenant: TenantId, session: Unwritten) -> Result<()> {
        self.say(tenant, session.into(), None).await
    }

    async fn say(&self, tenant: TenantId, pending: Pending, place: Option<OwnedSemaphorePermit>) -> Result<()> {
        match self.place {
            Place::Spool(_) => {
                self.push(tenant, Item { pending, place, told: Vec::new() });
                Ok(())
            }
            Place::Database => {
                let (told, written) = oneshot::channel();
                self.push(tenant, Item { pending, place, told: vec![told] });
                written.await.map_err(|_| Error::unavailable(Dependency::Replica, "the journal is closed"))?
            }
        }
    }

    fn push(&self, tenant: TenantId, item: Item) {
        let mut queue = self.queue();
        queue.push(tenant, item);
        count(&queue);
        drop(queue);
        self.wake.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect("nobody panics while holding it")
    }

    fn spool(&self) -> Option<&dyn Spool> {
        match &self.place {
            Place::Spool(spool) => Some(&**spool),
            Place::Database => None,
        }
    }

    /// Says once when four fifths are taken, and again only after less than half was.
    fn watch_room(&self) {
        let (free, all) = (self.room.available_permits(), self.settings.max_entries);
        if free * 5 <= all && !self.alarmed.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                journal.entries = all - free,
                journal.max_entries = all,
                "history waits for the database; calls are refused once there is no room for more"
            );
        } else if free * 2 > all {
            self.alarmed.store(false, Ordering::Relaxed);
        }
    }
}

fn count(queue: &Queue) {
    metrics::gauge!("voxgate_journal_entries").set(u32::try_from(queue.len()).unwrap_or(u32::MAX));
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal")
            .field("place", &self.place)
            .field("entries", &self.queue().len())
            .finish_non_exhaustive()
    }
}
