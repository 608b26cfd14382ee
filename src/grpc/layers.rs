//! What all RPCs share, in the order in which it happens: the limit on requests in flight, the credential, its rate,
//! the scope, the deadline, the panic's catch; and around it all the span and the metrics.
//!
//! Whoever may not make an audited request is refused here too, but its handler is asked first what was tried on which
//! call ([`Refusal`]); a request that no handler could read is noted without.

use std::{
    convert::Infallible,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use serde::Deserialize;
use tokio::sync::Semaphore;
use tonic::{Status, body::Body};
use tower::{Layer, Service};
use tracing::Instrument as _;

use super::{access, heard_out::HeardOut, lifetime::Lifetime, meters::Meters, spans::Spans, traced::Traced};
use crate::{
    domain::{
        Env, Error, Result, audit::Attempt, certificate::ClientCertificate, error::Dependency, principal::Principal,
        trace::TraceContext,
    },
    sessions::AuditLog,
    tenants::{Authenticator, RateLimits},
};

/// Limits of RPCs.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RpcSettings {
    /// Unary requests in hand at once; more are answered OVERLOADED (default 4,096: some seconds of work, not minutes).
    pub max_in_flight: usize,
    /// Time for a unary request whose caller names no deadline, and at most (default 30,000 ms).
    pub max_deadline_ms: u64,
}

impl Default for RpcSettings {
    fn default() -> Self {
        Self { max_in_flight: 4_096, max_deadline_ms: 30_000 }
    }
}

/// Of a stream whose caller names no deadline: none that matters.
const LONGEST: Duration = Duration::from_hours(24 * 365);
/// RPCs whose answer begins at once and goes on.
const LASTING: [&str; 3] = ["AdmissionService/AwaitSlot", "AdmissionService/WatchUsage", "SessionService/WatchEvents"];

/// When the caller stops waiting, less what the answer needs for its way.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(Instant);

impl Deadline {
    /// Until when a handler may work and still answer in its own words.
    pub fn answer_by(self) -> Instant {
        self.0.checked_sub(Duration::from_millis(10)).unwrap_or(self.0)
    }
}

/// Who calls, and how long it waits.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    pub(super) principal: Principal,
    pub(super) deadline: Deadline,
    /// Of an audited RPC.
    pub(super) attempt: Option<Attempt>,
    pub(super) refusal: Refusal,
    pub(super) trace: Option<TraceContext>,
}

/// Why a request of a known caller is refused. Whoever takes it notes it and answers with it; what its handler leaves
/// here, the gate does.
#[derive(Debug, Clone, Default)]
pub(super) struct Refusal(Arc<Mutex<Option<Error>>>);

impl Refusal {
    fn of(error: Error) -> Self {
        Self(Arc::new(Mutex::new(Some(error))))
    }

    pub(super) fn take(&self) -> Option<Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    pub(super) fn is_there(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }
}

/// Of the connection: what it proved before its first request, and how long it lasts.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    pub certificate: Option<Arc<ClientCertificate>>,
    pub lifetime: Lifetime,
}

/// Stands in front of the handlers.
#[derive(Debug, Clone)]
pub struct Gate {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    authenticator: Authenticator,
    rates: RateLimits,
    audit: Arc<AuditLog>,
    in_flight: Semaphore,
    settings: RpcSettings,
    refusing: AtomicBool,
    meters: Meters,
    spans: Spans,
}

impl Gate {
    pub fn new(authenticator: Authenticator, rates: RateLimits, audit: Arc<AuditLog>, settings: RpcSettings) -> Self {
        let in_flight = Semaphore::new(settings.max_in_flight);
        let (refusing, meters, spans) = (AtomicBool::new(false), Meters::new(), Spans::new());
        Self { inner: Arc::new(Inner { authenticator, rates, audit, in_flight, settings, refusing, meters, spans }) }
    }

    /// Lets no new request in, and waits until those inside are answered.
    pub async fn close(&self) {
        self.inner.refusing.store(true, Ordering::Release);
        let all = u32::try_from(self.inner.settings.max_in_flight).unwrap_or(u32::MAX);
        // All permits back: nobody is inside. The semaphore itself is never closed.
        let _ = self.inner.in_flight.acquire_many(all).await;
    }
}

impl<S> Layer<S> for Gate {
    type Service = Gated<S>;

    fn layer(&self, service: S) -> Gated<S> {
        Gated { gate: self.inner.clone(), service }
    }
}

/// A service behind the [`Gate`].
#[derive(Debug, Clone)]
pub struct Gated<S> {
    gate: Arc<Inner>,
    service: S,
}

impl<S> Service<Request<Body>> for Gated<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, std::result::Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        self.service.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let request = request.map(HeardOut::body);
        let path = request.uri().path();
        if !path.starts_with("/voxgate.") {
            // Health and reflection are for everyone.
            return self.service.call(request).boxed();
        }
        let Some(line) = access::line_of(path) else {
            return std::future::ready(Ok(Status::from(Error::Unimplemented).into_http())).boxed();
        };
        let fresh = self.service.clone();
        let service = std::mem::replace(&mut self.service, fresh);
        let gate = self.gate.clone();
        async move {
            let started = Instant::now();
            let mut traced = Traced::of(request.headers(), line, started);
            let response = match gate.pass(service, request, line, &mut traced).await {
                Ok(response) => response,
                Err(error) => {
                    if !matches!(error, Error::Unauthenticated(_) | Error::TokenRevoked { .. }) {
                        traced.begin(None);
                    }
                    Spans::of_nobody(line, traced.context()).in_scope(|| Status::from(error).into_http())
                }
            };
            let note = || gate.meters.note(line, &response, started.elapsed());
            match traced.context() {
                None => note(),
                trace => Spans::of_nobody(line, trace).in_scope(note),
            }
            Ok(traced.end(response))
        }
        .boxed()
    }
}

impl Inner {
    async fn pass<S>(
        &self,
        mut service: S,
        mut request: Request<Body>,
        line: usize,
        traced: &mut Traced,
    ) -> Result<Response<Body>>
    where
        S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    {
        if self.refusing.load(Ordering::Acquire) {
            return Err(Error::Unavailable(Dependency::Replica, None));
        }
        // A stream would hold its permit for days; its connection is what is limited.
        let streams = request.uri().path().ends_with("MediaNodeService/Connect");
        let _permit = match streams {
            true => None,
            false => Some(self.in_flight.try_acquire().map_err(|_| Error::Unavailable(Dependency::Capacity, None))?),
        };
        let asked = asked(request.headers());
        let most = Duration::from_millis(self.settings.max_deadline_ms);
        let budget = asked.map_or(most, |asked| asked.min(most));
        // A stream that lasts is bounded by what its caller asked, not by what one answer may take.
        let lasts = LASTING.iter().any(|rpc| request.uri().path().ends_with(rpc));
        let deadline = if lasts { asked.unwrap_or(LONGEST) } else { budget };
        let work = async {
            let principal = self.caller(request.headers(), request.extensions().get()).await?;
            traced.begin(Some(principal.tenant()));
            let attempt = access::is_audited(line).then(|| Attempt::new(&principal, access::action(line)));
            let refusal = match (self.judge(&principal, line).await, &attempt) {
                (Ok(()), _) => Refusal::default(),
                (Err(error), Some(_)) => Refusal::of(error),
                (Err(error), None) => return Err(error),
            };
            let span = self.spans.of(line, principal.tenant(), traced.context());
            let (deadline, trace) = (Deadline(Instant::now() + deadline), traced.context().cloned());
            let caller = Caller { principal, deadline, attempt: attempt.clone(), refusal: refusal.clone(), trace };
            request.extensions_mut().insert(caller);
            let answered = span.in_scope(|| service.call(request));
            let answered = answered.instrument(span).await.map_or_else(|never| match never {}, in_our_words);
            match (refusal.take().map_or(answered, Err), attempt) {
                (Err(error), Some(attempt)) if !matches!(error, Error::Unimplemented) => {
                    self.audit.note(attempt.refused(&Env::system(), &error)).await;
                    Err(error)
                }
                (answered, _) => answered,
            }
        };
        let limit = if streams { LONGEST } else { budget };
        match tokio::time::timeout(limit, AssertUnwindSafe(work).catch_unwind()).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => Err(Error::internal(panic_text(panic.as_ref()))),
            Err(_) => Err(Error::DeadlineExceeded),
        }
    }

    /// Whether the principal may make a request of the RPC on the `line` now.
    async fn judge(&self, principal: &Principal, line: usize) -> Result<()> {
        // Before the scope: a flood of requests that the key may not make is a flood too. A stream counts once.
        if let Some((subject, rate)) = principal.rate() {
            self.rates.check(subject, rate).await?;
        }
        access::TABLE[line].1.check(principal)
    }

    /// Whoever sends a credential is judged by it, good or bad; only who sends none is known by its certificate.
    async fn caller(&self, headers: &HeaderMap, peer: Option<&Peer>) -> Result<Principal> {
        match peer.and_then(|peer| peer.certificate.as_ref()) {
            Some(certificate) if !headers.contains_key(AUTHORIZATION) => self.authenticator.recognize(certificate),
            _ => self.authenticator.authenticate(bearer(headers)).await,
        }
    }
}

/// What the caller gives us, less a little for the answer's way: it should hear from us before it gives up.
fn asked(headers: &HeaderMap) -> Option<Duration> {
    let asked = parse_timeout(headers.get("grpc-timeout")?.to_str().ok()?)?;
    let way = (asked / 20).clamp(Duration::from_millis(2), Duration::from_millis(50));
    Some(asked.saturating_sub(way))
}

/// The library refuses some requests before they reach a handler, without the details that every error of ours has.
fn in_our_words(response: Response<Body>) -> Result<Response<Body>> {
    match Status::from_header_map(response.headers()) {
        Some(status) if status.details().is_empty() => Err(match status.code() {
            tonic::Code::Ok => return Ok(response),
            tonic::Code::Unimplemented => Error::Unimplemented,
            tonic::Code::OutOfRange => Error::invalid("request", "must be at most 262144 bytes"),
            tonic::Code::Internal if status.message().contains("decode") => {
                Error::invalid("request", "is not a message of this RPC")
            }
            _ => Error::internal(format!("a status without details: {status}")),
        }),
        _ => Ok(response),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, credential) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| credential.trim())
}

/// A timeout as gRPC over HTTP/2 spells it: at most eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = (digits.len() <= 8).then(|| digits.parse().ok())??;
    match unit {
        "H" => Some(Duration::from_hours(count)),
        "M" => Some(Duration::from_mins(count)),
        "S" => Some(Duration::from_secs(count)),
        "m" => Some(Duration::from_millis(count)),
        "u" => Some(Duration::from_micros(count)),
        "n" => Some(Duration::from_nanos(count)),
        _ => None,
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    format!("a handler panicked: {}", text.unwrap_or("without a word"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_spells_them() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_hours(99_999_999)));
        for wrong in ["", "m", "1", "-1S", "1x", "123456789S", "1é"] {
            assert_eq!(parse_timeout(wrong), None, "{wrong:?}");
        }
    }
}
