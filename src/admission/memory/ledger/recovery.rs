//! A tenant's books: whether its leases can be known, and how lost ones come back.

use super::{KEEP_MS, Ledger, Now, Record, State, millis};
use crate::domain::{
    Error, Result, Timestamp,
    ids::{CallId, LeaseId, SessionId},
    lease::{Direction, Lease, Opening, Proven, Renewed},
};

/// Who has seen what is gone may correct for so long who has not.
const MOMENT_MS: i64 = 10_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Books {
    opened_ms: i64,
    /// Until when no new call is admitted; 0 if nothing was lost.
    recovering_ms: i64,
}

impl Books {
    /// While a lease without record may be one that was lost.
    pub(super) const fn misses(self, now: Now) -> bool {
        self.recovering_ms > now.ms
    }

    pub(super) const fn recovering_ms(self) -> i64 {
        self.recovering_ms
    }

    /// Whether a new call may be admitted.
    pub(super) fn admits(self, now: Now) -> Result<()> {
        let (until, now) = (Timestamp::from_millis(self.recovering_ms), Timestamp::from_millis(now.ms));
        if until > now { Err(Error::Recovering { left: until.since(now) }) } else { Ok(()) }
    }
}

impl Ledger {
    pub(super) fn known_books(&self, now: Now) -> Option<Books> {
        self.books.filter(|_| self.cap_kept_until_ms > now.ms)
    }

    pub(super) fn books(&self, now: Now) -> Result<Books> {
        self.known_books(now).ok_or(Error::Unopened)
    }

    pub(in super::super) fn open(&mut self, now: Now, opening: Opening) {
        let (span_ms, witnessed) = match opening {
            Opening::Fresh => (0, false),
            Opening::Recovering { span, witnessed } => (millis(span), witnessed),
        };
        if let Some(books) = self.known_books(now) {
            let corrects = books.recovering_ms == 0 && now.ms < books.opened_ms + MOMENT_MS;
            if !(witnessed && corrects) {
                return;
            }
        } else {
            // It went with the books.
            self.cap = None;
        }
        let recovering_ms = if span_ms > 0 { now.ms + span_ms } else { 0 };
        self.books = Some(Books { opened_ms: now.ms, recovering_ms });
        self.cap_kept_until_ms = now.ms + KEEP_MS;
    }

    pub(in super::super) fn fate(&self, now: Now, call: &CallId, lease: LeaseId) -> Result<Renewed> {
        let books = self.books(now)?;
        let Some(record) = self.calls.get(call) else {
            return Ok(if books.misses(now) { Renewed::Missing } else { Renewed::Lost });
        };
        Ok(match record.state {
            _ if record.lease != lease => Renewed::Lost,
            State::Live { expiry_ms } => Renewed::Renewed { expires_at: Timestamp::from_millis(expiry_ms) },
            State::Released { .. } => Renewed::Released,
            State::Expired { .. } => Renewed::Lost,
        })
    }

    /// Remembers as released what is missing, so that its holder does not bring it back. Neither its session nor its
    /// fence is known, nor will anybody ask.
    pub(super) fn bury(&mut self, call: &CallId, lease: LeaseId, forget_ms: i64) {
        let (session, direction) = (SessionId::from_uuid(uuid::Uuid::nil()), Direction::Inbound);
        let record = Record {
            lease,
            session,
            direction,
            fence: 0,
            offered: false,
            shared: false,
            state: State::Released { forget_ms },
        };
        self.calls.insert(call.clone(), record);
        self.past.insert((forget_ms, call.clone()));
    }

    pub(in super::super) fn readmit(&mut self, now: Now, lease: &Proven) -> Result<Renewed> {
        let Proven { call, claim, ttl } = lease;
        let fate = self.fate(now, call, claim.lease)?;
        let expiry_ms = now.ms.saturating_add(millis(*ttl));
        let answer = match fate {
            Renewed::Missing => {
                let state = State::Live { expiry_ms };
                let (session, direction, fence) = (claim.session, claim.direction, claim.fence);
                let record =
                    Record { lease: claim.lease, session, direction, fence, offered: false, shared: false, state };
                self.calls.insert(call.clone(), record);
                self.live.insert((expiry_ms, call.clone()));
                let agent = self.agents.entry(claim.lease.agent()).or_default();
                agent.ends(direction).insert((expiry_ms, call.clone()));
                // The agent's fence never falls behind one of its holders'.
                agent.fence = agent.fence.max(fence);
                Renewed::Readmitted { expires_at: Timestamp::from_millis(expiry_ms) }
            }
            Renewed::Renewed { .. } => {
                let held = self.lease(call).map(|held| self.extend(held, expiry_ms, super::Mode::Take));
                held.map_or(fate, |Lease { expires_at, .. }| Renewed::Renewed { expires_at })
            }
            over => over,
        };
        if let Some(agent) = self.agents.get_mut(&claim.lease.agent()) {
            agent.limits = agent.known_limits(now);
            agent.kept_until_ms = now.ms + KEEP_MS;
        }
        self.cap_kept_until_ms = now.ms + KEEP_MS;
        Ok(answer)
    }
}
