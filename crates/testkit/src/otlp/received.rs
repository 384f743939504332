//! From the wire's nested messages to plain values.

use std::collections::BTreeMap;
use std::fmt::Write;

use opentelemetry_proto::tonic::collector::metrics::v1::ExportMetricsServiceRequest;
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as wire;

/// Attributes, every value as text.
pub(super) type Attributes = BTreeMap<String, String>;

/// A received span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The `service.name` of its resource.
    pub service: String,
    /// The span's name.
    pub name: String,
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// 16 hexadecimal digits.
    pub span_id: String,
    /// 16 hexadecimal digits; none on a root.
    pub parent_span_id: Option<String>,
    /// The trace and span ids of its links.
    pub links: Vec<(String, String)>,
    /// The span's own attributes.
    pub attributes: Attributes,
    /// Whether its status says error.
    pub failed: bool,
    /// Nanoseconds from start to end.
    pub duration_ns: u64,
}

/// One export of a metric.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Metric {
    /// The `service.name` of its resource.
    pub service: String,
    /// The metric's name.
    pub name: String,
    /// The unit, such as `By` or `s`.
    pub unit: String,
}

pub(super) fn spans(request: ExportTraceServiceRequest) -> impl Iterator<Item = Span> {
    request.resource_spans.into_iter().flat_map(|resource| {
        let service = service_name(resource.resource.as_ref());
        let spans = resource
            .scope_spans
            .into_iter()
            .flat_map(|scope| scope.spans);
        spans.map(move |span| plain(&service, span))
    })
}

pub(super) fn metrics(request: ExportMetricsServiceRequest) -> impl Iterator<Item = Metric> {
    request.resource_metrics.into_iter().flat_map(|resource| {
        let service = service_name(resource.resource.as_ref());
        let metrics = resource
            .scope_metrics
            .into_iter()
            .flat_map(|scope| scope.metrics);
        metrics.map(move |metric| Metric {
            service: service.clone(),
            name: metric.name,
            unit: metric.unit,
        })
    })
}

fn plain(service: &str, span: wire::Span) -> Span {
    let failed = span
        .status
        .is_some_and(|status| status.code == i32::from(wire::status::StatusCode::Error));
    Span {
        service: service.to_owned(),
        name: span.name,
        trace_id: hexadecimal(&span.trace_id),
        span_id: hexadecimal(&span.span_id),
        parent_span_id: (!span.parent_span_id.is_empty())
            .then(|| hexadecimal(&span.parent_span_id)),
        links: (span.links.iter())
            .map(|link| (hexadecimal(&link.trace_id), hexadecimal(&link.span_id)))
            .collect(),
        attributes: attributes(span.attributes),
        failed,
        duration_ns: span
            .end_time_unix_nano
            .saturating_sub(span.start_time_unix_nano),
    }
}

fn service_name(resource: Option<&Resource>) -> String {
    let all = resource
        .map(|resource| attributes(resource.attributes.clone()))
        .unwrap_or_default();
    all.get("service.name").cloned().unwrap_or_default()
}

fn attributes(pairs: Vec<KeyValue>) -> Attributes {
    pairs
        .into_iter()
        .map(|pair| (pair.key, text(pair.value)))
        .collect()
}

fn text(value: Option<AnyValue>) -> String {
    match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => value.to_string(),
        Some(other) => format!("{other:?}"),
        None => String::new(),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}
