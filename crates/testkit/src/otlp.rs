//! An OTLP receiver inside the test: what our programs export, as plain values to assert on.

mod received;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context, Result};
use opentelemetry_proto::tonic::collector::metrics::v1::metrics_service_server::{
    MetricsService, MetricsServiceServer,
};
use opentelemetry_proto::tonic::collector::metrics::v1::{
    ExportMetricsServiceRequest, ExportMetricsServiceResponse,
};
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::{START_TIMEOUT, wait_until};

pub use received::{Metric, Span};

/// Far more than a test exports; a loop that exports its own export is noticed by this.
const MOST_SPANS: usize = 100_000;

#[derive(Debug, Default)]
struct Received {
    spans: Vec<Span>,
    metrics: Vec<Metric>,
}

/// Shared by the server and the test.
#[derive(Debug, Clone, Default)]
struct Collected(Arc<Mutex<Received>>);

impl Collected {
    fn lock(&self) -> MutexGuard<'_, Received> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A receiver of OTLP over gRPC for spans and metrics; it ends when it is dropped.
#[derive(Debug)]
pub struct OtlpReceiver {
    address: SocketAddr,
    collected: Collected,
    serving: JoinHandle<()>,
}

impl OtlpReceiver {
    /// Listens on a free loopback port.
    ///
    /// # Errors
    /// When it cannot listen.
    pub async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .context("cannot listen for OTLP")?;
        let address = listener.local_addr()?;
        let collected = Collected::default();
        let server = Server::builder()
            .add_service(TraceServiceServer::new(collected.clone()))
            .add_service(MetricsServiceServer::new(collected.clone()))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let serving = tokio::spawn(async move {
            if let Err(error) = server.await {
                tracing::error!(%error, "the OTLP receiver ended");
            }
        });
        Ok(Self {
            address,
            collected,
            serving,
        })
    }

    /// The endpoint's URL.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The standard variables that make a program export here, spans and metrics without delay.
    #[must_use]
    pub fn env(&self) -> Vec<(String, String)> {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", self.endpoint().as_str()),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("OTEL_METRIC_EXPORT_INTERVAL", "500"),
            ("OTEL_TRACES_SAMPLER", "always_on"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec()
    }

    /// The spans received so far, in the order of their arrival.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        self.collected.lock().spans.clone()
    }

    /// The metrics received so far, in the order of their arrival; one entry for each export.
    #[must_use]
    pub fn metrics(&self) -> Vec<Metric> {
        self.collected.lock().metrics.clone()
    }

    /// Waits until the received spans satisfy `enough`, and returns them.
    ///
    /// # Errors
    /// After a minute; the error names `what` and the spans that came.
    pub async fn wait_for_spans(
        &self,
        what: &str,
        enough: impl Fn(&[Span]) -> bool,
    ) -> Result<Vec<Span>> {
        let waited = wait_until(what, START_TIMEOUT, async || {
            enough(&self.collected.lock().spans)
        })
        .await;
        let spans = self.spans();
        waited.with_context(|| {
            let names: Vec<_> = spans
                .iter()
                .map(|s| format!("{}:{}", s.service, s.name))
                .collect();
            format!("the spans that came: {}", names.join(", "))
        })?;
        Ok(spans)
    }

    /// Waits until a metric of this name has come, and returns its newest export.
    ///
    /// # Errors
    /// After a minute.
    pub async fn wait_for_metric(&self, name: &str) -> Result<Metric> {
        let mut found = None;
        wait_until(&format!("the metric {name}"), START_TIMEOUT, async || {
            found = self
                .metrics()
                .into_iter()
                .rfind(|metric| metric.name == name);
            found.is_some()
        })
        .await?;
        found.context("no metric")
    }
}

impl Drop for OtlpReceiver {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

#[tonic::async_trait]
impl TraceService for Collected {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut received = self.lock();
        received.spans.extend(received::spans(request.into_inner()));
        if received.spans.len() > MOST_SPANS {
            received.spans.truncate(MOST_SPANS);
            return Err(Status::resource_exhausted(
                "far more spans than a test makes",
            ));
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tonic::async_trait]
impl MetricsService for Collected {
    async fn export(
        &self,
        request: Request<ExportMetricsServiceRequest>,
    ) -> Result<Response<ExportMetricsServiceResponse>, Status> {
        let mut received = self.lock();
        received
            .metrics
            .extend(received::metrics(request.into_inner()));
        if received.metrics.len() > MOST_SPANS {
            received.metrics.truncate(MOST_SPANS);
            return Err(Status::resource_exhausted(
                "far more metrics than a test makes",
            ));
        }
        Ok(Response::new(ExportMetricsServiceResponse::default()))
    }
}

#[cfg(test)]
mod tests;
