//! Admits a call as AcquireSlot does, and lets it wait for its turn where no slot is free.
//!
//! The wait is a task of its own, which leaves the queue whatever ends it: the grant, the caller's going, the time that it
//! would wait, the agent's pause, our own end. What was granted and not taken by the caller is given up again: a slot
//! whose caller has hung up goes to the next.

use std::time::Duration;

use tokio::{
    sync::{mpsc, oneshot},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    Admission, Admit, Calls,
    admit::limits_of,
    credential::Credential,
    waiters::{News, Seat},
};
use crate::{
    agents::Resolved,
    domain::{
        Error, Result, Timestamp,
        error::Dependency,
        ids::{LeaseId, SessionId, TenantId},
        lease::{Acquire, Limits},
        principal::Principal,
        queue::{Enqueued, Leave, Place, Ticket},
        session::Outcome,
    },
};

/// Places that the caller has not read yet; it is told only the newest beyond that.
const UNREAD: usize = 2;

/// A call that would wait.
#[derive(Debug, Clone)]
pub struct AwaitSlot {
    pub admit: Admit,
    pub max_wait: Duration,
    /// When the caller itself stops waiting.
    pub deadline: Instant,
}

#[derive(Debug)]
pub enum Update {
    Waiting(Place),
    /// The last one.
    Granted(Box<Admission>),
}

/// One message to the caller.
#[derive(Debug)]
struct Step {
    update: Result<Update>,
    taken: Option<oneshot::Sender<()>>,
}

/// What the caller is told, as it comes. To drop it is to hang up.
#[derive(Debug)]
pub struct Waited {
    first: Option<Step>,
    rest: mpsc::Receiver<Step>,
}

impl Waited {
    /// The next one, which is on its way to the caller from here on.
    pub async fn next(&mut self) -> Option<Result<Update>> {
        let step = match self.first.take() {
            Some(first) => first,
            None => self.rest.recv().await?,
        };
        if let Some(taken) = step.taken {
            let _ = taken.send(());
        }
        Some(step.update)
    }
}

/// How a wait ended, if not by an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Granted,
    Validated,
    HungUp,
}

/// Why a waiter stopped to stand in the queue.
#[derive(Debug)]
enum Turn {
    Granted,
    Lost,
    HungUp,
    Over(Error),
}

#[derive(Debug)]
struct Waiter {
    calls: Calls,
    tenant: TenantId,
    credential: Option<Credential>,
    admit: Admit,
    max_wait: Duration,
    began: Instant,
    /// When the caller itself stops waiting.
    deadline: Instant,
    closing: CancellationToken,
    out: mpsc::Sender<Step>,
    told: Option<Place>,
}

impl Calls {
    /// Answers as soon as the caller waits or has its slot, and an error of before that by itself.
    pub async fn await_slot(
        &self,
        principal: &Principal,
        request: AwaitSlot,
        closing: &CancellationToken,
    ) -> Result<Waited> {
        let (out, mut rest) = mpsc::channel(UNREAD);
        let waiter = Waiter {
            calls: self.clone(),
            tenant: principal.tenant(),
            credential: Credential::of(principal),
            admit: request.admit,
            max_wait: request.max_wait,
            began: Instant::now(),
            deadline: request.deadline,
            closing: closing.clone(),
            out,
            told: None,
        };
        self.workers.spawn(waiter.run().in_current_span());
        match rest.recv().await {
            Some(Step { update: Err(error), .. }) => Err(error),
            first => Ok(Waited { first, rest }),
        }
    }

    async fn leave(&self, tenant: TenantId, leave: Leave) {
        if self.slots.leave(tenant, &leave).await.is_ok() {
            return;
        }
        // The ticket is kept alive with the others of this replica, so it must go by name; were it granted a slot
        // before, that would run out.
        let calls = self.clone();
        self.tasks.spawn(async move {
            for attempt in 1..=10_u32 {
                tokio::time::sleep(Duration::from_millis(200) * attempt).await;
                if calls.slots.leave(tenant, &leave).await.is_ok() {
                    return;
                }
            }
            tracing::warn!(call.id = %leave.call, "a ticket could not be taken back");
        });
    }
}

impl Waiter {
    async fn run(mut self) {
        let ended = if self.admit.validate_only { self.look().await } else { self.wait().await };
        let outcome = match &ended {
            Ok(Ended::Granted) => "GRANTED",
            Ok(Ended::Validated) => "VALIDATED",
            Ok(Ended::HungUp) => "CANCELLED",
            Err(error) => error.reason().as_str(),
        };
        metrics::counter!("voxgate_queue_waits_total", "outcome" => outcome).increment(1);
        metrics::histogram!("voxgate_queue_wait_seconds").record(self.began.elapsed().as_secs_f64());
        if let Err(error) = ended {
            let _ = self.out.send(Step { update: Err(error), taken: None }).await;
        }
    }

    /// Says what would happen, and changes nothing.
    async fn look(&self) -> Result<Ended> {
        let denial = match self.calls.admit_once(self.tenant, self.admit.clone()).await {
            Err(denial @ Error::MaxConcurrentExceeded(_)) => denial,
            admission => {
                self.send(Update::Granted(Box::new(admission?))).await;
                return Ok(Ended::Validated);
            }
        };
        let resolved = self.calls.agent_for(self.tenant, &self.admit).await?;
        if !resolved.exists() {
            return Err(denial);
        }
        let (ticket, _) = self.ticket(&resolved, None).await?;
        match self.calls.slots.probe_queue(self.tenant, &ticket).await? {
            Enqueued::Full { queued } => return Err(full(&ticket, queued)),
            Enqueued::Waiting(_) if self.max_wait.is_zero() => return Err(self.timed_out(&ticket)),
            Enqueued::Waiting(place) => self.send(Update::Waiting(place)).await,
            // Between the two looks; what there is to say was said by the first.
            Enqueued::Held => return Err(denial),
        }
        Ok(Ended::Validated)
    }

    async fn wait(&mut self) -> Result<Ended> {
        match self.calls.admit_once(self.tenant, self.admit.clone()).await {
            Err(Error::MaxConcurrentExceeded(_)) => {}
            admission => return self.deliver(admission?).await,
        }
        let resolved = self.calls.agent_for(self.tenant, &self.admit).await?;
        let (mut ticket, limits) = self.ticket(&resolved, None).await?;
        if self.max_wait.is_zero() {
            return Err(self.timed_out(&ticket));
        }
        let (agent, names) = (resolved.agent.id, (ticket.acquire.lease, ticket.acquire.session));
        self.admit = Admit { agent: Some(agent), ticket: Some(names), ..self.admit.clone() };
        let call = self.admit.call.clone();
        let max = self.calls.settings.queue_max_waiters;
        let seat = self.calls.waiters.sit((self.tenant, agent), &call, limits, max)?;
        let ended = self.stand_until_granted(&seat, &mut ticket, &resolved).await;
        // A ticket that was taken over stays for whoever took it, who may not have asked for it yet.
        if !matches!(ended, Ok(Ended::Granted) | Err(Error::IdempotencyInProgress { .. })) {
            let leave = Leave { replica: ticket.replica, call, lease: ticket.acquire.lease };
            self.calls.leave(self.tenant, leave).await;
        }
        ended
    }

    async fn stand_until_granted(&mut self, seat: &Seat, ticket: &mut Ticket, resolved: &Resolved) -> Result<Ended> {
        loop {
            match self.calls.slots.enqueue(self.tenant, ticket).await {
                Ok(Enqueued::Full { queued }) => return Err(full(ticket, queued)),
                Ok(Enqueued::Held) => {}
                Ok(Enqueued::Waiting(place)) => {
                    // Should the store lose the ticket, or a slot not be claimed in time, the place is not lost.
                    ticket.since = Some(place.since);
                    seat.is_at(place);
                    self.tell(place);
                }
                // It had a place: it is asked for again when the store is back.
                Err(Error::Unavailable(..)) if ticket.since.is_some() => {}
                Err(error) => return Err(error),
            }
            match self.stand(seat, ticket).await {
                Turn::Granted => {}
                Turn::Lost => continue,
                Turn::HungUp => return Ok(Ended::HungUp),
                Turn::Over(error) => return Err(error),
            }
            if let Some(credential) = self.credential {
                self.calls.check_credential(credential).await?;
            }
            match self.calls.admit_once(self.tenant, self.admit.clone()).await {
                // The slot ran out before it was claimed.
                Err(Error::MaxConcurrentExceeded(_)) => {}
                admission => {
                    let steps = resolved.steps.clone();
                    let admission = admission?;
                    let resolved = Resolved { steps, ..admission.resolved };
                    return self.deliver(Admission { resolved, ..admission }).await;
                }
            }
        }
    }

    /// Stands in the queue until something happens.
    async fn stand(&mut self, seat: &Seat, ticket: &Ticket) -> Turn {
        let over = self.began + self.max_wait;
        loop {
            let news = tokio::select! {
                () = self.out.closed() => return Turn::HungUp,
                () = self.closing.cancelled() => return Turn::Over(Error::Unavailable(Dependency::Replica, None)),
                () = tokio::time::sleep_until(self.deadline) => return Turn::Over(Error::DeadlineExceeded),
                () = tokio::time::sleep_until(over) => return Turn::Over(self.timed_out(ticket)),
                news = seat.news() => news,
            };
            match news {
                News::Place(place) => self.tell(place),
                News::Granted => return Turn::Granted,
                News::Lost => return Turn::Lost,
                News::TakenOver => {
                    let key = self.admit.call.as_str().parse().map_err(|_| Error::internal("a call is no key"));
                    return Turn::Over(key.map_or_else(|error| error, |key| Error::IdempotencyInProgress { key }));
                }
                News::Recheck => {
                    if let Err(error) = self.calls.still_takes(self.tenant, &self.admit).await {
                        return Turn::Over(error);
                    }
                }
            }
        }
    }

    async fn ticket(&self, resolved: &Resolved, since: Option<Timestamp>) -> Result<(Ticket, Limits)> {
        let (calls, agent) = (&self.calls, &resolved.agent);
        let limits = limits_of(agent, &*calls.owner(self.tenant).await?);
        let acquire = Acquire {
            agent: agent.id,
            call: self.admit.call.clone(),
            lease: LeaseId::new(&calls.env, agent.id),
            session: SessionId::new(&calls.env),
            direction: self.admit.direction,
            priority: self.admit.priority,
            ttl: self.admit.ttl,
            limits,
            // Of a call that waits nothing is to be written: its session begins when it claims what it is granted.
            draft: None,
        };
        let (replica, depth) = (calls.waiters.replica, calls.settings.queue_depth);
        Ok((Ticket { acquire, replica, since, depth }, limits))
    }

    /// Tells the place if it is news, unless the caller has not read the last ones.
    fn tell(&mut self, place: Place) {
        if self.told.is_some_and(|told| !is_news(told, place)) {
            return;
        }
        self.told = Some(place);
        let _ = self.out.try_send(Step { update: Ok(Update::Waiting(place)), taken: None });
    }

    async fn send(&self, update: Update) {
        let _ = self.out.send(Step { update: Ok(update), taken: None }).await;
    }

    /// Brings the slot to the caller. One who has hung up by then does not keep it, if it was granted to this request.
    async fn deliver(&self, admission: Admission) -> Result<Ended> {
        let held = admission.held.clone();
        let (taken, is_taken) = oneshot::channel();
        let update = Ok(Update::Granted(Box::new(admission)));
        let sent = self.out.send(Step { update, taken: Some(taken) }).await.is_ok();
        if sent && is_taken.await.is_ok() {
            return Ok(Ended::Granted);
        }
        if let Some(held) = held.filter(|held| held.granted) {
            self.calls.persist(|| self.calls.give_up(&held.session, Outcome::CallerHangup)).await?;
        }
        Ok(Ended::HungUp)
    }

    fn timed_out(&self, ticket: &Ticket) -> Error {
        Error::QueueTimeout { agent: ticket.acquire.agent, waited: self.began.elapsed() }
    }
}

fn full(ticket: &Ticket, queued: u32) -> Error {
    Error::QueueFull { agent: ticket.acquire.agent, queued, limit: ticket.depth }
}

/// Another position, or an estimate that is more than an eighth off the one that was told.
fn is_news(told: Place, place: Place) -> bool {
    let moved = match (told.estimate, place.estimate) {
        (Some(told), Some(estimate)) => told.abs_diff(estimate) > told / 8,
        (told, estimate) => told != estimate,
    };
    told.position != place.position || moved
}
