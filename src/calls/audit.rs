//! Notes who tried what. An attempt is noted in the task that carries it out, so its entry is written although its
//! caller has gone; and before it is answered, so whoever has an answer finds the entry.
//!
//! Deliberately absent: what the platform does by itself, such as the transfer when a WebSocket drops. The session tells.

use serde_json::Value;

use super::{Calls, Executed};
use crate::{
    domain::{
        Error, Result,
        audit::{Attempt, AuditFilter},
        page::PageRequest,
        principal::Principal,
        verb::{Executor, JsonObject},
    },
    sessions::AuditPage,
};

impl Calls {
    /// Notes an attempt that was refused before anything was done, and hands the refusal back.
    pub async fn denied(&self, attempt: Attempt, refusal: Error) -> Error {
        self.audit.note(attempt.refused(&self.env, &refusal)).await;
        refusal
    }

    /// Notes what came of an attempt.
    pub(super) async fn noted<T>(&self, attempt: Attempt, end: Result<T>) -> Result<T> {
        match end {
            Ok(done) => {
                self.audit.note(attempt.done(&self.env, JsonObject::new())).await;
                Ok(done)
            }
            Err(error) => Err(self.denied(attempt, error).await),
        }
    }

    /// The same of a verb.
    pub(super) async fn verb_noted(&self, mut attempt: Attempt, end: Result<Executed>) -> Result<Executed> {
        let executed = match end {
            Ok(executed) => executed,
            Err(error) => return Err(self.denied(attempt, error).await),
        };
        let operation = &executed.operation;
        // Reads would drown the log; only that one was refused is told.
        if operation.verb.executor() != Executor::Read {
            attempt.session = Some(operation.session);
            let attempt = attempt.under(operation.key.as_str());
            let details = JsonObject::from_iter([
                ("operation_id".to_owned(), Value::String(operation.id.to_string())),
                ("replayed".to_owned(), Value::Bool(executed.replayed)),
            ]);
            self.audit.note(attempt.done(&self.env, details)).await;
        }
        Ok(executed)
    }

    /// Of the principal's tenant, newest first.
    pub async fn audit_entries(
        &self,
        principal: &Principal,
        filter: &AuditFilter,
        page: PageRequest,
    ) -> Result<AuditPage> {
        self.audit.list(principal.tenant(), filter, page).await
    }
}
