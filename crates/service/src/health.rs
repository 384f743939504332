//! What a service says of itself: `/healthz` (alive), `/readyz` (named checks), `/metrics` (Prometheus text).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{Encoder, TextEncoder};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

type Check = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// The readiness of a service. A clone is the same readiness.
#[derive(Clone, Default)]
pub struct Health {
    state: Arc<HealthState>,
}

#[derive(Default)]
struct HealthState {
    checks: RwLock<BTreeMap<String, Check>>,
    draining: AtomicBool,
    metrics: prometheus::Registry,
}

impl std::fmt::Debug for Health {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Health").finish_non_exhaustive()
    }
}

/// The pages cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum HealthError {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}; set ZEKTOR_HTTP_LISTEN to a free address")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// The bound address could not be written down.
    #[error("cannot write the bound address to {path}; see ZEKTOR_HTTP_PORT_FILE")]
    PortFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
}

/// The pages, until dropped.
#[derive(Debug)]
pub struct HealthServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl HealthServer {
    /// Where the pages are.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HealthServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Health {
    /// A readiness whose `/metrics` shows `metrics`.
    #[must_use]
    pub fn new(metrics: prometheus::Registry) -> Self {
        let state = HealthState {
            metrics,
            ..HealthState::default()
        };
        Health {
            state: Arc::new(state),
        }
    }

    /// Registers a check, or replaces the one of this name. It runs on every request of `/readyz`, so it
    /// looks at what is known and does not go and ask; its error is one sentence.
    pub fn check(
        &self,
        name: &str,
        check: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) {
        let mut checks = self
            .state
            .checks
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let _ = checks.insert(name.to_owned(), Arc::new(check));
    }

    /// From now on the service is not ready: it drains.
    pub fn drain(&self) {
        self.state.draining.store(true, Ordering::Relaxed);
    }

    /// Serves the pages on `listen`; the address that was bound goes into `port_file`, whole or not at all.
    ///
    /// # Errors
    /// If the address cannot be bound or the file not written.
    pub async fn serve(
        &self,
        listen: SocketAddr,
        port_file: Option<&Path>,
    ) -> Result<HealthServer, HealthError> {
        let unbound = |source| HealthError::Listen {
            address: listen,
            source,
        };
        let listener = TcpListener::bind(listen).await.map_err(unbound)?;
        let address = listener.local_addr().map_err(unbound)?;
        if let Some(path) = port_file {
            write_address(path, address).map_err(|source| HealthError::PortFile {
                path: path.to_owned(),
                source,
            })?;
        }
        let router = Router::new()
            .route("/healthz", get(|| async { "alive\n" }))
            .route("/readyz", get(readiness))
            .route("/metrics", get(metrics))
            .with_state(self.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the health pages are no longer served");
            }
        });
        Ok(HealthServer { address, task })
    }

    fn run_checks(&self) -> (bool, BTreeMap<String, Result<(), String>>) {
        // Cloned, so that a check may itself register one.
        let checks = self
            .state
            .checks
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let results: BTreeMap<_, _> = checks
            .into_iter()
            .map(|(name, check)| (name, check()))
            .collect();
        let draining = self.state.draining.load(Ordering::Relaxed);
        let ready = !draining && results.values().all(Result::is_ok);
        (ready, results)
    }
}

fn write_address(path: &Path, address: SocketAddr) -> std::io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    std::fs::write(&unfinished, format!("{address}\n"))?;
    std::fs::rename(&unfinished, path)
}

async fn readiness(State(health): State<Health>) -> Response {
    let (ready, results) = health.run_checks();
    let checks: serde_json::Map<_, _> = results
        .into_iter()
        .map(|(name, result)| {
            let shown = match result {
                Ok(()) => serde_json::json!({ "ok": true }),
                Err(reason) => serde_json::json!({ "ok": false, "reason": reason }),
            };
            (name, shown)
        })
        .collect();
    let body = serde_json::json!({
        "ready": ready,
        "draining": health.state.draining.load(Ordering::Relaxed),
        "checks": checks,
    });
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (status, axum::Json(body)).into_response()
}

async fn metrics(State(health): State<Health>) -> Response {
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&health.state.metrics.gather(), &mut text) {
        Ok(()) => {
            let content_type = encoder.format_type().to_owned();
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::Health;

    const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

    async fn get(address: SocketAddr, path: &str) -> (u16, String) {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await.unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        (status, body.to_owned())
    }

    #[tokio::test]
    async fn readiness_follows_the_checks_and_the_drain() {
        let health = Health::default();
        let server = health.serve(ANY, None).await.unwrap();
        assert_eq!(get(server.address(), "/healthz").await.0, 200);
        assert_eq!(get(server.address(), "/readyz").await.0, 200);

        let connected = Arc::new(AtomicBool::new(false));
        health.check("bus", {
            let connected = Arc::clone(&connected);
            move || match connected.load(Ordering::Relaxed) {
                true => Ok(()),
                false => Err("not connected".to_owned()),
            }
        });
        let (status, body) = get(server.address(), "/readyz").await;
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(status, 503);
        assert_eq!(body["checks"]["bus"]["reason"], "not connected");

        connected.store(true, Ordering::Relaxed);
        assert_eq!(get(server.address(), "/readyz").await.0, 200);
        health.drain();
        assert_eq!(get(server.address(), "/readyz").await.0, 503);
        assert_eq!(get(server.address(), "/healthz").await.0, 200);
    }

    #[tokio::test]
    async fn metrics_are_prometheus_text_and_the_port_is_written_down() {
        let directory = tempfile::tempdir().unwrap();
        let port_file = directory.path().join("port");
        let registry = prometheus::Registry::new();
        let counter = prometheus::IntCounter::new("zektor_test_total", "counts").unwrap();
        registry.register(Box::new(counter.clone())).unwrap();
        counter.inc();
        let server = Health::new(registry)
            .serve(ANY, Some(&port_file))
            .await
            .unwrap();
        let written = std::fs::read_to_string(&port_file).unwrap();
        assert_eq!(
            written.trim().parse::<SocketAddr>().unwrap(),
            server.address()
        );
        let (status, body) = get(server.address(), "/metrics").await;
        assert_eq!(status, 200);
        assert!(body.contains("zektor_test_total 1"), "{body}");
    }

    #[tokio::test]
    async fn a_taken_address_is_named() {
        let health = Health::default();
        let server = health.serve(ANY, None).await.unwrap();
        let error = health.serve(server.address(), None).await.unwrap_err();
        assert!(error.to_string().contains("ZEKTOR_HTTP_LISTEN"));
    }
}
