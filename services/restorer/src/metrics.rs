//! Metrics of restores.

use std::sync::LazyLock;
use std::time::Duration;

use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::{KeyValue, global};

use crate::error::{Reaction, RestoreError};

struct Instruments {
    attempts: Counter<u64>,
    seconds: Histogram<f64>,
}

static INSTRUMENTS: LazyLock<Instruments> = LazyLock::new(|| {
    let meter = global::meter("zektor-restorer");
    Instruments {
        attempts: meter
            .u64_counter("zektor.restore.attempts")
            .with_description("Attempts at restores, by how they ended.")
            .build(),
        seconds: meter
            .f64_histogram("zektor.restore.duration")
            .with_unit("s")
            .with_description("Time from a request to the open branch.")
            .with_boundaries(vec![5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0])
            .build(),
    }
});

/// Counts an attempt that took `duration` and ended with `error`, or well.
pub fn attempted(duration: Duration, error: Option<&RestoreError>) {
    let outcome = match error.map(RestoreError::reaction) {
        None => "completed",
        Some(Reaction::Refuse(_)) => "refused",
        Some(Reaction::Yield) => "taken_over",
        Some(Reaction::Retry(_)) => "interrupted",
        Some(Reaction::Fail { .. }) => "failed",
    };
    INSTRUMENTS
        .attempts
        .add(1, &[KeyValue::new("outcome", outcome)]);
    if error.is_none() {
        INSTRUMENTS.seconds.record(duration.as_secs_f64(), &[]);
    }
}
