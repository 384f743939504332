use std::io::Write;
use std::sync::{Arc, Mutex};

use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::SubscriberExt;

use super::{log_layer, span_layer};
use crate::config::Environment;

/// Keeps what was written or exported.
#[derive(Clone, Debug)]
struct Kept<T>(Arc<Mutex<Vec<T>>>);

impl<T> Default for Kept<T> {
    fn default() -> Self {
        Kept(Arc::default())
    }
}

impl Write for Kept<u8> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl SpanExporter for Kept<SpanData> {
    async fn export(&self, batch: Vec<SpanData>) -> opentelemetry_sdk::error::OTelSdkResult {
        self.0.lock().unwrap().extend(batch);
        Ok(())
    }
}

/// The log lines and the spans of `work`.
fn record(
    variables: &[(&str, &str)],
    work: impl FnOnce(),
) -> (Vec<serde_json::Value>, Vec<SpanData>) {
    let (written, spans) = (Kept::<u8>::default(), Kept::<SpanData>::default());
    let tracers = SdkTracerProvider::builder()
        .with_simple_exporter(spans.clone())
        .build();
    let environment = Environment::of(
        [("ZEKTOR_LOG_FORMAT", "json")]
            .into_iter()
            .chain(variables.iter().copied()),
    );
    let writer = written.clone();
    let subscriber = Registry::default()
        .with(log_layer(&environment, move || writer.clone()).unwrap())
        .with(span_layer(&tracers));
    tracing::subscriber::with_default(subscriber, work);
    tracers.force_flush().unwrap();
    let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    let spans = spans.0.lock().unwrap().clone();
    (lines.collect(), spans)
}

#[test]
fn a_log_line_has_its_fields_and_the_ids_of_its_span() {
    let (lines, spans) = record(&[], || {
        let outer = tracing::info_span!("backup", backup_id = "b-1", otel.kind = "consumer");
        let _outer = outer.entered();
        let _inner = tracing::info_span!("upload", pack = 7).entered();
        let error = std::io::Error::other("broken");
        tracing::warn!(bytes = 12, error = &error as &dyn std::error::Error, "slow");
    });
    let upload = spans.iter().find(|span| span.name == "upload").unwrap();
    let backup = spans.iter().find(|span| span.name == "backup").unwrap();
    let line = &lines[0];
    assert_eq!(line["message"], "slow");
    assert_eq!(line["level"], "warn");
    assert_eq!(line["bytes"], 12);
    assert_eq!(line["error"], "broken");
    assert_eq!(
        line["context"],
        serde_json::json!({"backup_id": "b-1", "pack": 7})
    );
    assert_eq!(line["trace_id"], upload.span_context.trace_id().to_string());
    assert_eq!(line["span_id"], upload.span_context.span_id().to_string());
    assert_eq!(upload.parent_span_id, backup.span_context.span_id());
}

#[test]
fn the_exporters_own_spans_are_never_exported_and_levels_do_not_matter() {
    let (lines, spans) = record(&[("ZEKTOR_LOG", "error")], || {
        tracing::info_span!(target: "h2::client", "frame").in_scope(|| {});
        tracing::info_span!(target: "tonic", "call").in_scope(|| {});
        tracing::info_span!("ours").in_scope(|| tracing::info!("not logged"));
    });
    assert!(lines.is_empty());
    let names: Vec<_> = spans.iter().map(|span| span.name.as_ref()).collect();
    assert_eq!(names, ["ours"]);
}

#[test]
fn a_wrong_filter_is_named() {
    let environment = Environment::of([("ZEKTOR_LOG", "=[what")]);
    let error = log_layer::<Registry, _>(&environment, std::io::sink)
        .err()
        .unwrap();
    assert!(error.to_string().contains("ZEKTOR_LOG"), "{error}");
}
