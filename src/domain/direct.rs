//! Sessions of clients that stream to the agent directly: no softswitch asks for them, and no node hosts them.
//!
//! Such a session lives by its own time: its `ttl` until somebody connects, and from then on no longer than the
//! conversation may last. Nobody renews its lease but the service, well before that runs out.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use url::{Url, form_urlencoded};

use super::{clock::Timestamp, ids::SessionId, lease::LEASE_TTL_MAX, session::Routing, verb::JsonObject};

pub const TTL_MIN: Duration = Duration::from_mins(1);
pub const TTL_MAX: Duration = Duration::from_hours(1);
pub const TTL_DEFAULT: Duration = Duration::from_mins(10);
pub const MAX_DURATION_MIN: Duration = Duration::from_secs(1);
pub const CONTEXT_MAX_CHARS: usize = 16_000;

/// Life of the lease: how long all replicas, or the database, may be away without the session losing its slot is half of
/// it at least.
pub const LEASE_TTL: Duration = LEASE_TTL_MAX;
/// Before its end the lease is renewed.
const RENEW_BEFORE: Duration = Duration::from_secs(LEASE_TTL.as_secs() / 2);

/// Of the URL that the client is given.
const SESSION_PARAMETER: &str = "session_id";

/// What a client asks for.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DirectRequest {
    /// Absent: the default, or as long as the conversation may last if that is longer.
    pub ttl: Option<Duration>,
    /// Absent: what the behavior says, within the ttl.
    pub max_duration: Option<Duration>,
    pub participant: Option<JsonObject>,
    pub context: Option<String>,
    pub initial_message: Option<String>,
}

/// What a session has of its own that no softswitch asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Direct {
    /// Where the client connects.
    pub websocket_url: String,
    /// How long the session is there for somebody to connect, and in all.
    pub ttl: Duration,
    /// How long the conversation may last once somebody has connected.
    pub max_duration: Duration,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub participant: Option<JsonObject>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub context: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initial_message: Option<String>,
}

impl Direct {
    /// As it is with the agent that has been found.
    pub fn new(request: DirectRequest, routing: &Routing, session: SessionId) -> Self {
        let DirectRequest { ttl, max_duration, participant, context, initial_message } = request;
        let ttl = ttl.unwrap_or(TTL_DEFAULT.max(max_duration.unwrap_or_default()));
        let of_behavior = || routing.behavior.as_ref()?.controls.max_duration();
        Self {
            websocket_url: websocket_url(&routing.ws_url, session),
            max_duration: max_duration.or_else(of_behavior).unwrap_or(ttl).min(ttl),
            ttl,
            participant,
            context,
            initial_message,
        }
    }

    /// When the session that began then ends, if nobody connects.
    pub fn ends_at(&self, started_at: Timestamp) -> Timestamp {
        started_at.plus(self.ttl)
    }

    /// When it ends now that somebody has connected.
    pub fn ends_once_answered(&self, started_at: Timestamp, answered_at: Timestamp) -> Timestamp {
        self.ends_at(started_at).min(answered_at.plus(self.max_duration))
    }
}

/// When the lease that lives until then is to be renewed.
pub fn renew_at(expires_at: Timestamp) -> Timestamp {
    expires_at.minus(RENEW_BEFORE)
}

/// The agent's own URL, with the session in it; a parameter of that name gives way, all others stay as they are.
fn websocket_url(ws_url: &str, session: SessionId) -> String {
    let Ok(mut url) = Url::parse(ws_url) else { return String::new() };
    let is_named_so = |pair: &str| form_urlencoded::parse(pair.as_bytes()).any(|(name, _)| name == SESSION_PARAMETER);
    let others = url.query().unwrap_or_default().split('&').filter(|pair| !pair.is_empty() && !is_named_so(pair));
    let own = format!("{SESSION_PARAMETER}={session}");
    let query = others.chain([own.as_str()]).collect::<Vec<_>>().join("&");
    url.set_query(Some(&query));
    url.into()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::domain::{
        Env,
        behavior::{Behavior, BehaviorDraft, ControlsDraft},
    };

    fn begun(request: DirectRequest, routing: &Routing) -> Direct {
        Direct::new(request, routing, SessionId::new(&Env::system()))
    }

    #[test]
    fn the_url_keeps_what_the_agent_wrote_and_names_the_session() {
        let session = SessionId::new(&Env::system());
        for (agent, client) in [
            ("wss://ai.example/ws", "wss://ai.example/ws?session_id=S"),
            ("wss://ai.example", "wss://ai.example/?session_id=S"),
            ("ws://ai.example:8080/ws?", "ws://ai.example:8080/ws?session_id=S"),
            ("wss://ai.example/w%20s?a=%26&b=c+d&a", "wss://ai.example/w%20s?a=%26&b=c+d&a&session_id=S"),
            ("wss://ai.example/?session_id=mine&session%5Fid=2&b", "wss://ai.example/?b&session_id=S"),
            ("wss://ai.example/?x=session_id", "wss://ai.example/?x=session_id&session_id=S"),
        ] {
            assert_eq!(websocket_url(agent, session), client.replace('S', &session.to_string()), "{agent}");
        }
    }

    #[test]
    fn the_conversation_lasts_within_the_ttl_which_is_long_enough_by_default() {
        let (second, minute) = (Duration::from_secs(1), Duration::from_mins(1));
        let behavior = |seconds: i32| {
            let controls = ControlsDraft { max_duration_seconds: Some(seconds), ..ControlsDraft::default() };
            let draft = BehaviorDraft { instructions: Some("Be brief.".into()), controls, ..BehaviorDraft::default() };
            Arc::new(Behavior::parse(draft).expect("a behavior"))
        };
        for (ttl, max_duration, seconds, expected) in [
            (None, None, None, (10 * minute, 10 * minute)),
            (None, Some(second), None, (10 * minute, second)),
            (None, Some(20 * minute), None, (20 * minute, 20 * minute)),
            (Some(minute), None, None, (minute, minute)),
            (Some(30 * minute), None, Some(900), (30 * minute, 15 * minute)),
            (Some(30 * minute), Some(minute), Some(900), (30 * minute, minute)),
            (None, None, Some(900), (10 * minute, 10 * minute)),
        ] {
            let routing = Routing { behavior: seconds.map(behavior), ..Routing::unknown() };
            let direct = begun(DirectRequest { ttl, max_duration, ..DirectRequest::default() }, &routing);
            assert_eq!((direct.ttl, direct.max_duration), expected);
        }
    }

    #[test]
    fn it_ends_by_its_ttl_or_when_the_conversation_has_lasted_long_enough() {
        let (ttl, most) = (Duration::from_secs(100), Duration::from_secs(30));
        let request = DirectRequest { ttl: Some(ttl), max_duration: Some(most), ..DirectRequest::default() };
        let direct = begun(request, &Routing::unknown());
        let at = |seconds: i64| Timestamp::from_millis(seconds * 1_000);
        assert_eq!(direct.ends_at(at(1)), at(101));
        assert_eq!(direct.ends_once_answered(at(1), at(11)), at(41));
        assert_eq!(direct.ends_once_answered(at(1), at(91)), at(101));
    }
}
