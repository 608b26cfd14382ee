//! `voxgate top`: how full a tenant and its voice agents are, as it changes.
//!
//! It is a client of the public API, under a key of the tenant: ListVoiceAgents says who there is, and a stream of
//! WatchUsage each says how full ([`watch`]). What was told is kept in a [`View`], which is drawn to a terminal
//! ([`screen`], [`draw`]) or printed once as a table ([`table`]). A connection that is lost is sought again, and what was
//! told last is shown grey meanwhile.
//!
//! Denials and media nodes are no tenant's business, so the API does not tell of them: where admin ports are named, the
//! replicas' metrics do ([`replicas`]).

mod draw;
mod replicas;
mod screen;
mod table;
mod view;
mod watch;

use std::{
    io::{IsTerminal as _, Write as _},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use secrecy::SecretString;
use tokio::{
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

pub use self::{draw::draw, view::View};
use self::{view::News, watch::watch};
use crate::client::TlsOptions;

/// News that the screen has not taken in yet.
const NEWS: usize = 1_024;
/// For `--once`: a service that is well has told everything within a second.
const ONCE_WITHIN: Duration = Duration::from_secs(10);

/// Whose usage is looked at, and where.
#[derive(Debug, Clone)]
pub struct Options {
    /// Such as `http://127.0.0.1:50051`.
    pub endpoint: String,
    /// An API key with `slots:acquire` and, for the agents' names, `voice_agents:read`; absent: the certificate is what
    /// the client is known by.
    pub key: Option<SecretString>,
    /// For an endpoint of `https://`.
    pub tls: Option<TlsOptions>,
    /// Only these agents, by id; none: all that are not archived.
    pub agents: Vec<String>,
    /// Admin ports of replicas whose metrics are shown too, such as `http://127.0.0.1:9090`.
    pub admins: Vec<String>,
}

/// Shows it until `q`, Ctrl-C or `stop`.
pub async fn run(options: Options, stop: CancellationToken) -> anyhow::Result<()> {
    anyhow::ensure!(
        std::io::stdout().is_terminal(),
        "stdout is no terminal; `voxgate top --once` prints one table and needs none"
    );
    let view = View::new(&options.endpoint, &options.admins);
    let (news, watching) = follow(options)?;
    let shown = screen::show(view, news, stop).await?;
    match shown {
        screen::Ended::Left => Ok(()),
        screen::Ended::NoMoreNews => watching.await?,
    }
}

/// Prints what is told first, as one table.
pub async fn once(options: Options) -> anyhow::Result<()> {
    let view = look(options).await?;
    Ok(std::io::stdout().write_all(table::text(&view, Instant::now()).as_bytes())?)
}

/// What is told first of everything; an error where nothing is.
pub async fn look(options: Options) -> anyhow::Result<View> {
    let mut view = View::new(&options.endpoint, &options.admins);
    let (mut news, watching) = follow(options)?;
    let heard = timeout(ONCE_WITHIN, async {
        while let Some(told) = news.recv().await {
            if let News::Lost { why, .. } = &told {
                anyhow::bail!("the service cannot be watched: {why}");
            }
            view.take_in(told, Instant::now());
            if view.is_complete() {
                return Ok(());
            }
        }
        // The watch has ended, which it does for a reason alone.
        watching.await?
    });
    match heard.await {
        Ok(heard) => heard.map(|()| view),
        Err(_) if view.is_told() => Ok(view),
        Err(_) => anyhow::bail!("nothing was told within {} s", ONCE_WITHIN.as_secs()),
    }
}

/// Begins to watch. It ends when the receiver is dropped, or with what trying again cannot mend.
fn follow(options: Options) -> anyhow::Result<(mpsc::Receiver<News>, JoinHandle<anyhow::Result<()>>)> {
    // What is wrong with the options is wrong from the start.
    crate::client::endpoint(&options.endpoint, options.tls.as_ref())?;
    let authorization = options.key.as_ref().map(crate::client::authorization).transpose().context("--key")?;
    let admins = options.admins.iter().map(|url| replicas::address(url)).collect::<anyhow::Result<Vec<_>>>()?;
    let (sender, news) = mpsc::channel(NEWS);
    let watching = async move {
        let mut replicas = JoinSet::new();
        for (replica, admin) in admins.into_iter().enumerate() {
            replicas.spawn(replicas::follow(replica, admin, sender.clone()));
        }
        // With the watch ends the rest, so that its end is heard.
        watch(options, authorization, sender).await
    };
    Ok((news, tokio::spawn(watching)))
}
