//! How many streams of one kind a replica serves at once.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use crate::domain::{Error, Result, error::Dependency};

/// The streams that there are now.
#[derive(Debug, Clone, Default)]
pub(super) struct Watchers(Arc<AtomicUsize>);

/// Counts one stream while it lives.
#[derive(Debug)]
pub(super) struct Watcher(Arc<AtomicUsize>);

impl Watchers {
    /// Lets one more in if there are fewer than `most`.
    pub(super) fn admit(&self, most: usize) -> Result<Watcher> {
        let before = self.0.fetch_add(1, Ordering::Relaxed);
        let watcher = Watcher(self.0.clone());
        if before >= most { Err(Error::Unavailable(Dependency::Capacity, None)) } else { Ok(watcher) }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
