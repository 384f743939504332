//! Metrics of every branch, read from what is known when they are collected.

use std::sync::Arc;

use events::Timestamp;
use opentelemetry::KeyValue;
use opentelemetry::global;
use opentelemetry::metrics::{AsyncInstrument, Meter};
use service::Clock;
use tokio::time::Instant;

use crate::status::{BranchKey, Observed, Statuses};
use crate::window;

/// Registers the instruments. They live as long as the process's meter.
pub(crate) fn observe(statuses: &Statuses, clock: &Arc<dyn Clock>) {
    let meter = global::meter("zektor-wal-archiver");
    let each = |value: fn(&Observed) -> Option<u64>| {
        let statuses = statuses.clone();
        move |seen: &dyn AsyncInstrument<u64>| {
            for (key, status) in statuses.all() {
                if let Some(value) = value(&status.observed()) {
                    seen.observe(value, &attributes(&key));
                }
            }
        }
    };
    let _ = meter
        .u64_observable_counter("zektor.wal.archived")
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
        .u64_observable_gauge("zektor.wal.lag")
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
        .u64_observable_gauge("zektor.wal.proof_margin")
        .with_unit("us")
        .with_description("What proofs of the archive's completeness subtract.")
        .with_callback(each(|seen| Some(seen.margin.at(Instant::now()).micros())))
        .build();
    observe_windows(&meter, statuses);
    let (statuses, clock) = (statuses.clone(), Arc::clone(clock));
    let _ = meter
        .f64_observable_gauge("zektor.wal.since_archived")
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

/// What can be restored.
fn observe_windows(meter: &Meter, statuses: &Statuses) {
    let each = |value: fn(&Observed) -> Option<f64>| {
        let statuses = statuses.clone();
        move |seen: &dyn AsyncInstrument<f64>| {
            for (key, status) in statuses.all() {
                if let Some(value) = value(&status.observed()) {
                    seen.observe(value, &attributes(&key));
                }
            }
        }
    };
    let _ = meter
        .f64_observable_gauge("zektor.window.earliest")
        .with_unit("s")
        .with_description("The earliest moment that can be restored, in seconds since 1970.")
        .with_callback(each(|seen| {
            seen.window.as_ref()?.earliest.map(unix_seconds)
        }))
        .build();
    let _ = meter
        .f64_observable_gauge("zektor.window.latest")
        .with_unit("s")
        .with_description("The latest moment that can be restored, in seconds since 1970.")
        .with_callback(each(|seen| window::latest(seen).map(unix_seconds)))
        .build();
    let _ = meter
        .f64_observable_gauge("zektor.window.length")
        .with_unit("s")
        .with_description("From the earliest to the latest moment that can be restored.")
        .with_callback(each(|seen| {
            let earliest = seen.window.as_ref()?.earliest?;
            Some((window::latest(seen)? - earliest).as_seconds_f64())
        }))
        .build();
    let _ = meter
        .f64_observable_gauge("zektor.window.gaps")
        .with_description("Gaps in what can be restored.")
        .with_callback(each(|seen| Some(seen.window.as_ref()?.gaps.len() as f64)))
        .build();
}

fn unix_seconds(moment: Timestamp) -> f64 {
    (moment - Timestamp::UNIX_EPOCH).as_seconds_f64()
}

fn attributes(key: &BranchKey) -> [KeyValue; 2] {
    [
        KeyValue::new("instance", key.instance.to_string()),
        KeyValue::new("branch", key.branch.to_string()),
    ]
}
