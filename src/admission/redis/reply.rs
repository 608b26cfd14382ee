//! What the scripts answer, in the words of the domain.
//!
//! A reply that does not have the form its script's header promises is a bug of ours: [`Error::Internal`].

use std::time::Duration;

use deadpool_redis::redis::{FromRedisValue, Value, from_redis_value};
use uuid::Uuid;

use crate::domain::{
    Error, Result, Timestamp,
    ids::{CallId, LeaseId, SessionId, VoiceAgentId},
    journal::{Ending, Freed, Opening, Unwritten},
    lease::{Acquired, BindingScope, Denial, Direction, Lease, Released, Renewed, Usage},
    lease_token::LeaseClaim,
};

/// Takes the elements of a reply one after the other.
pub(super) struct Elements(std::vec::IntoIter<Value>);

impl Elements {
    pub(super) fn of(reply: Value) -> Result<Self> {
        match reply {
            Value::Array(elements) => Ok(Self(elements.into_iter())),
            other => Err(malformed(&format!("{other:?} is not an array"))),
        }
    }

    pub(super) fn next<T: FromRedisValue>(&mut self) -> Result<T> {
        let element = self.0.next().ok_or_else(|| malformed("it is too short"))?;
        from_redis_value(element).map_err(|error| malformed(&error.to_string()))
    }

    pub(super) fn tag(&mut self) -> Result<String> {
        self.next()
    }

    pub(super) fn count(&mut self) -> Result<u32> {
        let count: i64 = self.next()?;
        u32::try_from(count).map_err(|_| malformed("a count is out of range"))
    }

    /// A span in milliseconds, or -1 where there is none.
    pub(super) fn span(&mut self) -> Result<Option<Duration>> {
        let ms: i64 = self.next()?;
        Ok(u64::try_from(ms).ok().map(Duration::from_millis))
    }

    /// used, used_outbound, limit, reserved, queued, waited_ms
    fn usage(&mut self) -> Result<Usage> {
        Ok(Usage {
            used: self.count()?,
            used_outbound: self.count()?,
            limit: self.count()?,
            reserved_inbound: self.count()?,
            queued: self.count()?,
            oldest_waiter: self.span()?,
        })
    }

    /// record, expiry_ms
    fn lease(&mut self, call: &CallId) -> Result<Option<Lease>> {
        let (record, expiry_ms): (Vec<u8>, i64) = (self.next()?, self.next()?);
        if record.is_empty() {
            return Ok(None);
        }
        let (id, session, fence) = fields(&record).ok_or_else(|| malformed("a record is not of 57 bytes"))?;
        let expires_at = Timestamp::from_millis(expiry_ms);
        Ok(Some(Lease { id, call: call.clone(), session, fence, expires_at }))
    }
}

/// See `lib.lua`: direction, lease, session, fence.
pub(super) fn record(claim: &LeaseClaim) -> Vec<u8> {
    let direction = match claim.direction {
        Direction::Inbound => b'I',
        Direction::Outbound => b'O',
    };
    let mut record = Vec::with_capacity(57);
    record.push(direction);
    record.extend_from_slice(&claim.lease.to_bytes());
    record.extend_from_slice(claim.session.as_uuid().as_bytes());
    record.extend_from_slice(&claim.fence.to_be_bytes());
    record
}

/// The other way round.
fn fields(record: &[u8]) -> Option<(LeaseId, SessionId, i64)> {
    let (_direction, rest) = record.split_first()?;
    let (lease, rest) = rest.split_first_chunk::<32>()?;
    let (session, rest) = rest.split_first_chunk::<16>()?;
    let fence = <[u8; 8]>::try_from(rest).ok()?;
    let session = SessionId::from_uuid(Uuid::from_bytes(*session));
    Some((LeaseId::from_bytes(*lease), session, i64::from_be_bytes(fence)))
}

pub(super) fn acquired(reply: Value, call: &CallId) -> Result<Acquired> {
    let mut reply = Elements::of(reply)?;
    let tag = reply.tag()?;
    match tag.as_str() {
        "unopened" => Err(Error::Unopened),
        "recovering" => Err(Error::Recovering { left: Duration::from_millis(reply.next()?) }),
        "granted" | "existing" => {
            let lease = reply.lease(call)?.ok_or_else(|| malformed("a grant without a record"))?;
            let usage = reply.usage()?;
            Ok(if tag == "granted" { Acquired::Granted { lease, usage } } else { Acquired::Existing { lease, usage } })
        }
        "other_agent" => {
            let agent: Vec<u8> = reply.next()?;
            let agent = Uuid::from_slice(&agent).map_err(|error| malformed(&error.to_string()))?;
            Ok(Acquired::OtherAgent { agent: VoiceAgentId::from_uuid(agent) })
        }
        "denied" => denial(&mut reply).map(Acquired::Denied),
        other => Err(malformed(&format!("unknown tag {other:?}"))),
    }
}

fn denial(reply: &mut Elements) -> Result<Denial> {
    let scope = reply.tag()?;
    let binding = BindingScope::from_word(&scope).ok_or_else(|| malformed(&format!("unknown scope {scope:?}")))?;
    let next_expiry_in = Duration::from_millis(reply.next()?);
    let (tenant_used, tenant_limit) = (reply.count()?, reply.count()?);
    Ok(Denial { binding, usage: reply.usage()?, tenant_used, tenant_limit, next_expiry_in })
}

pub(super) fn renewed(reply: Value) -> Result<Vec<Renewed>> {
    let Elements(elements) = Elements::of(reply)?;
    let fate = |element| match element {
        Value::Int(expiry_ms) => Ok(Renewed::Renewed { expires_at: Timestamp::from_millis(expiry_ms) }),
        Value::BulkString(tag) if tag == b"lost" => Ok(Renewed::Lost),
        Value::BulkString(tag) if tag == b"released" => Ok(Renewed::Released),
        Value::BulkString(tag) if tag == b"missing" => Ok(Renewed::Missing),
        Value::BulkString(tag) if tag == b"unopened" => Err(Error::Unopened),
        Value::Array(readmitted) => match readmitted.as_slice() {
            [Value::BulkString(tag), Value::Int(expiry_ms)] if tag == b"readmitted" => {
                Ok(Renewed::Readmitted { expires_at: Timestamp::from_millis(*expiry_ms) })
            }
            other => Err(malformed(&format!("unknown fate {other:?}"))),
        },
        other => Err(malformed(&format!("unknown fate {other:?}"))),
    };
    elements.map(fate).collect()
}

pub(super) fn opened(reply: Value) -> Result<()> {
    match Elements::of(reply)?.tag()?.as_str() {
        "opened" | "open" => Ok(()),
        other => Err(malformed(&format!("unknown tag {other:?}"))),
    }
}

pub(super) fn released(reply: Value) -> Result<Released> {
    of_release(&mut Elements::of(reply)?)
}

pub(super) fn freed(reply: Value) -> Result<Freed> {
    let mut reply = Elements::of(reply)?;
    let released = of_release(&mut reply)?;
    let (session, opening): (Vec<u8>, Vec<u8>) = (reply.next()?, reply.next()?);
    let session = if session.is_empty() { None } else { Some(unwritten(&session, &opening, &[])?) };
    Ok(Freed { released, session })
}

fn of_release(reply: &mut Elements) -> Result<Released> {
    let tag = reply.tag()?;
    if tag == "unopened" {
        return Err(Error::Unopened);
    }
    Ok(Released { released: tag == "released", usage: reply.usage()? })
}

/// session, opening, ending; nothing at all where nothing is kept.
pub(super) fn found(reply: Value) -> Result<Option<Unwritten>> {
    let mut reply = Elements::of(reply)?;
    if reply.0.as_slice().is_empty() {
        return Ok(None);
    }
    let (session, opening, ending): (Vec<u8>, Vec<u8>, Vec<u8>) = (reply.next()?, reply.next()?, reply.next()?);
    unwritten(&session, &opening, &ending).map(Some)
}

/// cursor, then field and entry of each; one that cannot be read is left where it is, and said.
pub(super) fn stale(reply: Value) -> Result<(String, Vec<Unwritten>)> {
    let mut reply = Elements::of(reply)?;
    let cursor = reply.next()?;
    let mut found = Vec::new();
    while !reply.0.as_slice().is_empty() {
        let (field, entry): (Vec<u8>, Vec<u8>) = (reply.next()?, reply.next()?);
        let parts = match field.split_first() {
            Some((b'o', session)) => unwritten(session, &entry, &[]),
            Some((b'e', session)) => unwritten(session, &[], &entry),
            _ => Err(malformed("an unwritten entry is of no kind")),
        };
        match parts {
            Ok(parts) => found.push(parts),
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "an unwritten entry cannot be read");
            }
        }
    }
    Ok((cursor, found))
}

fn unwritten(session: &[u8], opening: &[u8], ending: &[u8]) -> Result<Unwritten> {
    let session = Uuid::from_slice(session).map_err(|error| malformed(&error.to_string()))?;
    let session = SessionId::from_uuid(session);
    let unreadable = || malformed(&format!("what is kept of {session} cannot be read"));
    let opening =
        if opening.is_empty() { None } else { Some(Opening::decode(session, opening).ok_or_else(unreadable)?) };
    let ending = if ending.is_empty() { None } else { Some(Ending::decode(ending).ok_or_else(unreadable)?) };
    Ok(Unwritten { session, opening, ending })
}

pub(super) fn leases(reply: Value, calls: &[CallId]) -> Result<Vec<Option<Lease>>> {
    let mut reply = Elements::of(reply)?;
    calls.iter().map(|call| reply.lease(call)).collect()
}

pub(super) fn live(reply: Value) -> Result<Vec<Lease>> {
    let mut reply = Elements::of(reply)?;
    let mut live = Vec::new();
    while !reply.0.as_slice().is_empty() {
        let call: String = reply.next()?;
        let call: CallId = call.parse().map_err(|_| malformed("a call id is none"))?;
        live.extend(reply.lease(&call)?);
    }
    Ok(live)
}

pub(super) fn usage(reply: Value) -> Result<Usage> {
    Elements::of(reply)?.usage()
}

pub(super) fn malformed(what: &str) -> Error {
    Error::internal(format!("a slot script's reply: {what}"))
}
