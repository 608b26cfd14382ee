//! Calls of one script for one tenant that are made at the same time go to Redis together.
//!
//! The first ones go at once, each by itself. Whoever comes while they are on their way waits for one of them to come
//! back, and goes with all who wait by then: so nobody waits for company, and the busier Redis is the larger the batches
//! are. A batch is one script, and its parts succeed or fail one by one.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
};

use deadpool_redis::redis::{ToRedisArgs, Value};
use tokio::{sync::oneshot, time::timeout};

use super::{
    reply::{Elements, malformed},
    scripts::{AgentKeys, Combined, TenantKeys, on_queue},
};
use crate::{
    domain::{
        Result,
        error::Internal,
        ids::{TenantId, VoiceAgentId},
    },
    redis::{Failure, Redis, ScriptInvocation},
};

/// Batches of one tenant on their way at once: while Redis works on one, the next is made.
const AT_ONCE: usize = 2;
/// Parts of a batch: some 2 ms, for which others wait.
const PARTS_MAX: usize = 64;
/// Of the arguments of a batch, where metadata is large.
const BYTES_MAX: usize = 256 << 10;

/// What one caller asks of the script.
#[derive(Debug)]
pub(super) struct Part {
    agent: VoiceAgentId,
    args: Vec<Vec<u8>>,
}

impl Part {
    pub(super) fn of(agent: VoiceAgentId) -> Self {
        Self { agent, args: Vec::new() }
    }

    pub(super) fn arg(&mut self, arg: impl ToRedisArgs) -> &mut Self {
        arg.write_redis_args(&mut self.args);
        self
    }

    fn bytes(&self) -> usize {
        self.args.iter().map(Vec::len).sum()
    }
}

/// One script, and those who wait for it.
#[derive(Debug, Clone)]
pub(super) struct Combiner(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    redis: Redis,
    script: Combined,
    /// Of the tenants that have something on its way.
    lines: Mutex<HashMap<TenantId, Line>>,
}

#[derive(Debug, Default)]
struct Line {
    senders: usize,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    part: Part,
    answer: oneshot::Sender<Result<Value, Failure>>,
}

impl Combiner {
    pub(super) fn new(redis: Redis, script: Combined) -> Self {
        Self(Arc::new(Inner { redis, script, lines: Mutex::default() }))
    }

    /// What the script answers to `part`, within what a command may take. A caller that leaves may have it carried out.
    pub(super) async fn call(&self, tenant: TenantId, part: Part) -> Result<Value, Failure> {
        let (answer, answered) = oneshot::channel();
        if self.0.line_up(tenant, Waiting { part, answer }) {
            let sender = Sender { inner: self.0.clone(), tenant, is_done: false };
            tokio::spawn(sender.send_all());
        }
        match timeout(self.0.redis.budget(), answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Failure::Unavailable(Internal::new("the runtime that sent it has ended"))),
            Err(_) => Err(Failure::Unavailable(Internal::new("Redis did not answer in time"))),
        }
    }
}

impl Inner {
    fn lines(&self) -> MutexGuard<'_, HashMap<TenantId, Line>> {
        self.lines.lock().expect("nobody panics while holding it")
    }

    /// Whether another sender is to be sent.
    fn line_up(&self, tenant: TenantId, waiting: Waiting) -> bool {
        let mut lines = self.lines();
        let line = lines.entry(tenant).or_default();
        line.waiting.push_back(waiting);
        let is_free = line.senders < AT_ONCE;
        line.senders += usize::from(is_free);
        is_free
    }

    /// The next batch, or nothing if nobody waits: in the same moment its sender counts no longer, so that whoever comes
    /// then sends another. Who has gone is passed over.
    fn next(&self, tenant: TenantId) -> Option<Vec<Waiting>> {
        let mut lines = self.lines();
        let waiting = &mut lines.get_mut(&tenant)?.waiting;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some(next) = waiting.front() {
            bytes += next.part.bytes();
            if batch.len() == PARTS_MAX || bytes > BYTES_MAX && !batch.is_empty() {
                break;
            }
            batch.extend(waiting.pop_front().filter(|next| !next.answer.is_closed()));
        }
        if batch.is_empty() {
            leave(&mut lines, tenant);
            return None;
        }
        Some(batch)
    }

    async fn send(&self, tenant: TenantId, mut batch: Vec<Waiting>) {
        if batch.len() == 1
            && let Some(Waiting { part, answer }) = batch.pop()
        {
            // Who has gone does not ask.
            let _ = answer.send(self.redis.invoke(&self.alone(tenant, &part)).await);
            return;
        }
        let answers = match self.redis.invoke(&self.together(tenant, &batch)).await {
            Ok(reply) => Elements::of(reply).map_err(|error| Failure::OurBug(Internal::new(error))),
            Err(failure) => Err(failure),
        };
        match answers {
            Ok(mut answers) => {
                for Waiting { answer, .. } in batch {
                    let answered = answers.next().and_then(answer_of_part);
                    let _ = answer.send(answered.unwrap_or_else(|error| Err(Failure::OurBug(Internal::new(error)))));
                }
            }
            Err(failure) => {
                for Waiting { answer, .. } in batch {
                    let _ = answer.send(Err(failure.again()));
                }
            }
        }
    }

    /// Costs a third less than a batch of one.
    fn alone(&self, tenant: TenantId, part: &Part) -> ScriptInvocation<'_> {
        let mut script = on_queue(&self.script.alone, tenant, part.agent);
        script.key(TenantKeys::new(tenant).unwritten).arg(&part.args);
        script
    }

    fn together(&self, tenant: TenantId, batch: &[Waiting]) -> ScriptInvocation<'_> {
        let keys = TenantKeys::new(tenant);
        let mut script = self.script.together.prepare_invoke();
        script.key(keys.calls).key(keys.leases).key(keys.limits);
        script.key(keys.replicas).key(keys.agents).key(keys.unwritten);
        script.arg(batch.first().map_or(0, |first| first.part.args.len()));
        let mut places = HashMap::new();
        for Waiting { part, .. } in batch {
            let next = places.len() + 1;
            let place = *places.entry(part.agent).or_insert(next);
            if place == next {
                let keys = AgentKeys::new(tenant, part.agent);
                script.key(keys.inbound).key(keys.outbound).key(keys.limits).key(keys.queue_in).key(keys.queue_out);
            }
            script.arg(place).arg(&part.args);
        }
        script
    }
}

/// See `batch.lua`.
fn answer_of_part(answer: Value) -> Result<Result<Value, Failure>> {
    let mut answer = Elements::of(answer)?;
    Ok(match answer.next::<i64>()? {
        1 => Ok(answer.next()?),
        0 => Err(Failure::of_part(&answer.next::<String>()?)),
        other => return Err(malformed(&format!("unknown mark {other}"))),
    })
}

/// A sender less. What waits for the last of them is dropped, by which those who wait are told.
fn leave(lines: &mut HashMap<TenantId, Line>, tenant: TenantId) {
    if let Some(line) = lines.get_mut(&tenant) {
        line.senders -= 1;
        if line.senders == 0 {
            lines.remove(&tenant);
        }
    }
}

/// Sends what waits until nothing does, or its runtime ends.
struct Sender {
    inner: Arc<Inner>,
    tenant: TenantId,
    is_done: bool,
}

impl Sender {
    async fn send_all(mut self) {
        while let Some(batch) = self.inner.next(self.tenant) {
            self.inner.send(self.tenant, batch).await;
        }
        self.is_done = true;
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.is_done {
            leave(&mut self.inner.lines(), self.tenant);
        }
    }
}
