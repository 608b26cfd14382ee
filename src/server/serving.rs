//! One connection, from its preface to its end.
//!
//! Clients that balance by themselves keep their connections, so a replica that is added gets nothing of their requests
//! until they connect again. So each connection has an age, ten percent around the configured one: connections that came
//! together do not leave together. At its age the client is told to go elsewhere (GOAWAY); the requests in hand are
//! finished and streams go on for a grace, of which nodes are told by Drain. Then streams end with UNAVAILABLE.
//!
//! The library's own server has an age too: one for all connections, and streams on it go on for ever, or are cut.

use std::{convert::Infallible, pin::pin, sync::Arc, time::Duration};

use futures_util::StreamExt as _;
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::time::{Instant, Sleep, sleep};
use tokio_stream::Stream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{body::Body, service::Routes};
use tower::{Layer as _, Service as _};

use super::connections::Limited;
use crate::{
    config::ListenSettings,
    domain::Env,
    grpc::{
        layers::{Gate, Gated, Peer},
        lifetime::Lifetime,
    },
};

/// What a reset of a stream by ourselves may cost, as the library has it by default.
const LOCAL_RESETS_MAX: usize = 1_024;

/// What every connection is served by.
#[derive(Debug, Clone)]
pub(super) struct Serving {
    http2: http2::Builder<TokioExecutor>,
    service: Gated<Routes>,
    ages: Ages,
    closing: CancellationToken,
}

/// How long connections last.
#[derive(Debug, Clone)]
struct Ages {
    /// Absent: for ever.
    age: Option<Duration>,
    grace: Duration,
    /// What a unary request may take: with the grace over, the last of them has had its time.
    in_hand: Duration,
    env: Env,
}

impl Ages {
    /// Of one connection: from nine tenths to eleven tenths.
    fn draw(&self) -> Option<Duration> {
        let share = u32::from(u16::from_be_bytes(self.env.bytes()));
        self.age.map(|age| age / 10 * 9 + age / 5 * share / u32::from(u16::MAX))
    }
}

/// What a connection is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its age.
    Young,
    /// The end of its grace.
    Old,
    /// The end of the requests in hand.
    Over,
}

impl Serving {
    pub(super) fn new(
        listen: &ListenSettings,
        in_hand: Duration,
        gate: &Gate,
        routes: Routes,
        closing: &CancellationToken,
    ) -> Self {
        let mut http2 = http2::Builder::new(TokioExecutor::new());
        http2
            .timer(TokioTimer::new())
            .max_concurrent_streams(listen.max_streams_per_connection)
            .max_local_error_reset_streams(LOCAL_RESETS_MAX)
            .keep_alive_interval(Duration::from_millis(listen.keepalive_interval_ms))
            .keep_alive_timeout(Duration::from_millis(listen.keepalive_timeout_ms));
        let age = Some(listen.max_connection_age_ms).filter(|age| *age > 0).map(Duration::from_millis);
        let grace = Duration::from_millis(listen.max_connection_age_grace_ms);
        let ages = Ages { age, grace, in_hand, env: Env::system() };
        Self { http2, service: gate.layer(routes.prepare()), ages, closing: closing.clone() }
    }

    /// Serves what comes in until `closing`, and then until the last of it has ended.
    pub(super) async fn serve(self, incoming: impl Stream<Item = Limited>) {
        let (serving, connections) = (Arc::new(self), TaskTracker::new());
        let accept = async {
            let mut incoming = pin!(incoming);
            while let Some(connection) = incoming.next().await {
                connections.spawn(serving.clone().serve_one(connection));
            }
        };
        serving.closing.run_until_cancelled(accept).await;
        connections.close();
        connections.wait().await;
    }

    async fn serve_one(self: Arc<Self>, connection: Limited) {
        let lifetime = Lifetime::until(&self.closing, self.ages.grace);
        let peer = Peer { certificate: connection.certificate(), lifetime: lifetime.clone() };
        let service = self.service.clone();
        let answer = service_fn(move |request| answer(service.clone(), peer.clone(), request));
        let mut served = pin!(self.http2.serve_connection(TokioIo::new(connection), answer));
        let age = self.ages.draw();
        let mut alarm: std::pin::Pin<&mut Sleep> = pin!(sleep(age.unwrap_or_default()));
        let (mut phase, mut leaving) = (Phase::Young, false);
        loop {
            tokio::select! {
                ended = served.as_mut() => {
                    if let Err(error) = ended {
                        tracing::debug!(error = %error, "a connection broke off");
                    }
                    return;
                }
                () = self.closing.cancelled(), if !leaving => {
                    leaving = true;
                    served.as_mut().graceful_shutdown();
                }
                () = alarm.as_mut(), if age.is_some() => match phase {
                    Phase::Young => {
                        metrics::counter!("voxgate_connections_aged_total").increment(1);
                        phase = Phase::Old;
                        served.as_mut().graceful_shutdown();
                        lifetime.grow_old();
                        alarm.as_mut().reset(Instant::now() + self.ages.grace);
                    }
                    Phase::Old => {
                        phase = Phase::Over;
                        lifetime.end();
                        alarm.as_mut().reset(Instant::now() + self.ages.in_hand);
                    }
                    // What is still there is a client that reads nothing.
                    Phase::Over => return,
                },
            }
        }
    }
}

async fn answer(
    mut service: Gated<Routes>,
    peer: Peer,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(peer);
    service.call(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_lie_ten_percent_around_the_configured_one_and_differ() {
        let ages = |age| Ages { age, grace: Duration::ZERO, in_hand: Duration::ZERO, env: Env::system() };
        let configured = Duration::from_secs(1_000);
        let drawn: Vec<_> = (0..1_000).filter_map(|_| ages(Some(configured)).draw()).collect();
        let (least, most) = (drawn.iter().min().expect("some"), drawn.iter().max().expect("some"));
        assert!(*least >= Duration::from_mins(15) && *most <= Duration::from_secs(1_100), "{least:?} {most:?}");
        assert!(*least < Duration::from_secs(920) && *most > Duration::from_mins(18), "{least:?} {most:?}");
        assert_eq!(ages(None).draw(), None);
    }
}
