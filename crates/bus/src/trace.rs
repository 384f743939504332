//! Trace context on the bus, and the names of spans and attributes.
//!
//! Names follow OpenTelemetry's messaging conventions, which are still in development: this is the one
//! file to change. Header forms are W3C Trace Context, version 00.

use opentelemetry::trace::{
    SpanContext, SpanId, TraceContextExt as _, TraceFlags, TraceId, TraceState,
};
use tracing::{Span, info_span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// `traceparent` of the current span; `None` outside of a trace.
#[must_use]
pub fn current_traceparent() -> Option<String> {
    current().map(|(parent, _)| parent)
}

/// Makes `span` continue the trace that `traceparent` names. Anything that is not a `traceparent` is ignored.
pub fn set_parent(span: &Span, traceparent: &str) {
    if let Some(remote) = parse(traceparent, None) {
        adopt(span, remote);
    }
}

/// Links `span` to the span that `traceparent` names, in whatever trace `span` is.
pub fn add_link(span: &Span, traceparent: &str) {
    if let Some(remote) = parse(traceparent, None) {
        span.add_link(remote);
    }
}

/// `traceparent` and `tracestate` of the current span.
pub(crate) fn current() -> Option<(String, Option<String>)> {
    let context = Span::current().context();
    let span = context.span();
    let span = span.span_context();
    span.is_valid().then(|| {
        let parent = format!(
            "00-{}-{}-{:02x}",
            span.trace_id(),
            span.span_id(),
            span.trace_flags() & TraceFlags::SAMPLED
        );
        let state = span.trace_state().header();
        (parent, (!state.is_empty()).then_some(state))
    })
}

/// The span of one delivery: a child of the publisher's span, and linked to it, so that both a short road
/// and one of hours can be read.
pub(crate) fn process_span(
    consumer: &str,
    subject: &str,
    traceparent: Option<&str>,
    tracestate: Option<&str>,
) -> Span {
    let span = info_span!(
        "process",
        otel.name = format!("process {consumer}"),
        otel.kind = "consumer",
        messaging.system = "nats",
        messaging.operation.r#type = "process",
        messaging.operation.name = "process",
        messaging.destination.name = subject,
        messaging.consumer.group.name = consumer,
        messaging.message.id = tracing::field::Empty,
        messaging.nats.sequence = tracing::field::Empty,
        messaging.nats.attempt = tracing::field::Empty,
    );
    if let Some(remote) = traceparent.and_then(|parent| parse(parent, tracestate)) {
        adopt(&span, remote.clone());
        span.add_link(remote);
    }
    span
}

/// The span of one publication.
pub(crate) fn publish_span(subject: &str, id: &str) -> Span {
    info_span!(
        "publish",
        otel.name = "publish",
        otel.kind = "producer",
        messaging.system = "nats",
        messaging.operation.r#type = "send",
        messaging.operation.name = "publish",
        messaging.destination.name = subject,
        messaging.message.id = id,
    )
}

/// The span of one question, on the side that asks.
pub(crate) fn request_span(subject: &str) -> Span {
    info_span!(
        "request",
        otel.name = "request",
        otel.kind = "client",
        messaging.system = "nats",
        messaging.operation.name = "request",
        messaging.destination.name = subject,
    )
}

/// The span of one question, on the side that answers.
pub(crate) fn serve_span(subject: &str, traceparent: Option<&str>) -> Span {
    let span = info_span!(
        "serve",
        otel.name = "serve",
        otel.kind = "server",
        messaging.system = "nats",
        messaging.operation.name = "serve",
        messaging.destination.name = subject,
    );
    if let Some(parent) = traceparent {
        set_parent(&span, parent);
    }
    span
}

fn adopt(span: &Span, remote: SpanContext) {
    let context = opentelemetry::Context::new().with_remote_span_context(remote);
    // Fails only where no telemetry is installed, and then there is nothing to continue.
    let _no_layer = span.set_parent(context);
}

/// Reads a `traceparent`; of later versions the part that version 00 knows.
fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<SpanContext> {
    let mut parts = traceparent.trim().split('-');
    let version = parts.next().filter(|version| version.len() == 2)?;
    let trace = parts.next().filter(|id| id.len() == 32)?;
    let span = parts.next().filter(|id| id.len() == 16)?;
    let flags = parts.next().filter(|flags| flags.len() == 2)?;
    if version == "ff" || (version == "00" && parts.next().is_some()) {
        return None;
    }
    let flags = TraceFlags::new(u8::from_str_radix(flags, 16).ok()?) & TraceFlags::SAMPLED;
    let state = tracestate
        .and_then(|state| state.parse::<TraceState>().ok())
        .unwrap_or_default();
    let context = SpanContext::new(
        TraceId::from_hex(trace).ok()?,
        SpanId::from_hex(span).ok()?,
        flags,
        true,
        state,
    );
    context.is_valid().then_some(context)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn only_traceparents_are_read() {
        let good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let context = parse(good, Some("vendor=1")).unwrap();
        assert_eq!(
            context.trace_id().to_string(),
            "0af7651916cd43dd8448eb211c80319c"
        );
        assert!(context.is_sampled() && context.is_remote());
        assert_eq!(context.trace_state().header(), "vendor=1");
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
            "00-zzf7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert!(parse(bad, None).is_none(), "{bad}");
        }
    }
}
