//! Events, stored. Those of a kind that this version does not know are left out when read.

use pg_format::wal::{Parameters, WalLevel};
use pg_format::{ControlSettings, Lsn, PgTimestamp, TimelineId};
use serde::{Deserialize, Serialize};

use super::interval::StoredEnd;
use super::is_zero;
use super::transaction::{StoredCreated, StoredDropped, StoredFile, StoredRows, read, stored};
use crate::model::{TransactionEvent, WalEvent};

/// Positions are told from the segment's start, times from its base time.
#[derive(Serialize, Deserialize)]
#[serde(tag = "k")]
pub(super) enum StoredEvent {
    #[serde(rename = "t")]
    Transaction(Box<StoredTransaction>),
    #[serde(rename = "r")]
    RestorePoint { l: u64, b: u64, t: i64, n: String },
    #[serde(rename = "p")]
    ParameterChange { l: u64, p: StoredParameters },
    #[serde(rename = "s")]
    ShutdownCheckpoint { l: u64, t: i64, tl: (u32, u32) },
    #[serde(rename = "e")]
    EndOfRecovery { l: u64, t: i64, tl: (u32, u32) },
    #[serde(other)]
    Unknown,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredTransaction {
    #[serde(rename = "l")]
    commit: StoredEnd,
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    previous: Option<StoredEnd>,
    #[serde(rename = "m", default, skip_serializing_if = "Option::is_none")]
    latest_before: Option<i64>,
    #[serde(rename = "d", default, skip_serializing_if = "Option::is_none")]
    database: Option<u32>,
    #[serde(rename = "f", default, skip_serializing_if = "Vec::is_empty")]
    dropped: Vec<StoredFile>,
    #[serde(rename = "fm", default, skip_serializing_if = "is_zero")]
    dropped_more: u32,
    #[serde(rename = "c", default, skip_serializing_if = "Vec::is_empty")]
    created: Vec<StoredCreated>,
    #[serde(rename = "cm", default, skip_serializing_if = "is_zero")]
    created_more: u32,
    #[serde(rename = "db", default, skip_serializing_if = "Vec::is_empty")]
    dropped_databases: Vec<StoredDropped>,
    #[serde(rename = "tr", default, skip_serializing_if = "Vec::is_empty")]
    truncated: Vec<(u32, u32)>,
    #[serde(rename = "r", default, skip_serializing_if = "Vec::is_empty")]
    rows: Vec<StoredRows>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct StoredParameters {
    max_connections: i32,
    max_worker_processes: i32,
    max_wal_senders: i32,
    max_prepared_transactions: i32,
    max_locks_per_transaction: i32,
    /// 0 minimal, 1 replica, 2 logical.
    wal_level: u8,
    wal_log_hints: bool,
    track_commit_timestamp: bool,
}

impl StoredEvent {
    pub(super) fn of(event: &WalEvent, start: Lsn, base: i64) -> Self {
        let at = |lsn: Lsn| lsn.0.wrapping_sub(start.0);
        let since = |time: PgTimestamp| time.0.wrapping_sub(base);
        match event {
            WalEvent::Transaction(event) => {
                StoredEvent::Transaction(Box::new(StoredTransaction::of(event, start, base)))
            }
            WalEvent::RestorePoint {
                lsn,
                end,
                time,
                name,
            } => StoredEvent::RestorePoint {
                l: at(*lsn),
                b: end.bytes_since(*lsn),
                t: since(*time),
                n: name.clone(),
            },
            WalEvent::ParameterChange { lsn, parameters } => StoredEvent::ParameterChange {
                l: at(*lsn),
                p: StoredParameters::of(parameters),
            },
            WalEvent::ShutdownCheckpoint {
                lsn,
                time,
                timeline,
                previous_timeline,
            } => StoredEvent::ShutdownCheckpoint {
                l: at(*lsn),
                t: since(*time),
                tl: (timeline.0, previous_timeline.0),
            },
            WalEvent::EndOfRecovery {
                lsn,
                time,
                timeline,
                previous_timeline,
            } => StoredEvent::EndOfRecovery {
                l: at(*lsn),
                t: since(*time),
                tl: (timeline.0, previous_timeline.0),
            },
        }
    }

    pub(super) fn into_event(self, start: Lsn, base: i64) -> Option<WalEvent> {
        let at = |bytes: u64| Lsn(start.0.wrapping_add(bytes));
        let time = |micros: i64| PgTimestamp(base.wrapping_add(micros));
        Some(match self {
            StoredEvent::Transaction(stored) => {
                WalEvent::Transaction(stored.into_event(start, base))
            }
            StoredEvent::RestorePoint { l, b, t, n } => WalEvent::RestorePoint {
                lsn: at(l),
                end: at(l).saturating_add(b),
                time: time(t),
                name: n,
            },
            StoredEvent::ParameterChange { l, p } => WalEvent::ParameterChange {
                lsn: at(l),
                parameters: p.into_parameters(),
            },
            StoredEvent::ShutdownCheckpoint { l, t, tl } => WalEvent::ShutdownCheckpoint {
                lsn: at(l),
                time: time(t),
                timeline: TimelineId(tl.0),
                previous_timeline: TimelineId(tl.1),
            },
            StoredEvent::EndOfRecovery { l, t, tl } => WalEvent::EndOfRecovery {
                lsn: at(l),
                time: time(t),
                timeline: TimelineId(tl.0),
                previous_timeline: TimelineId(tl.1),
            },
            StoredEvent::Unknown => return None,
        })
    }
}

impl StoredTransaction {
    fn of(event: &TransactionEvent, start: Lsn, base: i64) -> Self {
        StoredTransaction {
            commit: StoredEnd::of(&event.commit, start, base),
            previous: event
                .previous
                .as_ref()
                .map(|end| StoredEnd::of(end, start, base)),
            latest_before: event.latest_before.map(|time| time.0.wrapping_sub(base)),
            database: event.database,
            dropped: event.dropped.iter().map(|file| (*file).into()).collect(),
            dropped_more: event.dropped_more,
            created: stored(&event.created),
            created_more: event.created_more,
            dropped_databases: stored(&event.dropped_databases),
            truncated: event.truncated.clone(),
            rows: stored(&event.rows),
        }
    }

    fn into_event(self, start: Lsn, base: i64) -> TransactionEvent {
        TransactionEvent {
            commit: self.commit.into_end(start, base),
            previous: self.previous.map(|end| end.into_end(start, base)),
            latest_before: self
                .latest_before
                .map(|micros| PgTimestamp(base.wrapping_add(micros))),
            database: self.database,
            dropped: read(self.dropped),
            dropped_more: self.dropped_more,
            created: read(self.created),
            created_more: self.created_more,
            dropped_databases: read(self.dropped_databases),
            truncated: self.truncated,
            rows: read(self.rows),
        }
    }
}

impl StoredParameters {
    fn of(parameters: &Parameters) -> Self {
        let settings = &parameters.settings;
        StoredParameters {
            max_connections: settings.max_connections,
            max_worker_processes: settings.max_worker_processes,
            max_wal_senders: settings.max_wal_senders,
            max_prepared_transactions: settings.max_prepared_transactions,
            max_locks_per_transaction: settings.max_locks_per_transaction,
            wal_level: match parameters.wal_level {
                WalLevel::Minimal => 0,
                WalLevel::Replica => 1,
                WalLevel::Logical => 2,
            },
            wal_log_hints: parameters.wal_log_hints,
            track_commit_timestamp: parameters.track_commit_timestamp,
        }
    }

    fn into_parameters(self) -> Parameters {
        Parameters {
            settings: ControlSettings {
                max_connections: self.max_connections,
                max_worker_processes: self.max_worker_processes,
                max_wal_senders: self.max_wal_senders,
                max_prepared_transactions: self.max_prepared_transactions,
                max_locks_per_transaction: self.max_locks_per_transaction,
            },
            wal_level: match self.wal_level {
                0 => WalLevel::Minimal,
                1 => WalLevel::Replica,
                _ => WalLevel::Logical,
            },
            wal_log_hints: self.wal_log_hints,
            track_commit_timestamp: self.track_commit_timestamp,
        }
    }
}
