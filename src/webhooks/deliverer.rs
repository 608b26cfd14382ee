//! Carries events to endpoints, beside the requests.
//!
//! Three things go on at once: events become deliveries ([`DeliveryStore::fan_out`]), deliveries that are due are claimed
//! and posted, and what is a day old is given up. Each looks at once when this replica knows of something to do, and every
//! second besides: another replica may have died over its work.
//!
//! Endpoints whose last post failed are served apart from the others. They have a share of the posts of their own, and one
//! post at once each; so receivers that hang cost those that answer neither time nor room.

use std::{sync::Arc, time::Duration};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    WebhookSettings,
    post::{Message, Poster},
    store::{Claim, Claimed, DeliveryStore, EndpointKey, IN_FLIGHT_OF_SOUND, Lane, Next, Settlement},
};
use crate::domain::{
    Env, Error, Result,
    error::Internal,
    keyring::KeyRing,
    webhook::{Attempt, DEAD_KEPT_FOR, GIVE_UP_AFTER, Taken, WebhookEndpoint, WebhookSecret, next_attempt},
};

const LOOK_EVERY: Duration = Duration::from_secs(1);
/// After a failure of the database.
const PAUSE: Duration = Duration::from_secs(1);
const SWEEP_EVERY: Duration = Duration::from_secs(15);
/// Endpoints that are asked for at once.
const ENDPOINTS_AT_ONCE: u16 = 64;
/// Rows that one statement of the sweep changes.
const SWEPT_AT_ONCE: u16 = 1_000;
/// How much longer a claim lasts than a post may take: for the database to be told, and for clocks that differ.
const CLAIM_LEEWAY: Duration = Duration::from_secs(15);
/// What it asks the database at once: the pool is there for requests.
const DATABASE_SHARE: usize = 4;
/// For posts that are under way when the service stops. Those that take longer are posted again by another replica.
const GRACE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub struct Deliverer {
    store: Arc<dyn DeliveryStore>,
    ring: Arc<KeyRing>,
    poster: Poster,
    env: Env,
    claim_for: Duration,
    sequenced: Arc<Notify>,
    sound: LaneOfPosts,
    failing: LaneOfPosts,
    database: Semaphore,
    posts: TaskTracker,
}

#[derive(Debug)]
struct LaneOfPosts {
    lane: Lane,
    room: Arc<Semaphore>,
    due: Notify,
}

impl LaneOfPosts {
    fn new(lane: Lane, room: usize) -> Self {
        Self { lane, room: Arc::new(Semaphore::new(room)), due: Notify::new() }
    }
}

impl Deliverer {
    /// `sequenced` is told when events have their positions.
    pub fn new(
        store: Arc<dyn DeliveryStore>,
        ring: Arc<KeyRing>,
        settings: &WebhookSettings,
        sequenced: Arc<Notify>,
        env: Env,
    ) -> Result<Arc<Self>, Internal> {
        let timeout = Duration::from_millis(settings.timeout_ms);
        let failing = settings.max_in_flight / 2;
        Ok(Arc::new(Self {
            store,
            ring,
            poster: Poster::new(settings.allow_private, settings.ca_file.as_deref(), timeout)?,
            env,
            claim_for: timeout + CLAIM_LEEWAY,
            sequenced,
            sound: LaneOfPosts::new(Lane::Sound, settings.max_in_flight - failing),
            failing: LaneOfPosts::new(Lane::Failing, failing),
            database: Semaphore::new(DATABASE_SHARE),
            posts: TaskTracker::new(),
        }))
    }

    /// Delivers until `closing`, and then until the posts under way have ended, or a moment has passed.
    pub async fn deliver_until(self: Arc<Self>, closing: CancellationToken) {
        let work = async {
            tokio::join!(self.fan_out(), self.serve(&self.sound), self.serve(&self.failing), self.sweep());
        };
        closing.run_until_cancelled(work).await;
        self.posts.close();
        if tokio::time::timeout(GRACE, self.posts.wait()).await.is_err() {
            tracing::info!(webhook.posts = self.posts.len(), "posts under way are left to other replicas");
        }
    }

    async fn fan_out(&self) {
        let mut away = false;
        loop {
            let worked = self.fan_out_once().await;
            pause_if_away(&worked, &mut away).await;
            if !worked.is_ok_and(|more| more) {
                let _ = tokio::time::timeout(LOOK_EVERY, self.sequenced.notified()).await;
            }
        }
    }

    /// Whether there is more to do at once.
    async fn fan_out_once(&self) -> Result<bool> {
        let lagging = self.store.lagging(ENDPOINTS_AT_ONCE).await?;
        let mut more = lagging.len() == usize::from(ENDPOINTS_AT_ONCE);
        let (mut made, mut moved) = (0, false);
        for endpoint in lagging {
            let Some(fanned) = of_one(endpoint, self.store.fan_out(endpoint, &self.env).await)? else { continue };
            made += fanned.made;
            moved |= fanned.made > 0 || fanned.more;
            more |= fanned.more;
        }
        if made > 0 {
            metrics::counter!("voxgate_webhook_deliveries_made_total").increment(u64::try_from(made).unwrap_or(0));
            self.sound.due.notify_one();
            self.failing.due.notify_one();
        }
        // Where others are at all of them there is nothing to do here.
        Ok(more && moved)
    }

    async fn serve(self: &Arc<Self>, lane: &LaneOfPosts) {
        let mut away = false;
        loop {
            let worked = self.serve_once(lane).await;
            pause_if_away(&worked, &mut away).await;
            if !worked.is_ok_and(|claimed| claimed) {
                let _ = tokio::time::timeout(LOOK_EVERY, lane.due.notified()).await;
            }
        }
    }

    /// Whether it has claimed anything. One turn for each endpoint, the longest due first.
    async fn serve_once(self: &Arc<Self>, lane: &LaneOfPosts) -> Result<bool> {
        drop(lane.room.acquire().await);
        let mut claimed = false;
        for endpoint in self.store.due(lane.lane, self.env.now(), ENDPOINTS_AT_ONCE).await? {
            let mut permits = permits(&lane.room);
            let at_most = u32::try_from(permits.len()).unwrap_or(0);
            if at_most == 0 {
                break;
            }
            let now = self.env.now();
            let claim = Claim { id: self.env.uuid(), now, until: now.plus(self.claim_for), at_most };
            let Some(Some(claims)) = of_one(endpoint, self.store.claim(endpoint, claim).await)? else { continue };
            let of = Arc::new(claims.endpoint);
            for (delivery, permit) in claims.deliveries.into_iter().zip(permits.drain(..)) {
                claimed = true;
                let (deliverer, of) = (self.clone(), of.clone());
                self.posts.spawn(async move { deliverer.deliver(endpoint, &of, delivery, claim, permit).await });
            }
        }
        Ok(claimed)
    }

    async fn deliver(
        &self,
        key: EndpointKey,
        endpoint: &WebhookEndpoint,
        delivery: Claimed,
        claim: Claim,
        permit: OwnedSemaphorePermit,
    ) {
        let (event, kind) = (delivery.event.id, delivery.event.kind.clone());
        let attempt = match self.message(endpoint, &delivery) {
            Ok(message) => self.poster.post(message).await,
            Err(error) => {
                tracing::error!(
                    tenant.id = %key.0, webhook_endpoint.id = %key.1, event.id = %event,
                    error = &error as &dyn std::error::Error, "an event cannot be signed"
                );
                Attempt::failed("the event could not be signed")
            }
        };
        drop(permit);
        let next = match attempt.taken {
            Taken::Yes => Next::Done,
            Taken::Gone => Next::Disabled,
            Taken::No => {
                next_attempt(&self.env, delivery.attempts, delivery.made_at).map_or(Next::GivenUp, Next::TriedAgain)
            }
        };
        metrics::counter!("voxgate_webhook_posts_total", "outcome" => outcome(next)).increment(1);
        if next != Next::Done {
            tracing::info!(
                tenant.id = %key.0, webhook_endpoint.id = %key.1, event.id = %event, event.kind = kind,
                webhook.attempts = delivery.attempts, webhook.status = attempt.status, webhook.error = attempt.error,
                webhook.outcome = outcome(next), "an event was not taken"
            );
        }
        let settlement = Settlement { event, claim: claim.id, attempt, next, now: self.env.now() };
        self.settle(key, settlement).await;
        self.sound.due.notify_one();
        self.failing.due.notify_one();
    }

    /// What cannot be written down ends with its claim, and is posted again.
    async fn settle(&self, endpoint: EndpointKey, settlement: Settlement) {
        let _share = self.database.acquire().await;
        if let Err(error) = self.store.settle(endpoint, settlement).await {
            tracing::warn!(
                tenant.id = %endpoint.0, webhook_endpoint.id = %endpoint.1,
                error = &error as &dyn std::error::Error, "the end of a post was not written; it will be posted again"
            );
        }
    }

    fn message(&self, endpoint: &WebhookEndpoint, delivery: &Claimed) -> Result<Message> {
        let (id, at) = (delivery.event.id.to_string(), self.env.now());
        let body = serde_json::to_vec(&delivery.event).map_err(Error::internal)?;
        let sign = |sealed| {
            let secret = WebhookSecret::open(&self.ring, endpoint.tenant, endpoint.id, sealed)?;
            Ok(secret.signature(&id, at, &body))
        };
        let signatures = endpoint.secrets.valid_at(at).map(sign).collect::<Result<Vec<_>>>()?.join(" ");
        Ok(Message { url: endpoint.url.clone(), id, at, signatures, body })
    }

    async fn sweep(&self) {
        let mut away = false;
        loop {
            let swept = self.sweep_once().await;
            pause_if_away(&swept, &mut away).await;
            if !swept.is_ok_and(|more| more) {
                tokio::time::sleep(SWEEP_EVERY).await;
            }
        }
    }

    /// Whether there is more to do at once.
    async fn sweep_once(&self) -> Result<bool> {
        let now = self.env.now();
        let given_up = self.store.give_up(now.minus(GIVE_UP_AFTER), now, SWEPT_AT_ONCE).await?;
        let forgotten = self.store.forget(now.minus(DEAD_KEPT_FOR), SWEPT_AT_ONCE).await?;
        if given_up > 0 {
            tracing::warn!(webhook.deliveries = given_up, "events were given up after a day");
        }
        let backlog = self.store.backlog().await?;
        let age = backlog.oldest.map_or(Duration::ZERO, |oldest| now.since(oldest));
        #[expect(clippy::cast_precision_loss, reason = "a gauge is read by people")]
        let number = |count: u64| count as f64;
        metrics::gauge!("voxgate_webhook_deliveries_pending").set(number(backlog.pending));
        metrics::gauge!("voxgate_webhook_dead_letters").set(number(backlog.dead));
        metrics::gauge!("voxgate_webhook_oldest_pending_seconds").set(age.as_secs_f64());
        Ok(given_up.max(forgotten) >= SWEPT_AT_ONCE.into())
    }
}

/// What was done for one endpoint. A fault of its rows is logged, and not the others' trouble; a database that is away is
/// everyone's.
fn of_one<T>(endpoint: EndpointKey, done: Result<T>) -> Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error @ Error::Unavailable(..)) => Err(error),
        Err(error) => {
            tracing::error!(
                tenant.id = %endpoint.0, webhook_endpoint.id = %endpoint.1,
                error = &error as &dyn std::error::Error, "an endpoint cannot be served"
            );
            Ok(None)
        }
    }
}

/// As many as one endpoint may need; fewer where there are fewer.
fn permits(room: &Arc<Semaphore>) -> Vec<OwnedSemaphorePermit> {
    (0..IN_FLIGHT_OF_SOUND).map_while(|_| room.clone().try_acquire_owned().ok()).collect()
}

const fn outcome(next: Next) -> &'static str {
    match next {
        Next::Done => "taken",
        Next::TriedAgain(_) => "tried_again",
        Next::GivenUp => "given_up",
        Next::Disabled => "gone",
    }
}

/// Says once that the database is away, and waits a moment while it is.
async fn pause_if_away<T>(worked: &Result<T>, away: &mut bool) {
    if let Err(error) = worked {
        if !*away {
            tracing::warn!(error = error as &dyn std::error::Error, "webhooks wait for the database");
        }
        tokio::time::sleep(PAUSE).await;
    }
    *away = worked.is_err();
}
