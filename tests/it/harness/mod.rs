//! What tests stand on: private servers on free ports, ended with the test process.

pub(crate) mod chaos;
pub(crate) mod client;
pub(crate) mod clock;
pub(crate) mod cluster;
pub(crate) mod collector;
pub(crate) mod fleet;
pub(crate) mod hosts;
pub(crate) mod node;
pub(crate) mod pair;
pub(crate) mod pki;
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod raw_node;
pub(crate) mod receiver;
pub(crate) mod redis;
pub(crate) mod sentinel;
pub(crate) mod server;
pub(crate) mod token;
pub(crate) mod watch;
pub(crate) mod world;
