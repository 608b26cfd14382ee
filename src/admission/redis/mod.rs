//! The slot store on Redis: one script call an operation, or one for the grants and one for the releases that are made at
//! the same time (`combine`), shared by all replicas.
//!
//! Redis runs a script alone, so check and change are one step however many replicas race, and its clock is the
//! only one. The scripts are the truth about how (`lib.lua` draws the keys); here they are called.
//!
//! Deliberately absent: retries. A caller whose reply was lost may ask again, because the call names the lease;
//! this store cannot know whether the caller still wants to.

mod combine;
mod queue;
mod reply;
mod scripts;
mod spool;

use std::{collections::HashMap, fmt};

use async_trait::async_trait;
use deadpool_redis::redis::Value;
use tokio::sync::mpsc;

use self::{
    combine::{Combiner, Part},
    scripts::{AgentKeys, Combined, Scripts, TenantKeys, on_queue},
};
use super::SlotStore;
use crate::{
    domain::{
        Error, Result,
        error::Dependency,
        ids::{CallId, LeaseId, TenantId, VoiceAgentId},
        journal::{Ending, Freed},
        lease::{
            Acquire, Acquired, Direction, LEASE_TTL_MAX, Lease, Opening, Proven, RENEW_MAX, Released, Renewal, Renewed,
            Usage,
        },
        queue::{Enqueued, Heard, Leave, Left, ReplicaId, Tend, Tended, Ticket},
    },
    redis::{ClockWitness, Failure, Redis, ScriptInvocation},
};

/// [`SlotStore`] on Redis (6.2 or later) of policy `noeviction`: one server, the master of sentinels, or a cluster.
pub struct RedisSlotStore {
    redis: Redis,
    scripts: Scripts,
    acquires: Combiner,
    releases: Combiner,
}

impl fmt::Debug for RedisSlotStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisSlotStore").field("redis", &self.redis).finish_non_exhaustive()
    }
}

impl RedisSlotStore {
    pub fn new(redis: Redis) -> Self {
        let acquires = Combiner::new(redis.clone(), Combined::acquire());
        let releases = Combiner::new(redis.clone(), Combined::release());
        Self { redis, scripts: Scripts::load(), acquires, releases }
    }

    async fn invoke(&self, script: &ScriptInvocation<'_>) -> Result<Value> {
        self.redis.invoke(script).await.map_err(in_our_words)
    }

    /// Which Redis it is that will be asked and what is known of its clock: see `witness_of` in `lib.lua`.
    async fn server(&self, tenant: TenantId) -> Result<String> {
        let found = self.redis.server(&TenantKeys::new(tenant).limits).await.map_err(in_our_words)?;
        let (name, ClockWitness { latest_ms, ahead_since_ms }) = found;
        Ok(format!("{name}@{latest_ms}@{ahead_since_ms}"))
    }

    async fn acquire_or_probe(&self, mode: &str, tenant: TenantId, request: &Acquire) -> Result<Acquired> {
        debug_assert_eq!(request.lease.agent(), request.agent, "a lease id carries the agent it is of");
        let limits = &request.limits;
        let mut part = Part::of(request.agent);
        part.arg(mode).arg(request.call.as_str());
        part.arg(&request.lease.to_bytes()[..]).arg(&request.session.as_uuid().as_bytes()[..]);
        part.arg(letter(request.direction)).arg(ttl_ms(request.ttl));
        part.arg(limits.agent_limit).arg(limits.reserved_inbound).arg(limits.agent_version);
        part.arg(limits.tenant_limit).arg(limits.tenant_version).arg(request.priority);
        part.arg(self.server(tenant).await?);
        part.arg(request.draft.as_ref().map(|draft| draft.encode(&request.call)).unwrap_or_default());
        reply::acquired(self.acquires.call(tenant, part).await.map_err(in_our_words)?, &request.call)
    }

    /// `what` of the lease: see `release.lua`.
    async fn free(
        &self,
        what: &str,
        tenant: TenantId,
        (call, lease): (&CallId, LeaseId),
        ending: Vec<u8>,
    ) -> Result<Value> {
        let mut part = Part::of(lease.agent());
        part.arg(call.as_str()).arg(&lease.to_bytes()[..]).arg(self.server(tenant).await?).arg(ending).arg(what);
        self.releases.call(tenant, part).await.map_err(in_our_words)
    }

    async fn free_ending(
        &self,
        what: &str,
        tenant: TenantId,
        lease: (&CallId, LeaseId),
        ending: &Ending,
    ) -> Result<Freed> {
        let mut freed = reply::freed(self.free(what, tenant, lease, ending.encode()).await?)?;
        if let Some(session) = &mut freed.session {
            session.ending = Some(*ending);
        }
        Ok(freed)
    }
}

#[async_trait]
impl SlotStore for RedisSlotStore {
    async fn acquire(&self, tenant: TenantId, request: &Acquire) -> Result<Acquired> {
        self.acquire_or_probe("take", tenant, request).await
    }

    async fn probe(&self, tenant: TenantId, request: &Acquire) -> Result<Acquired> {
        self.acquire_or_probe("probe", tenant, request).await
    }

    async fn renew(&self, tenant: TenantId, leases: &[Renewal]) -> Result<Vec<Renewed>> {
        at_most_renew_max(leases.len())?;
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        // Renewals of one node name few agents; each is declared once and referred to by its place.
        let mut places = HashMap::new();
        let keys = TenantKeys::new(tenant);
        let mut script = self.scripts.renew.prepare_invoke();
        script.key(keys.calls).key(keys.leases).key(keys.limits);
        script.arg(self.server(tenant).await?);
        for renewal in leases {
            let place = declare(&mut script, &mut places, tenant, renewal.lease.agent());
            let mut named = renewal.lease.to_bytes().to_vec();
            named.extend_from_slice(format!("{}:{place}", ttl_ms(renewal.ttl)).as_bytes());
            script.arg(renewal.call.as_str()).arg(named);
        }
        reply::renewed(self.invoke(&script).await?)
    }

    async fn release(&self, tenant: TenantId, call: &CallId, lease: LeaseId) -> Result<Released> {
        reply::released(self.free("any", tenant, (call, lease), Vec::new()).await?)
    }

    async fn release_ending(&self, tenant: TenantId, call: &CallId, lease: LeaseId, ending: &Ending) -> Result<Freed> {
        self.free_ending("any", tenant, (call, lease), ending).await
    }

    async fn give_up(&self, tenant: TenantId, call: &CallId, lease: LeaseId, ending: &Ending) -> Result<Freed> {
        self.free_ending("unshared", tenant, (call, lease), ending).await
    }

    async fn open(&self, tenant: TenantId, opening: Opening) -> Result<()> {
        let (recovery_ms, witness) = match opening {
            Opening::Fresh => (0, "told"),
            Opening::Recovering { span, witnessed: false } => (ttl_ms(span), "told"),
            Opening::Recovering { span, witnessed: true } => (ttl_ms(span), "seen"),
        };
        let keys = TenantKeys::new(tenant);
        // Books that were open until now may be so no longer because of the clock.
        self.redis.look_at_clock(&keys.limits).await.map_err(in_our_words)?;
        let mut script = self.scripts.open.prepare_invoke();
        script.key(keys.limits).key(keys.calls).key(keys.leases);
        script.arg(recovery_ms).arg(witness).arg(self.server(tenant).await?);
        reply::opened(self.invoke(&script).await?)
    }

    async fn readmit(&self, tenant: TenantId, leases: &[Proven]) -> Result<Vec<Renewed>> {
        at_most_renew_max(leases.len())?;
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let mut places = HashMap::new();
        let keys = TenantKeys::new(tenant);
        let mut script = self.scripts.readmit.prepare_invoke();
        script.key(keys.calls).key(keys.leases).key(keys.limits);
        script.arg(self.server(tenant).await?);
        for lease in leases {
            let place = declare(&mut script, &mut places, tenant, lease.claim.lease.agent());
            let mut named = reply::record(&lease.claim);
            named.extend_from_slice(format!("{}:{place}", ttl_ms(lease.ttl)).as_bytes());
            script.arg(lease.call.as_str()).arg(named);
        }
        reply::renewed(self.invoke(&script).await?)
    }

    async fn fates(&self, tenant: TenantId, leases: &[(CallId, LeaseId)]) -> Result<Vec<Renewed>> {
        at_most_renew_max(leases.len())?;
        if leases.is_empty() {
            return Ok(Vec::new());
        }
        let keys = TenantKeys::new(tenant);
        let mut script = self.scripts.fates.prepare_invoke();
        script.key(keys.calls).key(keys.leases).key(keys.limits);
        script.arg(self.server(tenant).await?);
        for (call, lease) in leases {
            script.arg(call.as_str()).arg(&lease.to_bytes()[..]);
        }
        reply::renewed(self.invoke(&script).await?)
    }

    async fn leases(&self, tenant: TenantId, calls: &[CallId]) -> Result<Vec<Option<Lease>>> {
        at_most_renew_max(calls.len())?;
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let keys = TenantKeys::new(tenant);
        let mut script = self.scripts.leases.prepare_invoke();
        script.key(keys.calls).key(keys.leases);
        for call in calls {
            script.arg(call.as_str());
        }
        reply::leases(self.invoke(&script).await?, calls)
    }

    async fn live(&self, tenant: TenantId, most: usize) -> Result<Vec<Lease>> {
        let keys = TenantKeys::new(tenant);
        let mut live = Vec::new();
        loop {
            let page = RENEW_MAX.min(most - live.len());
            if page == 0 {
                return Ok(live);
            }
            let mut script = self.scripts.live.prepare_invoke();
            script.key(&keys.calls).key(&keys.leases).arg(live.len()).arg(page);
            let found = reply::live(self.invoke(&script).await?)?;
            let last = found.len() < page;
            live.extend(found);
            if last {
                return Ok(live);
            }
        }
    }

    async fn usage(&self, tenant: TenantId, agent: VoiceAgentId) -> Result<Usage> {
        reply::usage(self.invoke(&on_queue(&self.scripts.usage, tenant, agent)).await?)
    }

    async fn tenant_usage(&self, tenant: TenantId) -> Result<Usage> {
        let keys = TenantKeys::new(tenant);
        let mut script = self.scripts.tenant_usage.prepare_invoke();
        script.key(keys.calls).key(keys.leases).key(keys.limits).key(keys.replicas).key(keys.agents);
        reply::usage(self.invoke(&script).await?)
    }

    async fn enqueue(&self, tenant: TenantId, ticket: &Ticket) -> Result<Enqueued> {
        self.put_in_line("take", tenant, ticket).await
    }

    async fn probe_queue(&self, tenant: TenantId, ticket: &Ticket) -> Result<Enqueued> {
        self.put_in_line("probe", tenant, ticket).await
    }

    async fn tend(&self, tenant: TenantId, tend: &Tend) -> Result<Tended> {
        self.tend_tickets(tenant, tend).await
    }

    async fn leave(&self, tenant: TenantId, leave: &Leave) -> Result<Left> {
        self.leave_queue(tenant, leave).await
    }

    fn listen(&self, replica: ReplicaId) -> mpsc::Receiver<Heard> {
        queue::listen(&self.redis, replica)
    }

    async fn ping(&self) -> Result<()> {
        self.redis.check().await.map_err(in_our_words)
    }
}

/// The agent's place among the keys; its keys are declared when it is first named.
fn declare(
    script: &mut ScriptInvocation<'_>,
    places: &mut HashMap<VoiceAgentId, usize>,
    tenant: TenantId,
    agent: VoiceAgentId,
) -> usize {
    let next = places.len() + 1;
    let place = *places.entry(agent).or_insert(next);
    if place == next {
        let keys = AgentKeys::new(tenant, agent);
        script.key(keys.inbound).key(keys.outbound).key(keys.limits);
    }
    place
}

fn in_our_words(failure: Failure) -> Error {
    failure.or_else(|why| Error::Unavailable(Dependency::SlotStore, Some(why)))
}

fn letter(direction: Direction) -> &'static str {
    match direction {
        Direction::Inbound => "I",
        Direction::Outbound => "O",
    }
}

/// The scripts refuse what is beyond the longest lease; the edge has refused it before.
fn ttl_ms(ttl: std::time::Duration) -> u64 {
    u64::try_from(ttl.min(LEASE_TTL_MAX).as_millis()).expect("the longest lease is far below u64::MAX milliseconds")
}

fn at_most_renew_max(count: usize) -> Result<()> {
    if count <= RENEW_MAX { Ok(()) } else { Err(Error::invalid("leases", format!("must be at most {RENEW_MAX}"))) }
}
