//! A cluster: which server a script is for, and what to do when it has just moved.
//!
//! All keys of a script share a hash tag, so each script is for one server, and each server has a [`Link`] of its own:
//! one that does not answer is refused at once to the tenants that live there, and nobody else notices. That is why
//! redis-rs's own cluster client is not used: a request there may wait for all others while slots are looked up or a
//! server is sought (redis-rs issues 2092, 2277, 2418), and is repeated after a connection breaks, although it may have
//! been carried out.
//!
//! MOVED, ASK and TRYAGAIN are answered before a command is carried out, so these and no others are followed, within
//! the time of the command. Everything else is for the caller to try again.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use deadpool_redis::redis::{Cmd, RedisError, Value, aio::PubSub, cmd};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};

use super::{
    dial::{Dialer, Why},
    link::{Link, Place, Trouble},
    map::{NODES_MAX, SlotMap},
    target::Address,
};

/// Between two looks at who owns what.
const BACKOFF: Duration = Duration::from_millis(100);
/// A slot's keys lie on two servers for milliseconds.
const TRY_AGAIN_IN: Duration = Duration::from_millis(4);
/// Two servers that do not agree yet may send a command to and fro.
const HOPS_MAX: u32 = 8;
/// Servers that are asked at once who owns what.
const ASKED_MAX: usize = 8;

/// Clones share the links.
#[derive(Clone)]
pub(super) struct Cluster(Arc<Inner>);

struct Inner {
    dialer: Dialer,
    seeds: Vec<Address>,
    links: Mutex<HashMap<Address, Link>>,
    map: watch::Sender<Arc<SlotMap>>,
    is_looking: AtomicBool,
    /// So that not the same servers are asked each time.
    turn: AtomicUsize,
}

impl Cluster {
    pub(super) fn new(seeds: Vec<Address>, dialer: Dialer) -> Self {
        let map = watch::Sender::new(Arc::new(SlotMap::default()));
        let (is_looking, turn) = (AtomicBool::new(false), AtomicUsize::new(0));
        Self(Arc::new(Inner { dialer, seeds, links: Mutex::default(), map, is_looking, turn }))
    }

    /// Sends a command to the owner of `slot`, wherever it is by now.
    pub(super) async fn send(&self, slot: u16, command: &Cmd, deadline: Instant) -> Result<Value, Trouble> {
        let mut told: Option<Address> = None; // by an ASK, for one try
        let mut hops = 0;
        loop {
            let is_asking = told.is_some();
            let address = match told.take() {
                Some(address) => address,
                None => self.owner(slot, deadline).await?,
            };
            let link = self.0.link(&address);
            let trouble = match link.send(command, is_asking, deadline).await {
                Ok(value) => return Ok(value),
                Err(trouble) => trouble,
            };
            hops += 1;
            match next_step(&trouble, &address) {
                Step::Moved(owner) if hops < HOPS_MAX => {
                    self.0.map.send_modify(|map| *map = Arc::new(map.with(slot, owner)));
                    self.look();
                }
                Step::Ask(owner) if hops < HOPS_MAX => told = Some(owner),
                Step::Again if Instant::now() + TRY_AGAIN_IN < deadline => sleep(TRY_AGAIN_IN).await,
                Step::Stop { is_map_old: true } => {
                    self.look();
                    return Err(trouble);
                }
                _ => return Err(trouble),
            }
        }
    }

    /// Whether the cluster serves: one server that answers is enough, because the tenants of the others are the only
    /// ones who miss them.
    pub(super) async fn ping(&self, deadline: Instant) -> Result<Value, Trouble> {
        self.owner(0, deadline).await?;
        let mut asked = JoinSet::new();
        let map = self.0.map.borrow().clone();
        for address in map.owners() {
            let link = self.0.link(address);
            asked.spawn(async move { link.send(&cmd("PING"), false, deadline).await });
        }
        let mut answer = Err(Trouble::Unreachable("the cluster has no server".into()));
        while let Some(told) = asked.join_next().await {
            answer = told.unwrap_or_else(|error| Err(Trouble::Unreachable(error.to_string().into())));
            if answer.is_ok() {
                break;
            }
            self.look();
        }
        answer
    }

    /// The server that owns the slot.
    pub(super) async fn owning(&self, slot: u16, deadline: Instant) -> Result<Link, Trouble> {
        let owner = self.owner(slot, deadline).await?;
        Ok(self.0.link(&owner))
    }

    /// The servers that own slots, each by its address.
    pub(super) fn links(&self) -> Vec<(String, Link)> {
        let map = self.0.map.borrow().clone();
        map.owners().map(|it| (format!("{}:{}", it.host, it.port), self.0.link(it))).collect()
    }

    /// A connection to listen on, to one server or another.
    pub(super) async fn listen(&self) -> Result<PubSub, Why> {
        let map = self.0.map.borrow().clone();
        let mut known: Vec<_> = map.owners().chain(&self.0.seeds).cloned().collect();
        let turn = self.0.turn.fetch_add(1, Ordering::Relaxed) % known.len().max(1);
        known.rotate_left(turn);
        let mut why = "the cluster has no server".to_owned();
        for address in known.iter().take(ASKED_MAX) {
            match self.0.dialer.listen(address).await {
                Ok(connection) => return Ok(connection),
                Err(fault) => why = fault,
            }
        }
        Err(why)
    }

    async fn owner(&self, slot: u16, deadline: Instant) -> Result<Address, Trouble> {
        if let Some(owner) = self.0.map.borrow().owner(slot) {
            return Ok(owner.clone());
        }
        self.look();
        let mut watch = self.0.map.subscribe();
        let map = timeout_at(deadline, watch.wait_for(|map| map.owner(slot).is_some())).await;
        let found = map.ok().and_then(Result::ok).and_then(|map| map.owner(slot).cloned());
        found.ok_or_else(|| Trouble::Unreachable("no server is known that owns the slot".into()))
    }

    /// Has a task look who owns what, unless one is at it.
    fn look(&self) {
        if !self.0.is_looking.swap(true, Ordering::AcqRel) {
            self.0.dialer.spawn(look(self.0.clone()));
        }
    }
}

/// What a failure asks for.
enum Step {
    Moved(Address),
    Ask(Address),
    Again,
    Stop { is_map_old: bool },
}

fn next_step(trouble: &Trouble, teller: &Address) -> Step {
    let Trouble::Failed(error) = trouble else { return Step::Stop { is_map_old: true } };
    let redirected = || Address::told(error.redirect_node()?.0, &teller.host);
    match (super::code_of(error), redirected()) {
        (Some("MOVED"), Some(owner)) => Step::Moved(owner),
        (Some("ASK"), Some(owner)) => Step::Ask(owner),
        (Some("TRYAGAIN"), _) => Step::Again,
        _ => Step::Stop { is_map_old: is_map_old(error) },
    }
}

fn is_map_old(error: &RedisError) -> bool {
    error.is_io_error() || matches!(super::code_of(error), None | Some("CLUSTERDOWN" | "READONLY" | "MASTERDOWN"))
}

/// Asks until a server has told who owns what; then rests, so that however many fail, nobody is asked more often.
async fn look(inner: Arc<Inner>) {
    let looker = Arc::downgrade(&inner);
    drop(inner);
    while let Some(inner) = looker.upgrade() {
        let found = inner.ask_around().await;
        let is_found = found.is_some();
        if let Some(map) = found {
            inner.forget_all_but(&map);
            inner.map.send_replace(Arc::new(map));
        }
        drop(inner);
        sleep(BACKOFF).await;
        if is_found {
            break;
        }
    }
    if let Some(inner) = looker.upgrade() {
        inner.is_looking.store(false, Ordering::Release);
    }
}

impl Inner {
    fn link(&self, address: &Address) -> Link {
        let budget = self.dialer.settings.command_timeout();
        let make = || Link::new(Place::At(address.clone(), self.dialer.clone()), budget);
        self.links().entry(address.clone()).or_insert_with(make).clone()
    }

    fn links(&self) -> MutexGuard<'_, HashMap<Address, Link>> {
        self.links.lock().expect("nobody panics while holding it")
    }

    fn forget_all_but(&self, map: &SlotMap) {
        let known: HashSet<_> = map.owners().chain(&self.seeds).collect();
        self.links().retain(|address, _| known.contains(address));
    }

    /// What the first server says that finds the cluster in order; what any of them says if none does.
    async fn ask_around(self: &Arc<Self>) -> Option<SlotMap> {
        let map = self.map.borrow().clone();
        let mut known: Vec<_> = map.owners().chain(&self.seeds).cloned().collect();
        let mut seen = HashSet::new();
        known.retain(|address| seen.insert(address.clone()));
        known.truncate(NODES_MAX);
        let turn = self.turn.fetch_add(1, Ordering::Relaxed) % known.len().max(1);
        known.rotate_left(turn);
        let mut asked = JoinSet::new();
        for address in known.into_iter().take(ASKED_MAX) {
            let (link, limit) = (self.link(&address), self.dialer.settings.connect_timeout());
            asked.spawn(async move { word_of(&link, &address, Instant::now() + limit).await });
        }
        let mut any = None;
        while let Some(word) = asked.join_next().await {
            match word {
                Ok(Some((map, true))) => return Some(map),
                Ok(Some((map, false))) => any = Some(map),
                Ok(None) | Err(_) => {}
            }
        }
        any
    }
}

/// Who owns what by this server, and whether it finds the cluster in order.
async fn word_of(link: &Link, address: &Address, deadline: Instant) -> Option<(SlotMap, bool)> {
    let mut info = cmd("CLUSTER");
    let state = link.send(info.arg("INFO"), false, deadline).await.ok()?;
    let state: String = deadpool_redis::redis::from_redis_value(state).ok()?;
    let mut slots = cmd("CLUSTER");
    let slots = link.send(slots.arg("SLOTS"), false, deadline).await.ok()?;
    Some((SlotMap::parse(slots, address)?, state.contains("cluster_state:ok")))
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("links", &*self.0.links()).finish_non_exhaustive()
    }
}
