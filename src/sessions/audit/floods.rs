//! Denials for the rate, counted: however many a caller earns, they are a few entries a second.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

use crate::domain::{
    audit::AuditEntry,
    ids::{CallId, TenantId},
};

/// Denials that come within it are one entry.
pub(super) const FLOOD: Duration = Duration::from_secs(1);
/// Entries of one actor's flood; beyond them what it asked and of which call is told no more.
pub(super) const KINDS_MAX: usize = 32;

/// By whom they are.
#[derive(Debug, Default)]
pub(super) struct Floods(HashMap<(TenantId, String), Flood>);

#[derive(Debug)]
struct Flood {
    ends_at: Instant,
    kinds: HashMap<Kind, (AuditEntry, u64)>,
}

/// What makes denials alike.
type Kind = (String, String, Option<CallId>);

impl Floods {
    pub(super) fn take(&mut self, entry: AuditEntry) {
        let open = || Flood { ends_at: Instant::now() + FLOOD, kinds: HashMap::new() };
        self.0.entry((entry.tenant, entry.actor.clone())).or_insert_with(open).take(entry);
    }

    /// The entries of those that are over, or of all.
    pub(super) fn end(&mut self, all: bool) -> Vec<AuditEntry> {
        let now = Instant::now();
        let ended = self.0.extract_if(|_, flood| all || flood.ends_at <= now);
        ended.flat_map(|(_, flood)| flood.entries()).collect()
    }

    pub(super) fn next_end(&self) -> Option<Instant> {
        self.0.values().map(|flood| flood.ends_at).min()
    }
}

impl Flood {
    fn take(&mut self, mut entry: AuditEntry) {
        // Under whichever keys they came.
        entry.details.clear();
        let mut kind = (entry.action.clone(), entry.target.clone(), entry.call.clone());
        if !self.kinds.contains_key(&kind) && self.kinds.len() >= KINDS_MAX {
            // Those of one action together.
            (entry.target, entry.call, entry.session) = (String::new(), None, None);
            kind = (entry.action.clone(), String::new(), None);
        }
        self.kinds.entry(kind).or_insert((entry, 0)).1 += 1;
    }

    fn entries(self) -> impl Iterator<Item = AuditEntry> {
        self.kinds.into_values().map(|(mut entry, count)| {
            entry.details.insert("count".to_owned(), count.into());
            entry
        })
    }
}
