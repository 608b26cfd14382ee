//! One module a service of the API, each test on both back-ends unless its name says otherwise.

mod admission;
mod behavior_rules;
mod credentials;
pub(crate) mod descriptors;
mod field_rules;
mod freshness;
mod guard_rails;
mod keys;
mod lists;
pub(crate) mod matrix;
mod media_nodes;
mod queue;
mod rate_limits;
mod replicas;
mod resolution;
mod revisions;
mod routed_verbs;
mod sandbox;
mod secrets;
mod tenants;
mod tokens;
mod unimplemented;
mod verb_states;
mod verbs;
mod voice_agents;
