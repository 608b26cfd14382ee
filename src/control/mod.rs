//! The way of a command: from the replica that a verb arrived at to the call's node, and back.
//!
//! Deliberately absent: what becomes of an operation. It is recorded by `sessions`, before the command is sent and when
//! it is answered; the bus only hurries. What it loses is a caller's patience, never an effect.

mod memory;

use async_trait::async_trait;
use tokio::sync::oneshot;

pub use self::memory::MemoryBus;
use crate::domain::{
    ids::OperationId,
    node::{Command, NodeAddress, Unreachable},
    operation::Operation,
};

/// Hands over what became of an operation, once.
pub type Awaited = oneshot::Receiver<Operation>;

/// The way from any replica to a call's node, and back.
#[async_trait]
pub trait CommandBus: Send + Sync + std::fmt::Debug {
    /// Waits for the operation from now on: to be called before its command is sent, or the answer may come first.
    fn expect(&self, operation: OperationId) -> Awaited;

    /// Hands the command to its node, after those that were handed over before.
    async fn send(&self, to: &NodeAddress, command: Command) -> Result<(), Unreachable>;

    /// Brings an operation that has come to its end to whoever waits for it.
    async fn finished(&self, operation: Operation);
}
