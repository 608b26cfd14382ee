//! Takes what a session's AI service posts of it: the transcript, and results, which are held against the snapshot's
//! output schema. A session that is active ends with it.
//!
//! What is posted is written first and the session ended then, as everybody else ends one: a crash between the two leaves
//! an active session with a transcript, which the same request again ends, or whatever else ends sessions.

use super::{
    Calls,
    session::{Target, Whole},
};
use crate::{
    agents::heavy,
    domain::{
        Error, Result,
        audit::Attempt,
        error::Dependency,
        principal::Principal,
        results,
        session::{Outcome, Session},
        transcript::{Completion, Posted},
    },
};

impl Calls {
    /// Posting again replaces what was posted before.
    pub async fn complete_session(
        &self,
        principal: &Principal,
        target: Target,
        completion: Completion,
        mut attempt: Attempt,
    ) -> Result<Whole> {
        let (calls, principal) = (self.clone(), principal.clone());
        self.to_the_end(async move {
            let end = async {
                let session = calls.session_to_end(&principal, &target, &mut attempt).await?;
                calls.check_rate(&principal, &session.call).await?;
                calls.post(&session, completion).await
            };
            let end = end.await;
            calls.noted(attempt, end).await
        })
        .await
    }

    async fn post(&self, session: &Session, completion: Completion) -> Result<Whole> {
        let posted = judged(session, completion).await;
        let written = self.sessions.post(session.tenant, session.id, &posted).await?;
        // It was answered as it waits to be written, since the database was away.
        let waits = || Error::unavailable(Dependency::Database, "the session is not written yet");
        let written = written.ok_or_else(waits)?;
        let ended = if written.is_active() { self.end_at_word(written, Outcome::Completed).await? } else { written };
        let log = self.log_of(&ended).await?;
        Ok(Whole { session: ended, log, posted: Some(posted) })
    }
}

/// The behavior is the one that the session began with, whatever was edited since.
async fn judged(session: &Session, completion: Completion) -> Posted {
    let Some((results, behavior)) = completion.results.clone().zip(session.routing.behavior.clone()) else {
        return Posted { completion, warnings: Vec::new() };
    };
    let warnings = heavy::check(results::is_heavy(&behavior), move || results::check(&results, &behavior)).await;
    Posted { completion, warnings }
}
