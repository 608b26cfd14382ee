//! How many answers of each kind there were, so that an error never looks like speed.

use std::sync::{
    Mutex,
    atomic::{AtomicU64, Ordering},
};

use tonic::{Response, Status};
use voxgate::proto::v1::Slot;

/// How many of each answer there were.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) noops: AtomicU64,
    granted: AtomicU64,
    released: AtomicU64,
    pub(crate) denied: AtomicU64,
    /// From the bare server.
    pub(crate) bare_reads: AtomicU64,
    pub(crate) reads: AtomicU64,
    pub(crate) pages: AtomicU64,
    pub(crate) changes: AtomicU64,
    pub(crate) creates: AtomicU64,
    verbs: AtomicU64,
    errors: AtomicU64,
    first_error: Mutex<Option<String>>,
}

/// A [`Tally`] at one moment.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    pub(crate) noops: u64,
    pub(crate) granted: u64,
    pub(crate) released: u64,
    pub(crate) denied: u64,
    pub(crate) bare_reads: u64,
    pub(crate) reads: u64,
    pub(crate) pages: u64,
    pub(crate) changes: u64,
    pub(crate) creates: u64,
    pub(crate) verbs: u64,
    pub(crate) errors: u64,
}

impl Tally {
    pub(crate) fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            noops: read(&self.noops),
            granted: read(&self.granted),
            released: read(&self.released),
            denied: read(&self.denied),
            bare_reads: read(&self.bare_reads),
            reads: read(&self.reads),
            pages: read(&self.pages),
            changes: read(&self.changes),
            creates: read(&self.creates),
            verbs: read(&self.verbs),
            errors: read(&self.errors),
        }
    }

    pub(crate) fn error(&self, what: &str) {
        self.errors.fetch_add(1, Ordering::Relaxed);
        let mut first = self.first_error.lock().expect("nobody panics while holding it");
        first.get_or_insert_with(|| what.to_owned());
    }

    /// The first of the errors, in words.
    pub(crate) fn first_error(&self) -> Option<String> {
        self.first_error.lock().expect("nobody panics while holding it").clone()
    }

    /// A call that waited has its slot.
    pub(crate) fn grant(&self) {
        count(&self.granted);
    }

    /// What AcquireSlot answered.
    pub(crate) fn granted(&self, answer: Result<Response<Slot>, Status>) -> Option<Slot> {
        match answer {
            Ok(slot) => {
                self.grant();
                Some(slot.into_inner())
            }
            Err(status) => {
                self.failure("AcquireSlot", &status);
                None
            }
        }
    }

    /// Whether ReleaseSlot has released one.
    pub(crate) fn released(&self, answer: Result<bool, Status>) {
        match answer {
            Ok(true) => count(&self.released),
            Ok(false) => self.error("ReleaseSlot: there was nothing to release"),
            Err(status) => self.failure("ReleaseSlot", &status),
        }
    }

    /// Whether a verb has succeeded.
    pub(crate) fn verb(&self, answer: Result<bool, Status>) {
        match answer {
            Ok(true) => count(&self.verbs),
            Ok(false) => self.error("a verb was answered that had not succeeded"),
            Err(status) => self.failure("a verb", &status),
        }
    }

    pub(crate) fn failure(&self, rpc: &str, status: &Status) {
        self.error(&format!("{rpc}: {:?}: {}", status.code(), status.message()));
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}
