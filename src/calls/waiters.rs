//! Who waits on this replica, and the look after their tickets: about once a second each agent that somebody waits for is
//! tended, which keeps the tickets alive, grants what came free by expiry or by a raised limit, and finds what a lost
//! message did not tell.
//!
//! Whoever is next is looked at each second, whoever is far behind more seldom: ten thousand places told each second
//! would tell nobody more.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Calls, admit::limits_of};
use crate::domain::{
    Error, Result,
    error::Dependency,
    ids::{CallId, TenantId, VoiceAgentId},
    lease::Limits,
    queue::{Heard, Place, ReplicaId, Standing, Tend, Tended, Wake},
};

const TEND_EVERY: Duration = Duration::from_secs(1);
/// Not more often, however many leases run out.
const TEND_LEAST: Duration = Duration::from_millis(20);
/// Tickets looked at in one go.
const LOOKS: usize = 500;
/// Until the next look at a ticket, for each place before it.
const LOOK_A_PLACE: Duration = Duration::from_millis(10);
const LOOK_SELDOMEST: Duration = Duration::from_secs(10);
/// Agents tended at once.
const AT_ONCE: usize = 16;

/// The waiters of this replica.
#[derive(Debug)]
pub(super) struct Waiters {
    pub(super) replica: ReplicaId,
    room: Mutex<Room>,
    serials: AtomicU64,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Room {
    seats: HashMap<(TenantId, CallId), Seated>,
    lines: HashMap<(TenantId, VoiceAgentId), Line>,
}

#[derive(Debug)]
struct Seated {
    serial: u64,
    agent: VoiceAgentId,
    bell: Arc<Bell>,
    look_at: Instant,
}

/// Those who wait for one agent.
#[derive(Debug)]
struct Line {
    calls: HashSet<CallId>,
    looks: BTreeSet<(Instant, CallId)>,
    limits: Limits,
    tend_at: Instant,
}

/// What a waiter is told; of the places only the last.
#[derive(Debug, Default)]
struct Bell {
    news: Mutex<(Option<Place>, Option<News>)>,
    rung: Notify,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    Place(Place),
    /// It holds a slot, or another request of its call does.
    Granted,
    /// Another stream of the same call has its ticket now.
    TakenOver,
    /// The store has lost the ticket.
    Lost,
    /// The agent has changed: may the call still wait for it?
    Recheck,
}

impl Bell {
    fn ring(&self, news: News) {
        let mut kept = self.news.lock().expect("nobody panics while holding it");
        match news {
            News::Place(place) => kept.0 = Some(place),
            // A grant is what matters most, and that the ticket is another's more than that it is to be looked at.
            News::Recheck | News::Lost if kept.1.is_some() => {}
            other => kept.1 = Some(other),
        }
        drop(kept);
        self.rung.notify_one();
    }

    fn take(&self) -> Option<News> {
        let mut kept = self.news.lock().expect("nobody panics while holding it");
        let urgent = kept.1.take();
        urgent.or_else(|| kept.0.take().map(News::Place))
    }
}

/// A place among the waiters of this replica, for as long as it lives.
#[derive(Debug)]
pub(super) struct Seat {
    waiters: Arc<Waiters>,
    tenant: TenantId,
    call: CallId,
    serial: u64,
    bell: Arc<Bell>,
}

impl Seat {
    /// What is new.
    pub(super) async fn news(&self) -> News {
        loop {
            if let Some(news) = self.bell.take() {
                return news;
            }
            self.bell.rung.notified().await;
        }
    }

    /// The place that the store has just told: the next look is due accordingly.
    pub(super) fn is_at(&self, place: Place) {
        let mut room = self.waiters.room();
        room.look_again(self.tenant, &self.call, Instant::now() + until_next_look(place));
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut room = self.waiters.room();
        let key = (self.tenant, self.call.clone());
        if room.seats.get(&key).is_some_and(|seated| seated.serial == self.serial) {
            room.leave(&key);
        }
        room.count();
    }
}

impl Room {
    fn leave(&mut self, key: &(TenantId, CallId)) {
        let Some(seated) = self.seats.remove(key) else { return };
        let of_agent = (key.0, seated.agent);
        if let Some(line) = self.lines.get_mut(&of_agent) {
            line.looks.remove(&(seated.look_at, key.1.clone()));
            line.calls.remove(&key.1);
            if line.calls.is_empty() {
                self.lines.remove(&of_agent);
            }
        }
    }

    fn look_again(&mut self, tenant: TenantId, call: &CallId, at: Instant) {
        let Some(seated) = self.seats.get_mut(&(tenant, call.clone())) else { return };
        let Some(line) = self.lines.get_mut(&(tenant, seated.agent)) else { return };
        line.looks.remove(&(seated.look_at, call.clone()));
        line.looks.insert((at, call.clone()));
        seated.look_at = at;
    }

    fn ring(&self, tenant: TenantId, call: &CallId, news: News) {
        if let Some(seated) = self.seats.get(&(tenant, call.clone())) {
            seated.bell.ring(news);
        }
    }

    fn count(&self) {
        metrics::gauge!("voxgate_queue_waiting").set(u32::try_from(self.seats.len()).unwrap_or(u32::MAX));
    }
}

impl Waiters {
    pub(super) fn new(replica: ReplicaId) -> Self {
        Self { replica, room: Mutex::default(), serials: AtomicU64::default(), changed: Notify::new() }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock().expect("nobody panics while holding it")
    }

    /// Sits down. Another stream of the same call on this replica is told that it has lost its place.
    pub(super) fn sit(
        self: &Arc<Self>,
        (tenant, agent): (TenantId, VoiceAgentId),
        call: &CallId,
        limits: Limits,
        max: usize,
    ) -> Result<Seat> {
        let (serial, bell, now) =
            (self.serials.fetch_add(1, Ordering::Relaxed), Arc::new(Bell::default()), Instant::now());
        let mut room = self.room();
        let key = (tenant, call.clone());
        if let Some(former) = room.seats.get(&key) {
            former.bell.ring(News::TakenOver);
            room.leave(&key);
        } else if room.seats.len() >= max {
            return Err(Error::Unavailable(Dependency::Capacity, None));
        }
        let look_at = now + TEND_EVERY;
        let fresh = || Line { calls: HashSet::new(), looks: BTreeSet::new(), limits, tend_at: look_at };
        let line = room.lines.entry((tenant, agent)).or_insert_with(fresh);
        line.calls.insert(call.clone());
        line.looks.insert((look_at, call.clone()));
        room.seats.insert(key, Seated { serial, agent, bell: bell.clone(), look_at });
        room.count();
        drop(room);
        self.changed.notify_one();
        Ok(Seat { waiters: self.clone(), tenant, call: call.clone(), serial, bell })
    }

    fn hear(&self, heard: &Heard) {
        match heard {
            Heard::Wake(tenant, call, wake) => self.room().ring(*tenant, call, news_of(*wake)),
            Heard::Missed => {
                let now = Instant::now();
                self.room().lines.values_mut().for_each(|line| line.tend_at = now);
                self.changed.notify_one();
            }
        }
    }

    /// The lines whose time has come, and the moment of the next one.
    fn due(&self) -> (Vec<(TenantId, VoiceAgentId)>, Option<Instant>) {
        let (room, now) = (self.room(), Instant::now());
        let due = room.lines.iter().filter(|(_, line)| line.tend_at <= now).map(|(key, _)| *key).collect();
        (due, room.lines.values().map(|line| line.tend_at).min())
    }

    /// What to say of a line; its limits are the newest that are known here.
    fn tend_of(&self, (tenant, agent): (TenantId, VoiceAgentId), newest: &Result<Limits>) -> Option<Tend> {
        let (mut room, now) = (self.room(), Instant::now());
        let Room { seats, lines } = &mut *room;
        let line = lines.get_mut(&(tenant, agent))?;
        let changed = match newest {
            Ok(limits) if limits.agent_version == line.limits.agent_version => {
                line.limits = *limits;
                false
            }
            Ok(limits) => {
                line.limits = *limits;
                true
            }
            // The database is away: what was known will do.
            Err(Error::Unavailable(..)) => false,
            Err(_) => true,
        };
        if changed {
            for call in &line.calls {
                if let Some(seated) = seats.get(&(tenant, call.clone())) {
                    seated.bell.ring(News::Recheck);
                }
            }
        }
        let due = line.looks.iter().take_while(|(at, _)| *at <= now).take(LOOKS);
        let calls = due.map(|(_, call)| call.clone()).collect();
        Some(Tend { replica: self.replica, agent, limits: line.limits, calls })
    }

    fn tended(&self, (tenant, agent): (TenantId, VoiceAgentId), tend: &Tend, answer: Result<Tended>) {
        let (mut room, now) = (self.room(), Instant::now());
        let Ok(tended) = answer else {
            // Nobody's place is lost by it: the store will be asked again.
            room.lines.entry((tenant, agent)).and_modify(|line| line.tend_at = now + TEND_EVERY);
            return;
        };
        for (call, wake) in &tended.wakes {
            room.ring(tenant, call, news_of(*wake));
        }
        for (call, standing) in tend.calls.iter().zip(&tended.standings) {
            let (news, look_in) = match standing {
                Standing::Waiting(place) => (News::Place(*place), until_next_look(*place)),
                Standing::Held => (News::Granted, TEND_EVERY),
                Standing::TakenOver => (News::TakenOver, TEND_EVERY),
                Standing::Gone => (News::Lost, TEND_EVERY),
            };
            room.ring(tenant, call, news);
            room.look_again(tenant, call, now + look_in);
        }
        if let Some(line) = room.lines.get_mut(&(tenant, agent)) {
            let more = tended.more || tend.calls.len() == LOOKS;
            let next = tended.next_expiry_in.clamp(TEND_LEAST, TEND_EVERY);
            line.tend_at = if more { now } else { now + next };
        }
    }
}

const fn news_of(wake: Wake) -> News {
    match wake {
        Wake::Granted => News::Granted,
        Wake::TakenOver => News::TakenOver,
    }
}

fn until_next_look(place: Place) -> Duration {
    (LOOK_A_PLACE * place.position).clamp(TEND_EVERY, LOOK_SELDOMEST)
}

impl Calls {
    /// Looks after all who wait on this replica, until told to stop.
    pub async fn tend_until(&self, stop: CancellationToken) {
        tokio::select! {
            () = stop.cancelled() => {}
            () = self.hear_wakes() => {}
            () = self.tend() => {}
        }
    }

    async fn hear_wakes(&self) {
        let mut wakes = self.slots.listen(self.waiters.replica);
        while let Some(heard) = wakes.recv().await {
            self.waiters.hear(&heard);
        }
        // Nobody speaks any more: tending finds everything, only later.
        std::future::pending::<()>().await;
    }

    async fn tend(&self) {
        loop {
            let (due, next) = self.waiters.due();
            stream::iter(due).for_each_concurrent(AT_ONCE, |line| self.tend_line(line)).await;
            let sleep = async {
                match next {
                    Some(next) => tokio::time::sleep_until(next).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = sleep => {}
                () = self.waiters.changed.notified() => {}
            }
        }
    }

    async fn tend_line(&self, (tenant, agent): (TenantId, VoiceAgentId)) {
        let newest = self.limits(tenant, agent).await;
        let Some(tend) = self.waiters.tend_of((tenant, agent), &newest) else { return };
        let answer = self.slots.tend(tenant, &tend).await;
        if let Err(error) = &answer {
            tracing::warn!(error = error as &dyn std::error::Error, "those who wait could not be looked after");
        }
        self.waiters.tended((tenant, agent), &tend, answer);
    }

    async fn limits(&self, tenant: TenantId, agent: VoiceAgentId) -> Result<Limits> {
        let agent = self.agents.get(tenant, agent).await?;
        Ok(limits_of(&agent, &*self.owner(tenant).await?))
    }
}
