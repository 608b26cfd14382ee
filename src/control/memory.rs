//! The bus of one replica: a command goes to a node that is connected here, or nowhere.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::{Acknowledgement, BusError, CommandBus};
use crate::domain::{
    ids::OperationId,
    node::{Command, NodeAddress, Postbox, ToNode},
};

type Waiting = HashMap<OperationId, (NodeAddress, oneshot::Sender<Acknowledgement>)>;

/// Commands that were posted and not answered yet, by operation.
#[derive(Debug)]
pub struct MemoryBus {
    postbox: Arc<dyn Postbox>,
    waiting: Mutex<Waiting>,
}

impl MemoryBus {
    pub fn new(postbox: Arc<dyn Postbox>) -> Self {
        Self { postbox, waiting: Mutex::default() }
    }

    fn waiting(&self) -> std::sync::MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the command when its wait ends, be it by an answer, the time or a caller who left.
struct Forget<'a> {
    bus: &'a MemoryBus,
    operation: OperationId,
}

impl Drop for Forget<'_> {
    fn drop(&mut self) {
        self.bus.waiting().remove(&self.operation);
    }
}

#[async_trait]
impl CommandBus for MemoryBus {
    async fn execute(
        &self,
        to: &NodeAddress,
        command: Command,
        patience: Duration,
    ) -> Result<Acknowledgement, BusError> {
        let operation = command.operation;
        let (answer, answered) = oneshot::channel();
        // Before the post: the answer may come before `post` has returned.
        self.waiting().insert(operation, (to.clone(), answer));
        let _forget = Forget { bus: self, operation };
        self.postbox.post(to, ToNode::Command(command))?;
        match tokio::time::timeout(patience, answered).await {
            Ok(Ok(acknowledgement)) => Ok(acknowledgement),
            Ok(Err(_)) | Err(_) => Err(BusError::NoAnswer),
        }
    }

    fn acknowledge(&self, from: &NodeAddress, operation: OperationId, answer: Acknowledgement) -> bool {
        let mut waiting = self.waiting();
        // A node answers for its own commands only.
        if waiting.get(&operation).is_none_or(|(node, _)| node != from) {
            return false;
        }
        waiting.remove(&operation).is_some_and(|(_, waiter)| waiter.send(answer).is_ok())
    }

    fn node_left(&self, node: &NodeAddress) {
        self.waiting().retain(|_, (address, _)| address != node);
    }
}
