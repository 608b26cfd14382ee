//! Follows a tenant's events, from any of them on that is still there.
//!
//! Who begins in the past reads the database page by page until the tenant's tail is reached, and then takes what the tail
//! brings. Who falls behind the tail reads pages again. Nothing is kept for one who does not take it but a few events:
//! after a while the stream ends, and says where to go on.

use std::{convert::Infallible, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream};
use tokio::sync::{
    broadcast::{self, error::RecvError},
    mpsc, oneshot,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{Calls, credential::Credential, watchers::Watcher};
use crate::{
    domain::{
        Error, Result,
        error::Dependency,
        event::EventFilter,
        ids::{EventId, TenantId},
        principal::Principal,
    },
    sessions::TenantEvent,
};

/// Events on their way to one who watches.
const ON_THE_WAY: usize = 16;

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WatchFrom {
    /// With what happens from now on.
    Now,
    Beginning,
    After(EventId),
}

/// What one who watches is told: events, and at last why there are no more.
pub type EventWatch = stream::BoxStream<'static, Result<Arc<TenantEvent>>>;

impl Calls {
    /// Until `closing`, or until nobody takes them.
    pub async fn watch_events(
        &self,
        principal: &Principal,
        from: WatchFrom,
        filter: EventFilter,
        closing: &CancellationToken,
    ) -> Result<EventWatch> {
        let watcher = self.event_watchers.admit(self.settings.event_max_watches)?;
        let tenant = principal.tenant();
        let passed = match from {
            WatchFrom::Now => None,
            WatchFrom::Beginning => Some(0),
            WatchFrom::After(id) => {
                let position = self.events.position(tenant, id).await?;
                let unknown =
                    || Error::invalid("after_event_id", "must be an event of the tenant that is still retained");
                Some(position.ok_or_else(unknown)?)
            }
        };
        // Before the caller hears that it watches: from here on nothing is missed.
        let place = self.events.follow(tenant).await?;
        let (out, events) = mpsc::channel(ON_THE_WAY);
        let told = if let WatchFrom::After(id) = from { Some(id) } else { None };
        let passed = passed.unwrap_or(place.1);
        let follower = Follower { calls: self.clone(), tenant, filter, passed, told, out };
        let (end, ended) = oneshot::channel();
        let follow = follower.until(place, Credential::of(principal), closing.clone(), end, watcher);
        tokio::spawn(follow.in_current_span());
        let end = stream::once(ended).filter_map(|end| std::future::ready(end.ok().map(Err)));
        Ok(ReceiverStream::new(events).map(Ok).chain(end).boxed())
    }

    /// Why the credential opens nothing any more, once that is so.
    async fn credential_lost(&self, credential: Option<Credential>) -> Error {
        let every = Duration::from_millis(self.settings.heartbeat_interval_ms);
        let Some(credential) = credential else { return std::future::pending().await };
        loop {
            tokio::time::sleep(every).await;
            if let Err(error) = self.check_credential(credential).await {
                return error;
            }
        }
    }
}

/// One who watches.
struct Follower {
    calls: Calls,
    tenant: TenantId,
    filter: EventFilter,
    /// All events up to this position were told, or are not for this one.
    passed: u64,
    /// The last one on its way, or after which it began.
    told: Option<EventId>,
    out: mpsc::Sender<Arc<TenantEvent>>,
}

/// A place in the tail, and behind which position it begins.
type Place = (broadcast::Receiver<Arc<TenantEvent>>, u64);

impl Follower {
    async fn until(
        mut self,
        place: Place,
        credential: Option<Credential>,
        closing: CancellationToken,
        end: oneshot::Sender<Error>,
        _watcher: Watcher,
    ) {
        let (calls, out) = (self.calls.clone(), self.out.clone());
        let why = tokio::select! {
            () = out.closed() => return,
            () = closing.cancelled() => Error::Unavailable(Dependency::Replica, None),
            why = calls.credential_lost(credential) => why,
            end = self.follow(place) => match end {
                Err(why) => why,
            },
        };
        // Who has gone does not ask.
        let _ = end.send(why);
    }

    async fn follow(&mut self, mut place: Place) -> Result<Infallible> {
        loop {
            let (mut tail, head) = place;
            self.catch_up(head).await?;
            loop {
                match tail.recv().await {
                    Ok(event) if event.sequence <= self.passed => {}
                    Ok(event) => {
                        self.passed = event.sequence;
                        if self.filter.admits(&event.kind, &event.call, &event.data) {
                            self.tell(event).await?;
                        }
                    }
                    // What the tail does not keep any more is read again.
                    Err(RecvError::Lagged(_) | RecvError::Closed) => break,
                }
            }
            place = self.calls.events.follow(self.tenant).await?;
        }
    }

    /// Reads pages until the position.
    async fn catch_up(&mut self, head: u64) -> Result<()> {
        while self.passed < head {
            let page = self.calls.events.after(self.tenant, self.passed, &self.filter).await?;
            for event in page.events {
                self.tell(Arc::new(event)).await?;
            }
            self.passed = page.through.max(self.passed);
            if page.is_last {
                break;
            }
        }
        Ok(())
    }

    async fn tell(&mut self, event: Arc<TenantEvent>) -> Result<()> {
        let id = event.id;
        let patience = Duration::from_millis(self.calls.settings.event_stall_ms);
        match tokio::time::timeout(patience, self.out.send(event)).await {
            Ok(Ok(())) => self.told = Some(id),
            // It has gone, which `until` sees.
            Ok(Err(_)) => std::future::pending().await,
            Err(_) => return Err(Error::EventsNotTaken { waited: patience, after: self.told }),
        }
        Ok(())
    }
}
