//! Callers are heard out.
//!
//! A request may be answered before its message has come: a credential is refused by its headers. HTTP/2 allows that if the
//! stream is reset, but then the message arrives at a stream that is gone, which the library takes for an error and counts.
//! At the 1,024th in a connection's life it closes the connection, with everything that was in flight on it (h2,
//! `max_local_error_reset_streams`): a caller whose key ran into its rate would lose the answers to its transfers. So what
//! nobody listens to any more is still taken in, within limits, and the stream ends as the caller ends it.

use std::{
    future::poll_fn,
    mem,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http_body::{Body as _, Frame, SizeHint};
use tokio::runtime::Handle;
use tonic::{Status, body::Body};

use super::MESSAGE_MAX_BYTES;

/// What is taken in of a request that was answered: the longest message and its frame.
const MOST_BYTES: usize = MESSAGE_MAX_BYTES + 1_024;
/// For how long. A media node that is refused may talk on for ever.
const MOST_TIME: Duration = Duration::from_secs(5);

/// A request's body, whose rest is taken in when it is dropped.
pub(super) struct HeardOut(Body);

impl HeardOut {
    pub(super) fn body(body: Body) -> Body {
        Body::new(Self(body))
    }
}

impl http_body::Body for HeardOut {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        Pin::new(&mut self.0).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.0.size_hint()
    }
}

impl Drop for HeardOut {
    fn drop(&mut self) {
        if self.0.is_end_stream() {
            return;
        }
        // Without a runtime the connection is gone too.
        if let Ok(runtime) = Handle::try_current() {
            let rest = take_in(mem::take(&mut self.0));
            runtime.spawn(tokio::time::timeout(MOST_TIME, rest));
        }
    }
}

async fn take_in(mut body: Body) {
    let mut taken = 0;
    while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Some(data) = frame.data_ref() else { continue };
        taken += data.len();
        if taken > MOST_BYTES {
            return;
        }
    }
}
