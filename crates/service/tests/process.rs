//! The shell as a real process: signals, drain, supervisor, exit codes.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

/// The example beside this test's own binary: `target/debug/deps/process-…` and `target/debug/examples/shell`.
fn shell() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(2).unwrap().join("examples/shell")
}

/// Nothing here takes longer; a process that does is killed, so that no test waits for ever.
const DEADLINE: Duration = Duration::from_secs(60);

/// A running shell; killed when dropped, and at the deadline.
struct Process(
    Child,
    #[expect(dead_code, reason = "its drop ends the watch")] SyncSender<()>,
);

/// Kills the process at the deadline, unless the other side is dropped before.
fn watch(pid: u32) -> SyncSender<()> {
    let (alive, ended) = sync_channel(0);
    drop(std::thread::spawn(move || {
        if ended.recv_timeout(DEADLINE) == Err(RecvTimeoutError::Timeout) {
            let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
        }
    }));
    alive
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn start(variables: &[(&str, &str)]) -> Self {
        let child = Command::new(shell())
            .env_clear()
            .envs([("HOME", "/nonexistent"), ("ZEKTOR_LOG_FORMAT", "json")])
            .envs(variables.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let watch = watch(child.id());
        Process(child, watch)
    }

    /// Reads log lines until one has this message; that line.
    fn await_line(&mut self, message: &str) -> serde_json::Value {
        let mut reader = BufReader::with_capacity(1, self.0.stderr.as_mut().unwrap());
        loop {
            let mut line = String::new();
            assert_ne!(
                reader.read_line(&mut line).unwrap(),
                0,
                "ended before {message:?}"
            );
            let line: serde_json::Value = serde_json::from_str(&line).unwrap();
            if line["message"] == message {
                return line;
            }
        }
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill")
            .args(["-s", name, &pid])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    fn code(&mut self) -> i32 {
        self.0.wait().unwrap().code().unwrap()
    }
}

#[test]
fn a_signal_drains_and_the_process_ends_well() {
    for name in ["TERM", "INT"] {
        let mut process = Process::start(&[("ZEKTOR_DRAIN_FOR", "50ms")]);
        let started = process.await_line("started");
        assert!(started["http"].as_str().unwrap().starts_with("127.0.0.1:"));
        process.signal(name);
        let _ = process.await_line("draining");
        let _ = process.await_line("ended");
        assert_eq!(process.code(), 0);
    }
}

#[test]
fn a_second_signal_and_the_deadline_cut_a_drain_short() {
    let mut process = Process::start(&[("ZEKTOR_DRAIN_FOR", "1h")]);
    let _ = process.await_line("started");
    process.signal("TERM");
    let _ = process.await_line("draining");
    process.signal("INT");
    let ended = process.await_line("ended by a failure");
    assert!(ended["error"].as_str().unwrap().contains("second SIGINT"));
    assert_eq!(process.code(), 1);

    let limits = [
        ("ZEKTOR_DRAIN_FOR", "1h"),
        ("ZEKTOR_SHUTDOWN_TIMEOUT", "20ms"),
    ];
    let mut process = Process::start(&limits);
    let _ = process.await_line("started");
    process.signal("TERM");
    let ended = process.await_line("ended by a failure");
    assert!(
        ended["error"]
            .as_str()
            .unwrap()
            .contains("ZEKTOR_SHUTDOWN_TIMEOUT")
    );
    assert_eq!(process.code(), 1);
}

#[test]
fn the_end_of_the_supervisor_drains() {
    let mut process = Process::start(&[("ZEKTOR_SUPERVISED", "1")]);
    let _ = process.await_line("started");
    drop(process.0.stdin.take());
    let draining = process.await_line("draining");
    assert_eq!(draining["reason"], "the supervisor ended");
    assert_eq!(process.code(), 0);
}

#[test]
fn failures_and_wrong_settings_have_their_exit_codes() {
    let mut process = Process::start(&[("ZEKTOR_BROKEN", "true")]);
    let ended = process.await_line("ended by a failure");
    assert_eq!(ended["error"], "broken as configured");
    assert_eq!(process.code(), 1);

    let mut process = Process::start(&[("ZEKTOR_DRAIN_FOR", "soon")]);
    let mut said = String::new();
    let stderr = process.0.stderr.as_mut().unwrap();
    let _ = stderr.read_to_string(&mut said).unwrap();
    assert!(said.contains("zektor-shell: ZEKTOR_DRAIN_FOR"), "{said}");
    assert_eq!(process.code(), 2);
}

#[test]
fn the_settings_are_printed_and_the_port_is_written_down() {
    let printed = Command::new(shell())
        .env_clear()
        .env("ZEKTOR_CATALOG_URL", "postgres://z:geheim@db/x")
        .arg("--print-config")
        .output()
        .unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert!(printed.contains("postgres://z:***@db/x"), "{printed}");
    assert!(printed.contains("drain_for = \"0s\""), "{printed}");

    let directory = tempfile::tempdir().unwrap();
    let port_file = directory.path().join("shell.port");
    let mut process = Process::start(&[("ZEKTOR_HTTP_PORT_FILE", port_file.to_str().unwrap())]);
    let started = process.await_line("started");
    let written = std::fs::read_to_string(&port_file).unwrap();
    assert_eq!(started["http"], written.trim());
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_and_metrics_are_exported_and_nothing_of_the_exporter() {
    let receiver = testkit::otlp::OtlpReceiver::start().await.unwrap();
    let variables = receiver.env();
    let mut variables: Vec<_> = variables
        .iter()
        .map(|(n, v)| (n.as_str(), v.as_str()))
        .collect();
    // No delay: the last spans come by the flush at the end alone.
    variables.retain(|(name, _)| *name != "OTEL_BSP_SCHEDULE_DELAY");
    let mut process = Process::start(&variables);
    let alive = process.await_line("alive");
    process.signal("TERM");
    assert_eq!(process.code(), 0);
    let spans = receiver.spans();
    let names: Vec<_> = spans.iter().map(|span| span.name.as_str()).collect();
    assert_eq!(names, ["live"]);
    assert_eq!(spans[0].service, "zektor-shell");
    assert_eq!(alive["trace_id"], spans[0].trace_id.as_str());
    let metric = receiver
        .wait_for_metric("zektor.shell.lives")
        .await
        .unwrap();
    assert_eq!(metric.service, "zektor-shell");
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_and_metrics_go_over_http_too() {
    let (received, mut posts) = tokio::sync::mpsc::channel(100);
    let post = async move |request: axum::extract::Request| {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
        let path = parts.uri.path().to_owned();
        let kind = parts.headers["content-type"].clone();
        received.send((path, kind, body)).await.unwrap();
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let serving = tokio::spawn(async move {
        let router = axum::Router::new().fallback(post);
        axum::serve(listener, router).await.unwrap();
    });
    let mut process = Process::start(&[
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf"),
    ]);
    let _ = process.await_line("alive");
    process.signal("TERM");
    assert_eq!(process.code(), 0);
    serving.abort();
    let mut came = Vec::new();
    while let Ok((path, kind, body)) = posts.try_recv() {
        assert_eq!(kind, "application/x-protobuf");
        came.push((path, body));
    }
    for (wanted, name) in [
        ("/v1/traces", "live"),
        ("/v1/metrics", "zektor.shell.lives"),
    ] {
        let has = |body: &[u8], text: &str| {
            body.windows(text.len())
                .any(|window| window == text.as_bytes())
        };
        let whole = came
            .iter()
            .any(|(path, body)| path == wanted && has(body, "zektor-shell") && has(body, name));
        assert!(whole, "{wanted}: {came:?}");
    }
}
