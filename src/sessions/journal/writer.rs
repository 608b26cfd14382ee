//! The writer: takes what waits, a batch at a time, and writes it, for as long as it takes.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio_util::sync::CancellationToken;

use super::{Journal, count, queue::Pending};
use crate::{
    domain::{
        Error, Result,
        error::{Dependency, Resource},
        ids::{SessionId, TenantId, VoiceAgentId},
        journal::Parts,
        session::{Routing, Session},
    },
    sessions::{Entry, Written},
};

/// Sessions in one round, and in one statement.
const BATCH: usize = 500;
/// Of the behaviors and metadata in one statement.
const BATCH_BYTES: usize = 4 << 20;
/// Tenants that are written at once: a transaction each, on a connection each.
const AT_ONCE: usize = 4;
/// Between two attempts while the database is away.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_LAST: Duration = Duration::from_secs(1);

impl Journal {
    /// Writes until told to stop, and then what is left, if the database takes it.
    pub async fn write_until(&self, stop: CancellationToken) {
        let mut retry = RETRY_FIRST;
        while !stop.is_cancelled() {
            tokio::select! {
                () = self.wake.notified() => {}
                () = stop.cancelled() => break,
            }
            self.linger().await;
            while let Some(outcome) = self.write_next().await {
                let Err(error) = outcome else {
                    retry = RETRY_FIRST;
                    self.linger().await;
                    continue;
                };
                if retry == RETRY_FIRST {
                    tracing::warn!(error = &error as &dyn std::error::Error, "history waits for the database");
                }
                tokio::select! {
                    () = tokio::time::sleep(retry) => {}
                    () = stop.cancelled() => break,
                }
                retry = (retry * 2).min(RETRY_LAST);
            }
        }
        while let Some(Ok(())) = self.write_next().await {}
        let left = self.queue().len();
        if left > 0 {
            tracing::warn!(journal.entries = left, "history is left to the other replicas");
        }
    }

    /// Waits a moment for more, unless there is a batch already or somebody waits.
    async fn linger(&self) {
        if self.spool().is_some() && self.queue().waiting() < BATCH {
            tokio::time::sleep(Duration::from_millis(self.settings.linger_ms)).await;
        }
    }

    /// Writes a batch; nothing if nothing waits.
    async fn write_next(&self) -> Option<Result<()>> {
        let groups = self.queue().take(BATCH);
        if groups.is_empty() {
            return None;
        }
        let written = stream::iter(groups).map(|(tenant, group)| self.write_group(tenant, group));
        let outcomes: Vec<Result<()>> = written.buffer_unordered(AT_ONCE).collect().await;
        count(&self.queue());
        let outcome = outcomes.into_iter().collect::<Result<()>>();
        self.away.store(outcome.is_err(), Ordering::Relaxed);
        Some(outcome)
    }

    async fn write_group(&self, tenant: TenantId, group: Vec<Pending>) -> Result<()> {
        let sessions: Vec<SessionId> = group.iter().map(|pending| pending.session).collect();
        match self.write_now(tenant, group).await {
            Ok(outcomes) => {
                let mut queue = self.queue();
                for (session, outcome) in sessions.into_iter().zip(outcomes) {
                    let told = queue.done(tenant, session).map(|item| item.told).unwrap_or_default();
                    let say = |outcome: &Result<Written>| match outcome {
                        Ok(Written::AgentDeleted) => Err(Error::not_found(Resource::VoiceAgent, "of the session")),
                        Ok(_) => Ok(()),
                        Err(error) => Err(Error::internal(error.to_string())),
                    };
                    for waits in told {
                        // Who has gone does not ask.
                        let _ = waits.send(say(&outcome));
                    }
                }
                Ok(())
            }
            Err(error) => {
                let mut queue = self.queue();
                for session in sessions.into_iter().rev() {
                    if self.spool().is_some() {
                        queue.put_back(tenant, session);
                        continue;
                    }
                    // Who waits is told, and takes back what was said.
                    let told = queue.done(tenant, session).map(|item| item.told).unwrap_or_default();
                    let why = || Error::unavailable(Dependency::Database, error.to_string());
                    for waits in told {
                        let _ = waits.send(Err(why()));
                    }
                }
                Err(error)
            }
        }
    }

    /// Writes these and forgets them in the spool. What cannot be written for a reason of its own does not keep the others:
    /// it is said, and stays in the spool. An error means that the database is away.
    pub(super) async fn write_now(&self, tenant: TenantId, group: Vec<Pending>) -> Result<Vec<Result<Written>>> {
        let entries = self.complete(tenant, group).await?;
        self.write_entries(tenant, entries).await
    }

    pub(super) async fn write_entries(&self, tenant: TenantId, entries: Vec<Entry>) -> Result<Vec<Result<Written>>> {
        let mut outcomes = Vec::with_capacity(entries.len());
        for batch in batches(entries) {
            outcomes.extend(self.write_batch(tenant, batch).await?);
        }
        Ok(outcomes)
    }

    async fn write_batch(&self, tenant: TenantId, batch: Vec<Entry>) -> Result<Vec<Result<Written>>> {
        let written = match self.store.write(tenant, batch.clone(), self.env.now()).await {
            Ok(written) => written.into_iter().map(Ok).collect(),
            Err(error @ Error::Unavailable(..)) => return Err(error),
            Err(error) if batch.len() == 1 => vec![Err(error)],
            Err(_) => {
                let mut alone = Vec::with_capacity(batch.len());
                for entry in batch.clone() {
                    match self.store.write(tenant, vec![entry], self.env.now()).await {
                        Ok(written) => alone.extend(written.into_iter().map(Ok)),
                        Err(error @ Error::Unavailable(..)) => return Err(error),
                        Err(error) => alone.push(Err(error)),
                    }
                }
                alone
            }
        };
        let mut outcomes = Vec::with_capacity(batch.len());
        let mut parts = Vec::with_capacity(batch.len());
        for (entry, written) in batch.into_iter().zip(written) {
            let (session, opening, ending) = (entry.session, entry.opening.is_some(), entry.ending.is_some());
            let outcome = match written {
                Ok(written) => self.see_to(tenant, entry, written).await,
                Err(error) => Err(error),
            };
            match &outcome {
                Ok(_) => parts.push(Parts { session, opening, ending }),
                Err(Error::Unavailable(..)) => return outcome.map(|_| Vec::new()),
                Err(error) => tracing::error!(
                    session.id = %session, error = error as &dyn std::error::Error, "a session cannot be written"
                ),
            }
            outcomes.push(outcome);
        }
        metrics::counter!("voxgate_journal_written_total").increment(parts.len() as u64);
        self.forget(tenant, &parts).await;
        Ok(outcomes)
    }

    /// What a batch could not do for one entry.
    async fn see_to(&self, tenant: TenantId, mut entry: Entry, written: Written) -> Result<Written> {
        match written {
            Written::Done => Ok(Written::Done),
            Written::AgentDeleted => {
                if let Some(session) = entry.opening.as_deref().cloned() {
                    // No room: the sweep frees its slot.
                    let _ = self.without_agent.try_send(session);
                }
                Ok(written)
            }
            Written::Missing => {
                // The one who was to write its beginning may be dead.
                let kept = self.look_up(tenant, entry.session).await;
                let Some(kept) = kept.filter(|kept| kept.opening.is_some() || kept.bare.is_some()) else {
                    tracing::warn!(session.id = %entry.session, "the end of a session that nobody knows");
                    return Ok(Written::Missing);
                };
                let whole = self.complete(tenant, vec![kept]).await?;
                let written = self.store.write(tenant, whole.clone(), self.env.now()).await?;
                match (whole.into_iter().next(), written.first()) {
                    (Some(entry), Some(Written::Blocked { by })) => self.unblock(tenant, entry, *by).await,
                    _ => Ok(Written::Done),
                }
            }
            Written::Blocked { by } => {
                // It may have ended meanwhile, and be known to have.
                let kept = self.look_up(tenant, entry.session).await;
                entry.ending = entry.ending.or_else(|| kept?.ending);
                self.unblock(tenant, entry, by).await
            }
        }
    }

    /// Another session of the call stands in the way. If it has ended, that is written first, and as it ended.
    async fn unblock(&self, tenant: TenantId, entry: Entry, by: Option<SessionId>) -> Result<Written> {
        let other = match by {
            Some(by) => self.look_up(tenant, by).await,
            None => None,
        };
        if let Some(ending) = other.as_ref().and_then(|other| other.ending)
            && let Some(by) = by
        {
            let end = Entry { session: by, opening: None, ending: Some(ending) };
            self.store.write(tenant, vec![end], self.env.now()).await?;
        }
        let opening = entry.opening.clone();
        let written = self.store.displace(tenant, entry, self.env.now()).await?;
        if let (Written::AgentDeleted, Some(session)) = (written, opening) {
            let _ = self.without_agent.try_send(Session::clone(&session));
        }
        Ok(written)
    }

    /// All that is known here and in the spool of a session that may not be written. A spool that is away knows nothing.
    async fn look_up(&self, tenant: TenantId, session: SessionId) -> Option<Pending> {
        let here = self.queue().find(tenant, session);
        let kept = match self.spool() {
            Some(spool) => spool.find(tenant, session).await.ok().flatten().map(Pending::from),
            None => None,
        };
        match (here, kept) {
            (Some(here), Some(kept)) => Some(here.with(kept)),
            (here, kept) => here.or(kept),
        }
    }

    /// Gives each opening its routing.
    pub(super) async fn complete(&self, tenant: TenantId, group: Vec<Pending>) -> Result<Vec<Entry>> {
        let mut known = HashMap::<(VoiceAgentId, i64), Routing>::new();
        let mut entries = Vec::with_capacity(group.len());
        for Pending { session, opening, bare, ending } in group {
            let opening = match (opening, bare) {
                (Some(opening), _) => Some(opening),
                (None, None) => None,
                (None, Some(bare)) => {
                    let (agent, revision) = (bare.lease.id.agent(), bare.draft.agent_revision);
                    let routing = match known.get(&(agent, revision)) {
                        Some(routing) => routing.clone(),
                        None => self.routings.at(tenant, agent, revision).await?.unwrap_or_else(Routing::unknown),
                    };
                    known.insert((agent, revision), routing.clone());
                    Some(Arc::new(bare.into_session(tenant, routing)))
                }
            };
            entries.push(Entry { session, opening, ending });
        }
        Ok(entries)
    }

    /// What stays in the spool is found there later, written again without effect, and forgotten then.
    async fn forget(&self, tenant: TenantId, written: &[Parts]) {
        let Some(spool) = self.spool() else { return };
        if let Err(error) = spool.forget(tenant, written).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "what is written could not be forgotten yet");
        }
    }
}

/// Batches that a statement can carry.
fn batches(entries: Vec<Entry>) -> Vec<Vec<Entry>> {
    let mut batches = vec![Vec::new()];
    let mut bytes = 0;
    for entry in entries {
        let weight = entry.opening.as_deref().map_or(0, weight);
        let last = batches.last_mut().expect("there is one from the beginning");
        if last.len() == BATCH || (bytes + weight > BATCH_BYTES && !last.is_empty()) {
            batches.push(vec![entry]);
            bytes = weight;
        } else {
            last.push(entry);
            bytes += weight;
        }
    }
    batches
}

/// About. The metadata is 16 KiB at most.
fn weight(session: &Session) -> usize {
    let behavior = session.routing.behavior.as_ref().map_or(0, |behavior| behavior.bytes());
    let metadata = if session.metadata.is_empty() { 0 } else { 16 << 10 };
    1_024 + behavior + metadata
}
