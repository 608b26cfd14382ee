//! A collector of traces: a real OTLP server over gRPC that notes all spans it is sent, or takes none.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue, any_value::Value},
    trace::v1::{span::SpanKind, status::StatusCode},
};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, async_trait, transport::Server};

use super::world::eventually;

/// A span as it came, with what its process says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Exported {
    pub(crate) trace: String,
    pub(crate) id: String,
    pub(crate) parent: String,
    pub(crate) name: String,
    pub(crate) kind: SpanKind,
    pub(crate) attributes: BTreeMap<String, String>,
    pub(crate) failed: bool,
    pub(crate) state: String,
    pub(crate) process: BTreeMap<String, String>,
    /// All that was sent of it.
    pub(crate) whole: String,
}

#[derive(Debug, Clone, Default)]
struct Notes(Arc<Mutex<Vec<Exported>>>);

/// It ends with its scope.
#[derive(Debug)]
pub(crate) struct Collector {
    pub(crate) endpoint: String,
    notes: Notes,
    task: JoinHandle<()>,
}

#[async_trait]
impl TraceService for Notes {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for resource in request.into_inner().resource_spans {
            let process = resource.resource.map(|resource| texts(resource.attributes)).unwrap_or_default();
            for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
                let whole = format!("{span:?} {process:?}");
                let failed = span.status.as_ref().is_some_and(|status| status.code() == StatusCode::Error);
                all.push(Exported {
                    trace: hex(&span.trace_id),
                    id: hex(&span.span_id),
                    parent: hex(&span.parent_span_id),
                    kind: span.kind(),
                    name: span.name,
                    attributes: texts(span.attributes),
                    failed,
                    state: span.trace_state,
                    process: process.clone(),
                    whole,
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

impl Collector {
    pub(crate) async fn start() -> Self {
        let socket = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let endpoint = format!("http://{}", socket.local_addr().expect("an address"));
        let notes = Notes::default();
        let server = Server::builder().add_service(TraceServiceServer::new(notes.clone()));
        let task = tokio::spawn(async move {
            server.serve_with_incoming(TcpListenerStream::new(socket)).await.expect("it serves");
        });
        Self { endpoint, notes, task }
    }

    pub(crate) fn all(&self) -> Vec<Exported> {
        self.notes.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The spans of a trace, once there are so many.
    pub(crate) async fn trace(&self, id: &str, spans: usize) -> Vec<Exported> {
        let what = format!("{spans} spans of the trace {id}");
        eventually(&what, async || {
            let of_trace: Vec<_> = self.all().into_iter().filter(|span| span.trace == id).collect();
            (of_trace.len() >= spans).then_some(of_trace)
        })
        .await
    }
}

impl Drop for Collector {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
}

fn texts(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<Value>| match value {
        Some(Value::StringValue(text)) => text,
        Some(Value::IntValue(number)) => number.to_string(),
        Some(Value::BoolValue(whether)) => whether.to_string(),
        other => format!("{other:?}"),
    };
    let value = |it: KeyValue| (it.key, text(it.value.and_then(|value| value.value)));
    attributes.into_iter().map(value).collect()
}
