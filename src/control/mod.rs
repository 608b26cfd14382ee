//! The way of a command: from the replica that a verb arrived at to the call's node, wherever that is connected, and
//! back.
//!
//! A node's mail is numbered and kept until it is settled, so that what a stream lost is given to the next one, once;
//! the node carries out each operation once and answers one that it knows as it did. Deliberately absent: what becomes
//! of an operation. It is recorded by `sessions`, before its command is sent and when it is answered; the bus only
//! hurries. What it loses is a caller's patience, never an effect.

mod memory;
mod redis;
mod waiting;

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

pub use self::{memory::MemoryBus, redis::RedisBus};
use crate::domain::{
    Error, Result,
    ids::{CallId, LeaseId, NodeId, OperationId, SessionId, TenantId},
    node::{Command, NodeAddress, NodeProfile},
    operation::Operation,
    queue::ReplicaId,
    session::Outcome,
};

/// What a node is told, wherever it is connected.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum Letter {
    /// Settled when it is answered.
    Command { command: Command, reply_to: ReplicaId },
    /// The call is the node's from now on. What the node has to know of it is read by the node's own replica: neither a
    /// secret nor a token travels.
    Assign { call: CallId, session: SessionId },
    /// The call is to be ended.
    End { call: CallId, lease: LeaseId, outcome: Outcome, reason: String },
}

/// What comes to a stream.
#[derive(Debug, Clone, PartialEq)]
pub enum Delivery {
    Letter {
        number: u64,
        letter: Box<Letter>,
    },
    /// Another stream speaks for the node from now on.
    TakenOver,
}

/// Hands over what became of an operation, once.
pub type Awaited = oneshot::Receiver<Operation>;

impl Letter {
    pub const fn call(&self) -> &CallId {
        match self {
            Self::Command { command: Command { call, .. }, .. }
            | Self::Assign { call, .. }
            | Self::End { call, .. } => call,
        }
    }
}

/// A stream's mail, in order. A stream that leaves this many letters unread is as good as gone.
pub type Mailbox = mpsc::Sender<Delivery>;
pub const MAILBOX: usize = 1_024;

/// One stream of a node, by a number that its replica gives to no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    pub node: NodeAddress,
    pub stream: u64,
    pub profile: NodeProfile,
}

/// A connected node, as its replica last said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connected {
    pub node: NodeId,
    pub sandbox: bool,
    pub profile: NodeProfile,
    /// Calls that it carries.
    pub load: usize,
    pub replica: ReplicaId,
}

/// Why a letter was not sent.
#[derive(Debug)]
pub enum Unsent {
    /// The node is connected to no replica, or takes no more.
    Unreachable,
    /// Nobody could be asked. As above, the letter was not sent and never will be.
    Unavailable(Error),
    /// It cannot be known whether it was sent.
    Unknown(Error),
}

/// How long things last on the way.
#[derive(Debug, Clone, Copy)]
pub struct BusTimes {
    /// A node whose replica has not said for so long that it is connected is not.
    pub alive: Duration,
    /// What was not settled for so long is not given to another stream.
    pub grace: Duration,
}

#[async_trait]
pub trait CommandBus: Send + Sync + std::fmt::Debug {
    /// This replica, as a letter's sender.
    fn replica(&self) -> ReplicaId;

    /// What carries letters, as traces name it.
    fn system(&self) -> &'static str;

    /// Waits for the operation from now on: to be called before its command is sent, or the answer may come first.
    fn expect(&self, operation: OperationId) -> Awaited;

    /// Hands the letter to its node, after those that were handed over before.
    async fn send(&self, to: &NodeAddress, letter: Letter) -> Result<(), Unsent>;

    /// A stream speaks for the node from now on, in place of any other, which is told. It is given what is not settled,
    /// if that is young enough and was not given twice before.
    async fn attach(&self, attachment: &Attachment, mailbox: Mailbox) -> Result<()>;

    /// The stream lives, and its node carries `load` calls; what it has missed is given to it. False: another one has
    /// taken its place.
    async fn keep(&self, attachment: &Attachment, load: usize) -> Result<bool>;

    /// The stream is gone.
    async fn detach(&self, attachment: &Attachment);

    /// The letter has come to its end, and with it `answer` where it was a command: its sender is told.
    async fn settle(&self, node: &NodeAddress, number: Option<u64>, answer: Option<(ReplicaId, Operation)>);

    /// The tenant's connected nodes.
    async fn connected(&self, tenant: TenantId) -> Result<Vec<Connected>>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        Env,
        clock::Timestamp,
        trace::TraceContext,
        verb::{Hold, Verb},
    };

    /// As this release writes it, with a trace and without.
    fn letters() -> [Letter; 2] {
        let env = Env::system();
        let command = Command {
            operation: OperationId::new(&env),
            call: "call-1".parse().expect("a call id"),
            fence: 7,
            deadline: Timestamp::from_micros(1),
            verb: Verb::from(Hold { moh_url: None }),
            trace: TraceContext::new(1, 2, true, "vendor=told"),
        };
        let reply_to = ReplicaId::new(&env);
        let untraced = Command { trace: None, ..command.clone() };
        [command, untraced].map(|command| Letter::Command { command, reply_to })
    }

    #[test]
    fn a_letter_brings_the_trace_that_it_was_sent_within() {
        for letter in letters() {
            let text = serde_json::to_string(&letter).expect("JSON");
            assert_eq!(serde_json::from_str::<Letter>(&text).expect("a letter"), letter);
        }
    }

    #[test]
    fn releases_before_and_after_the_one_that_told_of_traces_read_each_other() {
        let [traced, untraced] = letters().map(|letter| serde_json::to_value(letter).expect("JSON"));
        assert!(untraced["Command"]["command"].get("trace").is_none(), "as before: {untraced}");
        let mut later = traced;
        later["Command"]["command"]["of_a_later_release"] = "?".into();
        later["Command"]["command"]["trace"]["of_a_later_release"] = "?".into();
        let [traced, _] = letters();
        let Letter::Command { command: Command { trace, .. }, .. } = serde_json::from_value(later).expect("a letter")
        else {
            panic!("another letter")
        };
        let Letter::Command { command, .. } = traced else { panic!("another letter") };
        assert_eq!(trace, command.trace, "a field that is not known is passed over, as older releases pass over ours");
    }
}
