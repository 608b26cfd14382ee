//! Who waits on this replica for what becomes of an operation.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::oneshot;

use super::Awaited;
use crate::domain::{ids::OperationId, operation::Operation};

/// From so many on, each newcomer looks for those who have gone.
const TIDY_FROM: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Waiting(Mutex<HashMap<OperationId, oneshot::Sender<Operation>>>);

impl Waiting {
    fn all(&self) -> MutexGuard<'_, HashMap<OperationId, oneshot::Sender<Operation>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn expect(&self, operation: OperationId) -> Awaited {
        let (answer, awaited) = oneshot::channel();
        let mut all = self.all();
        if all.len() >= TIDY_FROM {
            all.retain(|_, waiter| !waiter.is_closed());
        }
        all.insert(operation, answer);
        awaited
    }

    pub(super) fn tell(&self, operation: Operation) {
        if let Some(waiter) = self.all().remove(&operation.id) {
            let _ = waiter.send(operation);
        }
    }
}
