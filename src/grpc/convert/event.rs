//! Events on the wire.

use super::{
    read_optional,
    value::{object, timestamp},
};
use crate::{
    calls::WatchFrom,
    domain::{
        Result,
        event::{EventFilter, EventType},
        violations::{Fault, Violations},
    },
    proto::v1,
    sessions::TenantEvent,
};

/// Of one request.
const TYPES_MAX: usize = 32;
const TYPE_MAX_CHARS: usize = 64;

pub(crate) fn read_watch(wire: &v1::WatchEventsRequest) -> Result<(WatchFrom, EventFilter)> {
    let mut faults = Violations::default();
    let after = read_optional("after_event_id", Some(&wire.after_event_id), &mut faults);
    if wire.from_beginning && !wire.after_event_id.is_empty() {
        faults.add("from_beginning", Fault::new("must not be given together with after_event_id"));
    }
    let from = match after {
        Some(id) => WatchFrom::After(id),
        None if wire.from_beginning => WatchFrom::Beginning,
        None => WatchFrom::Now,
    };
    let filter = EventFilter {
        kinds: read_types(&wire.types, &mut faults),
        call: read_optional("call_id", Some(&wire.call_id), &mut faults),
        agent: read_optional("voice_agent_id", Some(&wire.voice_agent_id), &mut faults),
    };
    Ok(faults.into_result(Some((from, filter)))?)
}

/// Nothing where all are meant.
fn read_types(patterns: &[String], faults: &mut Violations) -> Option<Vec<EventType>> {
    if patterns.len() > TYPES_MAX {
        faults.add("types", Fault::new(format!("must have at most {TYPES_MAX} entries")));
        return None;
    }
    let mut kinds = Vec::new();
    for (index, pattern) in patterns.iter().enumerate() {
        let meant = faults.take(&format!("types[{index}]"), read_type(pattern)).unwrap_or_default();
        kinds.extend(meant.into_iter().filter(|kind| !kinds.contains(kind)).collect::<Vec<_>>());
    }
    // All that are known: and all that are not.
    let are_all = patterns.is_empty() || kinds.len() == EventType::ALL.len();
    (!are_all).then_some(kinds)
}

/// The types that a pattern stands for: one by its name, or all that begin so.
fn read_type(pattern: &str) -> std::result::Result<Vec<EventType>, Fault> {
    if pattern.chars().count() > TYPE_MAX_CHARS {
        return Err(Fault::new(format!("must be at most {TYPE_MAX_CHARS} characters")));
    }
    let is_meant = |kind: &EventType| match pattern.strip_suffix('*') {
        Some(prefix) => kind.as_str().starts_with(prefix),
        None => kind.as_str() == pattern,
    };
    let meant: Vec<EventType> = EventType::ALL.iter().copied().filter(is_meant).collect();
    match meant.is_empty() {
        true => Err(Fault::new("must be a type of event, or the beginning of some and a *, such as ai_session.*")),
        false => Ok(meant),
    }
}

pub(crate) fn write_event(event: &TenantEvent) -> v1::Event {
    v1::Event {
        id: event.id.to_string(),
        r#type: event.kind.clone(),
        created_at: Some(timestamp(event.at)),
        tenant_id: event.tenant.to_string(),
        sequence: i64::try_from(event.sequence).unwrap_or(i64::MAX),
        call_id: event.call.to_string(),
        session_sequence: i64::try_from(event.session_sequence).unwrap_or(i64::MAX),
        data: Some(object(&event.data)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_stands_for_the_types_that_it_names() {
        assert_eq!(read_type("call.ended").expect("a type"), [EventType::CallEnded]);
        assert_eq!(read_type("*").expect("all").len(), EventType::ALL.len());
        let of_calls = read_type("call.*").expect("some");
        assert!(of_calls.len() == 4 && of_calls.iter().all(|kind| kind.as_str().starts_with("call.")));
        let long = "x".repeat(TYPE_MAX_CHARS + 1);
        for bad in ["", "call", "*.ended", "call.*.x", "call.ended ", "CALL.ENDED", "callx*", "**", &long] {
            assert!(read_type(bad).is_err(), "{bad:?}");
        }
    }
}
