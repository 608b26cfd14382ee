//! A simulated media node: a client of `MediaNodeService.Connect` that hosts calls without any audio.
//!
//! It speaks the public protocol and nothing else, so it is what a real node's author can read, and what tests drive
//! verbs through. Its calls live in [`calls`] and outlast a lost stream; [`stream`] is one stream's life. It connects again,
//! with growing and jittered delay, until it is stopped. It fails where [`script`] says so. Deliberately absent: sockets to
//! AI services, audio, SIP.

mod call;
mod calls;
mod memory;
mod recent;
mod script;
mod stream;
mod verbs;

use std::time::Duration;

use anyhow::Context as _;
use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

pub use self::script::{Failure, Malformed, Rule, SLOWEST, Script};
use self::{calls::Calls, recent::Recent, stream::Ended};
pub use crate::client::TlsOptions;
use crate::{
    client::{self, Delay},
    domain::Env,
    proto::v1,
};

/// Who the node is, and how it behaves.
#[derive(Debug, Clone)]
pub struct Options {
    /// Such as `http://127.0.0.1:50051`.
    pub endpoint: String,
    /// An API key with `nodes:connect`; absent: the certificate is what the node is known by.
    pub key: Option<SecretString>,
    /// For an endpoint of `https://`.
    pub tls: Option<TlsOptions>,
    pub node_id: String,
    pub subprotocol: v1::Subprotocol,
    /// A sandbox node is given the calls of sandbox keys and no others.
    pub sandbox: bool,
    /// Calls it can host at once.
    pub capacity: i32,
    pub behavior: Behaviour,
}

/// What the node does with commands.
#[derive(Debug, Clone, Default)]
pub struct Behaviour {
    /// Between carrying a command out and acknowledging it, unless the script makes it slower.
    pub ack_delay: Duration,
    /// What is done with commands of which the script says nothing.
    pub policy: Policy,
    pub script: Script,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Policy {
    /// Carries out what the call's state allows.
    #[default]
    Accept,
    /// Refuses every command with reason `NODE_REJECTED` and carries out none.
    Reject,
    /// Neither carries out nor acknowledges: a node that hangs.
    Ignore,
}

impl Policy {
    const fn failure(self) -> Option<Failure> {
        match self {
            Self::Accept => None,
            Self::Reject => Some(Failure::Reject),
            Self::Ignore => Some(Failure::Ignore),
        }
    }
}

/// Runs the node until `stop`. An error is one that trying again cannot mend: a malformed option, or a first
/// Hello that was refused for what it said.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    let authorization = options.key.as_ref().map(client::authorization).transpose()?;
    // What is wrong with the options is wrong from the start.
    client::endpoint(&options.endpoint, options.tls.as_ref())?;
    let env = Env::system();
    let calls = Calls::new(env.clone(), options.behavior.clone());
    let mut node = Node { calls, recent: Recent::default(), options, env };
    let mut delay = Delay::default();
    let mut was_welcomed = false;
    loop {
        let life = stream::live(&mut node, authorization.clone());
        let ended = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            ended = life => ended,
        };
        was_welcomed |= ended.was_welcomed;
        if !was_welcomed && ended.is_refusal() {
            return Err(ended.why.into_error()).context("the service refused the node");
        }
        // A stream that ended well was replaced by another of the same name: two such nodes must not spin.
        if ended.was_welcomed && !ended.was_replaced() {
            delay.reset();
        }
        let wait = delay.next(&node.env);
        tracing::info!(
            node.id = node.options.node_id, node.calls = node.calls.len(), wait_ms = wait.as_millis(),
            reason = %ended.why, "the node's stream ended; it will connect again"
        );
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// What outlasts a stream.
#[derive(Debug)]
struct Node {
    options: Options,
    calls: Calls,
    recent: Recent,
    env: Env,
}

impl Ended {
    /// Whether the same Hello would be refused again.
    fn is_refusal(&self) -> bool {
        self.why.code().is_some_and(client::is_refusal)
    }
}
