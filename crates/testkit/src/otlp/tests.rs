use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_client::MetricsServiceClient;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_client::TraceServiceClient;
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use opentelemetry_proto::tonic::metrics::v1 as metrics;
use opentelemetry_proto::tonic::resource::v1::Resource;
use opentelemetry_proto::tonic::trace::v1 as trace;

use super::*;

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue {
        key: key.to_owned(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    }
}

fn resource() -> Option<Resource> {
    let name = attribute("service.name", Value::StringValue("zektor-x".to_owned()));
    Some(Resource {
        attributes: vec![name],
        ..Resource::default()
    })
}

#[tokio::test]
async fn exported_spans_and_metrics_arrive_as_plain_values() {
    let receiver = OtlpReceiver::start().await.unwrap();
    let span = trace::Span {
        name: "backup".to_owned(),
        trace_id: vec![0xab; 16],
        span_id: vec![1; 8],
        attributes: vec![attribute("bytes", Value::IntValue(7))],
        start_time_unix_nano: 5,
        end_time_unix_nano: 9,
        ..trace::Span::default()
    };
    let scope = trace::ScopeSpans {
        spans: vec![span],
        ..trace::ScopeSpans::default()
    };
    let spans = trace::ResourceSpans {
        resource: resource(),
        scope_spans: vec![scope],
        ..trace::ResourceSpans::default()
    };
    let mut client = TraceServiceClient::connect(receiver.endpoint())
        .await
        .unwrap();
    let request = ExportTraceServiceRequest {
        resource_spans: vec![spans],
    };
    let _ = client.export(request).await.unwrap();
    let got = receiver
        .wait_for_spans("a span", |spans| spans.len() == 1)
        .await
        .unwrap();
    assert_eq!(
        (got[0].service.as_str(), got[0].trace_id.as_str()),
        ("zektor-x", &*"ab".repeat(16))
    );
    assert_eq!(
        (got[0].attributes["bytes"].as_str(), got[0].duration_ns),
        ("7", 4)
    );
    assert_eq!(got[0].parent_span_id, None);

    let metric = metrics::Metric {
        name: "wal".to_owned(),
        ..metrics::Metric::default()
    };
    let scope = metrics::ScopeMetrics {
        metrics: vec![metric],
        ..Default::default()
    };
    let resource_metrics = metrics::ResourceMetrics {
        resource: resource(),
        scope_metrics: vec![scope],
        ..Default::default()
    };
    let mut client = MetricsServiceClient::connect(receiver.endpoint())
        .await
        .unwrap();
    let request = ExportMetricsServiceRequest {
        resource_metrics: vec![resource_metrics],
    };
    let _ = client.export(request).await.unwrap();
    assert_eq!(
        receiver.wait_for_metric("wal").await.unwrap().service,
        "zektor-x"
    );
}
