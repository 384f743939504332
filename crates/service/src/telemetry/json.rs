//! One log line: a JSON object with the time, the message, the event's fields, the fields of the spans it
//! happened in (under `context`), and the ids of the trace and span.

use std::fmt;

use events::envelope::rfc3339;
use opentelemetry::trace::TraceContextExt;
use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, FormattedFields};
use tracing_subscriber::registry::LookupSpan;

use crate::clock::{Clock, SystemClock};

pub(super) struct JsonFormat;

impl<S, N> FormatEvent<S, N> for JsonFormat
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let metadata = event.metadata();
        // Records of the `log` crate carry their own target in a field.
        let target = fields
            .0
            .remove("log.target")
            .unwrap_or_else(|| metadata.target().into());
        fields.0.retain(|name, _| !name.starts_with("log."));

        let mut line = Map::new();
        let mut put = |name: &str, value: Value| line.insert(name.to_owned(), value);
        let _ = put("time", rfc3339(SystemClock.now()).into());
        let _ = put("level", metadata.level().as_str().to_lowercase().into());
        let _ = put("target", target);
        for (name, value) in fields.0 {
            let _ = put(&name, value);
        }
        let spans = span_fields(context);
        if !spans.is_empty() {
            let _ = put("context", spans.into());
        }
        // The span layer makes the current span's context the active one.
        let active = opentelemetry::Context::current();
        let ids = active.span().span_context().clone();
        if ids.is_valid() {
            let _ = put("trace_id", ids.trace_id().to_string().into());
            let _ = put("span_id", ids.span_id().to_string().into());
        }
        let line = serde_json::to_string(&line).map_err(|_| fmt::Error)?;
        writeln!(writer, "{line}")
    }
}

/// The fields of all spans around, the inner ones over the outer ones.
fn span_fields<S, N>(context: &FmtContext<'_, S, N>) -> Map<String, Value>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    let mut all = Map::new();
    for span in context
        .event_scope()
        .into_iter()
        .flat_map(|scope| scope.from_root())
    {
        let extensions = span.extensions();
        let Some(formatted) = extensions.get::<FormattedFields<N>>() else {
            continue;
        };
        if let Ok(Value::Object(fields)) = serde_json::from_str(&formatted.fields) {
            all.extend(
                fields
                    .into_iter()
                    .filter(|(name, _)| !name.starts_with("otel.")),
            );
        }
    }
    all
}

#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        let _ = self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, crate::run::chain(value));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}
