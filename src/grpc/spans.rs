//! What the log lines of a request say of it: its RPC, its tenant, and its trace if it belongs to one.
//!
//! All requests of a tenant to an RPC that belong to no trace say the same, so they share a span, which is kept: to make
//! one and to write its fields down takes longer than everything else that the gate does.

use std::convert::Infallible;

use quick_cache::sync::Cache;
use tracing::Span;

use super::access::TABLE;
use crate::domain::{ids::TenantId, trace::TraceContext};

/// Some hundred bytes each.
const KEPT: usize = 10_000;

pub(super) struct Spans(Cache<(usize, TenantId), Span>);

impl Spans {
    pub(super) fn new() -> Self {
        Self(Cache::new(KEPT))
    }

    /// Of the RPC on the `line` of the table.
    pub(super) fn of(&self, line: usize, tenant: TenantId, trace: Option<&TraceContext>) -> Span {
        if let Some(trace) = trace {
            let method = TABLE[line].0;
            return tracing::info_span!("rpc", rpc.method = method, tenant.id = %tenant, trace.id = %trace.trace_id());
        }
        let make = || Ok::<_, Infallible>(tracing::info_span!("rpc", rpc.method = TABLE[line].0, tenant.id = %tenant));
        let Ok(span) = self.0.get_or_insert_with(&(line, tenant), make);
        span
    }

    /// Of a request that is refused before it is known whose it is.
    pub(super) fn of_nobody(line: usize, trace: Option<&TraceContext>) -> Span {
        let method = TABLE[line].0;
        match trace {
            Some(trace) => tracing::info_span!("rpc", rpc.method = method, trace.id = %trace.trace_id()),
            None => tracing::info_span!("rpc", rpc.method = method),
        }
    }
}

impl std::fmt::Debug for Spans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spans").field("kept", &self.0.len()).finish()
    }
}
