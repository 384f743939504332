//! Metrics of fires.

use std::sync::LazyLock;

use chrono::TimeDelta;
use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::{KeyValue, global};

use crate::slots::Asked;

struct Instruments {
    fires: Counter<u64>,
    lateness: Histogram<f64>,
}

static INSTRUMENTS: LazyLock<Instruments> = LazyLock::new(|| {
    let meter = global::meter("zektor-scheduler");
    Instruments {
        fires: meter
            .u64_counter("zektor.schedule.fires")
            .with_description("Fires of schedules that this replica took, by what became of them.")
            .build(),
        lateness: meter
            .f64_histogram("zektor.schedule.lateness")
            .with_unit("s")
            .with_description("Time from when a backup was due until the workers were asked.")
            .with_boundaries(vec![
                0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 600.0, 3600.0,
            ])
            .build(),
    }
});

/// Counts a fire that was due so long ago.
pub(crate) fn fired(asked: Asked, late: TimeDelta) {
    let outcome = match asked {
        Asked::Requested => "requested",
        Asked::Settled => "settled_before",
        Asked::Busy(_) => "another_runs",
    };
    let outcome = [KeyValue::new("outcome", outcome)];
    INSTRUMENTS.fires.add(1, &outcome);
    if asked == Asked::Requested {
        INSTRUMENTS
            .lateness
            .record(late.as_seconds_f64().max(0.0), &[]);
    }
}
