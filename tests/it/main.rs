//! The one integration binary: real servers, the real wire.
//!
//! `harness` starts what a test needs (and ends it, whatever happens to the test), `conformance` holds one suite
//! a store trait and runs it on every back-end, `fuzz_corpus` replays what the fuzzer has found, the rest mirrors the API.

mod conformance;
mod connection_age;
mod doctor;
mod edge;
mod faults;
mod fuzz_corpus;
mod harness;
mod history;
mod lives;
mod metrics;
mod outage;
mod pauses;
mod recovery;
mod redis_faults;
mod retention;
mod rolling;
mod rpc;
mod tls;
mod top;
mod traces;
mod verb_chaos;
mod webhooks;
