//! Rows as the answers have them.

use events::Timestamp;
use events::query::{BackupView, BranchView, RestoreView, SlotRisk, WindowShape};
use events::window::Window;

use crate::store::rows::{BackupRow, BranchRow, RestoreRow, SlotRiskRow, WindowRow};

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

pub(super) fn backup_view(row: BackupRow) -> BackupView {
    let duration = row.started_at.zip(row.backed_up_at);
    // The two ends are by two clocks.
    let duration_ms =
        duration.map(|(from, to)| u64::try_from((to - from).num_milliseconds()).unwrap_or(0));
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
        wal_until: None,
        hold: None,
        deletion: None,
        deleted_at: None,
        verified_at: None,
        sound: None,
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
