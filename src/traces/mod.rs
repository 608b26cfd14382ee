//! Spans, of what belongs to a trace that is recorded.
//!
//! Work carries its [`TraceContext`] along as an argument, and beside what it sends to other replicas and to nodes: so a
//! span's parent is never guessed from the thread that it is made on. Nothing is made of what is not sampled, and off,
//! which is the default, costs a look at whether it is on. Deliberately absent: the spans of `tracing`, which belong to
//! the log; they are told the trace's id, and most requests share theirs.
//!
//! No attribute holds a secret, a telephone number, a destination or what a caller sent, but ids.

mod export;
mod settings;

use std::{
    borrow::Cow,
    sync::OnceLock,
    time::{Duration, Instant, SystemTime},
};

use opentelemetry::{
    Context,
    trace::{
        Span as _, SpanBuilder, SpanContext, Status, TraceContextExt as _, TraceFlags, TraceState, Tracer as _,
        TracerProvider as _,
    },
};
pub use opentelemetry::{KeyValue as Attribute, trace::SpanKind as Kind};
use opentelemetry_sdk::trace::{Sampler, SamplingDecision, SdkTracer, SdkTracerProvider, ShouldSample as _};

pub use self::{
    export::{Export, Queue},
    settings::TraceSettings,
};
use crate::domain::{Env, trace::TraceContext};

/// What the spans of this process are made with, once it was chosen.
static RECORDER: OnceLock<Recorder> = OnceLock::new();

#[derive(Debug)]
struct Recorder {
    tracer: SdkTracer,
    /// Decides for requests that bring no trace, and where callers are not trusted with it.
    ratio: Sampler,
    trust_callers: bool,
}

impl Recorder {
    fn takes(&self, context: &TraceContext) -> bool {
        let id = context.trace_id().number().into();
        let decided = self.ratio.should_sample(None, id, "", &Kind::Server, &[], &[]);
        decided.decision == SamplingDecision::RecordAndSample
    }

    /// What decides about a request: its caller's word, unless that would cost more than the caller may ask for.
    fn heed(&self, from: TraceContext) -> TraceContext {
        match from.is_sampled() && !self.trust_callers && !self.takes(&from) {
            true => from.unsampled(),
            false => from,
        }
    }

    fn record(&self, of: Option<&TraceContext>, builder: SpanBuilder) -> Option<Recorded> {
        let none = Context::new();
        let parent = of.map_or(none.clone(), |of| none.with_remote_span_context(foreign(of)));
        let span = self.tracer.build_with_context(builder, &parent);
        span.is_recording().then(|| Box::new(span))
    }
}

/// Boxed: most work has none.
type Recorded = Box<opentelemetry_sdk::trace::Span>;

/// Records what `provider` samples, from now on, for the rest of the process.
pub fn record_with(provider: &SdkTracerProvider, settings: &TraceSettings) {
    let (tracer, ratio) = (provider.tracer("voxgate"), Sampler::TraceIdRatioBased(settings.sample_ratio));
    // Whoever was there before stays.
    let _ = RECORDER.set(Recorder { tracer, ratio, trust_callers: settings.trust_callers });
}

/// A piece of work that is recorded from when this is made until it is dropped; or one that is not recorded.
#[derive(Debug, Default)]
pub struct Span {
    recorded: Option<Recorded>,
    context: Option<TraceContext>,
}

impl Span {
    /// Of a request that came with `from` and is in hand since `started`: begins a trace where it brings none.
    pub fn of_request(from: Option<TraceContext>, name: &'static str, started: Instant) -> Self {
        let Some(recorder) = RECORDER.get() else { return Self { recorded: None, context: from } };
        let from = from.map(|from| recorder.heed(from));
        if from.as_ref().is_some_and(|from| !from.is_sampled()) {
            return Self { recorded: None, context: from };
        }
        let since = Env::system().now().minus(started.elapsed()).as_micros();
        let since = SystemTime::UNIX_EPOCH + Duration::from_micros(u64::try_from(since).unwrap_or(0));
        let builder = SpanBuilder::from_name(name).with_kind(Kind::Server).with_start_time(since);
        Self::made(recorder.record(from.as_ref(), builder), from)
    }

    /// Of a part of what `of` says; nothing, where that is not recorded.
    pub fn within(of: Option<&TraceContext>, kind: Kind, name: impl Into<Cow<'static, str>>) -> Self {
        let Some(of) = of else { return Self::default() };
        let recorder = RECORDER.get().filter(|_| of.is_sampled());
        let begin = |recorder: &Recorder| recorder.record(Some(of), SpanBuilder::from_name(name).with_kind(kind));
        Self::made(recorder.and_then(begin), Some(of.clone()))
    }

    /// What is not recorded is passed on as it came.
    fn made(recorded: Option<Recorded>, from: Option<TraceContext>) -> Self {
        let context = recorded.as_ref().and_then(|span| ours(span.span_context())).or(from);
        Self { recorded, context }
    }

    /// The parent of what follows.
    pub const fn context(&self) -> Option<&TraceContext> {
        self.context.as_ref()
    }

    pub const fn is_recorded(&self) -> bool {
        self.recorded.is_some()
    }

    /// Says more of it. What is said is made only where it is recorded.
    #[must_use]
    pub fn with<const N: usize>(mut self, attributes: impl FnOnce() -> [Attribute; N]) -> Self {
        self.say(attributes);
        self
    }

    pub fn say<const N: usize>(&mut self, attributes: impl FnOnce() -> [Attribute; N]) {
        if let Some(span) = &mut self.recorded {
            span.set_attributes(attributes());
        }
    }

    /// It failed, and it was not its caller's fault.
    pub fn fail(&mut self, why: &'static str) {
        if let Some(span) = &mut self.recorded {
            span.set_status(Status::error(why));
        }
    }
}

/// As the library knows a parent.
fn foreign(context: &TraceContext) -> SpanContext {
    let flags = TraceFlags::default().with_sampled(context.is_sampled());
    let state: TraceState = context.state().parse().unwrap_or_default();
    SpanContext::new(context.trace_id().number().into(), context.span_id().into(), flags, true, state)
}

fn ours(context: &SpanContext) -> Option<TraceContext> {
    let trace = u128::from_be_bytes(context.trace_id().to_bytes());
    let span = u64::from_be_bytes(context.span_id().to_bytes());
    TraceContext::new(trace, span, context.is_sampled(), &context.trace_state().header())
}
