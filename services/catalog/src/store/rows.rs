//! The tables, one struct each. Field and column have one name, so that neither can be forgotten.

use std::collections::BTreeMap;

use events::event::{DamagedPage, ExtensionCheck, GapCause, SlotRiskLevel, WalObjectKind};
use events::query::{BackupStatus, BranchState, RestoreStatus};
use events::window::Window;
use events::{
    BackupId, BackupType, BranchName, ClusterSize, InstanceName, RestoreId, RestoreTarget,
    Retention, ScheduleId, Timestamp, Trigger,
};
use pg_format::{Lsn, SystemIdentifier, TimelineId};
use sqlx::any::AnyRow;

use super::column::{Column, SqlValue};

/// A row of a table.
pub(crate) trait Row: Sized {
    const TABLE: &'static str;
    /// The first columns are the key.
    const KEYS: usize;
    const COLUMNS: &'static [&'static str];

    /// In the order of the columns.
    fn values(&self) -> Vec<SqlValue>;
    fn read(row: &AnyRow) -> sqlx::Result<Self>;
}

macro_rules! table {
    (
        $(#[$doc:meta])* $row:ident in $table:literal, key ($($key:ident: $key_type:ty),+) {
            $($field:ident: $type:ty,)+
        }
    ) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq)]
        pub(crate) struct $row {
            $(pub(crate) $key: $key_type,)+
            $(pub(crate) $field: $type,)+
        }

        impl Row for $row {
            const TABLE: &'static str = $table;
            const KEYS: usize = [$(stringify!($key)),+].len();
            const COLUMNS: &'static [&'static str] = &[$(stringify!($key),)+ $(stringify!($field),)+];

            fn values(&self) -> Vec<SqlValue> {
                vec![$(self.$key.to_sql(),)+ $(self.$field.to_sql(),)+]
            }

            fn read(row: &AnyRow) -> sqlx::Result<Self> {
                Ok($row {
                    $($key: Column::read(row, stringify!($key))?,)+
                    $($field: Column::read(row, stringify!($field))?,)+
                })
            }
        }
    };
}

table! {
    /// A protected instance.
    InstanceRow in "instances", key (instance: InstanceName) {
        created_at: Timestamp,
    }
}

table! {
    /// A branch with a cluster behind it.
    BranchRow in "branches", key (instance: InstanceName, branch: BranchName) {
        state: BranchState,
        source_branch: Option<BranchName>,
        restore_id: Option<RestoreId>,
        backup_id: Option<BackupId>,
        fork_lsn: Option<Lsn>,
        fork_timeline: Option<TimelineId>,
        timeline: TimelineId,
        system_identifier: SystemIdentifier,
        server_version: u32,
        wal_segment_size: u64,
        size: Option<ClusterSize>,
        created_at: Timestamp,
    }
}

table! {
    /// When a branch is backed up.
    ScheduleRow in "schedules", key (instance: InstanceName, id: ScheduleId) {
        name: String,
        cron: String,
        timezone: String,
        retention: Retention,
        branch: BranchName,
        created_at: Timestamp,
    }
}

table! {
    /// A backup, from its request on.
    BackupRow in "backups", key (instance: InstanceName, branch: BranchName, id: BackupId) {
        name: String,
        backup_type: BackupType,
        status: BackupStatus,
        triggered_by: Option<Trigger>,
        schedule_id: Option<ScheduleId>,
        requested_at: Option<Timestamp>,
        started_at: Option<Timestamp>,
        backed_up_at: Option<Timestamp>,
        expires_at: Option<Timestamp>,
        size_bytes: Option<u64>,
        logical_bytes: Option<u64>,
        files: Option<u64>,
        start_lsn: Option<Lsn>,
        stop_lsn: Option<Lsn>,
        timeline: Option<TimelineId>,
        server_version: Option<u32>,
        damaged_pages: Vec<DamagedPage>,
        error: Option<String>,
        hint: Option<String>,
        worker: Option<String>,
        done_bytes: Option<u64>,
        total_bytes: Option<u64>,
    }
}

table! {
    /// A restore, from its request on.
    RestoreRow in "restores", key (instance: InstanceName, branch: BranchName, id: RestoreId) {
        status: RestoreStatus,
        source_branch: Option<BranchName>,
        target: Option<RestoreTarget>,
        size: Option<ClusterSize>,
        backup_id: Option<BackupId>,
        stop_lsn: Option<Lsn>,
        timeline: Option<TimelineId>,
        last_commit_at: Option<Timestamp>,
        host: Option<String>,
        port: Option<u16>,
        duration_ms: Option<u64>,
        phases: BTreeMap<String, u64>,
        extensions: Vec<ExtensionCheck>,
        requested_at: Option<Timestamp>,
        started_at: Option<Timestamp>,
        completed_at: Option<Timestamp>,
        error: Option<String>,
        hint: Option<String>,
    }
}

table! {
    /// An archived WAL file.
    WalSegmentRow in "wal_segments", key (
        instance: InstanceName, branch: BranchName, timeline: TimelineId, kind: WalObjectKind, segment: String
    ) {
        start_lsn: Lsn,
        end_lsn: Lsn,
        stored_bytes: u64,
        archived_at: Timestamp,
    }
}

table! {
    /// WAL that the archiver found to be lost.
    WalGapRow in "wal_gaps", key (
        instance: InstanceName, branch: BranchName, timeline: TimelineId, from_lsn: Lsn
    ) {
        to_lsn: Lsn,
        cause: GapCause,
        detected_at: Timestamp,
    }
}

table! {
    /// What of a branch can be restored, as announced last.
    WindowRow in "windows", key (instance: InstanceName, branch: BranchName) {
        restorable: Window,
        changed_at: Timestamp,
    }
}

table! {
    /// What a branch's slot means for its source's disk, as announced last.
    SlotRiskRow in "slot_risks", key (instance: InstanceName, branch: BranchName) {
        level: SlotRiskLevel,
        held_bytes: u64,
        limit_bytes: Option<u64>,
        message: String,
        changed_at: Timestamp,
    }
}

table! {
    /// A branch whose backups and WAL are deleted with it, and when they were.
    PurgeRow in "purges", key (instance: InstanceName, branch: BranchName) {
        done_at: Option<Timestamp>,
    }
}
