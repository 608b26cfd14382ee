//! A simulated media node: a client of `MediaNodeService.Connect` that hosts calls without any audio.
//!
//! It speaks the public protocol and nothing else, so it is what a real node's author can read, and what tests drive
//! verbs through. Its calls live in [`calls`] and outlast a lost stream; [`stream`] is one stream's life. It connects again,
//! with growing and jittered delay, until it is stopped. It fails where [`script`] says so. Deliberately absent: sockets to
//! AI services, audio, SIP.

mod call;
mod calls;
mod delay;
mod memory;
mod recent;
mod script;
mod stream;
mod verbs;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code,
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, ClientTlsConfig, Endpoint, Identity},
};

pub use self::script::{Failure, Malformed, Rule, SLOWEST, Script};
use self::{calls::Calls, delay::Delay, recent::Recent, stream::Ended};
use crate::{domain::Env, proto::v1};

/// A partition is noticed after both together; without them a half-dead connection is never given up.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

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

/// Files in PEM. They are read at each connect, so that a certificate of hours may be renewed beside the node.
#[derive(Debug, Clone)]
pub struct TlsOptions {
    /// The authorities of the service.
    pub ca: PathBuf,
    /// The node's own certificate and its key.
    pub identity: Option<(PathBuf, PathBuf)>,
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
    let authorization = options.key.as_ref().map(authorization).transpose()?;
    // What is wrong with the options is wrong from the start.
    endpoint(&options)?;
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
        let code = self.why.code();
        matches!(
            code,
            Some(Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented)
        )
    }
}

fn endpoint(options: &Options) -> anyhow::Result<Endpoint> {
    let mut endpoint = Endpoint::from_shared(options.endpoint.clone()).context("the endpoint is not a URL")?;
    let is_https = endpoint.uri().scheme_str() == Some("https");
    anyhow::ensure!(is_https == options.tls.is_some(), "an authority is needed for https://, and for nothing else");
    if let Some(tls) = &options.tls {
        endpoint = endpoint.tls_config(tls.config()?)?;
    }
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

impl TlsOptions {
    fn config(&self) -> anyhow::Result<ClientTlsConfig> {
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("{} cannot be read", path.display()));
        let config = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(&self.ca)?));
        Ok(match &self.identity {
            Some((cert, key)) => config.identity(Identity::from_pem(read(cert)?, read(key)?)),
            None => config,
        })
    }
}

fn authorization(key: &SecretString) -> anyhow::Result<MetadataValue<Ascii>> {
    let mut value: MetadataValue<Ascii> =
        format!("Bearer {}", key.expose_secret()).parse().context("the key is not visible ASCII")?;
    value.set_sensitive(true);
    Ok(value)
}
