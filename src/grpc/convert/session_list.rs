//! Lists of sessions on the wire.

use super::{fitting, read_enum, read_optional, session::write, value::read_timestamp};
use crate::{
    domain::{
        Result,
        page::{self, PageRequest},
        session::Session,
        session_filter::SessionFilter,
        violations::{Fault, Violations},
    },
    proto::v1,
    sessions::SessionPage,
};

/// The filter, in values and as the words that tell its page tokens from those of others.
pub(crate) fn read_session_list(wire: &v1::ListSessionsRequest) -> Result<(SessionFilter, String, PageRequest)> {
    let mut faults = Violations::default();
    if wire.page_size < 0 {
        faults.add("page_size", Fault::new("must not be negative"));
    }
    let filter = SessionFilter {
        agent: read_optional("voice_agent_id", Some(&wire.voice_agent_id), &mut faults),
        status: read_enum("status", wire.status, &mut faults),
        from: wire.started_after.and_then(|at| faults.take("started_after", read_timestamp(at))),
        before: wire.started_before.and_then(|at| faults.take("started_before", read_timestamp(at))),
    };
    if filter.from.zip(filter.before).is_some_and(|(from, before)| from >= before) {
        faults.add("started_before", Fault::new("must be later than started_after"));
    }
    // Of which list it is, a request that cannot be read does not tell; that it is of none can be told beside the rest.
    if !faults.is_empty() && !wire.page_token.is_empty() && !page::looks_like_token(&wire.page_token) {
        faults.add("page_token", Fault::new("must be the next_page_token of the page before"));
    }
    faults.into_result(Some(()))?;
    let words = format!("{filter:?}");
    let page = PageRequest::parse(wire.page_size, &wire.page_token, &words)?;
    Ok((filter, words, page))
}

/// As much of the page as one message holds; where it stops short, the next page starts there.
pub(crate) fn write_session_list(listed: &SessionPage, words: &str) -> v1::ListSessionsResponse {
    let sessions = fitting(listed.sessions.iter().map(write));
    let next = match listed.sessions.get(..sessions.len()) {
        Some([.., last]) if sessions.len() < listed.sessions.len() => Some(Session::cursor(last)),
        _ => listed.next,
    };
    let next_page_token = next.map(|next| page::token(next, words)).unwrap_or_default();
    v1::ListSessionsResponse { sessions, next_page_token }
}
