//! One post of an event, and what came of it.

use std::{fmt, path::Path, time::Duration};

use http::{Request, Response, header};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Bytes, Incoming};
use hyper_util::{
    client::legacy::{Client, Error as ClientError},
    rt::{TokioExecutor, TokioTimer},
};

use url::Url;

use super::dial::{DialError, Dialler};
use crate::domain::{clock::Timestamp, error::Internal, webhook::Attempt};

const USER_AGENT: &str = concat!("voxgate/", env!("CARGO_PKG_VERSION"));
/// Of an answer that is read, so that its connection can be used again; a longer one is hung up on.
const ANSWER_MAX_BYTES: usize = 16 * 1024;
/// For the rest of an answer whose status has come.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);
const IDLE_FOR: Duration = Duration::from_secs(30);
const IDLE_MAX: usize = 4;
/// Of one answer's head; hyper reads at least 8 KiB.
const HEAD_MAX_BYTES: usize = 32 * 1024;

/// What goes over the wire: a body, and the headers of Standard Webhooks.
#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) url: String,
    pub(super) id: String,
    pub(super) at: Timestamp,
    /// By each secret that counts, with a blank between them.
    pub(super) signatures: String,
    pub(super) body: Vec<u8>,
}

#[derive(Clone)]
pub(super) struct Poster {
    client: Client<Dialler, Full<Bytes>>,
    timeout: Duration,
}

impl Poster {
    pub(super) fn new(allow_private: bool, ca_file: Option<&Path>, timeout: Duration) -> Result<Self, Internal> {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(IDLE_MAX)
            .http1_max_buf_size(HEAD_MAX_BYTES)
            .build(Dialler::new(allow_private, ca_file)?);
        Ok(Self { client, timeout })
    }

    pub(super) async fn post(&self, message: Message) -> Attempt {
        let Ok(request) = request(message) else { return Attempt::failed("the URL cannot be posted to") };
        match tokio::time::timeout(self.timeout, self.client.request(request)).await {
            Ok(Ok(answer)) => {
                let attempt = Attempt::answered(answer.status().as_u16());
                hear_out(answer).await;
                attempt
            }
            Ok(Err(error)) => Attempt::failed(in_words(&error)),
            Err(_) => Attempt::failed(format!("no answer came within {} s", self.timeout.as_secs_f32())),
        }
    }
}

impl fmt::Debug for Poster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Poster").field("timeout", &self.timeout).finish_non_exhaustive()
    }
}

fn request(message: Message) -> Result<Request<Full<Bytes>>, http::Error> {
    // The standard's spelling of it: what was taken as a URL need not be one byte for byte.
    let url = Url::parse(&message.url).map_or(message.url, String::from);
    Request::post(url)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::USER_AGENT, USER_AGENT)
        .header("webhook-id", message.id)
        .header("webhook-timestamp", message.at.as_secs())
        .header("webhook-signature", message.signatures)
        .body(Full::new(message.body.into()))
}

/// What it says is of no interest, and may have no end.
async fn hear_out(answer: Response<Incoming>) {
    let mut body = answer.into_body();
    let heard = async {
        let mut heard = 0;
        while let Some(Ok(frame)) = body.frame().await {
            heard += frame.data_ref().map_or(0, Bytes::len);
            if heard > ANSWER_MAX_BYTES {
                return;
            }
        }
    };
    let _ = tokio::time::timeout(ANSWER_WITHIN, heard).await;
}

fn in_words(error: &ClientError) -> String {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(dial) = inner.downcast_ref::<DialError>() {
            return dial.to_string();
        }
        cause = inner.source();
    }
    match error.is_connect() {
        true => DialError::Unreachable.to_string(),
        false => "the connection broke before an answer came".to_owned(),
    }
}
