//! What a failure of the database means to a caller.
//!
//! There are three kinds: the database could not be reached or did not answer in time (try again), a constraint that
//! the store at hand expects (it looks before it uses `?`), and a mistake of ours.

use diesel::result::{DatabaseErrorKind as Kind, Error as Failure};

use crate::domain::{
    Error,
    error::{Dependency, Resource},
};

/// Texts of failures that pass: diesel keeps the text of a Postgres error, but not its code.
const PASSING: &[&str] = &[
    "canceling statement due to",    // statement_timeout, lock_timeout, a conflict on a standby
    "terminating connection due to", // a shutdown, or idle_in_transaction_session_timeout
    "the database system is",        // starting up, shutting down, in recovery
    "deadlock detected",
    "too many clients",
    "remaining connection slots",
    "database is locked", // SQLite's: another process writes for longer than busy_timeout
    "database table is locked",
];

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        if passes(&failure) { unavailable(failure) } else { Self::internal(failure) }
    }
}

fn passes(failure: &Failure) -> bool {
    match failure {
        Failure::DatabaseError(
            Kind::ClosedConnection | Kind::UnableToSendCommand | Kind::SerializationFailure | Kind::ReadOnlyTransaction,
            _,
        )
        | Failure::BrokenTransactionManager => true,
        Failure::DatabaseError(_, info) => PASSING.iter().any(|text| info.message().contains(text)),
        Failure::RollbackErrorOnCommit { commit_error, .. } => passes(commit_error),
        _ => false,
    }
}

pub(super) fn unavailable(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::unavailable(Dependency::Database, source)
}

/// A row that refers to one which does not exist, where that can only be a `resource`.
pub(crate) fn missing(resource: Resource, id: impl std::fmt::Display) -> impl Fn(Failure) -> Error {
    move |failure| match failure {
        Failure::DatabaseError(Kind::ForeignKeyViolation, _) => Error::not_found(resource, &id),
        other => other.into(),
    }
}

/// A value in the database that none of our writers could have written.
pub(crate) fn corrupt(column: &'static str) -> Error {
    Error::internal(format!("the database holds a value of {column} that is not one"))
}
