//! The media nodes that are connected to this replica: who they are, what they carry, how to reach them. Of those that
//! are connected to others it is known as much as choosing one for a call takes.
//!
//! A [`Connection`] is one stream of one node. A node that connects again takes its name over: messages go to the
//! newer stream, and the end of the older one changes nothing. Which calls are live is not decided here; `load` is a
//! count for choosing a node, made of what was assigned and what the node reported.

mod elsewhere;

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{sync::mpsc, time::Instant};

use self::elsewhere::{Elsewhere, Share};
use crate::domain::{
    clock::Timestamp,
    ids::{CallId, LeaseId, NodeId, OperationId, TenantId},
    lease_token::LeaseClaim,
    node::{Command, NodeAddress, NodeProfile, Postbox, ToNode, Unreachable},
    queue::ReplicaId,
    trace::TraceContext,
    voice_agent::Subprotocol,
};
use crate::traces::{Attribute, Span};

/// Messages waiting for one node's stream. A node that does not read this many is as good as gone.
const MAILBOX: usize = 1_024;

#[derive(Debug, Default)]
pub struct NodeRegistry {
    nodes: Mutex<HashMap<NodeAddress, Entry>>,
    elsewhere: Mutex<Elsewhere>,
    streams: AtomicU64,
}

#[derive(Debug)]
struct Entry {
    stream: u64,
    profile: NodeProfile,
    mailbox: mpsc::Sender<ToNode>,
    calls: HashMap<CallId, Hosted>,
    /// The calls that the node has named since somebody last took the list.
    listed: Option<HashSet<CallId>>,
    /// Room that is kept for calls which may yet be denied a slot.
    reserved: usize,
    /// Commands that this stream was given and has not answered.
    commands: HashMap<OperationId, Unanswered>,
}

/// A call that is counted as the node's.
#[derive(Debug, Clone, Copy)]
struct Hosted {
    claim: LeaseClaim,
    /// When the call's token is replaced; never, where it lives as long as the WebSocket.
    refresh_at: Option<Timestamp>,
}

/// A command that a node has been given.
#[derive(Debug)]
struct Unanswered {
    call: CallId,
    fence: i64,
    /// Whether the node lets the call go when it has carried the command out.
    ends: bool,
    origin: Origin,
    /// Until the node has answered.
    span: Span,
}

/// Where a command came from: its place in the node's mail, who sent it, and what it is done within.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    pub number: u64,
    pub reply_to: ReplicaId,
    pub trace: Option<TraceContext>,
}

/// Room on a node for a call that does not have its slot yet; given back when this is dropped.
#[derive(Debug)]
pub struct Reservation {
    registry: Arc<NodeRegistry>,
    address: NodeAddress,
    /// None: the node is connected to another replica.
    stream: Option<u64>,
    is_used: bool,
}

impl Entry {
    fn has(&self, call: &CallId, lease: LeaseId) -> bool {
        self.calls.get(call).is_some_and(|hosted| hosted.claim.lease == lease)
    }

    fn load(&self) -> usize {
        self.calls.len() + self.reserved
    }

    fn has_room(&self) -> bool {
        self.load() < self.profile.capacity as usize
    }

    fn share(&self) -> Share {
        Share { load: self.load(), capacity: self.profile.capacity }
    }
}

impl Reservation {
    pub const fn node(&self) -> &NodeId {
        &self.address.node
    }

    /// The call has its slot: elsewhere it counts from now on, and here once it is assigned.
    pub fn used(mut self) {
        self.is_used = true;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(stream) = self.stream else {
            if !self.is_used {
                self.registry.elsewhere().give_back(&self.address);
            }
            return;
        };
        if let Some(entry) = self.registry.nodes().get_mut(&self.address)
            && entry.stream == stream
        {
            entry.reserved -= 1;
        }
    }
}

/// One stream of one node; leaving scope, it takes the node out of the registry unless a newer stream has its name.
#[derive(Debug)]
pub struct Connection {
    registry: Arc<NodeRegistry>,
    pub address: NodeAddress,
    pub stream: u64,
}

impl NodeRegistry {
    fn elsewhere(&self) -> MutexGuard<'_, Elsewhere> {
        self.elsewhere.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeAddress, Entry>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the node in; its messages come out of the receiver, in order.
    pub fn connect(
        self: &Arc<Self>,
        address: NodeAddress,
        profile: NodeProfile,
    ) -> (Connection, mpsc::Receiver<ToNode>) {
        let (mailbox, inbox) = mpsc::channel(MAILBOX);
        let stream = self.streams.fetch_add(1, Ordering::Relaxed);
        let entry = Entry {
            stream,
            profile,
            mailbox,
            calls: HashMap::new(),
            listed: None,
            reserved: 0,
            commands: HashMap::new(),
        };
        self.nodes().insert(address.clone(), entry);
        (Connection { registry: self.clone(), address, stream }, inbox)
    }

    /// Keeps room on the least loaded connected node that fits and has some, in one step: of many calls at once each
    /// finds the room that the others have left. One that is connected here comes before an equal one elsewhere.
    pub fn reserve(self: &Arc<Self>, tenant: TenantId, sandbox: bool, subprotocol: Subprotocol) -> Option<Reservation> {
        let wanted = |address: &NodeAddress| address.tenant == tenant && address.sandbox == sandbox;
        let mut nodes = self.nodes();
        let here = nodes
            .iter_mut()
            .filter(|(address, _)| wanted(address))
            .filter(|(_, entry)| entry.profile.subprotocol == subprotocol && entry.has_room())
            .min_by(|(a, x), (b, y)| x.share().cmp(&y.share()).then_with(|| a.node.cmp(&b.node)));
        let mut elsewhere = self.elsewhere();
        let share = here.as_ref().map(|(_, entry)| entry.share());
        if let Some(address) = elsewhere.take_room(tenant, sandbox, subprotocol, share) {
            return Some(Reservation { registry: self.clone(), address, stream: None, is_used: false });
        }
        let (address, entry) = here?;
        entry.reserved += 1;
        let stream = Some(entry.stream);
        Some(Reservation { registry: self.clone(), address: address.clone(), stream, is_used: false })
    }

    /// Whether it is known which nodes of the tenant are connected to other replicas. Asking keeps it known.
    pub fn knows_elsewhere(&self, tenant: TenantId, now: Instant) -> bool {
        self.elsewhere().is_known(tenant, now)
    }

    /// What is connected to other replicas.
    pub fn learn(&self, tenant: TenantId, connected: Vec<(NodeAddress, NodeProfile, usize)>, now: Instant) {
        self.elsewhere().learn(tenant, connected, now);
    }

    /// A node of the tenant has come or gone somewhere; of anybody's, where nobody knows whose.
    pub fn forget_elsewhere(&self, tenant: Option<TenantId>) {
        self.elsewhere().forget(tenant);
    }

    /// The tenants whose nodes elsewhere should be looked at again, because somebody has asked for them lately.
    pub fn watched_elsewhere(&self, now: Instant) -> Vec<TenantId> {
        self.elsewhere().watched(now)
    }

    /// The node here that the call is counted as, under that lease.
    pub fn host_of(&self, tenant: TenantId, call: &CallId, lease: LeaseId) -> Option<NodeAddress> {
        let nodes = self.nodes();
        let mut of_tenant = nodes.iter().filter(|(address, _)| address.tenant == tenant);
        of_tenant.find(|(_, entry)| entry.has(call, lease)).map(|(address, _)| address.clone())
    }

    /// Whether the call is counted as the node's.
    pub fn hosts(&self, address: &NodeAddress, call: &CallId, lease: LeaseId) -> bool {
        self.nodes().get(address).is_some_and(|entry| entry.has(call, lease))
    }

    /// The profile of a connected node.
    pub fn profile(&self, address: &NodeAddress) -> Option<NodeProfile> {
        self.nodes().get(address).map(|entry| entry.profile.clone())
    }

    /// Counts the call as the node's: its heartbeats renew the lease from now on, and its token is replaced when it is time.
    pub fn assign(&self, address: &NodeAddress, call: &CallId, claim: LeaseClaim, refresh_at: Option<Timestamp>) {
        if let Some(entry) = self.nodes().get_mut(address) {
            entry.calls.insert(call.clone(), Hosted { claim, refresh_at });
        }
    }

    /// The node's calls whose tokens are to be replaced by `now`; each is told again at `next`.
    pub fn due_refreshes(&self, address: &NodeAddress, now: Timestamp, next: Timestamp) -> Vec<(CallId, LeaseClaim)> {
        let mut nodes = self.nodes();
        let calls = nodes.get_mut(address).map(|entry| entry.calls.iter_mut());
        let due = calls.into_iter().flatten().filter(|(_, hosted)| hosted.refresh_at.is_some_and(|at| at <= now));
        due.map(|(call, hosted)| {
            hosted.refresh_at = Some(next);
            (call.clone(), hosted.claim)
        })
        .collect()
    }

    /// The call is the node's no longer under that lease. Under a newer one, admitted afresh meanwhile, it stays.
    pub fn unassign(&self, address: &NodeAddress, call: &CallId, lease: LeaseId) {
        if let Some(entry) = self.nodes().get_mut(address)
            && entry.has(call, lease)
        {
            entry.calls.remove(call);
        }
    }

    /// The node itself has let the call go; answers under which lease it was the node's.
    pub fn let_go(&self, address: &NodeAddress, call: &CallId) -> Option<LeaseClaim> {
        self.nodes().get_mut(address)?.calls.remove(call).map(|hosted| hosted.claim)
    }

    pub fn calls(&self, address: &NodeAddress) -> Vec<(CallId, LeaseClaim)> {
        let nodes = self.nodes();
        let calls = nodes.get(address).map(|entry| entry.calls.iter());
        calls.into_iter().flatten().map(|(call, hosted)| (call.clone(), hosted.claim)).collect()
    }

    /// The leases of all calls that are counted as a connected node's.
    pub fn leases(&self) -> Vec<(TenantId, LeaseId)> {
        let nodes = self.nodes();
        let of_node = |(address, entry): (&NodeAddress, &Entry)| {
            let tenant = address.tenant;
            entry.calls.values().map(move |hosted| (tenant, hosted.claim.lease)).collect::<Vec<_>>()
        };
        nodes.iter().flat_map(of_node).collect()
    }

    /// The nodes that are connected here.
    pub fn addresses(&self) -> Vec<NodeAddress> {
        self.nodes().keys().cloned().collect()
    }

    /// The node itself names calls as its own.
    pub fn list<'a>(&self, address: &NodeAddress, calls: impl Iterator<Item = &'a CallId>) {
        if let Some(entry) = self.nodes().get_mut(address) {
            let listed = entry.listed.get_or_insert_default();
            // A node cannot name more than it has room for; what it says beyond is not kept.
            let room = (entry.profile.capacity as usize).saturating_sub(listed.len());
            listed.extend(calls.take(room).cloned());
        }
    }

    /// Takes the calls that the node has named since this was last asked; nothing if it has named none.
    pub fn take_listed(&self, address: &NodeAddress) -> Option<HashSet<CallId>> {
        self.nodes().get_mut(address).and_then(|entry| entry.listed.take())
    }

    pub fn connected(&self) -> usize {
        self.nodes().len()
    }

    /// Gives a connected node a command, which `span` lasts as long as.
    pub fn command(
        &self,
        address: &NodeAddress,
        command: Command,
        origin: Origin,
        span: Span,
    ) -> Result<(), Unreachable> {
        let (operation, call, fence) = (command.operation, command.call.clone(), command.fence);
        let ends = command.verb.ends().is_some();
        let mut nodes = self.nodes();
        let entry = nodes.get_mut(address).ok_or(Unreachable)?;
        entry.mailbox.try_send(ToNode::Command(Box::new(command))).map_err(|_| Unreachable)?;
        entry.commands.insert(operation, Unanswered { call, fence, ends, origin, span });
        Ok(())
    }

    /// The node has answered a command; answers whose it was and where that came from, or nothing if this stream was not
    /// given it. A call that the node has let go with it is the node's no longer.
    pub fn answered(
        &self,
        address: &NodeAddress,
        operation: OperationId,
        carried_out: bool,
    ) -> Option<(CallId, Origin)> {
        let mut nodes = self.nodes();
        let entry = nodes.get_mut(address)?;
        let Unanswered { call, fence, ends, origin, mut span } = entry.commands.remove(&operation)?;
        span.say(|| [Attribute::new("voxgate.carried_out", carried_out)]);
        if ends && carried_out && entry.calls.get(&call).is_some_and(|hosted| hosted.claim.fence == fence) {
            entry.calls.remove(&call);
        }
        Some((call, origin))
    }

    /// Another stream, on another replica, speaks for the node: this one falls silent.
    pub fn give_up(&self, address: &NodeAddress, stream: u64) {
        let mut nodes = self.nodes();
        if nodes.get(address).is_some_and(|entry| entry.stream == stream) {
            nodes.remove(address);
        }
    }

    /// Calls that the node carries, and that it may be about to.
    pub fn load(&self, address: &NodeAddress) -> usize {
        self.nodes().get(address).map_or(0, Entry::load)
    }

    /// Tells every node, those with a full mailbox excepted.
    pub fn broadcast(&self, message: &ToNode) {
        for entry in self.nodes().values() {
            let _ = entry.mailbox.try_send(message.clone());
        }
    }
}

impl Postbox for NodeRegistry {
    fn post(&self, to: &NodeAddress, message: ToNode) -> Result<(), Unreachable> {
        let nodes = self.nodes();
        let entry = nodes.get(to).ok_or(Unreachable)?;
        entry.mailbox.try_send(message).map_err(|_| Unreachable)
    }
}

impl Connection {
    /// Whether this stream still speaks for the node.
    pub fn is_current(&self) -> bool {
        self.registry.nodes().get(&self.address).is_some_and(|entry| entry.stream == self.stream)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.registry.give_up(&self.address, self.stream);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        Env,
        ids::{SessionId, VoiceAgentId},
        lease::Direction,
    };

    fn profile(capacity: u32) -> NodeProfile {
        NodeProfile { subprotocol: Subprotocol::AudioDrachtioOrg, capacity, version: "test".into() }
    }

    fn claim(env: &Env) -> LeaseClaim {
        LeaseClaim {
            lease: LeaseId::new(env, VoiceAgentId::new(env)),
            session: SessionId::new(env),
            fence: 1,
            direction: Direction::Inbound,
            sandbox: false,
        }
    }

    fn address(tenant: TenantId, name: &str) -> NodeAddress {
        NodeAddress { tenant, sandbox: false, node: name.parse().expect("a node id") }
    }

    #[test]
    fn the_least_loaded_node_that_fits_is_chosen() {
        let (env, registry) = (Env::system(), Arc::new(NodeRegistry::default()));
        let tenant = TenantId::new(&env);
        let (_small, _s) = registry.connect(address(tenant, "small"), profile(1));
        let (_large, _l) = registry.connect(address(tenant, "large"), profile(10));
        let (_other, _o) = registry.connect(address(TenantId::new(&env), "other"), profile(99));
        let lease = claim(&env);
        registry.assign(&address(tenant, "large"), &"a".parse().expect("a call id"), lease, None);
        let reserve = |sandbox| registry.reserve(tenant, sandbox, Subprotocol::AudioDrachtioOrg);
        let node = |room: &Option<Reservation>| room.as_ref().map(|room| room.node().to_string());
        assert_eq!(node(&reserve(true)), None, "no sandbox node is connected");
        let first = reserve(false);
        assert_eq!(node(&first).as_deref(), Some("small"));
        assert_eq!(node(&reserve(false)).as_deref(), Some("large"), "small is full");
        drop(first);
        assert_eq!(node(&reserve(false)).as_deref(), Some("small"), "the room was given back");
    }

    #[test]
    fn a_call_is_found_where_it_is_under_its_lease() {
        let (env, registry) = (Env::system(), Arc::new(NodeRegistry::default()));
        let here = address(TenantId::new(&env), "node");
        let (_connection, _inbox) = registry.connect(here.clone(), profile(1));
        let call = "a".parse().expect("a call id");
        let (held, former) = (claim(&env), claim(&env));
        registry.assign(&here, &call, held, None);
        assert_eq!(registry.host_of(here.tenant, &call, held.lease), Some(here.clone()));
        assert_eq!(registry.host_of(here.tenant, &call, former.lease), None);
        assert_eq!(registry.host_of(TenantId::new(&env), &call, held.lease), None);
    }

    #[test]
    fn the_end_of_a_former_lease_leaves_the_call_that_was_admitted_afresh() {
        let (env, registry) = (Env::system(), Arc::new(NodeRegistry::default()));
        let here = address(TenantId::new(&env), "node");
        let (_connection, _inbox) = registry.connect(here.clone(), profile(1));
        let (former, fresh) = (claim(&env), claim(&env));
        let call = "a".parse().expect("a call id");
        registry.assign(&here, &call, former, None);
        registry.assign(&here, &call, fresh, None);
        registry.unassign(&here, &call, former.lease);
        assert!(registry.hosts(&here, &call, fresh.lease));
        registry.unassign(&here, &call, fresh.lease);
        assert!(!registry.hosts(&here, &call, fresh.lease));
    }

    #[test]
    fn an_older_stream_that_ends_does_not_take_the_newer_one_with_it() {
        let (env, registry) = (Env::system(), Arc::new(NodeRegistry::default()));
        let here = address(TenantId::new(&env), "node");
        let (older, _o) = registry.connect(here.clone(), profile(1));
        let (newer, mut inbox) = registry.connect(here.clone(), profile(1));
        assert!(!older.is_current() && newer.is_current());
        drop(older);
        registry
            .post(&here, ToNode::Drain { deadline: Timestamp::from_micros(0) })
            .expect("the newer stream is reached");
        assert!(inbox.try_recv().is_ok());
        drop(newer);
        assert_eq!(registry.post(&here, ToNode::Drain { deadline: Timestamp::from_micros(0) }), Err(Unreachable));
    }
}
