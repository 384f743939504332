//! Logs, traces and metrics of a process.
//!
//! Logs go to stderr: JSON with the ids of the current trace and span, or text on a terminal
//! (`ZEKTOR_LOG_FORMAT=text|json` decides, `ZEKTOR_LOG` filters). Spans always have ids and are propagated
//! as W3C trace context; they are exported by OTLP, over gRPC or HTTP (`telemetry/export.rs`), only when a standard
//! `OTEL_*` endpoint is set. Metrics are always there for `/metrics`, and exported under the same condition.
//!
//! What must stay true: the layer that makes OpenTelemetry spans never sees the spans of its own exporter,
//! or it would export them endlessly.

use std::io::IsTerminal;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::JsonFields;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::{EnvFilter, Layer, Registry};

use crate::config::Environment;

mod export;
mod json;

/// What is logged when `ZEKTOR_LOG` does not say.
const DEFAULT_LOG: &str =
    "info,async_nats=warn,opentelemetry=warn,sqlx=warn,h2=warn,hyper=warn,tonic=warn";
/// Whose spans are never exported: what the exporter itself is made of.
const NEVER_EXPORTED: [&str; 9] = [
    "h2",
    "hyper",
    "hyper_util",
    "tonic",
    "tower",
    "reqwest",
    "opentelemetry",
    "opentelemetry_sdk",
    "opentelemetry_otlp",
];
/// How long the last export may take; a dead collector must not hold a drain up.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Telemetry cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `ZEKTOR_LOG` is not a filter.
    #[error("ZEKTOR_LOG is {value:?}, expected a filter like info or debug,async_nats=warn")]
    Filter {
        /// What stood there.
        value: String,
        /// Why not.
        #[source]
        source: tracing_subscriber::filter::ParseError,
    },
    /// A protocol that is not spoken here.
    #[error("{variable} is {value:?}, expected grpc or http/protobuf")]
    Protocol {
        /// Which variable.
        variable: String,
        /// What stood there.
        value: String,
    },
    /// An exporter cannot be made.
    #[error("the OpenTelemetry exporter cannot be made; check the OTEL_EXPORTER_OTLP_* variables")]
    Exporter(#[source] opentelemetry_otlp::ExporterBuildError),
    /// The reader behind `/metrics` cannot be made.
    #[error("the metrics reader cannot be made")]
    Metrics(#[source] opentelemetry_sdk::error::OTelSdkError),
    /// The process has telemetry already.
    #[error("telemetry was started before in this process")]
    AlreadyStarted(#[source] tracing::subscriber::SetGlobalDefaultError),
}

/// The telemetry of this process. End it with [`Telemetry::flush`].
#[derive(Debug)]
pub struct Telemetry {
    tracers: SdkTracerProvider,
    meters: SdkMeterProvider,
    registry: prometheus::Registry,
}

impl Telemetry {
    /// Starts logs, traces and metrics for the service `name` (`zektor-<name>`), replica `worker_name`. Must be
    /// called inside the runtime that the exporters are to use.
    ///
    /// # Errors
    /// If a variable is not valid, or it was started before.
    pub fn start(
        name: &str,
        version: &'static str,
        worker_name: &str,
        environment: &Environment,
    ) -> Result<Self, TelemetryError> {
        // Exporters and other clients of TLS need one, and it must be the same everywhere. Fails only when a provider is
        // installed already, which is then as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let resource = Resource::builder()
            .with_service_name(format!("zektor-{name}"))
            .with_attribute(KeyValue::new("service.version", version))
            .with_attribute(KeyValue::new("service.instance.id", worker_name.to_owned()))
            .build();
        let tracers = tracers(resource.clone(), environment)?;
        let registry = prometheus::Registry::new();
        let meters = meters(resource, &registry, environment)?;
        let subscriber = Registry::default()
            .with(log_layer(environment, std::io::stderr)?)
            .with(span_layer(&tracers));
        tracing::subscriber::set_global_default(subscriber)
            .map_err(TelemetryError::AlreadyStarted)?;
        opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
        opentelemetry::global::set_tracer_provider(tracers.clone());
        opentelemetry::global::set_meter_provider(meters.clone());
        log_panics();
        Ok(Telemetry {
            tracers,
            meters,
            registry,
        })
    }

    /// What `/metrics` shows.
    #[must_use]
    pub fn registry(&self) -> prometheus::Registry {
        self.registry.clone()
    }

    /// Exports what is left and ends. The last thing a process does.
    pub async fn flush(self) {
        let flushed = tokio::task::spawn_blocking(move || {
            let spans = self.tracers.shutdown_with_timeout(FLUSH_TIMEOUT);
            let metrics = self.meters.shutdown_with_timeout(FLUSH_TIMEOUT);
            for error in [spans.err(), metrics.err()].into_iter().flatten() {
                tracing::warn!(%error, "not all telemetry could be exported");
            }
        });
        let _ = tokio::time::timeout(2 * FLUSH_TIMEOUT, flushed).await;
    }
}

fn tracers(
    resource: Resource,
    environment: &Environment,
) -> Result<SdkTracerProvider, TelemetryError> {
    let builder = SdkTracerProvider::builder().with_resource(resource);
    Ok(match export::spans(environment)? {
        Some(exporter) => builder.with_batch_exporter(exporter).build(),
        None => builder.build(),
    })
}

fn meters(
    resource: Resource,
    registry: &prometheus::Registry,
    environment: &Environment,
) -> Result<SdkMeterProvider, TelemetryError> {
    let reader = opentelemetry_prometheus::exporter()
        .with_registry(registry.clone())
        .build()
        .map_err(TelemetryError::Metrics)?;
    let builder = SdkMeterProvider::builder()
        .with_resource(resource)
        .with_reader(reader);
    Ok(match export::metrics(environment)? {
        Some(exporter) => builder.with_periodic_exporter(exporter).build(),
        None => builder.build(),
    })
}

/// Logs to `writer`, in the form and with the filter that the environment wants.
fn log_layer<S, W>(
    environment: &Environment,
    writer: W,
) -> Result<Box<dyn Layer<S> + Send + Sync>, TelemetryError>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let value = environment.get("ZEKTOR_LOG").unwrap_or(DEFAULT_LOG);
    let filter = EnvFilter::try_new(value).map_err(|source| TelemetryError::Filter {
        value: value.to_owned(),
        source,
    })?;
    let terminal = std::io::stderr().is_terminal();
    let text = match environment.get("ZEKTOR_LOG_FORMAT") {
        Some(format) => format == "text",
        None => terminal,
    };
    let layer = tracing_subscriber::fmt::layer().with_writer(writer);
    Ok(if text {
        layer.with_ansi(terminal).with_filter(filter).boxed()
    } else {
        layer
            .fmt_fields(JsonFields::new())
            .event_format(json::JsonFormat)
            .with_filter(filter)
            .boxed()
    })
}

/// OpenTelemetry spans from tracing's, whatever is logged.
fn span_layer<S>(tracers: &SdkTracerProvider) -> impl Layer<S> + use<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    let noise = NEVER_EXPORTED.map(|target| (target, LevelFilter::OFF));
    let filter = Targets::new()
        .with_default(LevelFilter::INFO)
        .with_targets(noise);
    tracing_opentelemetry::layer()
        .with_tracer(tracers.tracer("zektor"))
        .with_filter(filter)
}

/// A panic is a defect; it is logged like everything else.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(message, place, "panicked; this is a defect of zektor");
    }));
}

#[cfg(test)]
mod tests;
