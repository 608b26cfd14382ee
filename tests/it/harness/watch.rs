//! WatchEvents as a caller reads it, and what a session's events say of it.

use std::{collections::HashMap, time::Duration};

use prost_types::value::Kind;
use tonic::{Status, Streaming};
use voxgate::proto::v1::{Direction, Event, LeadStatus, Session, SessionOutcome, SessionStatus, WatchEventsRequest};

use super::{
    client::{Caller, granted},
    world::World,
};

/// A stream of WatchEvents, read event by event.
pub(crate) struct Watch(pub(crate) Streaming<Event>);

pub(crate) fn from_beginning() -> WatchEventsRequest {
    WatchEventsRequest { from_beginning: true, ..WatchEventsRequest::default() }
}

pub(crate) fn after(event: &Event) -> WatchEventsRequest {
    WatchEventsRequest { after_event_id: event.id.clone(), ..WatchEventsRequest::default() }
}

impl Watch {
    pub(crate) async fn of(caller: &Caller, request: WatchEventsRequest) -> Self {
        Self(granted(caller.sessions().watch_events(request).await))
    }

    pub(crate) async fn live(world: &World) -> Self {
        Self::of(&world.caller, WatchEventsRequest::default()).await
    }

    pub(crate) async fn next(&mut self) -> Event {
        let next = tokio::time::timeout(Duration::from_secs(30), self.0.message()).await.expect("something is told");
        next.expect("an event").expect("no end")
    }

    pub(crate) async fn take(&mut self, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        while events.len() < count {
            events.push(self.next().await);
        }
        events
    }

    /// As far as the event for which that is so.
    pub(crate) async fn until(&mut self, is_last: impl Fn(&Event) -> bool) -> Vec<Event> {
        let mut events = vec![self.next().await];
        while !events.last().is_some_and(&is_last) {
            events.push(self.next().await);
        }
        events
    }

    /// The error that ends it.
    pub(crate) async fn error(&mut self) -> Status {
        loop {
            let next = tokio::time::timeout(Duration::from_secs(30), self.0.message()).await.expect("an end");
            match next {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it ended without a word"),
                Err(status) => return status,
            }
        }
    }
}

pub(crate) fn text(event: &Event, field: &str) -> String {
    let fields = &event.data.as_ref().expect("data").fields;
    match fields.get(field).and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text.clone(),
        other => panic!("{field} of {event:?} is {other:?}"),
    }
}

pub(crate) fn types(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.r#type.as_str()).collect()
}

pub(crate) fn ids(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.id.as_str()).collect()
}

/// Whatever their order is, it is one: positions rise, and each session's events come by number, from 1 on.
pub(crate) fn assert_in_order(events: &[Event]) {
    let mut numbers = HashMap::<String, i64>::new();
    for pair in events.windows(2) {
        assert!(pair[0].sequence < pair[1].sequence, "{pair:?}");
    }
    for event in events {
        let last = numbers.entry(text(event, "session_id")).or_default();
        assert_eq!(event.session_sequence, *last + 1, "{event:?}");
        *last = event.session_sequence;
    }
}

pub(crate) fn is_end(event: &Event) -> bool {
    event.r#type == "call.ended"
}

/// The session that a whole story tells of: of its fields, all that any event tells.
pub(crate) fn replayed(story: &[Event]) -> Session {
    let mut session = Session::default();
    for event in story {
        let value = |field: &str| event.data.as_ref().and_then(|data| data.fields.get(field)).cloned();
        let words = |field: &str| match value(field)?.kind? {
            Kind::StringValue(words) => Some(words),
            _ => None,
        };
        match event.r#type.as_str() {
            "call.started" => {
                session.id = text(event, "session_id");
                session.call_id.clone_from(&event.call_id);
                session.tenant_id.clone_from(&event.tenant_id);
                session.voice_agent_id = text(event, "voice_agent_id");
                session.sandbox = value("sandbox").is_some_and(|it| it.kind == Some(Kind::BoolValue(true)));
                let direction = format!("DIRECTION_{}", text(event, "direction"));
                session.set_direction(Direction::from_str_name(&direction).expect("a direction"));
                session.started_at = event.created_at;
                session.set_status(SessionStatus::Active);
            }
            "ai_session.started" => {
                let Some(Kind::NumberValue(revision)) = value("voice_agent_revision").and_then(|it| it.kind) else {
                    panic!("{event:?} tells no revision");
                };
                session.revision = format!("{revision}").parse().expect("a whole number");
            }
            "call.answered" => session.answered_at = event.created_at,
            "ai_session.disposition_set" => {
                session.disposition = words("disposition");
                session.notes = words("notes");
            }
            "lead.updated" => match (words("field"), words("status")) {
                (Some(field), _) => drop(session.lead_fields.insert(field, value("value").expect("a value"))),
                (None, status) => {
                    let status = format!("LEAD_STATUS_{}", status.expect("a field or a status"));
                    session.set_lead_status(LeadStatus::from_str_name(&status).expect("a status"));
                }
            },
            "ai_session.ended" => {
                let outcome = format!("SESSION_OUTCOME_{}", text(event, "outcome"));
                let outcome = SessionOutcome::from_str_name(&outcome).expect("an outcome");
                session.set_outcome(outcome);
                session.ended_at = event.created_at;
                session.set_status(match outcome {
                    SessionOutcome::LeaseExpired | SessionOutcome::NodeLost => SessionStatus::Expired,
                    _ => SessionStatus::Ended,
                });
            }
            _ => {}
        }
    }
    session
}

/// The same fields of a session that was asked for; of the rest, no event tells.
pub(crate) fn told_of(session: &Session) -> Session {
    Session {
        node_id: String::new(),
        expires_at: None,
        metadata: None,
        log: Vec::new(),
        turn_count: 0,
        ..session.clone()
    }
}
