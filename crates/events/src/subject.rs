//! Subjects, and the wildcards that select them.
//!
//! ```text
//! zektor.command.<noun>.<verb>.<instance>
//! zektor.<noun>.<past tense>.<instance>.<branch>[.<id>]      instance, branch, schedule, backup, restore, drill
//! zektor.alert.<raised|resolved>.<instance>.<branch>.<rule>
//! zektor.wal.segment.archived.<instance>.<branch>            and zektor.wal.gap.detected...
//! zektor.query.<service>.<question>...                       request and reply, never stored
//! ```
//!
//! The verb stands before the identifiers, so that one wildcard names the whole life of one backup.

use crate::{BackupId, BranchName, DrillId, InstanceName, PoolName, RestoreId, SweepId};

/// The first token of every subject.
pub const ROOT: &str = "zektor";

/// Every event of one backup: its fence.
#[must_use]
pub fn backup_fence(instance: &InstanceName, branch: &BranchName, id: BackupId) -> String {
    format!("{ROOT}.backup.*.{instance}.{branch}.{id}")
}

/// Every event of one restore into `branch`: its fence.
#[must_use]
pub fn restore_fence(instance: &InstanceName, branch: &BranchName, id: RestoreId) -> String {
    format!("{ROOT}.restore.*.{instance}.{branch}.{id}")
}

/// Every event of one drill: its fence.
#[must_use]
pub fn drill_fence(instance: &InstanceName, branch: &BranchName, id: DrillId) -> String {
    format!("{ROOT}.drill.*.{instance}.{branch}.{id}")
}

/// Every event of one sweep: its fence.
#[must_use]
pub fn sweep_fence(instance: &InstanceName, branch: &BranchName, id: SweepId) -> String {
    format!("{ROOT}.branch.*.{instance}.{branch}.{id}")
}

/// Noun and verb of a request for a backup. The pool is part of the verb, because consumers choose by token and the
/// fence takes any verb.
#[must_use]
pub fn backup_requested(pool: Option<&PoolName>) -> String {
    match pool.filter(|pool| pool.as_str() != PoolName::DEFAULT) {
        None => "backup.requested".to_owned(),
        Some(pool) => format!("backup.requested-{pool}"),
    }
}

/// Commands of these type names, for any instance.
#[must_use]
pub fn commands(types: &[&str]) -> Vec<String> {
    types
        .iter()
        .map(|name| format!("{ROOT}.command.{name}.*"))
        .collect()
}

/// Events of this type name, whatever they are about.
#[must_use]
pub fn events_of(type_name: &str) -> String {
    format!("{ROOT}.{type_name}.>")
}

/// Archived segments of one branch.
#[must_use]
pub fn wal_archived(instance: &InstanceName, branch: &BranchName) -> String {
    format!("{ROOT}.wal.segment.archived.{instance}.{branch}")
}

/// A question to the catalog, by name.
#[must_use]
pub fn catalog_query(question: &str) -> String {
    format!("{ROOT}.query.catalog.{question}")
}

/// "Where is the archive of this branch now?", to the archiver that holds it.
#[must_use]
pub fn archiver_position(instance: &InstanceName, branch: &BranchName) -> String {
    format!("{ROOT}.query.archiver.position.{instance}.{branch}")
}

/// "Which schedules are there, and when do they fire?", to any scheduler.
#[must_use]
pub fn scheduler_schedules() -> String {
    format!("{ROOT}.query.scheduler.schedules")
}

/// "What stays, what goes, when, and why?", to any scheduler.
#[must_use]
pub fn scheduler_retention() -> String {
    format!("{ROOT}.query.scheduler.retention")
}

/// "Do the notifications arrive?", to any scheduler.
#[must_use]
pub fn scheduler_notify_test() -> String {
    format!("{ROOT}.query.scheduler.notify_test")
}

/// "What would this restore do?", to any restorer.
#[must_use]
pub fn restorer_plan() -> String {
    format!("{ROOT}.query.restorer.plan")
}

/// "From when to when can this branch be restored?", to any restorer.
#[must_use]
pub fn restorer_window() -> String {
    format!("{ROOT}.query.restorer.window")
}

/// "When exactly was it dropped?", to any restorer.
#[must_use]
pub fn restorer_moments() -> String {
    format!("{ROOT}.query.restorer.moments")
}

/// "Are you there?", to the restorers of one compute directory.
#[must_use]
pub fn restorer_holder(holder: &str) -> String {
    format!("{ROOT}.query.restorer.holder.{holder}")
}

pub(crate) fn event(type_name: &str, address: &[String]) -> String {
    format!("{ROOT}.{type_name}.{}", address.join("."))
}

pub(crate) fn command(type_name: &str, address: &[String]) -> String {
    format!("{ROOT}.command.{type_name}.{}", address.join("."))
}
