//! What slots hold back, as metrics.

use events::event::SlotRiskLevel;
use opentelemetry::{KeyValue, global};

use super::SlotSeen;
use crate::status::Statuses;

/// Registers the instruments. They live as long as the process's meter.
pub(crate) fn observe(statuses: &Statuses) {
    let meter = global::meter("zektor-wal-archiver");
    let gauge = |name: &'static str, about: &'static str, value: fn(SlotSeen) -> Option<u64>| {
        let statuses = statuses.clone();
        let _ = meter
            .u64_observable_gauge(name)
            .with_description(about)
            .with_callback(move |seen| {
                for (key, status) in statuses.all() {
                    if let Some(value) = status.observed().slot.and_then(value) {
                        let attributes = [
                            KeyValue::new("instance", key.instance.to_string()),
                            KeyValue::new("branch", key.branch.to_string()),
                        ];
                        seen.observe(value, &attributes);
                    }
                }
            })
            .build();
    };
    gauge(
        "zektor.slot.held_bytes",
        "WAL that the branch's slot holds back on the source, in bytes.",
        |slot| Some(slot.held_bytes),
    );
    gauge(
        "zektor.slot.limit_bytes",
        "What it may hold back before the slot is lost or the disk is full, if that is known.",
        |slot| slot.limit_bytes,
    );
    gauge(
        "zektor.slot.risk_level",
        "0 low, 1 warning, 2 alert, 3 released.",
        |slot| match slot.level {
            SlotRiskLevel::Low => Some(0),
            SlotRiskLevel::Warning => Some(1),
            SlotRiskLevel::Alert => Some(2),
            SlotRiskLevel::Released => Some(3),
            SlotRiskLevel::Unknown => None,
        },
    );
}
