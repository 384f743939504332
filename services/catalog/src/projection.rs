//! What an event changes in the rows. Pure: no clock, no database.
//!
//! What must stay true: applied in the order of their streams, the changes of the same events make the same
//! rows, and a change that comes late or again never takes a row backwards. Rows that came from the
//! repository may meet the events that made them a second time.

use events::event::{ExtensionCheck, RegisteredBranch};
use events::query::BranchState;
use events::{BackupId, BackupSummary, BranchName, Event, InstanceName, RestoreId, Timestamp};

use crate::store::rows::{
    BranchRow, InstanceRow, PurgeRow, ScheduleRow, SlotRiskRow, WalGapRow, WalSegmentRow, WindowRow,
};

pub(crate) mod backup;
pub(crate) mod restore;

use backup::BackupChange;
use restore::RestoreChange;

/// A change of one row, or of all rows of an instance.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    PutInstance(InstanceRow),
    /// The instance, its branches with their windows, and its schedules go; its backups and WAL stay until their retention ends.
    RemoveInstance(InstanceName),
    PutBranch(BranchRow),
    SetBranchState(InstanceName, BranchName, BranchState),
    RemoveBranch(InstanceName, BranchName),
    /// Its backups and WAL are to go with it.
    PutPurge(PurgeRow),
    /// They are gone since, if they were to go.
    Purged(InstanceName, BranchName, Timestamp),
    PutWindow(WindowRow),
    /// Of the restore that made the branch, where they are shown.
    SetExtensions(InstanceName, BranchName, Vec<ExtensionCheck>),
    PutSchedule(ScheduleRow),
    Backup(InstanceName, BranchName, BackupId, Box<BackupChange>),
    Restore(InstanceName, BranchName, RestoreId, Box<RestoreChange>),
    PutSegment(WalSegmentRow),
    PutGap(WalGapRow),
    PutSlotRisk(SlotRiskRow),
}

/// The changes that `event`, said at `at`, makes.
pub(crate) fn project(event: &Event, at: Timestamp) -> Vec<Change> {
    match event {
        Event::InstanceRegistered(registered) => {
            let instance = &registered.instance;
            let mut changes = vec![
                Change::PutInstance(InstanceRow {
                    instance: instance.clone(),
                    created_at: registered.created_at,
                }),
                put_branch(
                    instance,
                    &registered.branch,
                    &registered.main,
                    BranchState::Active,
                ),
            ];
            changes.extend(
                registered
                    .schedules
                    .iter()
                    .map(|s| put_schedule(instance, s)),
            );
            changes
        }
        Event::InstanceRemoved(removed) => vec![Change::RemoveInstance(removed.instance.clone())],
        Event::BranchRegistered(event) => vec![put_branch(
            &event.instance,
            &event.branch,
            &event.registered,
            BranchState::Active,
        )],
        Event::BranchDeletionRequested(event) => {
            let mut changes = set_state(&event.instance, &event.branch, BranchState::Deleting);
            changes.extend(event.purge.then(|| {
                Change::PutPurge(PurgeRow {
                    instance: event.instance.clone(),
                    branch: event.branch.clone(),
                    done_at: None,
                })
            }));
            changes
        }
        Event::BranchStopped(event) => {
            set_state(&event.instance, &event.branch, BranchState::Stopped)
        }
        Event::BranchStarted(event) => {
            set_state(&event.instance, &event.branch, BranchState::Active)
        }
        Event::BranchDeleted(event) => vec![
            Change::RemoveBranch(event.instance.clone(), event.branch.clone()),
            Change::Purged(event.instance.clone(), event.branch.clone(), at),
        ],
        Event::BranchWindowChanged(changed) => vec![Change::PutWindow(WindowRow {
            instance: changed.instance.clone(),
            branch: changed.branch.clone(),
            restorable: changed.window.clone(),
            changed_at: changed.changed_at,
        })],
        Event::BranchExtensionsReinstalled(event) => vec![Change::SetExtensions(
            event.instance.clone(),
            event.branch.clone(),
            event.extensions.clone(),
        )],
        Event::WalSegmentArchived(archived) => vec![Change::PutSegment(WalSegmentRow {
            instance: archived.instance.clone(),
            branch: archived.branch.clone(),
            timeline: archived.timeline,
            kind: archived.kind,
            segment: archived.segment.clone(),
            start_lsn: archived.start_lsn,
            end_lsn: archived.end_lsn,
            stored_bytes: archived.stored_bytes,
            archived_at: archived.archived_at,
        })],
        Event::WalGapDetected(gap) => vec![Change::PutGap(WalGapRow {
            instance: gap.instance.clone(),
            branch: gap.branch.clone(),
            timeline: gap.timeline,
            from_lsn: gap.from_lsn,
            to_lsn: gap.to_lsn,
            cause: gap.cause,
            detected_at: gap.detected_at,
        })],
        Event::SlotRiskChanged(changed) => vec![Change::PutSlotRisk(SlotRiskRow {
            instance: changed.instance.clone(),
            branch: changed.branch.clone(),
            level: changed.level,
            held_bytes: changed.held_bytes,
            limit_bytes: changed.limit_bytes,
            message: changed.message.clone(),
            changed_at: changed.changed_at,
        })],
        // Nothing was changed by a refused command, and nobody lists refusals.
        Event::InstanceRefused(_) | Event::BranchRefused(_) => Vec::new(),
        other => backup::of_event(other)
            .or_else(|| restore::of_event(other))
            .into_iter()
            .collect(),
    }
}

/// A branch as its event or its instance document describes it.
pub(crate) fn put_branch(
    instance: &InstanceName,
    branch: &BranchName,
    registered: &RegisteredBranch,
    state: BranchState,
) -> Change {
    let origin = registered.origin.as_ref();
    Change::PutBranch(BranchRow {
        instance: instance.clone(),
        branch: branch.clone(),
        state,
        source_branch: origin.map(|origin| origin.branch.clone()),
        restore_id: origin.map(|origin| origin.restore_id),
        backup_id: origin.map(|origin| origin.backup_id),
        fork_lsn: origin.map(|origin| origin.fork_lsn),
        fork_timeline: origin.map(|origin| origin.fork_timeline),
        timeline: registered.timeline,
        system_identifier: registered.system_identifier,
        server_version: registered.server_version,
        wal_segment_size: registered.wal_segment_size.bytes(),
        size: registered.size,
        created_at: registered.created_at,
    })
}

/// A schedule of an instance.
pub(crate) fn put_schedule(
    instance: &InstanceName,
    schedule: &events::document::Schedule,
) -> Change {
    Change::PutSchedule(ScheduleRow {
        instance: instance.clone(),
        id: schedule.id,
        name: schedule.name.clone(),
        cron: schedule.cron.clone(),
        timezone: schedule.timezone.clone(),
        retention: schedule.retention,
        branch: schedule.branch.clone(),
        created_at: schedule.created_at,
    })
}

/// A backup that is complete, as its event or its manifest describes it.
pub(crate) fn completed_backup(summary: &BackupSummary) -> Change {
    Change::Backup(
        summary.instance.clone(),
        summary.branch.clone(),
        summary.backup_id,
        Box::new(BackupChange::Completed(summary.clone())),
    )
}

fn set_state(instance: &InstanceName, branch: &BranchName, state: BranchState) -> Vec<Change> {
    vec![Change::SetBranchState(
        instance.clone(),
        branch.clone(),
        state,
    )]
}

#[cfg(test)]
mod tests {
    use events::{Event, example};

    use super::project;

    /// Not in the rows yet.
    const UNTOLD: &[&str] = &[
        "instance.updated",
        "branch.sweep_requested",
        "branch.swept",
        "schedule.created",
        "schedule.updated",
        "schedule.deleted",
        "backup.queued",
        "backup.skipped",
        "backup.updated",
        "backup.verified",
        "backup.expired",
        "drill.requested",
        "drill.started",
        "drill.completed",
        "drill.failed",
        "drill.skipped",
        "alert.raised",
        "alert.resolved",
        "wal.pruned",
    ];

    #[test]
    fn every_event_but_a_refusal_changes_something() {
        for event in example::events() {
            let refusal = matches!(
                event,
                Event::InstanceRefused(_)
                    | Event::BranchRefused(_)
                    | Event::BackupRefused(_)
                    | Event::ScheduleRefused(_)
                    | Event::DrillRefused(_)
            );
            let changes = project(&event, example::at(0));
            if UNTOLD.contains(&event.type_name()) {
                continue;
            }
            assert_eq!(changes.is_empty(), refusal, "{}", event.type_name());
        }
    }
}
