//! What waits to be written, in the order in which it was said.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    domain::{
        Result,
        ids::{CallId, SessionId, TenantId},
        journal::{Ending, Opening, Unwritten},
        session::{Session, SessionStatus},
    },
    sessions::Entry,
};

type Key = (TenantId, SessionId);

/// What is known of one session that may not be written yet.
#[derive(Debug, Clone)]
pub(super) struct Pending {
    pub(super) session: SessionId,
    pub(super) opening: Option<Arc<Session>>,
    /// The opening without its routing, where another replica has granted the slot.
    pub(super) bare: Option<Opening>,
    pub(super) ending: Option<Ending>,
}

impl Pending {
    /// What is missing here and is known there.
    pub(super) fn absorb(&mut self, other: Self) {
        self.opening = self.opening.take().or(other.opening);
        self.bare = self.bare.take().or(other.bare);
        self.ending = self.ending.or(other.ending);
    }

    pub(super) fn with(mut self, other: Self) -> Self {
        self.absorb(other);
        self
    }

    pub(super) fn status(&self) -> SessionStatus {
        self.ending.map_or(SessionStatus::Active, |ending| ending.outcome.status())
    }

    fn lease_ttl(&self) -> Option<Duration> {
        let bare = self.bare.as_ref().map(|opening| opening.draft.lease_ttl);
        self.opening.as_ref().map(|session| session.lease_ttl).or(bare)
    }
}

impl From<Unwritten> for Pending {
    fn from(Unwritten { session, opening, ending }: Unwritten) -> Self {
        Self { session, opening: None, bare: opening, ending }
    }
}

impl From<Entry> for Pending {
    fn from(Entry { session, opening, ending }: Entry) -> Self {
        Self { session, opening, bare: None, ending }
    }
}

/// One that waits, and who waits for it.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) pending: Pending,
    /// The place that it takes up until it is written.
    pub(super) place: Option<OwnedSemaphorePermit>,
    pub(super) told: Vec<oneshot::Sender<Result<()>>>,
}

#[derive(Debug, Default)]
pub(super) struct Queue {
    /// May name what is not waiting any more.
    order: VecDeque<Key>,
    waiting: HashMap<Key, Item>,
    /// Taken by the writer, and not written yet.
    writing: HashMap<Key, Item>,
    /// The session of each call that was opened last, of those here.
    calls: HashMap<(TenantId, CallId), SessionId>,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.writing.len()
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    pub(super) fn push(&mut self, tenant: TenantId, mut item: Item) {
        let key = (tenant, item.pending.session);
        if let Some(opening) = &item.pending.opening {
            self.calls.insert((tenant, opening.call.clone()), opening.id);
        }
        if self.writing.get(&key).is_some_and(|writing| writing.pending.opening.is_some()) {
            item.pending.bare = None;
        }
        match self.waiting.get_mut(&key) {
            Some(waiting) => {
                waiting.pending.absorb(item.pending);
                waiting.place = waiting.place.take().or(item.place);
                waiting.told.extend(item.told);
            }
            None => {
                self.waiting.insert(key, item);
                self.order.push_back(key);
            }
        }
    }

    /// The next ones, at most `limit`, by tenant.
    pub(super) fn take(&mut self, limit: usize) -> Vec<(TenantId, Vec<Pending>)> {
        let mut taken = BTreeMap::<TenantId, Vec<Pending>>::new();
        let mut count = 0;
        while count < limit {
            let Some(key) = self.order.pop_front() else { break };
            let Some(item) = self.waiting.remove(&key) else { continue };
            taken.entry(key.0).or_default().push(item.pending.clone());
            self.writing.insert(key, item);
            count += 1;
        }
        taken.into_iter().collect()
    }

    /// It is written, or will never be.
    pub(super) fn done(&mut self, tenant: TenantId, session: SessionId) -> Option<Item> {
        let item = self.writing.remove(&(tenant, session))?;
        if let Some(opening) = &item.pending.opening {
            let of_call = (tenant, opening.call.clone());
            if self.calls.get(&of_call) == Some(&session) && !self.waiting.contains_key(&(tenant, session)) {
                self.calls.remove(&of_call);
            }
        }
        Some(item)
    }

    /// It could not be written now: it is the next again.
    pub(super) fn put_back(&mut self, tenant: TenantId, session: SessionId) {
        let key = (tenant, session);
        let Some(mut item) = self.writing.remove(&key) else { return };
        if let Some(newer) = self.waiting.remove(&key) {
            item.pending.absorb(newer.pending);
            item.told.extend(newer.told);
        }
        self.waiting.insert(key, item);
        self.order.push_front(key);
    }

    pub(super) fn find(&self, tenant: TenantId, session: SessionId) -> Option<Pending> {
        let key = (tenant, session);
        let (earlier, later) = (self.writing.get(&key), self.waiting.get(&key));
        let mut parts = earlier.into_iter().chain(later).map(|item| item.pending.clone());
        let first = parts.next()?;
        Some(parts.fold(first, Pending::with))
    }

    pub(super) fn of_call(&self, tenant: TenantId, call: &CallId) -> Option<SessionId> {
        self.calls.get(&(tenant, call.clone())).copied()
    }

    /// The longest life that is given at once to the lease of a session that has begun here and not ended.
    pub(super) fn longest_lease(&self, tenant: TenantId) -> Option<Duration> {
        let ended = |key: &Key| self.waiting.get(key).is_some_and(|item| item.pending.ending.is_some());
        let all = self.writing.iter().chain(&self.waiting).filter(|(key, _)| key.0 == tenant);
        let live = all.filter(|(key, item)| item.pending.ending.is_none() && !ended(key));
        live.filter_map(|(_, item)| item.pending.lease_ttl()).max()
    }

    /// Everything of one tenant.
    pub(super) fn of_tenant(&self, tenant: TenantId) -> Vec<Pending> {
        let keys = self.writing.keys().chain(self.waiting.keys().filter(|key| !self.writing.contains_key(key)));
        keys.filter(|key| key.0 == tenant).filter_map(|key| self.find(key.0, key.1)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Env, clock::Timestamp, session::Outcome};

    fn ending(session: SessionId) -> Item {
        let ending = Ending { outcome: Outcome::Hangup, at: Timestamp::from_micros(1) };
        let pending = Pending { session, opening: None, bare: None, ending: Some(ending) };
        Item { pending, place: None, told: Vec::new() }
    }

    fn beginning(session: SessionId) -> Item {
        let mut item = ending(session);
        item.pending.ending = None;
        item
    }

    #[test]
    fn what_is_said_while_the_rest_is_written_is_not_forgotten_with_it() {
        let env = Env::system();
        let (tenant, session) = (TenantId::new(&env), SessionId::new(&env));
        let mut queue = Queue::default();
        queue.push(tenant, beginning(session));
        assert_eq!(queue.take(9).len(), 1);
        queue.push(tenant, ending(session));
        assert!(queue.find(tenant, session).is_some_and(|found| found.ending.is_some()));
        queue.done(tenant, session);
        assert_eq!((queue.len(), queue.take(9).len()), (1, 1));
    }

    #[test]
    fn what_could_not_be_written_comes_first_again_and_once() {
        let env = Env::system();
        let tenant = TenantId::new(&env);
        let sessions: Vec<SessionId> = (0..3).map(|_| SessionId::new(&env)).collect();
        let mut queue = Queue::default();
        for session in &sessions {
            queue.push(tenant, beginning(*session));
        }
        let taken: Vec<_> = queue.take(2).into_iter().flat_map(|(_, taken)| taken).collect();
        queue.push(tenant, ending(sessions[0]));
        for pending in taken.iter().rev() {
            queue.put_back(tenant, pending.session);
        }
        let again: Vec<_> = queue.take(9).into_iter().flat_map(|(_, taken)| taken).collect();
        assert_eq!(again.iter().map(|pending| pending.session).collect::<Vec<_>>(), sessions);
        assert!(again[0].ending.is_some(), "both are written together");
        assert_eq!((queue.waiting(), queue.len()), (0, 3));
    }
}
