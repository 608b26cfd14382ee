//! The end of the streams of others.
//!
//! `Health.Watch` lasts as long as its client listens, and reflection as long as its client asks: a shutdown that waited
//! for them would always wait for its whole cap. When `closing` is cancelled, the request ends as if its client had said
//! all, so that no handler waits for more; the response ends with UNAVAILABLE once nothing of it is ready, upon which
//! clients go elsewhere. Our own streams are ended by their handlers.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use futures_util::future::{BoxFuture, FutureExt as _};
use http::{HeaderMap, Request, Response};
use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

use crate::{
    domain::{Error, error::Dependency},
    grpc::layers::Peer,
};

/// Ends the streams of a service when its token is cancelled.
#[derive(Debug, Clone)]
pub(super) struct EndStreams(pub(super) CancellationToken);

impl<S> Layer<S> for EndStreams {
    type Service = Ended<S>;

    fn layer(&self, service: S) -> Ended<S> {
        Ended { closing: self.0.clone(), service }
    }
}

#[derive(Debug, Clone)]
pub(super) struct Ended<S> {
    closing: CancellationToken,
    service: S,
}

impl<S> Service<Request<Body>> for Ended<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // That of the connection, which ends with ours.
        let lifetime = request.extensions().get::<Peer>().map(|peer| peer.lifetime.over().clone());
        let closing = lifetime.unwrap_or_else(|| self.closing.clone());
        let request = request.map(|body| Body::new(Asked { body, closing: Closing::of(&closing) }));
        let response = self.service.call(request);
        async move {
            let answered = |body| Body::new(Answered { body, closing: Some(Closing::of(&closing)) });
            Ok(response.await?.map(answered))
        }
        .boxed()
    }
}

/// `closing` as a body waits for it.
struct Closing(Pin<Box<WaitForCancellationFutureOwned>>);

impl Closing {
    fn of(token: &CancellationToken) -> Self {
        Self(Box::pin(token.clone().cancelled_owned()))
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

/// What a client sends, until `closing`.
struct Asked {
    body: Body,
    closing: Closing,
}

impl http_body::Body for Asked {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        if self.closing.poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a client is answered, until `closing` finds nothing more of it ready.
struct Answered {
    body: Body,
    /// Absent once the trailers are out.
    closing: Option<Closing>,
}

impl http_body::Body for Answered {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let Some(mut closing) = self.closing.take() else { return Poll::Ready(None) };
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) if frame.is_data() => {
                self.closing = Some(closing);
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(last) => Poll::Ready(last),
            Poll::Pending => {
                if closing.poll(cx).is_pending() {
                    self.closing = Some(closing);
                    return Poll::Pending;
                }
                let mut trailers = HeaderMap::new();
                let added = Status::from(Error::Unavailable(Dependency::Replica, None)).add_header(&mut trailers);
                Poll::Ready(Some(added.map(|()| Frame::trailers(trailers))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.closing.is_none() || self.body.is_end_stream()
    }
}
