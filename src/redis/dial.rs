//! How a server is connected to, and how a master is found among sentinels.

use std::time::Duration;

use deadpool_redis::redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, FromRedisValue, IntoConnectionInfo as _, RedisConnectionInfo,
    RedisError,
    aio::{MultiplexedConnection, PubSub},
    cmd,
};
use tokio::{runtime::Handle, task::JoinSet, time::timeout};

use super::{settings::RedisSettings, target::Address};

/// Why no connection came about, for the log.
pub(super) type Why = String;

/// Connects to servers under one login.
#[derive(Debug, Clone)]
pub(super) struct Dialer {
    pub(super) login: RedisConnectionInfo,
    pub(super) is_tls: bool,
    pub(super) settings: RedisSettings,
    /// Where connections live: the threads that serve requests come and go, and are busy.
    pub(super) runtime: Option<Handle>,
}

impl Dialer {
    /// Has something done beside the caller; on the caller's own runtime where there was none at the start.
    pub(super) fn spawn(&self, work: impl Future<Output = ()> + Send + 'static) {
        match &self.runtime {
            Some(runtime) => drop(runtime.spawn(work)),
            None => drop(tokio::spawn(work)),
        }
    }

    /// A connection that has answered, within the time to connect. Names are resolved and certificates read anew.
    pub(super) async fn dial(&self, address: &Address) -> Result<MultiplexedConnection, Why> {
        let client = self.client(address.clone()).await.map_err(|error| error.to_string())?;
        let limit = self.settings.connect_timeout();
        // What waits is limited by its caller, who knows how much time is left.
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(limit)).set_response_timeout(None);
        let connected = timeout(limit, client.get_multiplexed_async_connection_with_config(&config)).await;
        connected.map_err(|_| format!("no connection within {limit:?}"))?.map_err(|error| error.to_string())
    }

    /// A connection to listen on, within the time to connect.
    pub(super) async fn listen(&self, address: &Address) -> Result<PubSub, Why> {
        let client = self.client(address.clone()).await.map_err(|error| error.to_string())?;
        let limit = self.settings.connect_timeout();
        let connected = timeout(limit, client.get_async_pubsub()).await;
        connected.map_err(|_| format!("no connection within {limit:?}"))?.map_err(|error| error.to_string())
    }

    async fn client(&self, Address { host, port }: Address) -> Result<Client, RedisError> {
        if !self.is_tls {
            let info = ConnectionAddr::Tcp(host, port).into_connection_info()?;
            return Client::open(info.set_redis_settings(self.login.clone()));
        }
        let settings = self.settings.clone();
        let read = tokio::task::spawn_blocking(move || settings.certificates()).await;
        let certificates = read.map_err(std::io::Error::other)??;
        let addr = ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None };
        let info = addr.into_connection_info()?.set_redis_settings(self.login.clone());
        Client::build_with_tls(info, certificates)
    }
}

/// Asks one thing of a connection, within `limit`.
pub(super) async fn ask<T: FromRedisValue>(
    connection: &mut MultiplexedConnection,
    words: &[&str],
    limit: Duration,
) -> Result<T, Why> {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    let answer = timeout(limit, command.query_async(connection)).await;
    answer.map_err(|_| format!("no answer to {} within {limit:?}", words[0]))?.map_err(|error| error.to_string())
}

/// Those who know which server is the master.
#[derive(Debug)]
pub(super) struct Sentinels {
    pub(super) addresses: Vec<Address>,
    pub(super) master: String,
    /// Under the login that the sentinels want.
    pub(super) sentinel: Dialer,
    pub(super) server: Dialer,
}

/// What one sentinel says of the master.
pub(super) struct Told {
    pub(super) address: Address,
    /// It rises with each failover, so of two sentinels the one that was cut off says the smaller.
    epoch: u64,
    /// A majority has agreed that the master is down: another one is about to be chosen.
    is_down: bool,
}

impl Sentinels {
    /// A connection to the master: the one that the newest word of a majority of the sentinels names, provided that it
    /// calls itself one. Without a majority, the newest word of those who answer in time.
    pub(super) async fn find(&self) -> Result<MultiplexedConnection, Why> {
        let told = self.newest_word().await?;
        if told.is_down {
            return Err(format!("the sentinels say that {} is down", self.master));
        }
        let mut connection = self.server.dial(&told.address).await?;
        let limit = self.server.settings.connect_timeout();
        let role: Vec<deadpool_redis::redis::Value> = ask(&mut connection, &["ROLE"], limit).await?;
        let role = role.into_iter().next().map(deadpool_redis::redis::from_redis_value::<String>);
        match role {
            Some(Ok(role)) if role == "master" => Ok(connection),
            other => Err(format!("the server that the sentinels name is no master yet: {other:?}")),
        }
    }

    /// A connection to listen on, to the server that they name.
    pub(super) async fn listen(&self) -> Result<PubSub, Why> {
        let told = self.newest_word().await?;
        self.server.listen(&told.address).await
    }

    async fn newest_word(&self) -> Result<Told, Why> {
        let mut asked = JoinSet::new();
        for address in self.addresses.clone() {
            let (dialer, master) = (self.sentinel.clone(), self.master.clone());
            asked.spawn(async move { word_of(&dialer, &address, &master).await });
        }
        let (mut newest, mut answers, mut why): (Option<Told>, usize, _) = (None, 0, String::new());
        while let Some(answer) = asked.join_next().await {
            match answer.map_err(|error| error.to_string()).and_then(|told| told) {
                Ok(told) => {
                    answers += 1;
                    if newest.as_ref().is_none_or(|newest| newest.epoch < told.epoch) {
                        newest = Some(told);
                    }
                    if answers > self.addresses.len() / 2 {
                        break;
                    }
                }
                Err(fault) => why = fault,
            }
        }
        newest.ok_or_else(|| format!("no sentinel names the master {}: {why}", self.master))
    }
}

pub(super) async fn word_of(dialer: &Dialer, address: &Address, master: &str) -> Result<Told, Why> {
    let mut connection = dialer.dial(address).await?;
    let limit = dialer.settings.connect_timeout();
    let said: std::collections::HashMap<String, String> =
        ask(&mut connection, &["SENTINEL", "MASTER", master], limit).await?;
    let number = |name: &str| said.get(name).and_then(|text| text.parse::<u64>().ok());
    let port = number("port").and_then(|port| u16::try_from(port).ok());
    let (Some(host), Some(port)) = (said.get("ip").cloned(), port) else {
        return Err("a sentinel's answer has no address".to_owned());
    };
    let is_down = said.get("flags").is_some_and(|flags| flags.contains("o_down"));
    Ok(Told { address: Address { host, port }, epoch: number("config-epoch").unwrap_or(0), is_down })
}
