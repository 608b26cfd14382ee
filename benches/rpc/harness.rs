//! The servers of the tests, started here too: the same files, by their paths.

#[path = "../../tests/it/harness/clock.rs"]
pub(crate) mod clock;
#[path = "../../tests/it/harness/pki.rs"]
pub(crate) mod pki;
#[path = "../../tests/it/harness/postgres.rs"]
pub(crate) mod postgres;
#[path = "../../tests/it/harness/process.rs"]
pub(crate) mod process;
#[path = "../../tests/it/harness/redis.rs"]
pub(crate) mod redis;
