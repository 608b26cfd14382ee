//! The bus of one replica: a command goes to a node that is connected here, or nowhere.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::{Awaited, CommandBus};
use crate::domain::{
    ids::OperationId,
    node::{Command, NodeAddress, Postbox, ToNode, Unreachable},
    operation::Operation,
};

#[derive(Debug)]
pub struct MemoryBus {
    postbox: Arc<dyn Postbox>,
    waiting: Mutex<HashMap<OperationId, oneshot::Sender<Operation>>>,
}

impl MemoryBus {
    pub fn new(postbox: Arc<dyn Postbox>) -> Self {
        Self { postbox, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<OperationId, oneshot::Sender<Operation>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl CommandBus for MemoryBus {
    fn expect(&self, operation: OperationId) -> Awaited {
        let (answer, awaited) = oneshot::channel();
        let mut waiting = self.waiting();
        // Those who have gone are forgotten by whoever comes.
        waiting.retain(|_, waiter| !waiter.is_closed());
        waiting.insert(operation, answer);
        awaited
    }

    async fn send(&self, to: &NodeAddress, command: Command) -> Result<(), Unreachable> {
        self.postbox.post(to, ToNode::Command(command))
    }

    async fn finished(&self, operation: Operation) {
        if let Some(waiter) = self.waiting().remove(&operation.id) {
            let _ = waiter.send(operation);
        }
    }
}
