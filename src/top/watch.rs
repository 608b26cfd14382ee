//! The connection: who is watched, a stream each, and trying again.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::{Instant, MissedTickBehavior, interval_at},
};
use tonic::{
    Code, Request, Status,
    metadata::{Ascii, MetadataValue},
    transport::Channel,
};

use super::{
    Options,
    view::{Agent, News},
};
use crate::{
    client::{self, Delay},
    domain::Env,
    proto::v1::{
        GetVoiceAgentRequest, ListVoiceAgentsRequest, VoiceAgent, VoiceAgentStatus, WatchUsageRequest,
        admission_service_client::AdmissionServiceClient, voice_agent_service_client::VoiceAgentServiceClient,
    },
};

/// Streams of one connection: a service allows 200 by default, and lists need some too.
const AGENTS_MAX: usize = 150;
const PAGE: i32 = 100;
/// How often new agents are looked for.
const REFRESH: Duration = Duration::from_secs(30);
const ANSWER_WITHIN: Duration = Duration::from_secs(10);
const NO_NAMES: &str = "the key lacks voice_agents:read, so only the tenant is shown; name agents by --agent";

/// Why a connection is no longer of use.
enum Why {
    Unreachable(String),
    Told(Status),
    /// In good order: the replica goes.
    Closed,
    /// Nobody listens any more.
    Left,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(why) => f.write_str(why),
            Self::Told(status) => write!(f, "{:?}: {}", status.code(), status.message()),
            Self::Closed => f.write_str("closed by the service"),
            Self::Left => f.write_str("left"),
        }
    }
}

impl From<Status> for Why {
    fn from(status: Status) -> Self {
        Self::Told(status)
    }
}

/// Follows until nobody listens. An error is one that trying again cannot mend.
pub(super) async fn watch(
    options: Options,
    authorization: Option<MetadataValue<Ascii>>,
    news: mpsc::Sender<News>,
) -> anyhow::Result<()> {
    let (env, mut delay, mut was_told) = (Env::system(), Delay::default(), false);
    loop {
        let heard = Arc::new(AtomicBool::new(false));
        let connection = Connection { options: &options, authorization: authorization.as_ref(), news: &news, heard };
        let why = match connection.follow().await {
            Ok(()) => Why::Left,
            Err(why) => why,
        };
        let heard = connection.heard.load(Ordering::Relaxed);
        was_told |= heard;
        match &why {
            Why::Left => return Ok(()),
            Why::Told(status) if !was_told && client::is_refusal(status.code()) => {
                anyhow::bail!("the service refused: {why}")
            }
            _ => {}
        }
        if heard {
            delay.reset();
        }
        let again_in = delay.next(&env);
        if news.send(News::Lost { why: why.to_string(), again_in }).await.is_err() {
            return Ok(());
        }
        tokio::time::sleep(again_in).await;
    }
}

struct Connection<'a> {
    options: &'a Options,
    authorization: Option<&'a MetadataValue<Ascii>>,
    news: &'a mpsc::Sender<News>,
    /// Whether any usage was told: then the credential is good for it.
    heard: Arc<AtomicBool>,
}

/// The agent of a stream, none for the tenant, and why it ended.
type Ended = (Option<String>, Why);

impl Connection<'_> {
    /// Until the first stream ends that should not.
    async fn follow(&self) -> Result<(), Why> {
        let endpoint = client::endpoint(&self.options.endpoint, self.options.tls.as_ref())
            .map_err(|error| Why::Unreachable(format!("{error:#}")))?;
        let channel = endpoint.connect().await.map_err(|error| Why::Unreachable(in_words(&error)))?;
        let (mut streams, mut open) = (JoinSet::new(), HashMap::new());
        streams.spawn(self.stream(&channel, None));
        let mut refresh = interval_at(Instant::now(), REFRESH);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = refresh.tick() => self.refresh(&channel, &mut streams, &mut open).await?,
                Some(ended) = streams.join_next() => {
                    // One that was aborted is an agent that is no longer listed.
                    let Ok((agent, why)) = ended else { continue };
                    match (agent, why) {
                        (Some(agent), Why::Told(status)) if status.code() == Code::NotFound => {
                            open.remove(&agent);
                            self.tell(News::Gone(agent)).await?;
                        }
                        (_, why) => return Err(why),
                    }
                }
            }
        }
    }

    /// Lists the agents, opens a stream for those that are new and ends those of others.
    async fn refresh(
        &self,
        channel: &Channel,
        streams: &mut JoinSet<Ended>,
        open: &mut HashMap<String, AbortHandle>,
    ) -> Result<(), Why> {
        let (agents, note) = self.agents(channel).await?;
        open.retain(|id, stream| {
            let is_listed = agents.iter().any(|agent| agent.id == *id);
            if !is_listed {
                stream.abort();
            }
            is_listed
        });
        let new: Vec<_> = agents.iter().map(|agent| agent.id.clone()).filter(|id| !open.contains_key(id)).collect();
        self.tell(News::Agents { all: agents, note }).await?;
        for id in new {
            let stream = streams.spawn(self.stream(channel, Some(id.clone())));
            open.insert(id, stream);
        }
        Ok(())
    }

    /// Whom to watch, and what is to be said of those who are not.
    async fn agents(&self, channel: &Channel) -> Result<(Vec<Agent>, Option<String>), Why> {
        let mut client = VoiceAgentServiceClient::new(channel.clone());
        if !self.options.agents.is_empty() {
            let mut found = Vec::new();
            for id in &self.options.agents {
                let request = GetVoiceAgentRequest { id: id.clone(), ..GetVoiceAgentRequest::default() };
                // What is wrong with the id the stream will tell; without its name it can be watched.
                let agent =
                    client.get_voice_agent(self.request(request)).await.map(|answer| named(answer.into_inner()));
                found.push(agent.unwrap_or_else(|_| Agent { id: id.clone(), name: id.clone(), status: "" }));
            }
            return Ok((found, None));
        }
        let (mut found, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListVoiceAgentsRequest { page_size: PAGE, page_token, ..ListVoiceAgentsRequest::default() };
            let page = match client.list_voice_agents(self.request(request)).await {
                Ok(page) => page.into_inner(),
                Err(status) if status.code() == Code::PermissionDenied => {
                    return Ok((found, Some(NO_NAMES.to_owned())));
                }
                Err(status) => return Err(status.into()),
            };
            found.extend(page.voice_agents.into_iter().filter(|agent| !is_archived(agent)).map(named));
            if page.next_page_token.is_empty() || found.len() > AGENTS_MAX {
                break;
            }
            page_token = page.next_page_token;
        }
        let is_more = found.len() > AGENTS_MAX;
        found.truncate(AGENTS_MAX);
        Ok((found, is_more.then(|| format!("only the newest {AGENTS_MAX} agents are shown; name others by --agent"))))
    }

    /// Tells what is told of one agent, or of the tenant.
    fn stream(&self, channel: &Channel, agent: Option<String>) -> impl Future<Output = Ended> + Send + 'static {
        let mut client = AdmissionServiceClient::new(channel.clone());
        let mut request = Request::new(WatchUsageRequest { voice_agent_id: agent.clone() });
        self.authorize(&mut request);
        let (news, heard) = (self.news.clone(), self.heard.clone());
        async move {
            let why = async {
                let mut told = client.watch_usage(request).await?.into_inner();
                while let Some(usage) = told.message().await? {
                    heard.store(true, Ordering::Relaxed);
                    let told = News::Usage { agent: agent.clone(), usage };
                    news.send(told).await.map_err(|_| Why::Left)?;
                }
                Err(Why::Closed)
            }
            .await
            .map_or_else(|why| why, |(): ()| Why::Closed);
            (agent, why)
        }
    }

    async fn tell(&self, told: News) -> Result<(), Why> {
        self.news.send(told).await.map_err(|_| Why::Left)
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(ANSWER_WITHIN);
        self.authorize(&mut request);
        request
    }

    fn authorize<T>(&self, request: &mut Request<T>) {
        if let Some(authorization) = self.authorization {
            request.metadata_mut().insert("authorization", authorization.clone());
        }
    }
}

fn is_archived(agent: &VoiceAgent) -> bool {
    agent.status() == VoiceAgentStatus::Archived
}

fn named(agent: VoiceAgent) -> Agent {
    let status = match agent.status() {
        VoiceAgentStatus::Paused => "paused",
        VoiceAgentStatus::Archived => "archived",
        VoiceAgentStatus::Active | VoiceAgentStatus::Unspecified => "",
    };
    Agent { name: agent.name.unwrap_or_else(|| agent.id.clone()), id: agent.id, status }
}

/// The transport's own words are "transport error"; why is behind them.
fn in_words(error: &tonic::transport::Error) -> String {
    let mut last: &dyn std::error::Error = error;
    while let Some(inner) = last.source() {
        last = inner;
    }
    last.to_string()
}
