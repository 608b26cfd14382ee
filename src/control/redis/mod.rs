//! The bus over Redis: a node may be connected to any replica, and a verb may arrive at any other.
//!
//! A node's mail lies in a hash beside the tenant's slots, numbered, until it is settled. The step that puts a letter
//! there also publishes it to the replica that the node is connected to. What was published and not heard is found by
//! its number: a gap is filled at once, and it is asked every few seconds for what is newer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use deadpool_redis::redis::{Value, from_redis_value};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    Attachment, Awaited, BusTimes, CommandBus, Connected, Delivery, Letter, Mailbox, Unsent, waiting::Waiting,
};
use crate::{
    domain::{
        Error, Result,
        error::Dependency,
        ids::{OperationId, TenantId},
        node::{NodeAddress, NodeProfile},
        operation::Operation,
        queue::ReplicaId,
    },
    redis::{Failure, Message, Redis, Script, ScriptInvocation},
};

/// How often a letter is given to streams.
const GIVEN_MAX: u8 = 2;
/// Letters of one node that are not settled.
const UNSETTLED_MAX: usize = 4_096;
/// Streams that begin or end at once: when thousands do, admissions do not wait behind them.
const COMING_AND_GOING: usize = 32;

/// The bus of this replica.
#[derive(Debug)]
pub struct RedisBus {
    redis: Redis,
    replica: ReplicaId,
    times: BusTimes,
    scripts: Scripts,
    waiting: Waiting,
    attached: Mutex<HashMap<u64, Attached>>,
    coming_and_going: Semaphore,
}

#[derive(Debug)]
struct Attached {
    attachment: Attachment,
    mailbox: Mailbox,
    /// The newest letter that the stream was given.
    last: u64,
    /// Calls that its node was last said to carry.
    load: usize,
}

#[derive(Debug)]
struct Scripts {
    send: Script,
    attach: Script,
    keep: Script,
    detach: Script,
    settle: Script,
    connected: Script,
}

/// What is said to a replica.
#[derive(Debug)]
enum Heard {
    Letter { stream: u64, number: u64, letter: Box<Letter> },
    TakenOver { stream: u64 },
    Finished(Box<Operation>),
    Missed,
}

impl RedisBus {
    /// Hears what is said to this replica until `closing`. `changed` is told whose nodes have come or gone; nobody's in
    /// particular where that was missed.
    pub fn start(
        redis: Redis,
        replica: ReplicaId,
        times: BusTimes,
        changed: impl Fn(Option<TenantId>) + Send + Sync + 'static,
        closing: CancellationToken,
    ) -> Arc<Self> {
        let mut heard = redis.subscribe(format!("vg:replica:{replica}"), |message| match message {
            Message::Missed => Some(Heard::Missed),
            Message::Text(text) => read(&text),
        });
        let mut nodes = redis.subscribe("vg:nodes".to_owned(), |message| match message {
            Message::Missed => Some(None),
            Message::Text(tenant) => tenant.parse().ok().map(Some),
        });
        let (waiting, attached) = (Waiting::default(), Mutex::default());
        let coming_and_going = Semaphore::new(COMING_AND_GOING);
        let bus =
            Arc::new(Self { redis, replica, times, scripts: Scripts::new(), waiting, attached, coming_and_going });
        let hearing = bus.clone();
        let listen = async move {
            while let Some(heard) = heard.recv().await {
                hearing.hear(heard).await;
            }
        };
        let follow = async move {
            while let Some(tenant) = nodes.recv().await {
                changed(tenant);
            }
        };
        let work = async move { tokio::join!(listen, follow) };
        tokio::spawn(closing.run_until_cancelled_owned(work));
        bus
    }

    fn attached(&self) -> MutexGuard<'_, HashMap<u64, Attached>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn hear(&self, heard: Heard) {
        match heard {
            Heard::Finished(operation) => self.waiting.tell(*operation),
            Heard::TakenOver { stream } => {
                if let Some(former) = self.attached().remove(&stream) {
                    let _ = former.mailbox.try_send(Delivery::TakenOver);
                }
            }
            Heard::Letter { stream, number, letter } => {
                if let Some(attachment) = self.take_next(stream, number, letter) {
                    self.catch_up(&attachment).await;
                }
            }
            Heard::Missed => {
                let all: Vec<_> = self.attached().values().map(|attached| attached.attachment.clone()).collect();
                for attachment in all {
                    self.catch_up(&attachment).await;
                }
            }
        }
    }

    /// Gives the stream its next letter; answers whose mail has a gap before it.
    fn take_next(&self, stream: u64, number: u64, letter: Box<Letter>) -> Option<Attachment> {
        let mut all = self.attached();
        let attached = all.get_mut(&stream)?;
        if number == attached.last + 1 {
            attached.give(number, letter);
            return None;
        }
        (number > attached.last).then(|| attached.attachment.clone())
    }

    async fn catch_up(&self, attachment: &Attachment) {
        if let Err(error) = self.keep_on(attachment, None).await {
            let error = &error as &dyn std::error::Error;
            tracing::debug!(node.id = %attachment.node.node, error, "a node's mail is read with the next look after its stream");
        }
    }

    /// As [`CommandBus::keep`]; without a load it stays what it was said to be.
    async fn keep_on(&self, attachment: &Attachment, load: Option<usize>) -> Result<bool> {
        let (last, load) = match self.attached().get_mut(&attachment.stream) {
            Some(attached) => {
                attached.load = load.unwrap_or(attached.load);
                (attached.last, attached.load)
            }
            None => return Ok(false),
        };
        let mut script = on_mail(&self.scripts.keep, &attachment.node);
        self.of_stream(&mut script, attachment)?;
        script.arg(load).arg(last);
        match self.invoke(&script).await? {
            Value::BulkString(tag) if tag == b"taken" => {
                self.attached().remove(&attachment.stream);
                Ok(false)
            }
            reply => self.give(attachment, reply).map(|()| true),
        }
    }

    fn of_stream(&self, script: &mut ScriptInvocation<'_>, attachment: &Attachment) -> Result<()> {
        let profile = serde_json::to_string(&attachment.profile).map_err(Error::internal)?;
        script.arg(field(&attachment.node)).arg(self.replica.to_string()).arg(attachment.stream);
        script.arg(millis(self.times.alive)).arg(profile).arg(millis(self.times.grace));
        Ok(())
    }

    /// Gives the stream what a script has answered, in order.
    fn give(&self, attachment: &Attachment, reply: Value) -> Result<()> {
        let reply: Vec<String> = from_redis_value(reply).map_err(Error::internal)?;
        let (newest, pairs) = reply.split_first().ok_or_else(|| Error::internal("an answer without a number"))?;
        let newest: u64 = newest.parse().map_err(Error::internal)?;
        let mut letters = Vec::with_capacity(pairs.len() / 2);
        for pair in pairs.chunks_exact(2) {
            let number: u64 = pair[0].parse().map_err(Error::internal)?;
            letters.push((number, serde_json::from_str(&pair[1]).map_err(Error::internal)?));
        }
        letters.sort_unstable_by_key(|(number, _)| *number);
        let mut all = self.attached();
        let Some(attached) = all.get_mut(&attachment.stream) else { return Ok(()) };
        let is_first = attached.last == 0;
        for (number, letter) in letters {
            if is_first || number > attached.last {
                attached.give(number, letter);
            }
        }
        attached.last = attached.last.max(newest);
        Ok(())
    }

    async fn invoke(&self, script: &ScriptInvocation<'_>) -> Result<Value> {
        let unavailable = |why| Error::Unavailable(Dependency::SlotStore, Some(why));
        self.redis.invoke(script).await.map_err(|failure| failure.or_else(unavailable))
    }
}

impl Attached {
    /// A stream that does not read is left behind: it is given the rest when it reads again, or the next stream is.
    fn give(&mut self, number: u64, letter: Box<Letter>) {
        if self.mailbox.try_send(Delivery::Letter { number, letter }).is_ok() {
            self.last = self.last.max(number);
        }
    }
}

#[async_trait]
impl CommandBus for RedisBus {
    fn replica(&self) -> ReplicaId {
        self.replica
    }

    fn system(&self) -> &'static str {
        "redis"
    }

    fn expect(&self, operation: OperationId) -> Awaited {
        self.waiting.expect(operation)
    }

    async fn send(&self, to: &NodeAddress, letter: Letter) -> Result<(), Unsent> {
        let letter = serde_json::to_string(&letter).map_err(|error| Unsent::Unavailable(Error::internal(error)))?;
        let mut script = on_mail(&self.scripts.send, to);
        script.arg(field(to)).arg(letter).arg(2 * millis(self.times.grace)).arg(UNSETTLED_MAX);
        let reply = self.redis.invoke(&script).await.map_err(|failure| match failure {
            Failure::Unsent(why) => Unsent::Unavailable(Error::Unavailable(Dependency::SlotStore, Some(why))),
            Failure::Unavailable(why) => Unsent::Unknown(Error::Unavailable(Dependency::SlotStore, Some(why))),
            Failure::OurBug(why) => Unsent::Unavailable(Error::Internal(why)),
        })?;
        match reply {
            Value::BulkString(tag) if tag == b"nobody" || tag == b"full" => Err(Unsent::Unreachable),
            _ => Ok(()),
        }
    }

    async fn attach(&self, attachment: &Attachment, mailbox: Mailbox) -> Result<()> {
        let attached = Attached { attachment: attachment.clone(), mailbox, last: 0, load: 0 };
        self.attached().insert(attachment.stream, attached);
        let mut script = on_mail(&self.scripts.attach, &attachment.node);
        self.of_stream(&mut script, attachment)?;
        script.arg(GIVEN_MAX);
        let _turn = self.coming_and_going.acquire().await;
        let reply = self.invoke(&script).await?;
        self.give(attachment, reply)
    }

    async fn keep(&self, attachment: &Attachment, load: usize) -> Result<bool> {
        self.keep_on(attachment, Some(load)).await
    }

    async fn detach(&self, attachment: &Attachment) {
        self.attached().remove(&attachment.stream);
        let mut script = self.scripts.detach.key(nodes_key(attachment.node.tenant));
        script.arg(field(&attachment.node)).arg(self.replica.to_string()).arg(attachment.stream);
        let _turn = self.coming_and_going.acquire().await;
        // What fails here ends by itself, as after a crash.
        let _ = self.invoke(&script).await;
    }

    async fn settle(&self, node: &NodeAddress, number: Option<u64>, answer: Option<(ReplicaId, Operation)>) {
        let mut told = (String::new(), String::new());
        match answer {
            Some((sender, operation)) if sender == self.replica => self.waiting.tell(operation),
            Some((sender, operation)) => match serde_json::to_string(&operation) {
                Ok(operation) => told = (sender.to_string(), operation),
                Err(error) => tracing::error!(error = &error as &dyn std::error::Error, "an operation is no JSON"),
            },
            None => {}
        }
        if number.is_none() && told.0.is_empty() {
            return;
        }
        let mut script = on_mail(&self.scripts.settle, node);
        script.arg(number.map(|number| number.to_string()).unwrap_or_default()).arg(told.0).arg(told.1);
        if let Err(error) = self.invoke(&script).await {
            // The sender finds the record, and the letter is given to a later stream in vain.
            tracing::debug!(error = &error as &dyn std::error::Error, "a letter could not be settled");
        }
    }

    async fn connected(&self, tenant: TenantId) -> Result<Vec<Connected>> {
        let reply = self.invoke(&self.scripts.connected.key(nodes_key(tenant))).await?;
        let parts: Vec<String> = from_redis_value(reply).map_err(Error::internal)?;
        Ok(parts.chunks_exact(4).filter_map(read_connected).collect())
    }
}

/// What a release that is not ours has written is nobody that we could talk to.
fn read_connected(parts: &[String]) -> Option<Connected> {
    let (side, node) = parts[0].split_at_checked(1)?;
    let profile: NodeProfile = serde_json::from_str(&parts[3]).ok()?;
    Some(Connected {
        node: node.parse().ok()?,
        sandbox: side == "S",
        profile,
        load: parts[2].parse().ok()?,
        replica: parts[1].parse().ok()?,
    })
}

/// What the scripts publish. Whoever else may write to the channel is not believed.
fn read(text: &str) -> Option<Heard> {
    let (kind, rest) = text.split_at_checked(1)?;
    match kind {
        "L" => {
            let mut parts = rest.splitn(3, '|');
            let (stream, number) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
            let letter = serde_json::from_str(parts.next()?).ok()?;
            Some(Heard::Letter { stream, number, letter: Box::new(letter) })
        }
        "T" => Some(Heard::TakenOver { stream: rest.parse().ok()? }),
        "F" => Some(Heard::Finished(Box::new(serde_json::from_str(rest).ok()?))),
        _ => None,
    }
}

fn on_mail<'s>(script: &'s Script, node: &NodeAddress) -> ScriptInvocation<'s> {
    let mut invocation = script.key(nodes_key(node.tenant));
    invocation.key(format!("vg:{{{}}}:mail:{}", node.tenant, field(node)));
    invocation
}

fn nodes_key(tenant: TenantId) -> String {
    format!("vg:{{{tenant}}}:nodes")
}

fn field(node: &NodeAddress) -> String {
    let side = if node.sandbox { 'S' } else { 'L' };
    format!("{side}{}", node.node)
}

fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

impl Scripts {
    fn new() -> Self {
        macro_rules! script {
            ($name:literal) => {
                Script::new($name, concat!(include_str!("lib.lua"), "\n", include_str!(concat!($name, ".lua"))))
            };
        }
        Self {
            send: script!("send"),
            attach: script!("attach"),
            keep: script!("keep"),
            detach: script!("detach"),
            settle: script!("settle"),
            connected: script!("connected"),
        }
    }
}
