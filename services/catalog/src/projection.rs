//! What an event changes in the rows. Pure: no clock, no database.
//!
//! What must stay true: applied in the order of their streams, the changes of the same events make the same
//! rows, and a change that comes late or again never takes a row backwards. Rows that came from the
//! repository may meet the events that made them a second time.

use events::document::DrillSettings;
use events::event::{ExtensionCheck, RegisteredBranch};
use events::mark::BackupMark;
use events::query::BranchState;
use events::{
    BackupId, BackupSummary, BranchName, DrillId, Event, InstanceName, PoolName, RestoreId,
    ScheduleId, Timestamp,
};

use crate::store::rows::{
    AlertRow, BranchRow, InstanceRow, PurgeRow, ScheduleRow, SlotRiskRow, SweepRow, WalFileRow,
    WalGapRow, WalPruneRow, WindowRow,
};

mod alert;
pub(crate) mod backup;
pub(crate) mod drill;
pub(crate) mod restore;
mod sweep;
mod wal;

use backup::BackupChange;
use drill::DrillChange;
use restore::RestoreChange;

/// A change of one row, or of all rows of an instance.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    PutInstance(InstanceRow),
    SetInstance(InstanceName, Option<PoolName>, Option<DrillSettings>),
    /// The instance, its branches with their windows, and its schedules go, and its alerts are over; its backups and
    /// WAL stay until their retention ends.
    RemoveInstance(InstanceName, Timestamp),
    PutBranch(BranchRow),
    SetBranchState(InstanceName, BranchName, BranchState),
    RemoveBranch(InstanceName, BranchName, Timestamp),
    /// Its backups and WAL are to go with it.
    PutPurge(PurgeRow),
    /// They are gone since, if they were to go.
    Purged(InstanceName, BranchName, Timestamp),
    PutWindow(WindowRow),
    /// Of the restore that made the branch, where they are shown.
    SetExtensions(InstanceName, BranchName, Vec<ExtensionCheck>),
    PutSchedule(ScheduleRow),
    RemoveSchedule(InstanceName, ScheduleId),
    Backup(InstanceName, BranchName, BackupId, Box<BackupChange>),
    Restore(InstanceName, BranchName, RestoreId, Box<RestoreChange>),
    Drill(InstanceName, BranchName, DrillId, Box<DrillChange>),
    /// It was asked for, or it is done.
    Sweep(SweepRow),
    /// It was raised, or it is over.
    Alert(AlertRow),
    PutFile(WalFileRow),
    PutGap(WalGapRow),
    PutSlotRisk(SlotRiskRow),
    /// WAL was let go.
    Prune(WalPruneRow),
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
                    pool: None,
                    drills: None,
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
        Event::InstanceUpdated(updated) => vec![Change::SetInstance(
            updated.instance.clone(),
            updated.pool.clone(),
            updated.drills.clone(),
        )],
        Event::InstanceRemoved(removed) => {
            vec![Change::RemoveInstance(removed.instance.clone(), at)]
        }
        Event::BranchRegistered(event) => vec![put_branch(
            &event.instance,
            &event.branch,
            &event.registered,
            BranchState::Active,
        )],
        Event::BranchDeletionRequested(event) => {
            let mut changes = set_state(&event.instance, &event.branch, BranchState::Deleting);
            let purge = event.purge.then(|| purge(&event.instance, &event.branch));
            changes.extend(purge);
            changes
        }
        // Of a branch that was deleted before.
        Event::BranchSweepRequested(asked) if asked.sweep.purge => {
            let mut changes = vec![purge(&asked.instance, &asked.branch)];
            changes.extend(sweep::of_event(event));
            changes
        }
        Event::BranchStopped(event) => {
            set_state(&event.instance, &event.branch, BranchState::Stopped)
        }
        Event::BranchStarted(event) => {
            set_state(&event.instance, &event.branch, BranchState::Active)
        }
        Event::BranchDeleted(event) => vec![
            Change::RemoveBranch(event.instance.clone(), event.branch.clone(), at),
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
        Event::ScheduleCreated(created) => {
            vec![put_schedule(&created.instance, &created.schedule)]
        }
        Event::ScheduleUpdated(updated) => {
            vec![put_schedule(&updated.instance, &updated.schedule)]
        }
        Event::ScheduleDeleted(deleted) => vec![Change::RemoveSchedule(
            deleted.instance.clone(),
            deleted.schedule_id,
        )],
        // Nothing was changed by a refused command, and nobody lists refusals.
        Event::InstanceRefused(_) | Event::BranchRefused(_) | Event::ScheduleRefused(_) => {
            Vec::new()
        }
        // It may be a restorer's answer to a drill that was asked for.
        Event::DrillRefused(refused) => vec![drill::refused(refused, at)],
        other => backup::of_event(other)
            .or_else(|| wal::of_event(other))
            .or_else(|| restore::of_event(other))
            .or_else(|| drill::of_event(other))
            .or_else(|| sweep::of_event(other))
            .or_else(|| alert::of_event(other))
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
        wal: schedule.wal,
        paused: schedule.paused,
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

/// What is wanted of a stored backup, as the repository has it.
pub(crate) fn marked_backup(
    instance: &InstanceName,
    branch: &BranchName,
    id: BackupId,
    mark: BackupMark,
) -> Change {
    let change = BackupChange::Marked { mark, at: None };
    Change::Backup(instance.clone(), branch.clone(), id, Box::new(change))
}

/// All of what is told of the branch until it is deleted goes then.
fn purge(instance: &InstanceName, branch: &BranchName) -> Change {
    Change::PutPurge(PurgeRow {
        instance: instance.clone(),
        branch: branch.clone(),
        done_at: None,
    })
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

    #[test]
    fn every_event_but_a_refusal_changes_something() {
        for event in example::events() {
            let refusal = matches!(
                event,
                Event::InstanceRefused(_)
                    | Event::BranchRefused(_)
                    | Event::BackupRefused(_)
                    | Event::ScheduleRefused(_)
            );
            let changes = project(&event, example::at(0));
            assert_eq!(changes.is_empty(), refusal, "{}", event.type_name());
        }
    }
}
