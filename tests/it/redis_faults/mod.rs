//! What callers of the slot store see while Redis fails, moves or is hidden, and what is left afterwards.
//!
//! Each of these servers is the test's own. Figures that a test measures are printed (`--nocapture` shows them).

mod blackhole;
mod cluster;
mod load;
mod partition;
mod replies;
mod restarts;
mod sentinel;
mod tls;

use std::sync::Arc;

use voxgate::{
    admission::{RedisSlotStore, SteadySlots},
    domain::{Error, clock::SystemClock, error::Dependency},
    redis::{Redis, RedisSettings},
};

use crate::conformance::slot_fixture::{Caller, steady};

fn store_at(url: &str, settings: RedisSettings) -> Arc<SteadySlots> {
    let store = RedisSlotStore::new(Redis::connect(&url.to_owned().into(), settings).expect("a URL"));
    steady(Arc::new(store), Arc::new(SystemClock))
}

/// A tenant of its own on a store of its own.
fn caller_at(url: &str, settings: RedisSettings) -> Caller {
    Caller::of(store_at(url, settings))
}

#[track_caller]
fn unavailable(error: &Error) {
    assert!(matches!(error, Error::Unavailable(Dependency::SlotStore, Some(_))), "{error:?}");
}
