//! The bus of one replica, all of it in this process.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::{
    Attachment, Awaited, BusTimes, CommandBus, Connected, Delivery, Letter, Mailbox, Unsent, waiting::Waiting,
};
use crate::domain::{
    Clock, Result,
    clock::Timestamp,
    ids::{OperationId, TenantId},
    node::NodeAddress,
    operation::Operation,
    queue::ReplicaId,
};

/// How often a letter is given to streams.
const GIVEN_MAX: u8 = 2;
/// Letters of one node that are not settled.
const UNSETTLED_MAX: usize = 4_096;

#[derive(Debug)]
pub struct MemoryBus {
    replica: ReplicaId,
    times: BusTimes,
    clock: Arc<dyn Clock>,
    waiting: Waiting,
    mail: Mutex<HashMap<NodeAddress, Mail>>,
}

/// One node's mail.
#[derive(Debug, Default)]
struct Mail {
    attached: Option<Attached>,
    last_number: u64,
    unsettled: BTreeMap<u64, Unsettled>,
}

#[derive(Debug)]
struct Attached {
    attachment: Attachment,
    mailbox: Mailbox,
    load: usize,
}

#[derive(Debug)]
struct Unsettled {
    letter: Letter,
    sent_at: Timestamp,
    given: u8,
}

impl Mail {
    /// Gives the stream a letter; one that does not read has no use for more.
    fn give(&self, number: u64, letter: &Letter) -> bool {
        let delivery = Delivery::Letter { number, letter: Box::new(letter.clone()) };
        self.attached.as_ref().is_some_and(|attached| attached.mailbox.try_send(delivery).is_ok())
    }

    fn is(&self, attachment: &Attachment) -> bool {
        self.attached.as_ref().is_some_and(|attached| attached.attachment.stream == attachment.stream)
    }
}

impl MemoryBus {
    pub fn new(replica: ReplicaId, times: BusTimes, clock: Arc<dyn Clock>) -> Self {
        Self { replica, times, clock, waiting: Waiting::default(), mail: Mutex::default() }
    }

    fn mail(&self) -> MutexGuard<'_, HashMap<NodeAddress, Mail>> {
        self.mail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those who have neither a stream nor mail that one could still be given are forgotten.
    fn tidy(&self, mail: &mut HashMap<NodeAddress, Mail>, now: Timestamp) {
        mail.retain(|_, mail| {
            mail.unsettled.retain(|_, kept| now.since(kept.sent_at) <= self.times.grace);
            mail.attached.is_some() || !mail.unsettled.is_empty()
        });
    }
}

#[async_trait]
impl CommandBus for MemoryBus {
    fn replica(&self) -> ReplicaId {
        self.replica
    }

    fn system(&self) -> &'static str {
        "memory"
    }

    fn expect(&self, operation: OperationId) -> Awaited {
        self.waiting.expect(operation)
    }

    async fn send(&self, to: &NodeAddress, letter: Letter) -> Result<(), Unsent> {
        let now = self.clock.now();
        let mut all = self.mail();
        let mail = all.get_mut(to).ok_or(Unsent::Unreachable)?;
        let number = mail.last_number + 1;
        if mail.unsettled.len() >= UNSETTLED_MAX || !mail.give(number, &letter) {
            return Err(Unsent::Unreachable);
        }
        mail.last_number = number;
        mail.unsettled.insert(number, Unsettled { letter, sent_at: now, given: 1 });
        Ok(())
    }

    async fn attach(&self, attachment: &Attachment, mailbox: Mailbox) -> Result<()> {
        let now = self.clock.now();
        let mut all = self.mail();
        self.tidy(&mut all, now);
        let mail = all.entry(attachment.node.clone()).or_default();
        let attached = Attached { attachment: attachment.clone(), mailbox, load: 0 };
        if let Some(former) = mail.attached.replace(attached) {
            let _ = former.mailbox.try_send(Delivery::TakenOver);
        }
        mail.unsettled.retain(|_, kept| kept.given < GIVEN_MAX);
        let mut again = Vec::new();
        for (number, kept) in &mut mail.unsettled {
            kept.given += 1;
            again.push((*number, kept.letter.clone()));
        }
        for (number, letter) in again {
            mail.give(number, &letter);
        }
        Ok(())
    }

    async fn keep(&self, attachment: &Attachment, load: usize) -> Result<bool> {
        let mut all = self.mail();
        let mail = all.get_mut(&attachment.node).filter(|mail| mail.is(attachment));
        let Some(attached) = mail.and_then(|mail| mail.attached.as_mut()) else { return Ok(false) };
        attached.load = load;
        Ok(true)
    }

    async fn detach(&self, attachment: &Attachment) {
        let mut all = self.mail();
        if let Some(mail) = all.get_mut(&attachment.node).filter(|mail| mail.is(attachment)) {
            mail.attached = None;
        }
    }

    async fn settle(&self, node: &NodeAddress, number: Option<u64>, answer: Option<(ReplicaId, Operation)>) {
        if let Some((number, mail)) = number.zip(self.mail().get_mut(node)) {
            mail.unsettled.remove(&number);
        }
        if let Some((_, operation)) = answer {
            self.waiting.tell(operation);
        }
    }

    async fn connected(&self, tenant: TenantId) -> Result<Vec<Connected>> {
        let all = self.mail();
        let of_tenant = all.iter().filter(|(node, _)| node.tenant == tenant);
        let connected = |(node, mail): (&NodeAddress, &Mail)| {
            let Attached { attachment, load, .. } = mail.attached.as_ref()?;
            let (profile, replica) = (attachment.profile.clone(), self.replica);
            Some(Connected { node: node.node.clone(), sandbox: node.sandbox, profile, load: *load, replica })
        };
        Ok(of_tenant.filter_map(connected).collect())
    }
}
