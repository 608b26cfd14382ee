//! When a key was last used, to the minute.
//!
//! A request notes it here and goes on: nothing is written on its way. What was noted goes to the store in one batch
//! every [`WRITE_EVERY`], and once more when the service stops. While the database is away the notes stay, and what a
//! crash takes along is at most the last batch: freshness, and nothing else.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::TenantStore;
use crate::domain::{
    Result,
    clock::Timestamp,
    ids::{ApiKeyId, TenantId},
    tenant::ApiKey,
};

/// Between two batches: no reader of a figure that is good to the minute can tell.
const WRITE_EVERY: Duration = Duration::from_secs(5);
/// Keys with a note that is not written yet; those beyond it are noted when they are used again after the next batch.
/// What comes in while a batch fails may double it for a moment.
const NOTES_MAX: usize = 65_536;
/// Keys in one statement.
const BATCH_MAX: usize = 500;
const MINUTE_US: i64 = 60_000_000;

#[derive(Debug)]
pub struct KeyUses {
    store: Arc<dyn TenantStore>,
    notes: Mutex<HashMap<(TenantId, ApiKeyId), Timestamp>>,
}

impl KeyUses {
    pub fn new(store: Arc<dyn TenantStore>) -> Self {
        Self { store, notes: Mutex::default() }
    }

    /// Notes that `key` was used; it says itself when that was last written.
    pub(super) fn note(&self, key: &ApiKey, now: Timestamp) {
        let minute = Timestamp::from_micros(now.as_micros() - now.as_micros().rem_euclid(MINUTE_US));
        if key.last_used_at.is_some_and(|written| written >= minute) {
            return;
        }
        let (mut notes, of) = (self.notes(), (key.tenant, key.id));
        let full = notes.len() >= NOTES_MAX;
        match notes.get_mut(&of) {
            Some(known) => *known = minute.max(*known),
            None if full => {}
            None => drop(notes.insert(of, minute)),
        }
    }

    /// Writes what was noted; what could not be written is kept for the next time.
    pub async fn write(&self) -> Result<()> {
        let notes = std::mem::take(&mut *self.notes());
        let mut minutes: BTreeMap<Timestamp, Vec<(TenantId, ApiKeyId)>> = BTreeMap::new();
        for (of, minute) in notes {
            minutes.entry(minute).or_default().push(of);
        }
        let mut failure = None;
        for (minute, keys) in minutes {
            for batch in keys.chunks(BATCH_MAX) {
                if failure.is_none() {
                    failure = self.store.keys_used(batch, minute).await.err();
                }
                if failure.is_some() {
                    self.keep(minute, batch);
                }
            }
        }
        failure.map_or(Ok(()), Err)
    }

    /// Writes every few seconds, and a last time at `closing`.
    pub async fn write_until(&self, closing: CancellationToken) {
        let mut known_away = false;
        loop {
            let last = tokio::select! {
                () = closing.cancelled() => true,
                () = tokio::time::sleep(WRITE_EVERY) => false,
            };
            let written = self.write().await;
            if let Err(error) = &written
                && !known_away
            {
                tracing::warn!(error = error as &dyn std::error::Error, "the last use of keys waits to be written");
            }
            known_away = written.is_err();
            if last {
                return;
            }
        }
    }

    fn keep(&self, minute: Timestamp, batch: &[(TenantId, ApiKeyId)]) {
        let mut notes = self.notes();
        for of in batch {
            let known = notes.entry(*of).or_insert(minute);
            *known = minute.max(*known);
        }
    }

    fn notes(&self) -> MutexGuard<'_, HashMap<(TenantId, ApiKeyId), Timestamp>> {
        self.notes.lock().expect("nobody panics while holding it")
    }
}
