//! The queue on Redis: its scripts called, and the channel on which a replica hears that it is to look.

use std::time::Duration;

use deadpool_redis::redis::Value;
use tokio::sync::mpsc;

use super::{
    RedisSlotStore, letter,
    reply::{Elements, malformed},
    scripts::on_queue,
};
use crate::{
    domain::{
        Error, Result, Timestamp,
        ids::{CallId, TenantId},
        lease::Limits,
        queue::{Enqueued, Heard, Leave, Left, Place, ReplicaId, Standing, TEND_MAX, Tend, Tended, Ticket, Wake},
    },
    redis::{Message, Redis, ScriptInvocation},
};

impl RedisSlotStore {
    pub(super) async fn put_in_line(&self, mode: &str, tenant: TenantId, ticket: &Ticket) -> Result<Enqueued> {
        let acquire = &ticket.acquire;
        let mut script = on_queue(&self.scripts.enqueue, tenant, acquire.agent);
        script.arg(mode).arg(acquire.call.as_str());
        script.arg(&acquire.lease.to_bytes()[..]).arg(&acquire.session.as_uuid().as_bytes()[..]);
        script.arg(letter(acquire.direction)).arg(acquire.priority).arg(ticket.replica.to_string());
        script.arg(ticket.since.map_or(0, Timestamp::as_micros)).arg(ticket.depth);
        bring(&mut script, &acquire.limits);
        let mut reply = Elements::of(self.invoke(&script).await?)?;
        match reply.tag()?.as_str() {
            "held" => Ok(Enqueued::Held),
            "unopened" => Err(Error::Unopened),
            "full" => Ok(Enqueued::Full { queued: reply.count()? }),
            "waiting" => place(&mut reply).map(Enqueued::Waiting),
            other => Err(malformed(&format!("unknown tag {other:?}"))),
        }
    }

    pub(super) async fn tend_tickets(&self, tenant: TenantId, tend: &Tend) -> Result<Tended> {
        if tend.calls.len() > TEND_MAX {
            return Err(Error::invalid("calls", format!("must be at most {TEND_MAX}")));
        }
        let mut script = on_queue(&self.scripts.tend, tenant, tend.agent);
        script.arg(tend.replica.to_string());
        bring(&mut script, &tend.limits);
        for call in &tend.calls {
            script.arg(call.as_str());
        }
        let mut reply = Elements::of(self.invoke(&script).await?)?;
        let (more, next_expiry_in) = (reply.count()? == 1, Duration::from_millis(reply.next()?));
        let woken: Vec<String> = reply.next()?;
        let wakes = woken.iter().map(|text| wake(text)).collect::<Result<_>>()?;
        let standings = tend.calls.iter().map(|_| standing(reply.next()?)).collect::<Result<_>>()?;
        Ok(Tended { standings, wakes, more, next_expiry_in })
    }

    pub(super) async fn leave_queue(&self, tenant: TenantId, leave: &Leave) -> Result<Left> {
        let mut script = on_queue(&self.scripts.leave, tenant, leave.lease.agent());
        script.arg(leave.call.as_str()).arg(&leave.lease.to_bytes()[..]).arg(leave.replica.to_string());
        match self.invoke(&script).await? {
            Value::BulkString(tag) if tag == b"ticket" => Ok(Left::Ticket),
            Value::BulkString(tag) if tag == b"offer" => Ok(Left::Offer),
            Value::BulkString(tag) if tag == b"nothing" => Ok(Left::Nothing),
            other => Err(malformed(&format!("unknown answer {other:?}"))),
        }
    }
}

/// What `wake` of `queue.lua` says to the replica.
pub(super) fn listen(redis: &Redis, replica: ReplicaId) -> mpsc::Receiver<Heard> {
    redis.subscribe(format!("vg:wake:{replica}"), |message| match message {
        Message::Missed => Some(Heard::Missed),
        Message::Text(text) => heard(&text),
    })
}

/// The kind in a letter, the tenant in 36, the call in the rest. Whoever else may write to the channel is not believed.
fn heard(text: &str) -> Option<Heard> {
    let (kind, rest) = (text.get(..1)?, text.get(1..)?);
    let (tenant, call) = rest.split_at_checked(36)?;
    let (call, wake) = wake(&format!("{kind}{call}")).ok()?;
    Some(Heard::Wake(tenant.parse().ok()?, call, wake))
}

fn wake(text: &str) -> Result<(CallId, Wake)> {
    let wake = match text.get(..1) {
        Some("G") => Wake::Granted,
        Some("T") => Wake::TakenOver,
        _ => return Err(malformed(&format!("unknown wake {text:?}"))),
    };
    let call = text[1..].parse().map_err(|_| malformed(&format!("a wake of no call {text:?}")))?;
    Ok((call, wake))
}

fn bring(script: &mut ScriptInvocation<'_>, limits: &Limits) {
    script.arg(limits.agent_limit).arg(limits.reserved_inbound).arg(limits.agent_version);
    script.arg(limits.tenant_limit).arg(limits.tenant_version);
}

/// position, estimate_ms, arrived_us
fn place(reply: &mut Elements) -> Result<Place> {
    Ok(Place { position: reply.count()?, estimate: reply.span()?, since: Timestamp::from_micros(reply.next()?) })
}

fn standing(element: Value) -> Result<Standing> {
    match element {
        Value::BulkString(tag) if tag == b"held" => Ok(Standing::Held),
        Value::BulkString(tag) if tag == b"taken" => Ok(Standing::TakenOver),
        Value::BulkString(tag) if tag == b"gone" => Ok(Standing::Gone),
        place_of_it => place(&mut Elements::of(place_of_it)?).map(Standing::Waiting),
    }
}
