//! Ended spans on their way to the collector, in a task of their own.
//!
//! Whoever ends a span puts it into a queue that never makes it wait: where that is full the span is dropped, and
//! counted. So a collector that is slow or away costs the queue and nothing else.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{SpanData, SpanExporter, SpanProcessor},
};
use tokio::{sync::mpsc, task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use super::TraceSettings;

/// How often it is said that spans are dropped.
const SAY_EVERY: Duration = Duration::from_mins(1);

/// Where ended spans wait.
#[derive(Debug)]
pub struct Queue {
    spans: mpsc::Sender<SpanData>,
    /// Since it was last said.
    dropped: Arc<AtomicUsize>,
}

/// The task that sends them.
#[derive(Debug)]
pub struct Export {
    task: JoinHandle<()>,
    closing: CancellationToken,
    patience: Duration,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut opentelemetry_sdk::trace::Span, _: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            count("queue_full", 1);
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Export {
    /// Sends what is put into the queue by `exporter`, as what `resource` is.
    pub fn start(
        mut exporter: impl SpanExporter + 'static,
        resource: &Resource,
        settings: &TraceSettings,
    ) -> (Queue, Self) {
        exporter.set_resource(resource);
        let (spans, waiting) = mpsc::channel(settings.queue_max_spans);
        let dropped = Arc::<AtomicUsize>::default();
        let (closing, patience) = (CancellationToken::new(), Duration::from_millis(settings.timeout_ms));
        let sender = Sender {
            exporter,
            waiting,
            most: settings.batch_max_spans,
            linger: Duration::from_millis(settings.batch_interval_ms),
            patience,
            dropped: dropped.clone(),
            silent_until: None,
            is_away: false,
        };
        let task = tokio::spawn(sender.send_until(closing.clone()));
        (Queue { spans, dropped }, Self { task, closing, patience })
    }

    /// Sends what waits, for as long as one message may take, and then no more.
    pub async fn finish(mut self) {
        self.closing.cancel();
        if tokio::time::timeout(self.patience, &mut self.task).await.is_err() {
            self.task.abort();
            tracing::warn!(timeout_ms = self.patience.as_millis(), "not all spans were taken by the collector");
        }
    }
}

struct Sender<E> {
    exporter: E,
    waiting: mpsc::Receiver<SpanData>,
    most: usize,
    linger: Duration,
    patience: Duration,
    dropped: Arc<AtomicUsize>,
    /// It was said that spans are dropped; until then it is not said again.
    silent_until: Option<Instant>,
    is_away: bool,
}

impl<E: SpanExporter> Sender<E> {
    async fn send_until(mut self, closing: CancellationToken) {
        while let Some(first) = closing.run_until_cancelled(self.waiting.recv()).await.flatten() {
            let mut batch = Vec::with_capacity(self.most);
            batch.push(first);
            let until = Instant::now() + self.linger;
            while batch.len() < self.most {
                let room = self.most - batch.len();
                let more = closing.run_until_cancelled(self.waiting.recv_many(&mut batch, room));
                if !matches!(tokio::time::timeout_at(until, more).await, Ok(Some(1..))) {
                    break;
                }
            }
            self.send(batch).await;
        }
        self.waiting.close();
        loop {
            let mut batch = Vec::new();
            if self.waiting.recv_many(&mut batch, self.most).await == 0 {
                return;
            }
            self.send(batch).await;
        }
    }

    async fn send(&mut self, batch: Vec<SpanData>) {
        let spans = batch.len();
        let why = match tokio::time::timeout(self.patience, self.exporter.export(batch)).await {
            Ok(Ok(())) => {
                count("sent", spans);
                if std::mem::take(&mut self.is_away) {
                    tracing::info!("the collector takes spans again");
                }
                let dropped = self.dropped.swap(0, Ordering::Relaxed);
                if dropped > 0 {
                    self.complain(dropped, "the collector takes fewer than there are");
                }
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "no answer in time".to_owned(),
        };
        count("not_taken", spans);
        self.is_away = true;
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        self.complain(spans + dropped, &why);
    }

    fn complain(&mut self, spans: usize, why: &str) {
        if self.silent_until.is_none_or(|until| until <= Instant::now()) {
            self.silent_until = Some(Instant::now() + SAY_EVERY);
            tracing::warn!(spans, reason = why, "spans are dropped");
        }
    }
}

fn count(outcome: &'static str, spans: usize) {
    // Far below 2^64.
    metrics::counter!("voxgate_spans_total", "outcome" => outcome).increment(spans as u64);
}
