//! The tables, one struct each. Field and column have one name, so that neither can be forgotten.

use std::collections::BTreeMap;

use events::document::DrillSettings;
use events::event::{
    AlertRule, AlertSeverity, DamagedPage, DrillCheckResult, DrillStep, ExtensionCheck, GapCause,
    SlotRiskLevel, WalObjectKind,
};
use events::mark::BackupMark;
use events::query::{BackupStatus, BranchState, DrillStatus, RestoreStatus};
use events::window::Window;
use events::{
    BackupId, BackupType, BranchName, ClusterSize, DrillId, InstanceName, PoolName, RestoreId,
    RestoreTarget, Retention, ScheduleId, SweepId, Timestamp, Trigger, WalKeep,
};
use pg_format::{Lsn, SystemIdentifier, TimelineId};
use serde::{Deserialize, Serialize};
use sqlx::any::AnyRow;

use super::cache::{Cache, Tables};
use super::column::{Column, SqlValue};

/// A row of a table.
pub(crate) trait Row: Clone + PartialEq + Send + Sync + Sized {
    const TABLE: &'static str;
    /// The first columns are the key.
    const KEYS: usize;
    const COLUMNS: &'static [&'static str];

    /// In the order of the columns.
    fn values(&self) -> Vec<SqlValue>;
    fn read(row: &AnyRow) -> sqlx::Result<Self>;
    /// Where rows of it are held back.
    fn cache(tables: &mut Tables) -> &mut Cache<Self>;

    fn key(&self) -> Vec<SqlValue> {
        let mut key = self.values();
        key.truncate(Self::KEYS);
        key
    }
}

macro_rules! table {
    (
        $(#[$doc:meta])* $row:ident in $table:ident, key ($($key:ident: $key_type:ty),+) {
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
            const TABLE: &'static str = stringify!($table);
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

            fn cache(tables: &mut Tables) -> &mut Cache<Self> {
                &mut tables.$table
            }
        }
    };
}

table! {
    /// A protected instance.
    InstanceRow in instances, key (instance: InstanceName) {
        created_at: Timestamp,
        pool: Option<PoolName>,
        drills: Option<DrillSettings>,
    }
}

table! {
    /// A branch with a cluster behind it.
    BranchRow in branches, key (instance: InstanceName, branch: BranchName) {
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
    ScheduleRow in schedules, key (instance: InstanceName, id: ScheduleId) {
        name: String,
        cron: String,
        timezone: String,
        retention: Retention,
        branch: BranchName,
        created_at: Timestamp,
        wal: Option<WalKeep>,
        paused: bool,
    }
}

/// What a backup's manifest says of it, where its mark says something else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct OwnTerms {
    pub(crate) name: String,
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) wal_until: Option<Timestamp>,
}

table! {
    /// A backup, from its request on.
    BackupRow in backups, key (instance: InstanceName, branch: BranchName, id: BackupId) {
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
        wal_until: Option<Timestamp>,
        own: Option<OwnTerms>,
        mark: Option<BackupMark>,
        marked_at: Option<Timestamp>,
        deleted_at: Option<Timestamp>,
        verified_at: Option<Timestamp>,
        sound: Option<bool>,
        folded_name: String,
        listed_at: Timestamp,
        hidden: bool,
    }
}

table! {
    /// What the completed backups of a branch add up to; none where there is none.
    BackupTotalsRow in backup_totals, key (instance: InstanceName, branch: BranchName) {
        backups: u64,
        stored_bytes: u64,
    }
}

table! {
    /// A restore, from its request on.
    RestoreRow in restores, key (instance: InstanceName, branch: BranchName, id: RestoreId) {
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
    WalFileRow in wal_files, key (
        instance: InstanceName, branch: BranchName, timeline: TimelineId, start_lsn: Lsn, kind: WalObjectKind
    ) {
        segment: String,
        end_lsn: Lsn,
        stored_bytes: u64,
        archived_at: Timestamp,
    }
}

table! {
    /// WAL that the archiver found to be lost.
    WalGapRow in wal_gaps, key (
        instance: InstanceName, branch: BranchName, timeline: TimelineId, from_lsn: Lsn
    ) {
        to_lsn: Lsn,
        cause: GapCause,
        detected_at: Timestamp,
    }
}

table! {
    /// What of a branch can be restored, as announced last.
    WindowRow in windows, key (instance: InstanceName, branch: BranchName) {
        restorable: Window,
        changed_at: Timestamp,
    }
}

table! {
    /// What a branch's slot means for its source's disk, as announced last.
    SlotRiskRow in slot_risks, key (instance: InstanceName, branch: BranchName) {
        level: SlotRiskLevel,
        held_bytes: u64,
        limit_bytes: Option<u64>,
        message: String,
        changed_at: Timestamp,
    }
}

table! {
    /// A branch whose backups and WAL are deleted with it, and when they were.
    PurgeRow in purges, key (instance: InstanceName, branch: BranchName) {
        done_at: Option<Timestamp>,
    }
}

table! {
    /// What the archived files of a branch add up to, and when some were last let go.
    ArchiveRow in archives, key (instance: InstanceName, branch: BranchName) {
        stored_bytes: u64,
        segments: u64,
        pruned_at: Option<Timestamp>,
    }
}

table! {
    /// What WAL came and went in a day, by UTC. History files count in no day.
    WalDayRow in wal_days, key (instance: InstanceName, branch: BranchName, day: Timestamp) {
        added_bytes: u64,
        pruned_bytes: u64,
    }
}

table! {
    /// A stretch of WAL that was let go; of nothing, when it was the timeline's history file.
    WalPruneRow in wal_prunes, key (
        instance: InstanceName, branch: BranchName, timeline: TimelineId, from_lsn: Lsn
    ) {
        to_lsn: Lsn,
        pruned_at: Timestamp,
    }
}

table! {
    /// A sweep, from its request on.
    SweepRow in sweeps, key (instance: InstanceName, branch: BranchName, id: SweepId) {
        asked_at: Option<Timestamp>,
        histories: Vec<TimelineId>,
        objects: Option<u64>,
        bytes: Option<u64>,
        swept_at: Option<Timestamp>,
    }
}

table! {
    /// A rehearsed restore, from its request on.
    DrillRow in drills, key (instance: InstanceName, branch: BranchName, id: DrillId) {
        status: DrillStatus,
        triggered_by: Option<Trigger>,
        target: Option<Timestamp>,
        backup_id: Option<BackupId>,
        last_commit_at: Option<Timestamp>,
        checks: Vec<DrillCheckResult>,
        restore_ms: Option<u64>,
        duration_ms: Option<u64>,
        failed_step: Option<DrillStep>,
        error: Option<String>,
        hint: Option<String>,
        requested_at: Option<Timestamp>,
        ended_at: Option<Timestamp>,
        listed_at: Timestamp,
    }
}

table! {
    /// Something that needs, or needed, somebody's attention.
    AlertRow in alerts, key (
        instance: InstanceName, branch: BranchName, rule: AlertRule, since: Timestamp
    ) {
        severity: AlertSeverity,
        message: String,
        hint: String,
        resolved_at: Option<Timestamp>,
    }
}

impl BackupRow {
    /// The bytes for which it counts in the totals, if it does.
    pub(crate) fn counted_bytes(&self) -> Option<u64> {
        (self.status == BackupStatus::Completed).then(|| self.size_bytes.unwrap_or(0))
    }
}

impl WalFileRow {
    /// What it counts for in a day.
    pub(crate) fn counted_bytes(&self) -> u64 {
        match self.kind {
            WalObjectKind::History => 0,
            _ => self.stored_bytes,
        }
    }
}

/// The beginning of the day, by UTC.
pub(crate) fn day_of(at: Timestamp) -> Timestamp {
    const DAY_MICROS: i64 = 86_400_000_000;
    let micros = at.timestamp_micros();
    Timestamp::from_timestamp_micros(micros - micros.rem_euclid(DAY_MICROS)).unwrap_or(at)
}

impl WalDayRow {
    /// The day in which a file was archived, as if nothing had come in it.
    pub(crate) fn of(file: &WalFileRow) -> Self {
        WalDayRow::empty(&file.instance, &file.branch, file.archived_at)
    }

    pub(crate) fn empty(instance: &InstanceName, branch: &BranchName, at: Timestamp) -> Self {
        WalDayRow {
            instance: instance.clone(),
            branch: branch.clone(),
            day: day_of(at),
            added_bytes: 0,
            pruned_bytes: 0,
        }
    }
}

impl WalPruneRow {
    pub(crate) fn is_of_history(&self) -> bool {
        self.from_lsn == self.to_lsn
    }

    /// Whether both are one stretch.
    pub(crate) fn touches(&self, other: &WalPruneRow) -> bool {
        self.is_of_history() == other.is_of_history()
            && self.from_lsn <= other.to_lsn
            && other.from_lsn <= self.to_lsn
    }

    pub(crate) fn joined(self, other: &WalPruneRow) -> Self {
        WalPruneRow {
            from_lsn: self.from_lsn.min(other.from_lsn),
            to_lsn: self.to_lsn.max(other.to_lsn),
            pruned_at: self.pruned_at.max(other.pruned_at),
            ..self
        }
    }
}

impl SweepRow {
    /// With what is told of it again, or of its end.
    pub(crate) fn with(self, told: SweepRow) -> Self {
        SweepRow {
            asked_at: told.asked_at.or(self.asked_at),
            histories: match told.histories.is_empty() {
                true => self.histories,
                false => told.histories,
            },
            objects: told.objects.or(self.objects),
            bytes: told.bytes.or(self.bytes),
            swept_at: told.swept_at.or(self.swept_at),
            ..self
        }
    }
}

impl AlertRow {
    /// With what is told of it again, or of its end. What is over stays over.
    pub(crate) fn with(self, told: AlertRow) -> Self {
        match told.resolved_at {
            Some(_) => AlertRow {
                resolved_at: self.resolved_at.or(told.resolved_at),
                ..self
            },
            None => AlertRow {
                resolved_at: self.resolved_at,
                ..told
            },
        }
    }
}
