//! Metrics of backups.

use std::sync::LazyLock;

use events::event::BackupSummary;
use opentelemetry::metrics::{Counter, Histogram};
use opentelemetry::{KeyValue, global};

/// How an attempt ended.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ended<'a> {
    Completed(&'a BackupSummary),
    Failed,
    /// It is tried again.
    Interrupted,
    /// The backup is another's by now, or over.
    Superseded,
}

struct Instruments {
    attempts: Counter<u64>,
    seconds: Histogram<f64>,
    logical: Counter<u64>,
    stored: Counter<u64>,
}

static INSTRUMENTS: LazyLock<Instruments> = LazyLock::new(|| {
    let meter = global::meter("zektor-backup-worker");
    Instruments {
        attempts: meter
            .u64_counter("zektor.backup.attempts")
            .with_description("Attempts at backups, by how they ended.")
            .build(),
        seconds: meter
            .f64_histogram("zektor.backup.duration")
            .with_unit("s")
            .with_description("Time from the start of a backup to the moment that it holds.")
            .with_boundaries(vec![
                5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 14_400.0, 43_200.0,
            ])
            .build(),
        logical: meter
            .u64_counter("zektor.backup.logical_read")
            .with_unit("By")
            .with_description("Size of the servers' files in backups that this worker completed.")
            .build(),
        stored: meter
            .u64_counter("zektor.backup.stored_written")
            .with_unit("By")
            .with_description("What those backups take in the repository.")
            .build(),
    }
});

/// Counts an attempt.
pub(crate) fn attempted(ended: Ended<'_>) {
    let outcome = match ended {
        Ended::Completed(_) => "completed",
        Ended::Failed => "failed",
        Ended::Interrupted => "interrupted",
        Ended::Superseded => "superseded",
    };
    INSTRUMENTS
        .attempts
        .add(1, &[KeyValue::new("outcome", outcome)]);
    if let Ended::Completed(summary) = ended {
        let took = summary.backed_up_at - summary.started_at;
        INSTRUMENTS
            .seconds
            .record(took.as_seconds_f64().max(0.0), &[]);
        INSTRUMENTS.logical.add(summary.logical_bytes, &[]);
        INSTRUMENTS.stored.add(summary.stored_bytes, &[]);
    }
}
