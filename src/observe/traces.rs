//! Spans of traced commands over OTLP, where `tracing.otlp_endpoint` is set: a child of the context that the command's
//! `traceparent` header carries, from when it was put into Kafka to its commit.
//!
//! Only commands that their upstream samples get one, so the cost is the upstream's choice. Attributes say where a record
//! lies, never what is in it (INV-10).

use crate::kafka::{Input, Record};
use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, TraceContextExt as _, TraceFlags, TraceId, TraceState, Tracer as _,
    TracerProvider as _,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How long an export may take.
const EXPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last one, at the end, may take.
const LAST_EXPORT_TIMEOUT: Duration = Duration::from_secs(2);

const PATH: &str = "/v1/traces";

/// Where spans go.
pub struct Traces {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
    topics: [String; 2],
}

impl Traces {
    /// Starts to export to `endpoint` (OTLP over HTTP: `http://localhost:4318`, to which `/v1/traces` is added). Export is batched
    /// on a thread of its own, its queue bounded: spans beyond it are dropped.
    pub fn start(endpoint: &str, service: &str, topics: [String; 2]) -> Result<Self, String> {
        let base = endpoint.trim_end_matches('/');
        let url = if base.ends_with(PATH) { base.to_owned() } else { format!("{base}{PATH}") };
        let exporter = opentelemetry_otlp::SpanExporter::builder()
            .with_http()
            .with_protocol(Protocol::HttpBinary)
            .with_endpoint(url)
            .with_timeout(EXPORT_TIMEOUT)
            .build()
            .map_err(|e| format!("tracing.otlp_endpoint = {endpoint:?}: {e}"))?;
        let resource = Resource::builder().with_service_name(service.to_owned()).build();
        let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
        let tracer = provider.tracer("card-update-worker");
        Ok(Self { provider, tracer, topics })
    }

    /// Records of a batch that was committed at `now_ms`, milliseconds since the epoch.
    pub fn committed<'r>(&self, records: impl Iterator<Item = &'r (Input, Record)>, now_ms: i64) {
        for (input, record) in records {
            let header = |name: &str| record.headers().find(|(n, _)| *n == name)?.1;
            let Some(parent) = header("traceparent").and_then(sampled) else { continue };
            self.span(*input, record, parent, now_ms);
        }
    }

    fn span(&self, input: Input, record: &Record, parent: SpanContext, now_ms: i64) {
        let topic = &self.topics[input as usize];
        let began = record.timestamp_ms().unwrap_or(now_ms).min(now_ms);
        let attributes = [
            KeyValue::new("messaging.system", "kafka"),
            KeyValue::new("messaging.operation.type", "process"),
            KeyValue::new("messaging.destination.name", topic.clone()),
            KeyValue::new("messaging.destination.partition.id", record.partition.to_string()),
            KeyValue::new("messaging.kafka.offset", record.offset),
        ];
        let builder = self
            .tracer
            .span_builder(format!("process {topic}"))
            .with_kind(SpanKind::Consumer)
            .with_start_time(time(began))
            .with_attributes(attributes);
        let mut span = builder.start_with_context(&self.tracer, &Context::new().with_remote_span_context(parent));
        span.end_with_timestamp(time(now_ms));
    }

    /// Exports what waits, within a limit.
    pub fn end(&self) {
        if let Err(error) = self.provider.shutdown_with_timeout(LAST_EXPORT_TIMEOUT) {
            tracing::warn!(%error, "the last spans were not exported");
        }
    }
}

fn time(at_ms: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(at_ms.max(0) as u64)
}

/// A W3C `traceparent` whose sampled flag is set: `00-<32 hex>-<16 hex>-<2 hex>`.
fn sampled(header: &[u8]) -> Option<SpanContext> {
    let mut parts = std::str::from_utf8(header).ok()?.split('-');
    let (version, trace, span, flags) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    let sizes = (version.len(), trace.len(), span.len(), flags.len()) == (2, 32, 16, 2);
    if !sizes || version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?);
    let (trace, span) = (TraceId::from_hex(trace).ok()?, SpanId::from_hex(span).ok()?);
    let context = SpanContext::new(trace, span, flags, true, TraceState::default());
    (context.is_valid() && flags.is_sampled()).then_some(context)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_valid_and_sampled_context_gets_a_span() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        assert!(sampled(good.as_bytes()).is_some());
        let not_sampled = good.replace("-01", "-00");
        let no_trace = good.replace("0af7651916cd43dd8448eb211c80319c", &"0".repeat(32));
        for wrong in [
            not_sampled.as_str(),
            no_trace.as_str(),
            "",
            "00-1-2-01",
            &format!("ff{}", &good[2..]),
            &format!("{good}-x"),
        ] {
            assert!(sampled(wrong.as_bytes()).is_none(), "{wrong}");
        }
    }
}
