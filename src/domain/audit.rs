//! Who tried what, and what came of it: granted or refused, one entry an attempt.
//!
//! An entry never holds a secret. What callers wrote themselves (a destination, an idempotency key) is cut, and whatever
//! looks like a credential of ours in it, or like the password of a SIP address, is blotted out.

use serde_json::Value;

use super::{
    clock::{Env, Timestamp},
    error::{Error, Reason},
    ids::{AuditEntryId, CallId, SessionId, TenantId},
    page::Cursor,
    principal::Principal,
    verb::JsonObject,
};

/// Of a target, and of an idempotency key as it was sent: a SIP URI of the longest and what kind it is.
const TEXT_MAX_CHARS: usize = 600;
/// How our credentials begin.
const CREDENTIALS: [&str; 4] = ["vg_live_", "vg_test_", "vg_cb_", "vg_ct_"];

#[derive(Debug, Clone, PartialEq)]
pub struct AuditEntry {
    pub id: AuditEntryId,
    pub tenant: TenantId,
    pub at: Timestamp,
    pub actor: String,
    pub action: String,
    pub target: String,
    pub call: Option<CallId>,
    pub session: Option<SessionId>,
    /// A word of [`Reason`]; empty when it was done.
    pub error_reason: String,
    pub details: JsonObject,
}

impl AuditEntry {
    /// Where it stands in a list, newest first.
    pub const fn cursor(&self) -> Cursor {
        Cursor { created_at: self.at, id: *self.id.as_uuid() }
    }

    pub fn is_of_a_flood(&self) -> bool {
        self.error_reason == Reason::RateLimited.as_str()
    }
}

/// Which entries a list is of; what is absent matches all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuditFilter {
    pub call: Option<CallId>,
    pub session: Option<SessionId>,
    pub action: Option<String>,
    /// At this moment or later.
    pub from: Option<Timestamp>,
    /// Earlier than this.
    pub before: Option<Timestamp>,
}

/// What a caller tries, while it is not known yet what comes of it.
#[derive(Debug, Clone)]
pub struct Attempt {
    tenant: TenantId,
    actor: String,
    action: &'static str,
    target: String,
    pub call: Option<CallId>,
    /// Of the tenant: what is asked for and may be nobody's is a target.
    pub session: Option<SessionId>,
    key: String,
}

impl Attempt {
    /// `action` is the RPC's name.
    pub fn new(principal: &Principal, action: &'static str) -> Self {
        let (tenant, actor) = (principal.tenant(), principal.credential_name());
        Self { tenant, actor, action, target: String::new(), call: None, session: None, key: String::new() }
    }

    /// On the call that is named so, if that is a call's name.
    #[must_use]
    pub fn on(self, call: &str) -> Self {
        let call = call.parse().ok().filter(|_| CREDENTIALS.iter().all(|it| !call.contains(it)));
        Self { call, ..self }
    }

    #[must_use]
    pub fn at(self, target: &str) -> Self {
        Self { target: harmless(&without_password(target)), ..self }
    }

    /// Under an idempotency key as it was sent.
    #[must_use]
    pub fn under(self, key: &str) -> Self {
        Self { key: harmless(key), ..self }
    }

    /// `details` beside the idempotency key.
    pub fn done(self, env: &Env, details: JsonObject) -> AuditEntry {
        self.ended(env, "", details)
    }

    pub fn refused(self, env: &Env, error: &Error) -> AuditEntry {
        let operation = error.metadata().into_iter().find(|(name, _)| *name == "operation_id");
        let details = operation.map(|(name, id)| (name.to_owned(), Value::String(id)));
        self.ended(env, error.reason().as_str(), details.into_iter().collect())
    }

    fn ended(self, env: &Env, reason: &str, mut details: JsonObject) -> AuditEntry {
        if !self.key.is_empty() {
            details.insert("idempotency_key".to_owned(), Value::String(self.key));
        }
        AuditEntry {
            id: AuditEntryId::new(env),
            tenant: self.tenant,
            at: env.now(),
            actor: self.actor,
            action: self.action.to_owned(),
            target: self.target,
            call: self.call,
            session: self.session,
            error_reason: reason.to_owned(),
            details,
        }
    }
}

/// Bounded, storable, and without anything that opens something.
fn harmless(text: &str) -> String {
    let mut left: String =
        text.chars().take(TEXT_MAX_CHARS).map(|it| if it.is_control() { '\u{fffd}' } else { it }).collect();
    for beginning in CREDENTIALS {
        let mut from = 0;
        while let Some(found) = left[from..].find(beginning) {
            from += found + beginning.len();
            let secret = |it: char| it.is_ascii_alphanumeric() || matches!(it, '_' | '-' | '.' | '=');
            let end = left[from..].find(|it| !secret(it)).map_or(left.len(), |length| from + length);
            left.replace_range(from..end, "…");
        }
    }
    left
}

/// `sip:ada:secret@host` without the secret.
fn without_password(target: &str) -> String {
    let masked = || {
        let scheme = ["sip:", "sips:"].into_iter().find_map(|it| target.find(it).map(|at| at + it.len()))?;
        let (user_info, host) = target[scheme..].rsplit_once('@')?;
        let (user, _) = user_info.split_once(':')?;
        Some(format!("{}{user}:…@{host}", &target[..scheme]))
    };
    masked().unwrap_or_else(|| target.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_looks_like_a_secret_is_blotted_out_and_the_rest_is_kept() {
        for (text, kept) in [
            ("e164:+15550100", "e164:+15550100"),
            ("agent_queue:vg_cb_ey.J-h_bGci= vg_live_abc", "agent_queue:vg_cb_… vg_live_…"),
            ("vg_test_", "vg_test_…"),
            ("a\0b\n", "a\u{fffd}b\u{fffd}"),
        ] {
            assert_eq!(harmless(text), kept);
        }
        assert_eq!(harmless(&"ü".repeat(5_000)).chars().count(), TEXT_MAX_CHARS);
    }

    #[test]
    fn a_sip_address_loses_its_password_alone() {
        for (target, kept) in [
            ("sip_uri:sip:ada:se@cret@pbx.example;a=1", "sip_uri:sip:ada:…@pbx.example;a=1"),
            ("sip_uri:sips:ada:secret@pbx.example", "sip_uri:sips:ada:…@pbx.example"),
            ("sip_uri:sip:ada@pbx.example:5061", "sip_uri:sip:ada@pbx.example:5061"),
            ("sip_uri:sip:pbx.example:5060", "sip_uri:sip:pbx.example:5060"),
        ] {
            assert_eq!(without_password(target), kept);
        }
    }
}
