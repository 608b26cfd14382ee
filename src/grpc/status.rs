//! The one place where an [`Error`] becomes a gRPC status.
//!
//! Every status carries `google.rpc.ErrorInfo`; bad requests carry each violation, denials each quota, and what may be
//! tried again says when. All of it travels in trailers, of which many clients take 8 KiB: what is long is shortened, and
//! violations beyond the budget are counted. The source of a failure is logged here under an id that the caller is told, and never sent.

use std::{collections::HashMap, time::Duration};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, QuotaViolation, StatusExt as _};

use crate::domain::{
    Error,
    error::{CredentialFault, Dependency},
    lease::Denial,
    violations::{Fault, Violations},
};

pub const DOMAIN: &str = "voxgate";

/// A status is at most some 4 KiB of details, which base64 makes 5.5 KiB, and 1 KiB of message.
const VIOLATIONS_MAX_BYTES: usize = 3_000;
const FIELD_MAX_CHARS: usize = 100;
const DESCRIPTION_MAX_CHARS: usize = 200;
/// Of one value of the metadata; ids and keys are shorter.
const VALUE_MAX_CHARS: usize = 300;
const MESSAGE_MAX_CHARS: usize = 500;
/// As the wire spells it: spaces, some signs and what is not ASCII take three bytes a byte.
const MESSAGE_MAX_BYTES: usize = 1_024;

const fn code(error: &Error) -> Code {
    match error {
        Error::Invalid(_) | Error::PageTokenInvalid => Code::InvalidArgument,
        Error::TokenRevoked { .. }
        | Error::Unauthenticated(CredentialFault::Missing | CredentialFault::Invalid | CredentialFault::Expired) => {
            Code::Unauthenticated
        }
        Error::ScopeRequired(_)
        | Error::CallNotBoundToToken { .. }
        | Error::ConferenceMembershipRequired { .. }
        | Error::DestinationNotAllowed { .. } => Code::PermissionDenied,
        Error::MemberNotFound { .. } | Error::NotFound { .. } | Error::RevisionNotFound { .. } => Code::NotFound,
        Error::VoiceAgentInUse { .. }
        | Error::VoiceAgentPaused { .. }
        | Error::VoiceAgentArchived { .. }
        | Error::NoVoiceAgentConfigured { .. }
        | Error::SubprotocolMismatch { .. }
        | Error::AiSessionTerminated { .. }
        | Error::InvalidCallState { .. }
        | Error::LeaseLost { .. }
        | Error::NodeRefused { .. }
        | Error::IdempotencyKeyReused { .. }
        | Error::CallAlreadyAdmitted { .. } => Code::FailedPrecondition,
        Error::MaxConcurrentExceeded(_)
        | Error::QueueFull { .. }
        | Error::QueueTimeout { .. }
        | Error::RateLimited { .. } => Code::ResourceExhausted,
        Error::EtagMismatch { .. } | Error::IdempotencyInProgress { .. } => Code::Aborted,
        Error::NodeUnreachable { .. }
        | Error::Recovering { .. }
        | Error::EventsNotTaken { .. }
        | Error::Unopened
        | Error::Unavailable(
            Dependency::SlotStore | Dependency::Database | Dependency::Replica | Dependency::Capacity,
            _,
        ) => Code::Unavailable,
        Error::OperationPending { .. } | Error::DeadlineExceeded => Code::DeadlineExceeded,
        Error::Unimplemented => Code::Unimplemented,
        Error::Internal(_) => Code::Internal,
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut metadata: HashMap<String, String> = error
            .metadata()
            .into_iter()
            .map(|(key, value)| (key.to_owned(), shortened(&value, VALUE_MAX_CHARS)))
            .collect();
        if let Some(id) = log(&error) {
            metadata.insert("error_id".to_owned(), id);
        }
        let mut details = ErrorDetails::new();
        details.set_error_info(error.reason().as_str(), DOMAIN, metadata);
        match &error {
            Error::Invalid(violations) => describe(violations, &mut details),
            Error::MaxConcurrentExceeded(denial) => explain(denial, &mut details),
            _ => {}
        }
        if let Some(delay) = error.retry_after() {
            details.set_retry_info(Some(jittered(delay)));
        }
        Self::with_error_details(code(&error), message(&error), details)
    }
}

/// Logs what must not be sent; answers the id that ties the log to the answer.
fn log(error: &Error) -> Option<String> {
    let source = std::error::Error::source(error);
    match error {
        Error::Internal(internal) => {
            let id = crate::domain::Env::system().uuid().to_string();
            tracing::error!(error.id = id, error = internal as &dyn std::error::Error, "internal error");
            Some(id)
        }
        // We said so ourselves, and mean it.
        Error::Unavailable(Dependency::Replica | Dependency::Capacity, _) => None,
        Error::Unavailable(dependency, _) => {
            tracing::warn!(dependency = dependency.as_str(), error = source, "a dependency is unavailable");
            None
        }
        _ => None,
    }
}

fn describe(violations: &Violations, details: &mut ErrorDetails) {
    let all = violations.iter().count();
    let mut budget = VIOLATIONS_MAX_BYTES;
    let fits = |field: &FieldViolation| {
        // Each text, the message in its list, and their tags and lengths.
        let bytes = field.field.len() + field.description.len() + field.reason.len() + 12;
        budget.checked_sub(bytes).map(|rest| budget = rest).is_some()
    };
    let mut fields: Vec<_> =
        violations.iter().map(|it| field_violation(&it.field, &it.fault)).take_while(fits).collect();
    if fields.len() < all {
        let more = Fault::new(format!("{} more violations are not listed", all - fields.len()));
        fields.push(field_violation("", &more));
    }
    details.set_bad_request(fields);
}

fn field_violation(field: &str, fault: &Fault) -> FieldViolation {
    let description = shortened(&fault.description, DESCRIPTION_MAX_CHARS);
    let mut violation = FieldViolation::new(shortened(field, FIELD_MAX_CHARS), description);
    fault.reason.clone_into(&mut violation.reason);
    violation
}

fn message(error: &Error) -> String {
    let mut text = shortened(&error.to_string(), MESSAGE_MAX_CHARS);
    let plain = |it: char| it.is_ascii_graphic() && !"\"#%<>`?{}".contains(it);
    let on_the_wire = |it: char| if plain(it) { 1 } else { 3 * it.len_utf8() };
    let mut bytes = 0;
    let fits = |it: &char| {
        bytes += on_the_wire(*it);
        bytes <= MESSAGE_MAX_BYTES
    };
    let kept: usize = text.chars().take_while(fits).map(char::len_utf8).sum();
    text.truncate(kept);
    text
}

/// The text, or its beginning and a sign that there was more.
fn shortened(text: &str, max_chars: usize) -> String {
    match text.char_indices().nth(max_chars) {
        None => text.to_owned(),
        Some(_) => text.chars().take(max_chars - 3).chain("...".chars()).collect(),
    }
}

/// Used and limit at every scope, the binding one first.
fn explain(denial: &Denial, details: &mut ErrorDetails) {
    let figure = |scope: &str, used: u32, limit: u32| {
        let limit = if limit == 0 && scope == "tenant" { "unlimited".to_owned() } else { limit.to_string() };
        QuotaViolation::new(scope, format!("{used} of {limit} in use"))
    };
    let usage = denial.usage;
    let mut scopes = vec![figure("agent", usage.used, usage.limit)];
    if usage.reserved_inbound > 0 {
        let open = usage.limit.saturating_sub(usage.reserved_inbound);
        scopes.push(figure("inbound_reserve", usage.used_outbound, open));
    }
    scopes.push(figure("tenant", denial.tenant_used, denial.tenant_limit));
    scopes.sort_by_key(|scope| scope.subject != denial.binding.as_str());
    details.set_quota_failure(scopes);
}

/// Up to a fifth longer, so that those who were turned away together do not come back together.
fn jittered(delay: Duration) -> Duration {
    thread_local! {
        static RANDOM: std::cell::RefCell<SmallRng> = std::cell::RefCell::new({
            let seed = crate::domain::Env::system().bytes::<8>();
            SmallRng::seed_from_u64(u64::from_le_bytes(seed))
        });
    }
    let share = RANDOM.with_borrow_mut(|random| random.random_range(0.0..0.2));
    delay + delay.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::error::Internal;

    #[test]
    fn internal_text_never_leaves() {
        for error in [
            Error::Internal(Internal::new("password=hunter2")),
            Error::unavailable(Dependency::Database, "password=hunter2"),
        ] {
            let status = Status::from(error);
            let sent = format!("{} {}", status.message(), String::from_utf8_lossy(status.details()));
            assert!(!sent.contains("hunter2"), "{sent}");
        }
    }

    #[test]
    fn those_who_are_turned_away_together_do_not_come_back_together() {
        let delay = Duration::from_secs(5);
        let delays: std::collections::BTreeSet<_> = (0..100).map(|_| jittered(delay)).collect();
        assert!(delays.iter().all(|it| (delay..=delay.mul_f64(1.2)).contains(it)), "{delays:?}");
        assert!(delays.len() > 90, "{} of 100 differ", delays.len());
    }

    fn refused(fields: &[String], description: &str) -> (Status, Vec<FieldViolation>) {
        let mut violations = Violations::default();
        for field in fields {
            violations.add(field, Fault::new(description));
        }
        let status = Status::from(Error::from(violations));
        assert_eq!(status.code(), Code::InvalidArgument);
        let listed = status.get_details_bad_request().expect("a BadRequest").field_violations;
        (status, listed)
    }

    /// What a client must have room for: the message percent-encoded, the details in base64.
    fn trailer_bytes(status: &Status) -> usize {
        let mut trailers = http::HeaderMap::new();
        status.add_header(&mut trailers).expect("a status has headers");
        trailers.iter().map(|(name, value)| name.as_str().len() + value.len() + 32).sum()
    }

    #[test]
    fn every_violation_of_an_ordinary_request_is_listed() {
        let fields: Vec<_> = (0..16).map(|it| format!("voice_agent.audio_format.field_{it}")).collect();
        let (_, listed) =
            refused(&fields, "must be one of PCM_S16LE at 8000, 16000, 24000 or 48000 Hz, or PCMU at 8000 Hz");
        assert_eq!(listed.into_iter().map(|it| it.field).collect::<Vec<_>>(), fields);
    }

    #[test]
    fn an_error_fits_into_eight_kibibytes_of_trailers_and_counts_what_it_does_not_list() {
        for letter in ["k", " ", "\u{1f4de}", "%"] {
            let fields: Vec<_> = (0..1_000).map(|it| format!("metadata.{it}.{}", letter.repeat(4_000))).collect();
            let (status, mut listed) = refused(&fields, &letter.repeat(1_000));
            let (last, rest) = (listed.pop().expect("some"), listed);
            assert!(!rest.is_empty() && status.message().chars().count() <= MESSAGE_MAX_CHARS);
            assert!(rest.iter().all(|it| it.field.chars().count() == 100 && it.description.chars().count() == 200));
            assert_eq!(last.description, format!("{} more violations are not listed", 1_000 - rest.len()));
            assert!(status.details().len() < 4_500 && trailer_bytes(&status) < 8_000, "{}", trailer_bytes(&status));
        }
    }
}
