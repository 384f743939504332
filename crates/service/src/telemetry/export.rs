//! Where spans and metrics go, by the variables of the OpenTelemetry specification ("OpenTelemetry Protocol
//! Exporter"): endpoints, headers, time limits and certificates are read by the exporters themselves.
//!
//! Without a word about the protocol it is gRPC, as collectors listen for it on port 4317, but HTTP where the endpoint
//! has the port that is HTTP's by the same specification.

use opentelemetry_otlp::{MetricExporter, Protocol, SpanExporter, WithExportConfig};

use super::TelemetryError;
use crate::config::Environment;

/// Where collectors listen for OTLP over HTTP.
const HTTP_PORT: &str = "4318";

/// The exporter of spans, if they are to be exported.
pub(super) fn spans(environment: &Environment) -> Result<Option<SpanExporter>, TelemetryError> {
    if !is_exported(environment, "TRACES") {
        return Ok(None);
    }
    let builder = SpanExporter::builder();
    let exporter = match protocol(environment, "TRACES")? {
        Protocol::Grpc => builder.with_tonic().build(),
        http => builder.with_http().with_protocol(http).build(),
    };
    exporter.map(Some).map_err(TelemetryError::Exporter)
}

/// The exporter of metrics, if they are to be exported.
pub(super) fn metrics(environment: &Environment) -> Result<Option<MetricExporter>, TelemetryError> {
    if !is_exported(environment, "METRICS") {
        return Ok(None);
    }
    let builder = MetricExporter::builder();
    let exporter = match protocol(environment, "METRICS")? {
        Protocol::Grpc => builder.with_tonic().build(),
        http => builder.with_http().with_protocol(http).build(),
    };
    exporter.map(Some).map_err(TelemetryError::Exporter)
}

/// Whether the signal is to be exported.
fn is_exported(environment: &Environment, signal: &str) -> bool {
    let disabled = environment
        .get("OTEL_SDK_DISABLED")
        .is_some_and(|value| value.eq_ignore_ascii_case("true"));
    let none = environment.get(&format!("OTEL_{signal}_EXPORTER")) == Some("none");
    endpoint(environment, signal).is_some() && !disabled && !none
}

/// A signal's own endpoint goes before that of all.
fn endpoint<'a>(environment: &'a Environment, signal: &str) -> Option<&'a str> {
    environment
        .get(&format!("OTEL_EXPORTER_OTLP_{signal}_ENDPOINT"))
        .or_else(|| environment.get("OTEL_EXPORTER_OTLP_ENDPOINT"))
}

/// How the signal is sent. The exporters' own choice depends on how they were compiled.
fn protocol(environment: &Environment, signal: &str) -> Result<Protocol, TelemetryError> {
    let variables = [
        format!("OTEL_EXPORTER_OTLP_{signal}_PROTOCOL"),
        "OTEL_EXPORTER_OTLP_PROTOCOL".to_owned(),
    ];
    let said = variables
        .into_iter()
        .find_map(|variable| Some((environment.get(&variable)?.to_owned(), variable)));
    match said {
        Some((value, _)) if value == "grpc" => Ok(Protocol::Grpc),
        Some((value, _)) if value == "http/protobuf" => Ok(Protocol::HttpBinary),
        Some((value, variable)) => Err(TelemetryError::Protocol { variable, value }),
        None if endpoint(environment, signal).is_some_and(has_http_port) => {
            Ok(Protocol::HttpBinary)
        }
        None => Ok(Protocol::Grpc),
    }
}

fn has_http_port(endpoint: &str) -> bool {
    let rest = endpoint
        .split_once("://")
        .map_or(endpoint, |(_, rest)| rest);
    let authority = rest.split('/').next().unwrap_or_default();
    authority
        .rsplit_once(':')
        .is_some_and(|(_, port)| port == HTTP_PORT)
}

#[cfg(test)]
mod tests {
    use opentelemetry_otlp::Protocol;

    use super::{is_exported, protocol};
    use crate::config::Environment;

    #[test]
    fn the_protocol_is_said_or_follows_the_port() {
        let protocol = |variables: &[(&str, &str)], signal| {
            let environment = Environment::of(variables.iter().copied());
            protocol(&environment, signal).map_err(|error| error.to_string())
        };
        let said = |value| ("OTEL_EXPORTER_OTLP_PROTOCOL", value);
        let at = |value| ("OTEL_EXPORTER_OTLP_ENDPOINT", value);
        assert_eq!(
            protocol(&[at("http://x:4317")], "TRACES"),
            Ok(Protocol::Grpc)
        );
        assert_eq!(
            protocol(&[at("https://x/4318")], "TRACES"),
            Ok(Protocol::Grpc)
        );
        let http = [at("http://x:4318/otlp")];
        assert_eq!(protocol(&http, "TRACES"), Ok(Protocol::HttpBinary));
        let grpc = [at("http://x:4318"), said("grpc")];
        assert_eq!(protocol(&grpc, "METRICS"), Ok(Protocol::Grpc));
        let own = ("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "http/protobuf");
        assert_eq!(
            protocol(&[own, said("grpc")], "METRICS"),
            Ok(Protocol::HttpBinary)
        );
        assert_eq!(protocol(&[own, said("grpc")], "TRACES"), Ok(Protocol::Grpc));
        let error = protocol(&[said("http/json")], "TRACES").unwrap_err();
        assert!(
            error.starts_with("OTEL_EXPORTER_OTLP_PROTOCOL is \"http/json\""),
            "{error}"
        );
    }

    #[test]
    fn export_follows_the_standard_variables() {
        let exported = |variables: &[(&str, &str)], signal| {
            is_exported(&Environment::of(variables.iter().copied()), signal)
        };
        let everywhere = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4317");
        let traces = (
            "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
            "http://127.0.0.1:4317",
        );
        assert!(!exported(&[], "TRACES"));
        assert!(exported(&[everywhere], "TRACES") && exported(&[everywhere], "METRICS"));
        assert!(exported(&[traces], "TRACES") && !exported(&[traces], "METRICS"));
        assert!(!exported(
            &[everywhere, ("OTEL_SDK_DISABLED", "true")],
            "TRACES"
        ));
        assert!(!exported(
            &[everywhere, ("OTEL_METRICS_EXPORTER", "none")],
            "METRICS"
        ));
    }
}
