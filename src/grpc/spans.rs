//! What the log lines of a request say of it: its RPC and its tenant.
//!
//! All requests of a tenant to an RPC say the same, so they share a span, which is kept: to make one and to write its
//! fields down takes longer than everything else that the gate does.

use std::convert::Infallible;

use quick_cache::sync::Cache;
use tracing::Span;

use super::access::TABLE;
use crate::domain::ids::TenantId;

/// Some hundred bytes each.
const KEPT: usize = 10_000;

pub(super) struct Spans(Cache<(usize, TenantId), Span>);

impl Spans {
    pub(super) fn new() -> Self {
        Self(Cache::new(KEPT))
    }

    /// Of the RPC on the `line` of the table.
    pub(super) fn of(&self, line: usize, tenant: TenantId) -> Span {
        let make = || Ok::<_, Infallible>(tracing::info_span!("rpc", rpc.method = TABLE[line].0, tenant.id = %tenant));
        let Ok(span) = self.0.get_or_insert_with(&(line, tenant), make);
        span
    }
}

impl std::fmt::Debug for Spans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spans").field("kept", &self.0.len()).finish()
    }
}
