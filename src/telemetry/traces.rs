//! The collector, and what spans tell it of the process that made them.

use anyhow::Context as _;
use opentelemetry_otlp::{
    SpanExporter, WithExportConfig as _, WithTonicConfig as _,
    tonic_types::transport::{Certificate, ClientTlsConfig},
};
use opentelemetry_sdk::{
    Resource,
    trace::{Sampler, SdkTracerProvider},
};

use crate::{
    domain::Env,
    traces::{self, Attribute, Export, TraceSettings},
};

/// Records traces and sends them from now on, if there is a collector to send them to. `service` is what it calls this
/// process.
pub fn export_traces(settings: &TraceSettings, service: &'static str) -> anyhow::Result<Option<Export>> {
    let Some(endpoint) = &settings.endpoint else { return Ok(None) };
    let mut exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(std::time::Duration::from_millis(settings.timeout_ms));
    if endpoint.starts_with("https://") {
        let tls = match &settings.ca_file {
            None => ClientTlsConfig::new().with_native_roots(),
            Some(file) => {
                let pem = std::fs::read(file)
                    .with_context(|| format!("traces.ca_file: {} cannot be read", file.display()))?;
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(pem))
            }
        };
        exporter = exporter.with_tls_config(tls);
    }
    let exporter = exporter.build().context("traces.endpoint")?;
    // Also what OTEL_RESOURCE_ATTRIBUTES says.
    let resource = Resource::builder()
        .with_service_name(service)
        .with_attributes([
            Attribute::new("service.version", env!("CARGO_PKG_VERSION")),
            Attribute::new("service.instance.id", Env::system().uuid().to_string()),
        ])
        .build();
    let (queue, export) = Export::start(exporter, &resource, settings);
    let provider = SdkTracerProvider::builder()
        .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(settings.sample_ratio))))
        .with_span_processor(queue)
        .with_resource(resource)
        .build();
    traces::record_with(&provider, settings);
    Ok(Some(export))
}
