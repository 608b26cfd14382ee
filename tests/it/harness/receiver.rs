//! A receiver of webhooks: a real HTTP server that notes all it gets, and fails as it is told.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse as _, Redirect, Response},
};
use futures_util::stream;
use tokio::{net::TcpListener, task::JoinHandle};

use super::world::eventually;

/// How a post is answered.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Status(u16),
    /// Never.
    Hang,
    /// With this status, as late.
    Late(Duration, u16),
    RedirectTo(String),
    /// 200, and a body without end.
    Endless,
}

/// A post as it came.
#[derive(Debug, Clone)]
pub(crate) struct Post {
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl Post {
    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).expect("JSON")
    }
}

#[derive(Debug)]
struct Script {
    next: VecDeque<Answer>,
    otherwise: Answer,
    posts: Vec<Post>,
}

/// It ends with its scope.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    script: Arc<Mutex<Script>>,
    task: JoinHandle<()>,
}

impl Receiver {
    /// Answers 204.
    pub(crate) async fn start() -> Self {
        Self::answering(Answer::Status(204)).await
    }

    pub(crate) async fn answering(otherwise: Answer) -> Self {
        let script = Arc::new(Mutex::new(Script { next: VecDeque::new(), otherwise, posts: Vec::new() }));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}/hook", listener.local_addr().expect("its own"));
        let router = Router::new().fallback(receive).with_state(script.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { url, script, task }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.script.lock().expect("nobody panics while holding it")
    }

    /// The next posts, before all others.
    pub(crate) fn answers_next(&self, next: impl IntoIterator<Item = Answer>) {
        self.script().next.extend(next);
    }

    pub(crate) fn answers(&self, otherwise: Answer) {
        self.script().otherwise = otherwise;
    }

    /// In the order in which they came.
    pub(crate) fn posts(&self) -> Vec<Post> {
        self.script().posts.clone()
    }

    /// The ids of the events that came.
    pub(crate) fn events(&self) -> BTreeSet<String> {
        self.posts().iter().map(|post| post.header("webhook-id").to_owned()).collect()
    }

    /// Waits for so many events, and answers all posts until then.
    pub(crate) async fn received(&self, events: usize) -> Vec<Post> {
        let all = async || (self.events().len() >= events).then(|| self.posts());
        eventually(&format!("{events} events"), all).await
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn receive(State(script): State<Arc<Mutex<Script>>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, 1 << 20).await.expect("a body");
    let text = |value: &http::HeaderValue| value.to_str().expect("visible ASCII").to_owned();
    let headers = parts.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect();
    let post = Post { headers, body: String::from_utf8(body.to_vec()).expect("UTF-8") };
    let answer = {
        let mut script = script.lock().expect("nobody panics while holding it");
        script.posts.push(post);
        script.next.pop_front().unwrap_or_else(|| script.otherwise.clone())
    };
    match answer {
        Answer::Status(status) => status_of(status),
        Answer::Hang => std::future::pending().await,
        Answer::Late(delay, status) => {
            tokio::time::sleep(delay).await;
            status_of(status)
        }
        Answer::RedirectTo(url) => Redirect::temporary(&url).into_response(),
        Answer::Endless => {
            let chunks = stream::unfold((), async |()| {
                tokio::time::sleep(Duration::from_millis(1)).await;
                Some((Ok::<_, std::convert::Infallible>(vec![b'x'; 1_024]), ()))
            });
            Body::from_stream(chunks).into_response()
        }
    }
}

fn status_of(status: u16) -> Response {
    StatusCode::from_u16(status).expect("a status").into_response()
}
