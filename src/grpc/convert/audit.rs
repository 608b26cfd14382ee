//! The audit log on the wire.

use super::{
    fitting, read_optional,
    value::{object, read_timestamp, timestamp},
};
use crate::{
    domain::{
        Result,
        audit::{AuditEntry, AuditFilter},
        ids::CallId,
        page::{self, PageRequest},
        violations::{Fault, Violations},
    },
    proto::v1,
    sessions::AuditPage,
};

const ACTION_MAX_CHARS: usize = 100;

/// The filter, in values and as the words that tell its page tokens from those of others.
pub(crate) fn read_audit_list(wire: v1::ListAuditEntriesRequest) -> Result<(AuditFilter, String, PageRequest)> {
    let mut faults = Violations::default();
    if wire.page_size < 0 {
        faults.add("page_size", Fault::new("must not be negative"));
    }
    let filter = AuditFilter {
        call: read_optional("call_id", Some(&wire.call_id), &mut faults),
        session: read_optional("session_id", Some(&wire.session_id), &mut faults),
        action: read_action(wire.action, &mut faults),
        from: wire.created_after.and_then(|at| faults.take("created_after", read_timestamp(at))),
        before: wire.created_before.and_then(|at| faults.take("created_before", read_timestamp(at))),
    };
    faults.into_result(Some(()))?;
    let words = format!("{filter:?}");
    let page = PageRequest::parse(wire.page_size, &wire.page_token, &words)?;
    Ok((filter, words, page))
}

/// An RPC's name; one that no entry has is no fault.
fn read_action(action: String, faults: &mut Violations) -> Option<String> {
    if action.len() > ACTION_MAX_CHARS || !action.bytes().all(|it| it.is_ascii_alphanumeric()) {
        faults.add("action", Fault::new("must be the name of an RPC, such as Transfer"));
    }
    Some(action).filter(|action| !action.is_empty())
}

/// As much of the page as one message holds; where it stops short, the next page starts there.
pub(crate) fn write_audit_list(listed: &AuditPage, words: &str) -> v1::ListAuditEntriesResponse {
    let audit_entries = fitting(listed.entries.iter().map(write_entry));
    let next = match listed.entries.get(..audit_entries.len()) {
        Some([.., last]) if audit_entries.len() < listed.entries.len() => Some(last.cursor()),
        _ => listed.next,
    };
    let next_page_token = next.map(|next| page::token(next, words)).unwrap_or_default();
    v1::ListAuditEntriesResponse { audit_entries, next_page_token }
}

fn write_entry(entry: &AuditEntry) -> v1::AuditEntry {
    v1::AuditEntry {
        id: entry.id.to_string(),
        created_at: Some(timestamp(entry.at)),
        tenant_id: entry.tenant.to_string(),
        actor: entry.actor.clone(),
        action: entry.action.clone(),
        target: entry.target.clone(),
        call_id: entry.call.as_ref().map(CallId::to_string).unwrap_or_default(),
        session_id: entry.session.map(|session| session.to_string()).unwrap_or_default(),
        error_reason: entry.error_reason.clone(),
        details: Some(object(&entry.details)),
    }
}
