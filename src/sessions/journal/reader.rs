//! The journal as a store: whoever asks sees what was said before, written or not.
//!
//! What is asked for is first written, if it waits here or in the spool. The spool is asked before the database: asked
//! after it, an entry that is written in between would be in neither. While the database is away, a session that waits
//! is answered as it waits: until it is written nothing else can have happened to it.

use std::{collections::HashMap, sync::atomic::Ordering, time::Duration};

use async_trait::async_trait;

use super::{Journal, queue::Pending};
use crate::{
    domain::{
        Error, Result,
        clock::Timestamp,
        error::Dependency,
        event::Event,
        ids::{CallId, SessionId, TenantId, VoiceAgentId},
        page::PageRequest,
        session::{Outcome, Session, SessionStatus},
        session_filter::SessionFilter,
        transcript::Posted,
    },
    sessions::{ActiveCall, Entry, Opened, SessionPage, SessionStore},
};

/// A database that takes longer than this to take one session is away.
const WRITE_WITHIN: Duration = Duration::from_secs(1);

/// What the spool said of what it keeps; its outage matters only where nobody else knows either.
type Kept = Result<Option<Pending>>;

impl Journal {
    async fn kept(&self, tenant: TenantId, id: SessionId) -> Kept {
        match self.spool() {
            Some(spool) => Ok(spool.find(tenant, id).await?.map(Pending::from)),
            None => Ok(None),
        }
    }

    async fn kept_of_call(&self, tenant: TenantId, call: &CallId) -> Kept {
        match self.spool() {
            Some(spool) => Ok(spool.of_call(tenant, call).await?.map(Pending::from)),
            None => Ok(None),
        }
    }

    /// Writes what is known to wait; answers the session as it will be, where that fails and it is known.
    async fn settle(&self, tenant: TenantId, here: Option<Pending>, kept: &Kept) -> Result<(), Unsettled> {
        let kept = kept.as_ref().ok().cloned().flatten();
        let pending = match (here, kept) {
            (Some(here), Some(kept)) if here.session == kept.session => vec![here.with(kept)],
            // The call was admitted again elsewhere.
            (Some(here), Some(kept)) => vec![here, kept],
            (here, kept) => here.into_iter().chain(kept).collect(),
        };
        if pending.is_empty() {
            return Ok(());
        }
        let entries = match self.complete(tenant, pending).await {
            Ok(entries) => entries,
            Err(why) => return Err(Unsettled { will_be: None, why }),
        };
        let will_be = entries.last().and_then(Entry::session);
        let unsettled = |why: Error| Unsettled { will_be: will_be.clone(), why };
        if self.away.load(Ordering::Relaxed) {
            return Err(unsettled(Error::unavailable(Dependency::Database, "history waits for it already")));
        }
        match tokio::time::timeout(WRITE_WITHIN, self.write_entries(tenant, entries)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(unsettled(error)),
            Err(elapsed) => Err(unsettled(Error::unavailable(Dependency::Database, elapsed))),
        }
    }

    async fn settle_one(&self, tenant: TenantId, id: SessionId) -> (Result<(), Unsettled>, Kept) {
        let here = self.queue().find(tenant, id);
        let kept = self.kept(tenant, id).await;
        (self.settle(tenant, here, &kept).await, kept)
    }

    /// Writes everything of a tenant that waits anywhere, for what must see all of its sessions.
    pub async fn settle_all(&self, tenant: TenantId) -> Result<()> {
        let here = self.queue().of_tenant(tenant);
        self.write_now(tenant, here).await?;
        self.write_older_than(tenant, Duration::ZERO).await
    }
}

struct Unsettled {
    will_be: Option<Session>,
    why: Error,
}

/// What the database says, unless it knows nothing and the spool could not be asked.
fn known(found: Option<Session>, kept: Kept) -> Result<Option<Session>> {
    match (found, kept) {
        (None, Err(error)) => Err(error),
        (found, _) => Ok(found),
    }
}

#[async_trait]
impl SessionStore for Journal {
    async fn open(&self, tenant: TenantId, session: &Session) -> Result<Opened> {
        self.store.open(tenant, session).await
    }

    async fn get(&self, tenant: TenantId, id: SessionId) -> Result<Option<Session>> {
        match self.settle_one(tenant, id).await {
            (Ok(()), kept) => known(self.store.get(tenant, id).await?, kept),
            (Err(Unsettled { will_be: Some(session), .. }), _) => Ok(Some(session)),
            (Err(Unsettled { why, .. }), _) => Err(why),
        }
    }

    async fn of_call(&self, tenant: TenantId, call: &CallId) -> Result<Option<Session>> {
        let here = {
            let queue = self.queue();
            queue.of_call(tenant, call).and_then(|id| queue.find(tenant, id))
        };
        let kept = self.kept_of_call(tenant, call).await;
        match self.settle(tenant, here, &kept).await {
            Ok(()) => known(self.store.of_call(tenant, call).await?, kept),
            Err(Unsettled { will_be: Some(session), .. }) => Ok(Some(session)),
            Err(Unsettled { why, .. }) => Err(why),
        }
    }

    async fn update(&self, tenant: TenantId, session: &Session) -> Result<bool> {
        self.store.update(tenant, session).await
    }

    async fn tell(&self, tenant: TenantId, id: SessionId, event: Event, now: Timestamp) -> Result<bool> {
        match self.settle_one(tenant, id).await {
            (Ok(()), _) => self.store.tell(tenant, id, event, now).await,
            (Err(Unsettled { why, .. }), _) => Err(why),
        }
    }

    async fn end(&self, tenant: TenantId, id: SessionId, outcome: Outcome, now: Timestamp) -> Result<Option<Session>> {
        // It may have ended already without that being written.
        match self.settle_one(tenant, id).await {
            (Ok(()), _) => self.store.end(tenant, id, outcome, now).await,
            (Err(Unsettled { why, .. }), _) => Err(why),
        }
    }

    async fn active_of_agent(&self, tenant: TenantId, agent: VoiceAgentId, limit: u16) -> Result<Vec<Session>> {
        self.settle_all(tenant).await?;
        self.store.active_of_agent(tenant, agent, limit).await
    }

    async fn list(&self, tenant: TenantId, filter: SessionFilter, page: PageRequest) -> Result<SessionPage> {
        match self.settle_all(tenant).await {
            // What the spool alone has is milliseconds old: better a list without it than none.
            Ok(()) | Err(Error::Unavailable(Dependency::SlotStore, _)) => {}
            Err(error) => return Err(error),
        }
        self.store.list(tenant, filter, page).await
    }

    async fn post(&self, tenant: TenantId, id: SessionId, posted: &Posted) -> Result<Option<Session>> {
        // Its beginning, or its end, may wait to be written.
        match self.settle_one(tenant, id).await {
            (Ok(()), _) => self.store.post(tenant, id, posted).await,
            (Err(Unsettled { why, .. }), _) => Err(why),
        }
    }

    async fn posted(&self, tenant: TenantId, id: SessionId) -> Result<Option<Posted>> {
        self.store.posted(tenant, id).await
    }

    async fn due(&self, moment: Timestamp, limit: u16) -> Result<Vec<Session>> {
        self.store.due(moment, limit).await
    }

    async fn over(&self, moment: Timestamp, limit: u16) -> Result<Vec<Session>> {
        self.store.over(moment, limit).await
    }

    async fn ended_since(&self, from: Timestamp, limit: u16) -> Result<Vec<Session>> {
        self.store.ended_since(from, limit).await
    }

    async fn lease_known_until(
        &self,
        tenant: TenantId,
        id: SessionId,
        expires_at: Timestamp,
        life: Duration,
    ) -> Result<()> {
        self.store.lease_known_until(tenant, id, expires_at, life).await
    }

    async fn longest_lease(&self, tenant: TenantId) -> Result<Option<Duration>> {
        // Before the database is asked: what is written in between is in both.
        let here = self.queue().longest_lease(tenant);
        Ok(here.max(self.store.longest_lease(tenant).await?))
    }

    async fn tenants_with_calls(&self) -> Result<Vec<TenantId>> {
        self.store.tenants_with_calls().await
    }

    async fn active_calls(&self, tenant: TenantId, most: usize) -> Result<Vec<ActiveCall>> {
        self.store.active_calls(tenant, most).await
    }

    /// Of those that wait in the spool alone nothing is known.
    async fn statuses(&self, tenant: TenantId, ids: &[SessionId]) -> Result<HashMap<SessionId, SessionStatus>> {
        let mut statuses: HashMap<SessionId, SessionStatus> = {
            let queue = self.queue();
            let status = |id: &SessionId| Some((*id, queue.find(tenant, *id)?.status()));
            ids.iter().filter_map(status).collect()
        };
        let is_open = |id: &&SessionId| statuses.get(*id).is_none_or(|status| *status == SessionStatus::Active);
        let open: Vec<SessionId> = ids.iter().filter(is_open).copied().collect();
        if !open.is_empty() {
            statuses.extend(self.store.statuses(tenant, &open).await?);
        }
        Ok(statuses)
    }
}
