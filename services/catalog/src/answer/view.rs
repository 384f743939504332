//! Rows as the answers have them.

use events::Timestamp;
use events::query::{
    AlertView, BackupView, BranchView, DrillView, RestoreView, ScheduleView, SlotRisk, WindowShape,
};
use events::window::Window;

use crate::store::rows::{
    AlertRow, BackupRow, BranchRow, DrillRow, RestoreRow, ScheduleRow, SlotRiskRow, WindowRow,
};

pub(super) fn branch_view(
    row: BranchRow,
    last_backup_at: Option<Timestamp>,
    window: Option<WindowRow>,
) -> BranchView {
    BranchView {
        instance: row.instance,
        name: row.branch,
        state: row.state,
        source_branch: row.source_branch,
        restore_id: row.restore_id,
        backup_id: row.backup_id,
        fork_lsn: row.fork_lsn,
        fork_timeline: row.fork_timeline,
        timeline: row.timeline,
        system_identifier: row.system_identifier,
        server_version: row.server_version,
        wal_segment_size: row.wal_segment_size,
        size: row.size,
        created_at: row.created_at,
        last_backup_at,
        window: window.map(window_shape),
    }
}

fn window_shape(row: WindowRow) -> WindowShape {
    let Window {
        earliest,
        complete,
        gaps,
        ..
    } = row.restorable;
    WindowShape {
        earliest,
        complete,
        gaps: gaps.len() as u64,
        changed_at: row.changed_at,
    }
}

pub(super) fn slot_risk(row: SlotRiskRow) -> SlotRisk {
    SlotRisk {
        level: row.level,
        held_bytes: row.held_bytes,
        limit_bytes: row.limit_bytes,
        message: row.message,
        changed_at: row.changed_at,
    }
}

pub(super) fn schedule_view(row: ScheduleRow, last_at: Option<Timestamp>) -> ScheduleView {
    ScheduleView {
        id: row.id,
        instance: row.instance,
        name: row.name,
        cron: row.cron,
        timezone: row.timezone,
        retention: row.retention,
        branch: row.branch,
        created_at: row.created_at,
        last_at,
        paused: row.paused,
    }
}

/// The two ends are by two clocks: never less than nothing.
pub(super) fn duration_ms(from: Timestamp, to: Timestamp) -> u64 {
    u64::try_from((to - from).num_milliseconds()).unwrap_or(0)
}

pub(super) fn backup_view(row: BackupRow) -> BackupView {
    let ends = row.started_at.zip(row.backed_up_at);
    let duration_ms = ends.map(|(from, to)| duration_ms(from, to));
    let mark = row.mark.unwrap_or_default();
    BackupView {
        id: row.id,
        name: row.name,
        instance: row.instance,
        branch: row.branch,
        backup_type: row.backup_type,
        status: row.status,
        backed_up_at: row.backed_up_at,
        size_bytes: row.size_bytes,
        logical_bytes: row.logical_bytes,
        start_lsn: row.start_lsn,
        stop_lsn: row.stop_lsn,
        timeline: row.timeline,
        trigger: row.triggered_by,
        schedule_id: row.schedule_id,
        expires_at: row.expires_at,
        wal_until: row.wal_until,
        hold: mark.hold,
        deletion: mark.deletion,
        deleted_at: row.deleted_at,
        verified_at: row.verified_at,
        sound: row.sound,
        error: row.error,
        hint: row.hint,
        damaged_pages: row.damaged_pages,
        requested_at: row.requested_at,
        started_at: row.started_at,
        duration_ms,
        files: row.files,
        server_version: row.server_version,
        worker: row.worker,
        done_bytes: row.done_bytes,
        total_bytes: row.total_bytes,
    }
}

pub(super) fn restore_view(row: RestoreRow) -> RestoreView {
    RestoreView {
        id: row.id,
        status: row.status,
        instance: row.instance,
        branch: row.branch,
        source_branch: row.source_branch,
        target: row.target,
        size: row.size,
        backup_id: row.backup_id,
        stop_lsn: row.stop_lsn,
        timeline: row.timeline,
        last_commit_at: row.last_commit_at,
        host: row.host,
        port: row.port,
        duration_ms: row.duration_ms,
        phases: row.phases,
        extensions: row.extensions,
        requested_at: row.requested_at,
        started_at: row.started_at,
        completed_at: row.completed_at,
        error: row.error,
        hint: row.hint,
    }
}

pub(super) fn drill_view(row: DrillRow) -> DrillView {
    DrillView {
        id: row.id,
        instance: row.instance,
        branch: row.branch,
        status: row.status,
        trigger: row.triggered_by,
        target: row.target,
        backup_id: row.backup_id,
        last_commit_at: row.last_commit_at,
        checks: row.checks,
        restore_ms: row.restore_ms,
        duration_ms: row.duration_ms,
        failed_step: row.failed_step,
        error: row.error,
        hint: row.hint,
        requested_at: row.requested_at,
        ended_at: row.ended_at,
    }
}

pub(super) fn alert_view(row: AlertRow) -> AlertView {
    AlertView {
        instance: row.instance,
        branch: row.branch,
        rule: row.rule,
        severity: row.severity,
        message: row.message,
        hint: row.hint,
        since: row.since,
        resolved_at: row.resolved_at,
    }
}
