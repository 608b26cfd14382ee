//! A request's place in its caller's trace, and its own span there.
//!
//! The span begins when it is known who calls, with the time at which the request came: who shows no credential that
//! opens anything has nothing recorded. It ends with the last byte of the answer, and where the caller leaves before, as
//! CANCELLED. A node's stream has no span: it lasts for days, and its commands carry traces of their own.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use http::{HeaderMap, Response};
use http_body::{Frame, SizeHint};
use tonic::{Code, Status, body::Body};

use super::access::TABLE;
use crate::{
    domain::{ids::TenantId, trace::TraceContext},
    traces::{Attribute, Span},
};

/// A request on a line of the table.
#[derive(Debug)]
pub(super) struct Traced {
    line: usize,
    started: Instant,
    from: Option<TraceContext>,
    span: Option<ServerSpan>,
}

impl Traced {
    pub(super) fn of(headers: &HeaderMap, line: usize, started: Instant) -> Self {
        let from = if is_lasting(line) { None } else { read(headers) };
        Self { line, started, from, span: None }
    }

    /// Where the request stands, for what it logs and brings about.
    pub(super) fn context(&self) -> Option<&TraceContext> {
        self.span.as_ref().map_or(self.from.as_ref(), |span| span.span.context())
    }

    /// Begins the span, of whose request that is known, or of nobody's.
    pub(super) fn begin(&mut self, tenant: Option<TenantId>) {
        if self.span.is_some() || is_lasting(self.line) {
            return;
        }
        let name = TABLE[self.line].0.trim_start_matches('/');
        let span = Span::of_request(self.from.clone(), name, self.started).with(|| {
            let (service, method) = name.split_once('/').unwrap_or((name, ""));
            let [system, service] = [Attribute::new("rpc.system", "grpc"), Attribute::new("rpc.service", service)];
            [system, service, Attribute::new("rpc.method", method)]
        });
        let mut span = ServerSpan { span, ended_with: Code::Cancelled };
        if let Some(tenant) = tenant {
            span.span.say(|| [Attribute::new("voxgate.tenant.id", tenant.to_string())]);
        }
        self.span = Some(span);
    }

    /// The span ends with the answer.
    pub(super) fn end(self, response: Response<Body>) -> Response<Body> {
        let Some(mut span) = self.span.filter(|span| span.span.is_recorded()) else { return response };
        match Status::from_header_map(response.headers()) {
            Some(status) => {
                span.ended_with = status.code();
                response
            }
            None => response.map(|body| Body::new(Answer { body, span })),
        }
    }
}

fn is_lasting(line: usize) -> bool {
    TABLE[line].0.ends_with("MediaNodeService/Connect")
}

/// A header that comes twice is malformed, but a state may be told in parts.
fn read(headers: &HeaderMap) -> Option<TraceContext> {
    let mut parents = headers.get_all("traceparent").iter();
    let (parent, None) = (parents.next()?, parents.next()) else { return None };
    let states: Vec<_> = headers.get_all("tracestate").iter().map(|state| state.to_str().unwrap_or("?")).collect();
    TraceContext::read(parent.to_str().ok()?, &states.join(","))
}

/// Of a request, until it is answered.
#[derive(Debug)]
struct ServerSpan {
    span: Span,
    ended_with: Code,
}

impl Drop for ServerSpan {
    fn drop(&mut self) {
        let code = self.ended_with;
        self.span.say(|| [Attribute::new("rpc.grpc.status_code", i64::from(code as i32))]);
        if let Some(fault) = fault_of_ours(code) {
            self.span.fail(fault);
        }
    }
}

/// What OpenTelemetry's conventions take for a server's own fault; everything else is an answer.
const fn fault_of_ours(code: Code) -> Option<&'static str> {
    match code {
        Code::Unknown => Some("UNKNOWN"),
        Code::DeadlineExceeded => Some("DEADLINE_EXCEEDED"),
        Code::Unimplemented => Some("UNIMPLEMENTED"),
        Code::Internal => Some("INTERNAL"),
        Code::Unavailable => Some("UNAVAILABLE"),
        Code::DataLoss => Some("DATA_LOSS"),
        _ => None,
    }
}

/// The body of an answer, which says at its end how it went.
struct Answer {
    body: Body,
    span: ServerSpan,
}

impl http_body::Body for Answer {
    type Data = <Body as http_body::Body>::Data;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Status>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(status) = frame.trailers_ref().and_then(Status::from_header_map)
        {
            self.span.ended_with = status.code();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn headers(all: &[(&'static str, &str)]) -> HeaderMap {
        all.iter().fold(HeaderMap::new(), |mut headers, (name, text)| {
            headers.append(*name, text.parse().expect("a value"));
            headers
        })
    }

    #[test]
    fn a_parent_is_told_once_and_a_state_in_parts() {
        assert_eq!(read(&headers(&[])), None);
        assert_eq!(read(&headers(&[("traceparent", PARENT), ("traceparent", PARENT)])), None);
        let told = [("traceparent", PARENT), ("tracestate", "a=1"), ("tracestate", "b=2")];
        let context = read(&headers(&told)).expect("a context");
        assert_eq!((context.parent().as_str(), context.state()), (PARENT, "a=1,b=2"));
    }

    #[test]
    fn what_is_wrong_with_a_request_is_no_fault_of_ours() {
        for code in [Code::Ok, Code::Cancelled, Code::InvalidArgument, Code::ResourceExhausted, Code::Unauthenticated] {
            assert_eq!(fault_of_ours(code), None, "{code:?}");
        }
        assert_eq!(fault_of_ours(Code::Internal), Some("INTERNAL"));
    }
}
