//! One channel listened to, on a connection of its own that is made again whenever it breaks.
//!
//! Redis keeps no message for a listener that is away, so each new connection begins with [`Message::Missed`]: whoever
//! listens looks at what it may not have heard. A connection whose peer is gone without a word is found by a ping.

use std::time::Duration;

use deadpool_redis::redis::{Msg, RedisResult, aio::PubSubSink};
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;

use super::{Servers, dial::Why};

/// Between two attempts to connect.
const BACKOFF: Duration = Duration::from_millis(200);
/// How often a silent connection is asked whether it lives, and how long the answer may take.
const PING_EVERY: Duration = Duration::from_secs(2);
const PONG_WITHIN: Duration = Duration::from_secs(1);
/// Messages that wait for their reader; beyond that the connection waits, and Redis behind it.
const UNREAD_MAX: usize = 1_024;

/// What a listener hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Message {
    Text(String),
    /// The connection is new: what was said before is lost.
    Missed,
}

/// Listens until the receiver is dropped. What `read` makes nothing of is passed over.
pub(super) fn subscribe<T: Send + 'static>(
    servers: Servers,
    channel: String,
    read: impl Fn(Message) -> Option<T> + Send + Sync + 'static,
) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel(UNREAD_MAX);
    tokio::spawn(async move {
        while !sender.is_closed() {
            tokio::select! {
                () = sender.closed() => return,
                ended = listen(&servers, &channel, &sender, &read) => {
                    let why = ended.err().unwrap_or_default();
                    tracing::debug!(redis.channel = channel, redis.why = why, "the subscription broke");
                }
            }
            tokio::time::sleep(BACKOFF).await;
        }
    });
    receiver
}

async fn listen<T>(
    servers: &Servers,
    channel: &str,
    sender: &mpsc::Sender<T>,
    read: &impl Fn(Message) -> Option<T>,
) -> Result<(), Why> {
    let (mut sink, mut messages) = servers.listen().await?.split();
    in_time(sink.subscribe(channel)).await?;
    if let Some(missed) = read(Message::Missed)
        && sender.send(missed).await.is_err()
    {
        return Ok(());
    }
    while let Some(message) = next(&mut messages, &mut sink).await? {
        let Ok(text) = message.get_payload() else { continue };
        if let Some(heard) = read(Message::Text(text))
            && sender.send(heard).await.is_err()
        {
            return Ok(());
        }
    }
    Ok(())
}

/// The next message, while the connection lives.
async fn next(messages: &mut (impl Stream<Item = Msg> + Unpin), sink: &mut PubSubSink) -> Result<Option<Msg>, Why> {
    loop {
        match tokio::time::timeout(PING_EVERY, messages.next()).await {
            Ok(message) => return Ok(message),
            Err(_) => in_time(sink.ping::<deadpool_redis::redis::Value>()).await?,
        };
    }
}

async fn in_time<T>(work: impl Future<Output = RedisResult<T>>) -> Result<T, Why> {
    let answer = tokio::time::timeout(PONG_WITHIN, work).await;
    answer.map_err(|_| format!("no answer within {PONG_WITHIN:?}"))?.map_err(|error| error.to_string())
}
