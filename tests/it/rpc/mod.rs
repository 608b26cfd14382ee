//! One module a service of the API, each test on both back-ends unless its name says otherwise.

mod admission;
mod credentials;
mod descriptors;
mod field_rules;
mod keys;
mod media_nodes;
mod rate_limits;
mod replicas;
mod sandbox;
mod tenants;
mod unimplemented;
mod verbs;
mod voice_agents;
