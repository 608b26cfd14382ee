//! An event on its way to an endpoint: what is posted, when it is tried again, and when it is given up.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::domain::{
    Env,
    clock::Timestamp,
    ids::{DeliveryId, EventId, TenantId, WebhookEndpointId},
    verb::JsonObject,
};

/// How long an event is on its way, from when it was to be posted. Then it is a dead letter.
pub const GIVE_UP_AFTER: Duration = Duration::from_hours(24);
/// How long dead letters are kept.
pub const DEAD_KEPT_FOR: Duration = Duration::from_hours(30 * 24);
/// After the first failure, the second and so on; after the last of these, every two hours.
const DELAYS: [Duration; 7] = [
    Duration::from_secs(5),
    Duration::from_secs(30),
    Duration::from_mins(2),
    Duration::from_mins(10),
    Duration::from_mins(30),
    Duration::from_hours(1),
    Duration::from_hours(2),
];

/// An event as receivers read it: the JSON form of the wire's `Event`, under its own field names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PostedEvent {
    pub id: EventId,
    #[serde(rename = "type")]
    pub kind: String,
    pub created_at: Timestamp,
    pub tenant_id: TenantId,
    pub sequence: i64,
    pub call_id: String,
    pub session_sequence: i64,
    pub data: JsonObject,
}

impl PostedEvent {
    /// Of a call on the sandbox's side of the fence.
    pub fn is_of_the_sandbox(&self) -> bool {
        self.data.get("sandbox").and_then(serde_json::Value::as_bool).unwrap_or(false)
    }
}

/// What came of one post.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    Yes,
    No,
    /// 410: the receiver wants nothing more, by the standard's own word for it.
    Gone,
}

/// One post, as it ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    pub taken: Taken,
    /// 0 where no answer came.
    pub status: u16,
    /// In words for the tenant; empty where it was taken.
    pub error: String,
}

impl Attempt {
    pub fn failed(error: impl Into<String>) -> Self {
        Self { taken: Taken::No, status: 0, error: error.into() }
    }

    /// Answered with `status`. Redirects are not followed: where they lead, nobody has looked.
    pub fn answered(status: u16) -> Self {
        let (taken, error) = match status {
            200..=299 => (Taken::Yes, String::new()),
            300..=399 => (Taken::No, format!("answered {status}, and redirects are not followed")),
            410 => (Taken::Gone, "answered 410 (gone), which disables the endpoint".to_owned()),
            _ => (Taken::No, format!("answered {status}")),
        };
        Self { taken, status, error }
    }
}

/// When an event is tried again that was not taken the `attempts`th time; nothing where it is given up. `made_at` is when
/// it was to be posted first. A fifth more or less, so that what failed together does not come back together.
pub fn next_attempt(env: &Env, attempts: u32, made_at: Timestamp) -> Option<Timestamp> {
    let last = DELAYS.len() - 1;
    let step = usize::try_from(attempts.saturating_sub(1)).unwrap_or(last).min(last);
    let share = u32::from_be_bytes(env.bytes()) % 401;
    let next = env.now().plus(DELAYS[step] * (800 + share) / 1_000);
    (next < made_at.plus(GIVE_UP_AFTER)).then_some(next)
}

/// An event that was given up.
#[derive(Debug, Clone, PartialEq)]
pub struct DeadLetter {
    pub id: DeliveryId,
    pub endpoint: WebhookEndpointId,
    pub event: PostedEvent,
    pub attempts: u32,
    pub first_attempt_at: Option<Timestamp>,
    pub last_attempt_at: Option<Timestamp>,
    pub last_status: u16,
    pub last_error: String,
    pub dead_at: Timestamp,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::clock::{ManualClock, SystemEntropy};

    #[test]
    fn tries_come_further_and_further_apart_until_a_day_has_passed() {
        let start = Timestamp::from_millis(1_700_000_000_000);
        let clock = Arc::new(ManualClock::at(start));
        let env = Env { clock: clock.clone(), entropy: Arc::new(SystemEntropy) };
        let (mut attempts, mut waits) = (1, Vec::new());
        while let Some(next) = next_attempt(&env, attempts, start) {
            waits.push(next.since(env.now()));
            clock.advance(next.since(env.now()));
            attempts += 1;
        }
        for (wait, delay) in waits.iter().zip(DELAYS.iter().chain(std::iter::repeat(&DELAYS[6]))) {
            assert!(*wait >= *delay * 4 / 5 && *wait <= *delay * 6 / 5, "{wait:?} after {delay:?}");
        }
        assert!((14..=21).contains(&attempts), "{attempts}");
        assert!(env.now() < start.plus(GIVE_UP_AFTER) && env.now().plus(DELAYS[6] * 6 / 5) > start.plus(GIVE_UP_AFTER));
    }

    #[test]
    fn however_often_it_was_tried_the_next_try_is_the_longest_wait_away_and_none_comes_after_the_day() {
        let start = Timestamp::from_millis(1_700_000_000_000);
        let clock = Arc::new(ManualClock::at(start));
        let env = Env { clock: clock.clone(), entropy: Arc::new(SystemEntropy) };
        let wait = next_attempt(&env, u32::MAX, start).expect("a try").since(start);
        assert!(wait >= DELAYS[6] * 4 / 5 && wait <= DELAYS[6] * 6 / 5, "{wait:?}");
        // From here even the shortest of the longest waits ends when the day has.
        clock.advance(GIVE_UP_AFTER.saturating_sub(DELAYS[6] * 4 / 5));
        assert_eq!(next_attempt(&env, u32::MAX, start), None);
    }

    #[test]
    fn only_a_success_is_one() {
        let taken = |status| Attempt::answered(status).taken;
        assert_eq!((taken(200), taken(204), taken(299)), (Taken::Yes, Taken::Yes, Taken::Yes));
        assert_eq!((taken(101), taken(302), taken(404), taken(500)), (Taken::No, Taken::No, Taken::No, Taken::No));
        assert_eq!(taken(410), Taken::Gone);
    }

    #[test]
    fn an_event_is_posted_as_readme_shows_it() {
        let event = PostedEvent {
            id: "evt_01900000-0000-7000-8000-000000000001".parse().expect("an id"),
            kind: "ai_session.ended".into(),
            created_at: Timestamp::from_micros(1_700_000_000_123_456),
            tenant_id: "01900000-0000-7000-8000-000000000002".parse().expect("an id"),
            sequence: 42,
            call_id: "call-1".into(),
            session_sequence: 3,
            data: serde_json::json!({"outcome": "HANGUP", "sandbox": true}).as_object().expect("an object").clone(),
        };
        let expected = r#"{"id":"evt_01900000-0000-7000-8000-000000000001","type":"ai_session.ended","#.to_owned()
            + r#""created_at":"2023-11-14T22:13:20.123456Z","tenant_id":"01900000-0000-7000-8000-000000000002","#
            + r#""sequence":42,"call_id":"call-1","session_sequence":3,"data":{"outcome":"HANGUP","sandbox":true}}"#;
        assert_eq!(serde_json::to_string(&event).expect("JSON"), expected);
        assert_eq!(serde_json::from_str::<PostedEvent>(&expected).expect("its own"), event);
        assert!(event.is_of_the_sandbox());
    }
}
