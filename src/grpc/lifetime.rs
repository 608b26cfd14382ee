//! How long the connection of a request lasts.
//!
//! A connection that has reached its age takes no new requests, and what is in hand on it goes on for a grace; then its
//! streams, which would never end by themselves, are ended. The end of the service is the end of every connection.

use std::{sync::Arc, time::Duration};

use tokio_util::sync::CancellationToken;

/// Clones are the same connection's. By default it never ends.
#[derive(Debug, Clone, Default)]
pub struct Lifetime(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    old: CancellationToken,
    over: CancellationToken,
    grace: Duration,
}

impl Lifetime {
    /// Of a connection whose streams end with `closing`, and `grace` after it has reached its age.
    pub fn until(closing: &CancellationToken, grace: Duration) -> Self {
        Self(Arc::new(Inner { old: CancellationToken::new(), over: closing.child_token(), grace }))
    }

    /// It has reached its age.
    pub fn grow_old(&self) {
        self.0.old.cancel();
    }

    /// Its streams end now.
    pub fn end(&self) {
        self.0.over.cancel();
    }

    /// Waits for its age; answers how long its streams go on.
    pub async fn is_old(&self) -> Duration {
        self.0.old.cancelled().await;
        self.0.grace
    }

    /// Cancelled when its streams are to end.
    pub fn over(&self) -> &CancellationToken {
        &self.0.over
    }
}
