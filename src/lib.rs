//! Voxgate: the gRPC control plane that a voice platform trusts with its live calls.
//!
//! The map of the house; arrows are imports, and there are no others:
//!
//! ```text
//! domain ← tls_files ← {db, redis, traces} ← {agents, admission, control, sessions, tenants, nodes, webhooks} ← calls ← grpc ← server ← cli ← main
//!                                                                                     proto ← client ← {node_sim, top} ← server, cli
//! ```
//!
//! `domain` is pure, `db` and `redis` are the ways to the servers, `traces` makes spans. Each room in the middle owns one trait and its
//! back-ends. `calls` joins them into the life of a call, `grpc` puts it on the wire, and `server` is where concrete
//! back-ends are chosen.

pub mod admission;
pub mod agents;
pub mod calls;
pub mod cli;
pub(crate) mod client;
pub mod config;
pub mod control;
pub mod db;
pub mod domain;
pub mod grpc;
pub mod node_sim;
pub mod nodes;
pub mod proto;
pub mod redis;
pub mod server;
pub mod sessions;
pub mod telemetry;
pub mod tenants;
mod tls_files;
pub mod top;
pub mod traces;
pub mod webhooks;
