//! Metrics of every branch, read from what is known when they are collected.

use std::sync::Arc;

use opentelemetry::KeyValue;
use opentelemetry::global;
use service::Clock;
use tokio::time::Instant;

use crate::status::{BranchKey, Observed, Statuses};

/// Registers the instruments. They live as long as the process's meter.
pub(crate) fn observe(statuses: &Statuses, clock: &Arc<dyn Clock>) {
    let meter = global::meter("zektor-wal-archiver");
    let each = |value: fn(&Observed) -> Option<u64>| {
        let statuses = statuses.clone();
        move |seen: &dyn opentelemetry::metrics::AsyncInstrument<u64>| {
            for (key, status) in statuses.all() {
                if let Some(value) = value(&status.observed()) {
                    seen.observe(value, &attributes(&key));
                }
            }
        }
    };
    let _ = meter
        .u64_observable_counter("zektor.wal.archived_bytes")
        .with_unit("By")
        .with_description("Stored size of the complete segments archived by this process.")
        .with_callback(each(|seen| Some(seen.stored_bytes)))
        .build();
    let _ = meter
        .u64_observable_counter("zektor.wal.archived_segments")
        .with_description("Complete segments archived by this process.")
        .with_callback(each(|seen| Some(seen.segments)))
        .build();
    let _ = meter
        .u64_observable_gauge("zektor.wal.lag_bytes")
        .with_unit("By")
        .with_description("WAL of the server that is not durable in the repository.")
        .with_callback(each(|seen| {
            Some(seen.server_lsn?.bytes_since(seen.archived_lsn?))
        }))
        .build();
    let _ = meter
        .u64_observable_gauge("zektor.wal.streaming")
        .with_description("1 while WAL of the branch is received.")
        .with_callback(each(|seen| Some(u64::from(seen.streaming))))
        .build();
    let _ = meter
        .u64_observable_counter("zektor.wal.proof_violations")
        .with_description("Commits that came after they were said to be in the archive.")
        .with_callback(each(|seen| Some(seen.proof_violations)))
        .build();
    let _ = meter
        .u64_observable_gauge("zektor.wal.proof_margin_us")
        .with_description("What proofs of the archive's completeness subtract, in microseconds.")
        .with_callback(each(|seen| Some(seen.margin.at(Instant::now()).micros())))
        .build();
    let (statuses, clock) = (statuses.clone(), Arc::clone(clock));
    let _ = meter
        .f64_observable_gauge("zektor.wal.seconds_since_archived")
        .with_unit("s")
        .with_description("Seconds since a complete segment was archived by this process.")
        .with_callback(move |seen| {
            for (key, status) in statuses.all() {
                if let Some(stored_at) = status.observed().last_stored_at {
                    let since = (clock.now() - stored_at).as_seconds_f64();
                    seen.observe(since, &attributes(&key));
                }
            }
        })
        .build();
}

fn attributes(key: &BranchKey) -> [KeyValue; 2] {
    [
        KeyValue::new("instance", key.instance.to_string()),
        KeyValue::new("branch", key.branch.to_string()),
    ]
}
