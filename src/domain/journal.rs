//! The history of calls on its way to the database.
//!
//! What a call's session begins with, and what it ends with, is kept by the slot store in the same step that grants or
//! frees the slot, and stays there until the database has it: whoever is killed in between, nothing of it is lost. Both
//! are facts that never change, so writing one twice is writing it once.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    clock::Timestamp,
    direct::{Direct, renew_at},
    error::Result,
    ids::{CallId, LeaseId, NodeId, SessionId, TenantId},
    lease::{Direction, Lease, Released},
    session::{CallState, Outcome, Record, Routing, Session, SessionStatus},
    verb::JsonObject,
};

/// How an entry begins; another layout would have another number.
const VERSION: u8 = 2;

/// What is known of a session before its slot is granted.
#[derive(Debug, Clone, PartialEq)]
pub struct Draft {
    pub agent_revision: i64,
    pub node: Option<NodeId>,
    pub sandbox: bool,
    pub metadata: JsonObject,
    pub started_at: Timestamp,
    /// How long the lease is given at once.
    pub lease_ttl: Duration,
    pub direct: Option<Arc<Direct>>,
}

/// How a session begins. Its routing is left out: that is the agent's at `agent_revision`, and may be long.
#[derive(Debug, Clone, PartialEq)]
pub struct Opening {
    pub lease: Lease,
    pub direction: Direction,
    pub draft: Draft,
}

/// How a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    pub outcome: Outcome,
    pub at: Timestamp,
}

/// What of one session the database may not have yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Unwritten {
    pub session: SessionId,
    pub opening: Option<Opening>,
    pub ending: Option<Ending>,
}

/// Which entries of a session are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts {
    pub session: SessionId,
    pub opening: bool,
    pub ending: bool,
}

/// A slot that was freed, and the session that held it.
#[derive(Debug, Clone, PartialEq)]
pub struct Freed {
    pub released: Released,
    /// Absent where nothing was released.
    pub session: Option<Unwritten>,
}

/// Where entries are kept until they are written, beside the slots.
#[async_trait]
pub trait Spool: Send + Sync + std::fmt::Debug {
    async fn find(&self, tenant: TenantId, session: SessionId) -> Result<Option<Unwritten>>;

    /// Of the session that the call's slot was last granted to.
    async fn of_call(&self, tenant: TenantId, call: &CallId) -> Result<Option<Unwritten>>;

    /// Some of the entries that are older than `age` by the store's clock; none once there are no more.
    async fn older_than(&self, tenant: TenantId, age: Duration) -> Result<Vec<Unwritten>>;

    /// Forgets these: the database has them. At most 1,000 sessions.
    async fn forget(&self, tenant: TenantId, written: &[Parts]) -> Result<()>;
}

impl Opening {
    /// The session as it begins.
    pub fn into_session(self, tenant: TenantId, routing: Routing) -> Session {
        let Self { lease, direction, draft } = self;
        let longest = || routing.behavior.as_ref()?.controls.max_duration();
        let (ends_at, lease_expires_at) = match &draft.direct {
            Some(direct) => (Some(direct.ends_at(draft.started_at)), renew_at(lease.expires_at)),
            None => (longest().map(|longest| draft.started_at.plus(longest)), lease.expires_at),
        };
        Session {
            ends_at,
            direct: draft.direct,
            id: lease.session,
            tenant,
            call: lease.call,
            agent: lease.id.agent(),
            agent_revision: draft.agent_revision,
            lease: lease.id,
            fence: lease.fence,
            direction,
            node: draft.node,
            sandbox: draft.sandbox,
            routing,
            metadata: draft.metadata,
            state: CallState::default(),
            record: Record::default(),
            status: SessionStatus::Active,
            outcome: None,
            started_at: draft.started_at,
            answered_at: None,
            ended_at: None,
            lease_expires_at,
            lease_ttl: draft.lease_ttl,
            version: 1,
        }
    }
}

impl Ending {
    /// The session as it has ended.
    pub fn applied_to(self, session: Session) -> Session {
        Session {
            status: self.outcome.status(),
            outcome: Some(self.outcome),
            ended_at: Some(self.at),
            version: session.version + 1,
            ..session
        }
    }
}

/// The part of an opening that is known before the grant. One letter a name: there is one for each call.
#[derive(Serialize, Deserialize)]
struct DraftText {
    c: String,
    r: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    n: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    s: bool,
    #[serde(skip_serializing_if = "JsonObject::is_empty", default)]
    m: JsonObject,
    t: i64,
    l: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    d: Option<Arc<Direct>>,
}

#[derive(Serialize, Deserialize)]
struct EndingText {
    o: Outcome,
    t: i64,
}

impl Draft {
    /// As the slot store is handed it, which puts the lease in front: a call that waited is granted one by another name.
    pub fn encode(&self, call: &CallId) -> Vec<u8> {
        let text = DraftText {
            c: call.as_str().to_owned(),
            r: self.agent_revision,
            n: self.node.as_ref().map(|node| node.as_str().to_owned()),
            s: self.sandbox,
            m: self.metadata.clone(),
            t: self.started_at.as_micros(),
            l: u64::try_from(self.lease_ttl.as_millis()).unwrap_or(u64::MAX),
            d: self.direct.clone(),
        };
        serde_json::to_vec(&text).expect("JSON takes texts, numbers and JSON")
    }
}

impl Ending {
    pub fn encode(&self) -> Vec<u8> {
        let text = EndingText { o: self.outcome, t: self.at.as_micros() };
        serde_json::to_vec(&text).expect("JSON takes a word and a number")
    }

    /// Version, when it was kept (8 bytes), then as encoded.
    pub fn decode(entry: &[u8]) -> Option<Self> {
        let (_kept_ms, text) = kept(entry)?.split_first_chunk::<8>()?;
        let EndingText { o, t } = serde_json::from_slice(text).ok()?;
        Some(Self { outcome: o, at: Timestamp::from_micros(t) })
    }
}

impl Opening {
    /// Version, when it was kept and the lease's expiry in ms (8 bytes each, big endian), the lease's record (direction
    /// 1, lease 32, session 16, fence 8), then the draft as encoded.
    pub fn decode(session: SessionId, entry: &[u8]) -> Option<Self> {
        let (_kept_ms, rest) = kept(entry)?.split_first_chunk::<8>()?;
        let (expiry_ms, rest) = rest.split_first_chunk()?;
        let (direction, rest) = rest.split_first()?;
        let direction = match direction {
            b'I' => Direction::Inbound,
            b'O' => Direction::Outbound,
            _ => return None,
        };
        let (id, rest) = rest.split_first_chunk()?;
        let (of, rest) = rest.split_first_chunk()?;
        let (fence, text) = rest.split_first_chunk()?;
        if SessionId::from_uuid(Uuid::from_bytes(*of)) != session {
            return None;
        }
        let DraftText { c, r, n, s, m, t, l, d } = serde_json::from_slice(text).ok()?;
        let lease = Lease {
            id: LeaseId::from_bytes(*id),
            call: c.parse().ok()?,
            session,
            fence: i64::from_be_bytes(*fence),
            expires_at: Timestamp::from_millis(i64::from_be_bytes(*expiry_ms)),
        };
        let node = n.map(|node| node.parse()).transpose().ok()?;
        let started_at = Timestamp::from_micros(t);
        let lease_ttl = Duration::from_millis(l);
        let draft = Draft { agent_revision: r, node, sandbox: s, metadata: m, started_at, lease_ttl, direct: d };
        Some(Self { lease, direction, draft })
    }
}

fn kept(entry: &[u8]) -> Option<&[u8]> {
    entry.split_first().filter(|(version, _)| **version == VERSION).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Env, direct::DirectRequest, ids::VoiceAgentId};

    fn opening(node: Option<&str>, metadata: JsonObject) -> Opening {
        let env = Env::system();
        let lease = Lease {
            id: LeaseId::new(&env, VoiceAgentId::new(&env)),
            call: "call-1".parse().expect("a call id"),
            session: SessionId::new(&env),
            fence: i64::MAX,
            expires_at: Timestamp::from_millis(1_700_000_000_123),
        };
        let draft = Draft {
            agent_revision: 7,
            node: node.map(|node| node.parse().expect("a node id")),
            sandbox: node.is_some(),
            metadata,
            started_at: Timestamp::from_micros(1_700_000_000_000_001),
            lease_ttl: Duration::from_secs(45),
            direct: None,
        };
        Opening { lease, direction: Direction::Outbound, draft }
    }

    /// As acquire.lua puts it together.
    fn entry(opening: &Opening) -> Vec<u8> {
        let Opening { lease, direction, draft } = opening;
        let mut entry = vec![VERSION];
        entry.extend(99_i64.to_be_bytes());
        entry.extend(lease.expires_at.as_millis().to_be_bytes());
        entry.push(if *direction == Direction::Outbound { b'O' } else { b'I' });
        entry.extend(lease.id.to_bytes());
        entry.extend(lease.session.as_uuid().as_bytes());
        entry.extend(lease.fence.to_be_bytes());
        entry.extend(draft.encode(&lease.call));
        entry
    }

    #[test]
    fn an_opening_reads_back_as_it_was_kept() {
        let metadata: JsonObject = [("ключ".to_owned(), "значение 🎧".into())].into_iter().collect();
        for opening in [opening(None, JsonObject::new()), opening(Some("node-1"), metadata)] {
            let entry = entry(&opening);
            assert_eq!(Opening::decode(opening.lease.session, &entry).as_ref(), Some(&opening));
            let session = opening.clone().into_session(TenantId::new(&Env::system()), routing());
            assert_eq!((session.id, session.fence), (opening.lease.session, i64::MAX));
            assert_eq!(session.lease_ttl, Duration::from_secs(45));
            assert_eq!(Opening::decode(SessionId::new(&Env::system()), &entry), None, "it is of another session");
        }
    }

    #[test]
    fn a_direct_session_reads_back_with_all_that_is_its_own_and_ends_by_its_ttl() {
        let mut opening = opening(None, JsonObject::new());
        let request = DirectRequest {
            participant: Some([("имя".to_owned(), "Ада".into())].into_iter().collect()),
            context: Some("line\nline".to_owned()),
            max_duration: Some(Duration::from_millis(1_500)),
            ..DirectRequest::default()
        };
        let direct = Direct::new(request, &routing(), opening.lease.session);
        opening.draft.direct = Some(Arc::new(direct));
        let entry = entry(&opening);
        assert_eq!(Opening::decode(opening.lease.session, &entry).as_ref(), Some(&opening));
        let session = opening.clone().into_session(TenantId::new(&Env::system()), routing());
        assert_eq!(session.expires_at(), opening.draft.started_at.plus(Duration::from_mins(10)));
        assert!(session.lease_expires_at < opening.lease.expires_at, "it is renewed before it runs out");
    }

    #[test]
    fn what_is_no_entry_of_this_version_is_none() {
        let opening = opening(None, JsonObject::new());
        let (whole, session) = (entry(&opening), opening.lease.session);
        let mut newer = whole.clone();
        newer[0] += 1;
        for wrong in [&newer[..], &whole[..10], &whole[..whole.len() - 1], b""] {
            assert_eq!(Opening::decode(session, wrong), None);
            assert_eq!(Ending::decode(wrong), None);
        }
    }

    #[test]
    fn every_ending_reads_back_and_ends_its_session() {
        for &outcome in Outcome::ALL {
            let ending = Ending { outcome, at: Timestamp::from_micros(5) };
            let entry = [&[VERSION][..], &99_i64.to_be_bytes(), &ending.encode()].concat();
            assert_eq!(Ending::decode(&entry), Some(ending));
            let begun = opening(None, JsonObject::new()).into_session(TenantId::new(&Env::system()), routing());
            let ended = ending.applied_to(begun);
            assert_eq!((ended.is_active(), ended.outcome, ended.version), (false, Some(outcome), 2));
        }
    }

    fn routing() -> Routing {
        Routing::unknown()
    }
}
