//! Trace context over the bus, with a real OpenTelemetry layer.

use std::sync::{Arc, Mutex};

use events::Event;
use opentelemetry::trace::{SpanId, SpanKind, TracerProvider as _};
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, Span, SpanData, SpanProcessor};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;
use tracing_subscriber::layer::SubscriberExt as _;

use super::{Backup, LIMIT, consume, consumer, in_time};
use crate::{Bus, Delivery, Outcome, QueryError, RequestError, trace};

/// Keeps what has ended.
#[derive(Clone, Debug, Default)]
struct Ended(Arc<Mutex<Vec<SpanData>>>);

impl SpanProcessor for Ended {
    fn on_start(&self, _span: &mut Span, _context: &opentelemetry::Context) {}

    fn on_end(&self, span: SpanData) {
        self.0.lock().unwrap().push(span);
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _timeout: std::time::Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Ended {
    fn install() -> (Ended, tracing::subscriber::DefaultGuard) {
        let ended = Ended::default();
        let provider = SdkTracerProvider::builder()
            .with_span_processor(ended.clone())
            .build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer);
        (ended, tracing::subscriber::set_default(subscriber))
    }

    fn named(&self, name: &str) -> SpanData {
        let ended = self.0.lock().unwrap();
        let found = ended.iter().find(|span| span.name == name).cloned();
        found.unwrap_or_else(|| panic!("no span {name}"))
    }
}

#[tokio::test]
async fn a_delivery_is_a_child_of_its_publication_and_linked_to_it() {
    let (ended, _guard) = Ended::install();
    let bus = Bus::in_memory();
    let (seen, mut handled) = mpsc::channel(1);
    let worker = consume(
        &bus,
        &consumer(LIMIT, 5),
        1,
        move |delivery: Delivery<Event>| {
            let seen = seen.clone();
            async move {
                let told = (delivery.envelope.traceparent, trace::current_traceparent());
                seen.send(told).await.unwrap();
                Outcome::Done
            }
        },
    );
    let request = Backup::new().says("backup.requested");
    let root = tracing::info_span!("root");
    let published = bus.publish(request.clone()).instrument(root.clone()).await;
    let _ = published.unwrap();
    let (sent, current) = in_time("a delivery", handled.recv()).await.unwrap();
    worker.shut_down().await.unwrap();
    drop(root);

    let (root, publish, process) = (
        ended.named("root"),
        ended.named("publish"),
        ended.named("process conformance"),
    );
    let trace_id = root.span_context.trace_id();
    assert_eq!(publish.span_context.trace_id(), trace_id);
    assert_eq!(publish.parent_span_id, root.span_context.span_id());
    assert_eq!(publish.span_kind, SpanKind::Producer);
    assert_eq!(process.span_context.trace_id(), trace_id);
    assert_eq!(process.parent_span_id, publish.span_context.span_id());
    assert!(process.parent_span_is_remote);
    assert_eq!(process.span_kind, SpanKind::Consumer);
    let linked: Vec<SpanId> = process
        .links
        .iter()
        .map(|link| link.span_context.span_id())
        .collect();
    assert_eq!(linked, [publish.span_context.span_id()]);
    let attribute = |name: &str| {
        let found = process
            .attributes
            .iter()
            .find(|attribute| attribute.key.as_str() == name);
        found.map(|attribute| attribute.value.to_string())
    };
    assert_eq!(attribute("messaging.system").as_deref(), Some("nats"));
    assert_eq!(
        attribute("messaging.message.id").as_deref(),
        Some(request.id.as_str())
    );
    assert_eq!(
        attribute("messaging.operation.type").as_deref(),
        Some("process")
    );

    let header = |span: &SpanData| {
        let context = &span.span_context;
        format!("00-{}-{}-01", context.trace_id(), context.span_id())
    };
    assert_eq!(sent, Some(header(&publish)));
    assert_eq!(current, Some(header(&process)));
}

#[tokio::test]
async fn a_question_continues_the_trace_of_who_asks() {
    let (ended, _guard) = Ended::install();
    let bus = Bus::in_memory();
    let shutdown = CancellationToken::new();
    let service = tokio::spawn({
        let (bus, shutdown) = (bus.clone(), shutdown.clone());
        async move {
            let handler = |_: String, (): ()| async { Ok::<_, QueryError>(()) };
            bus.serve("zektor.query.test", "test", handler, shutdown)
                .await
        }
    });
    in_time("an answer", async {
        while let Err(RequestError::NoResponder { .. }) =
            bus.request::<(), ()>("zektor.query.test", &(), LIMIT).await
        {
            tokio::task::yield_now().await;
        }
    })
    .await;
    shutdown.cancel();
    service.await.unwrap().unwrap();
    let serve = ended.named("serve");
    let asked =
        ended.0.lock().unwrap().iter().any(|span| {
            span.name == "request" && span.span_context.span_id() == serve.parent_span_id
        });
    assert!(asked);
}

#[tokio::test]
async fn stored_headers_continue_a_trace() {
    let (ended, _guard) = Ended::install();
    let stored = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let span = tracing::info_span!("continued");
    trace::set_parent(&span, stored);
    let current = span.in_scope(trace::current_traceparent).unwrap();
    assert!(current.starts_with("00-0af7651916cd43dd8448eb211c80319c-"));
    drop(span);
    let continued = ended.named("continued");
    assert_eq!(continued.parent_span_id.to_string(), "b7ad6b7169203331");
    assert!(trace::current_traceparent().is_none());
}
