//! Redis: the connections that all rooms of this replica share, and how a script is run on them.
//!
//! One server, the master that sentinels name, or a cluster: the URL says which, and no room has to know. What a failure
//! means is for the room to say: [`Failure`] tells a server that cannot serve now from a mistake of ours, and names
//! nobody's store. The scripts and their keys are in the rooms too.
//!
//! Deliberately absent: retries of what may have been carried out. Only the caller knows whether the same may be asked
//! twice.

mod clock;
mod cluster;
mod dial;
pub(crate) mod examine;
mod identity;
mod link;
mod map;
mod meter;
mod script;
mod settings;
mod slots;
mod subscriber;
mod target;
mod watch;

use std::{sync::Arc, time::Duration};

use deadpool_redis::redis::{Cmd, ErrorKind, RedisError, ServerErrorKind, Value, aio::PubSub};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::{runtime::Handle, sync::mpsc, time::Instant};

pub use self::{
    clock::ClockWitness,
    script::{Script, ScriptInvocation},
    settings::RedisSettings,
    subscriber::Message,
};
use self::{
    cluster::Cluster,
    dial::{Dialer, Sentinels, Why},
    link::{Link, Place, Trouble},
    target::{Home, Target},
    watch::{Said, Watch},
};
use crate::domain::{Error, Result, error::Internal, violations::Violations};

/// What stops a script that looks at another agent's keys while their slot moves.
const NON_LOCAL: &str = "non local key";

/// Why a command has no answer.
#[derive(Debug)]
pub enum Failure {
    /// Redis could not be reached: the command was not sent.
    Unsent(Internal),
    /// Redis did not answer in time, or cannot serve now.
    Unavailable(Internal),
    /// The command was wrong.
    OurBug(Internal),
}

impl Failure {
    /// The same once more, for another who asked together with the first.
    #[must_use]
    pub fn again(&self) -> Self {
        match self {
            Self::Unsent(why) => Self::Unsent(Internal::new(why.to_string())),
            Self::Unavailable(why) => Self::Unavailable(Internal::new(why.to_string())),
            Self::OurBug(why) => Self::OurBug(Internal::new(why.to_string())),
        }
    }

    /// What stopped a part of a script that caught it.
    pub fn of_part(why: &str) -> Self {
        let of = if why.contains(NON_LOCAL) { Self::Unavailable } else { Self::OurBug };
        of(Internal::new(why))
    }

    /// The failure of a room whose store is `unavailable` without Redis.
    pub fn or_else(self, unavailable: impl FnOnce(Internal) -> Error) -> Error {
        match self {
            Self::Unsent(why) | Self::Unavailable(why) => unavailable(why),
            Self::OurBug(why) => Error::Internal(why),
        }
    }
}

impl From<Trouble> for Failure {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Unreachable(why) => Self::Unsent(Internal::new(why.as_ref())),
            Trouble::Silent => Self::Unavailable(Internal::new("Redis did not answer in time")),
            Trouble::Failed(error) if is_our_bug(&error) => Self::OurBug(Internal::new(error)),
            Trouble::Failed(error) => Self::Unavailable(Internal::new(error)),
        }
    }
}

/// Redis (6.2 or later) of policy `noeviction`. Clones share the connections.
#[derive(Debug, Clone)]
pub struct Redis {
    servers: Servers,
    watch: Arc<Watch>,
    settings: RedisSettings,
}

#[derive(Debug, Clone)]
enum Servers {
    One(Link),
    Cluster(Cluster),
}

impl Servers {
    /// A connection to listen on. In a cluster what is said to one is said to all.
    async fn listen(&self) -> Result<PubSub, Why> {
        match self {
            Self::One(link) => link.listen().await,
            Self::Cluster(cluster) => cluster.listen().await,
        }
    }
}

impl Redis {
    /// Connects with the first command, and again whenever that is necessary: a Redis that is down just now is no
    /// error here, only a URL that cannot be one and files that cannot be read.
    pub fn connect(url: &SecretString, settings: RedisSettings) -> Result<Self> {
        let Target { home, is_tls, login, sentinel_login } = target(url, &settings)?;
        let runtime = Handle::try_current().ok();
        let server = Dialer { login, is_tls, settings: settings.clone(), runtime };
        let budget = settings.command_timeout();
        let servers = match home {
            Home::One(address) => Servers::One(Link::new(Place::At(address, server), budget)),
            Home::Cluster(seeds) => Servers::Cluster(Cluster::new(seeds, server)),
            Home::Sentinels { addresses, master } => {
                let sentinel = Dialer { login: sentinel_login, ..server.clone() };
                Servers::One(Link::new(Place::Master(Sentinels { addresses, master, sentinel, server }), budget))
            }
        };
        Ok(Self { servers, watch: Arc::default(), settings })
    }

    /// Runs a script, also one that the server has forgotten.
    pub async fn invoke(&self, script: &ScriptInvocation<'_>) -> Result<Value, Failure> {
        let began = Instant::now();
        let answer = self.run(script, began + self.budget()).await;
        script.meter().note(&answer, began.elapsed());
        answer
    }

    async fn run(&self, script: &ScriptInvocation<'_>, deadline: Instant) -> Result<Value, Failure> {
        match self.send(script, &script.by_hash(), deadline).await {
            Err(Trouble::Failed(error)) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                Ok(self.send(script, &script.by_text(), deadline).await?)
            }
            answer => Ok(answer?),
        }
    }

    /// Listens to a channel until the receiver is dropped; what `read` makes nothing of is passed over.
    pub fn subscribe<T: Send + 'static>(
        &self,
        channel: String,
        read: impl Fn(Message) -> Option<T> + Send + Sync + 'static,
    ) -> mpsc::Receiver<T> {
        subscriber::subscribe(self.servers.clone(), channel, read)
    }

    /// Which server a script that touches `key` would be run on, by a name that no other process of Redis has or will
    /// have; empty where it does not tell. A server by another name may lack what the one before has acknowledged.
    pub async fn server(&self, key: &str) -> Result<(Arc<str>, ClockWitness), Failure> {
        let deadline = self.deadline();
        Ok(self.link_of(key, deadline).await?.server(deadline).await?)
    }

    /// Looks at the clock of that server: what [`Self::server`] tells of it afterwards is true as of now.
    pub async fn look_at_clock(&self, key: &str) -> Result<(), Failure> {
        let deadline = self.deadline();
        Ok(self.link_of(key, deadline).await?.look_at_clock(deadline).await?)
    }

    async fn link_of(&self, key: &str, deadline: Instant) -> Result<Link, Trouble> {
        match &self.servers {
            Servers::One(link) => Ok(link.clone()),
            Servers::Cluster(cluster) => cluster.owning(slots::slot_of(key.as_bytes()), deadline).await,
        }
    }

    /// Whether Redis answers and may be trusted with what it is given; a cluster does as long as one of its servers
    /// does. Raises the alarms of [`watch`] and of [`clock`]. More patient than a caller is: a replica that is taken out of service for a
    /// hiccup makes it an outage.
    pub async fn check(&self) -> Result<(), Failure> {
        let deadline = Instant::now() + self.settings.command_timeout().max(self.settings.connect_timeout());
        let mut fullest = 0.0_f64;
        let mut links = Vec::new();
        match &self.servers {
            Servers::One(link) => links.push((String::new(), link.clone())),
            Servers::Cluster(cluster) => {
                cluster.ping(deadline).await?;
                links.extend(cluster.links());
            }
        }
        for (name, link) in links {
            let said = match Said::by(&link, deadline).await {
                Ok(said) => said,
                // One server of a cluster is missed by its own tenants alone.
                Err(_) if !name.is_empty() => continue,
                Err(trouble) => return Err(trouble.into()),
            };
            fullest = fullest.max(self.watch.note(&name, &said));
            if let Some(why) = said.refusal() {
                return Err(Failure::Unavailable(Internal::new(why)));
            }
        }
        metrics::gauge!("voxgate_slot_store_memory_ratio").set(fullest);
        Ok(())
    }

    async fn send(&self, script: &ScriptInvocation<'_>, command: &Cmd, deadline: Instant) -> Result<Value, Trouble> {
        match &self.servers {
            Servers::One(link) => link.send(command, false, deadline).await,
            Servers::Cluster(cluster) => cluster.send(slots::slot_of(script.first_key()), command, deadline).await,
        }
    }

    /// How long one command may take.
    pub fn budget(&self) -> Duration {
        self.settings.command_timeout()
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.budget()
    }
}

/// What the URL says, if it and the files beside it can be used.
fn target(url: &SecretString, settings: &RedisSettings) -> Result<Target, Violations> {
    let mut violations = Violations::default();
    let parsed = Target::parse(url.expose_secret()).map_err(|faults| violations.absorb("", faults)).ok();
    settings.check_files(parsed.as_ref().is_none_or(|target| target.is_tls), &mut violations);
    violations.into_result(parsed)
}

/// `ERR` comes from a script's own check, `WRONGTYPE` from a key that is not what we made it, `CROSSSLOT` from keys
/// without a common tag; every other code (LOADING, READONLY, NOREPLICAS, OOM…) says that Redis cannot serve now.
/// A script that looks at another agent's keys while their slot moves is stopped by an `ERR` too.
fn is_our_bug(error: &RedisError) -> bool {
    let is_moving = error.detail().is_some_and(|detail| detail.contains(NON_LOCAL));
    !is_moving && matches!(code_of(error), Some("ERR" | "WRONGTYPE" | "CROSSSLOT"))
}

/// The code of what the server answers. Redis before 7 wraps what stopped a script: `ERR Error running script (…):
/// … -READONLY You can't write…`.
fn code_of(error: &RedisError) -> Option<&str> {
    let code = error.code()?;
    let wrapped = || {
        let detail = error.detail().filter(|detail| detail.starts_with("Error running script"))?;
        detail.split_whitespace().find_map(|word| {
            word.strip_prefix('-').filter(|it| it.len() > 1 && it.bytes().all(|byte| byte.is_ascii_uppercase()))
        })
    };
    Some(if code == "ERR" { wrapped().unwrap_or(code) } else { code })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(line: &str) -> RedisError {
        let value = deadpool_redis::redis::parse_redis_value(format!("-{line}\r\n").as_bytes()).expect("a reply");
        value.extract_error().expect_err("an error")
    }

    #[test]
    fn what_stops_a_script_is_told_from_a_script_that_is_wrong() {
        for (line, code, is_bug) in [
            ("ERR bad lease", "ERR", true),
            ("WRONGTYPE Operation against a key", "WRONGTYPE", true),
            ("CROSSSLOT Keys in request", "CROSSSLOT", true),
            ("READONLY You can't write against a read only replica.", "READONLY", false),
            ("NOREPLICAS Not enough good replicas to write.", "NOREPLICAS", false),
            ("OOM command not allowed", "OOM", false),
            ("LOADING Redis is loading", "LOADING", false),
            (
                "ERR Error running script (call to f_1): @user_script:3: @user_script: 3: -READONLY You can't write",
                "READONLY",
                false,
            ),
            ("ERR Error running script (call to f_1): @user_script:3: user_script:3: bad lease", "ERR", true),
        ] {
            let error = answered(line);
            assert_eq!((code_of(&error), is_our_bug(&error)), (Some(code), is_bug), "{line}");
        }
    }
}
