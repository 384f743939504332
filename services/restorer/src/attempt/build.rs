//! Builds a branch: a server raised from the plan, then claimed and remembered. Every step may be cut short; the
//! next attempt begins with empty directories.

use std::collections::BTreeMap;

use events::command::{BranchOrigin, BranchRegister};
use events::event::RestoreRequested;
use events::plan::PlanCheck;
use events::{BackupId, CommandId, RestoreSummary};
use repository::{BranchRecord, ParentBranch};
use service::seal::dsn_context;
use tokio::time::Instant;

use super::registration::may_give_back;
use crate::error::RestoreError;
use crate::opening::{Fork, OldPasswords};
use crate::outcome::{self, FinishedBranch};
use crate::plan::{self, StoredPlan};
use crate::raise::{Purpose, Raise, Raised, forget, millis};
use crate::restorer::{Prepared, Restorer};
use crate::site::Site;
use crate::voice::Voice;

const PORTS_TRIED: u32 = 3;

/// One branch being built.
pub(super) struct Build<'a> {
    pub(super) restorer: &'a Restorer,
    pub(super) request: &'a RestoreRequested,
    pub(super) site: &'a Site,
    pub(super) prepared: &'a Prepared,
    /// Backups that turned out to be damaged before.
    pub(super) passed_over: &'a [BackupId],
}

impl Build<'_> {
    /// Builds it. A port that somebody else took before the server had it is no reason to give up: nothing is claimed
    /// before the server listens, so building begins anew with another one.
    pub(super) async fn run(&self, voice: &mut Voice<'_>) -> Result<FinishedBranch, RestoreError> {
        for _ in 1..PORTS_TRIED {
            match self.build(voice).await {
                Err(RestoreError::Compute(error)) if error.port_was_taken() => {
                    tracing::warn!(%error, "the port was taken meanwhile; another one is tried");
                }
                built_or_failed => return built_or_failed,
            }
        }
        self.build(voice).await
    }

    async fn build(&self, voice: &mut Voice<'_>) -> Result<FinishedBranch, RestoreError> {
        let begin = Instant::now();
        let (request, compute) = (self.request, &*self.restorer.compute);
        compute.remove(self.site).await?;
        compute.create(self.site).await?;
        let stored = StoredPlan::new(request.restore_id, &self.prepared.plan);
        outcome::store_plan(self.site, &stored)?;
        let slot = events::document::slot_name(&request.instance, &request.branch);
        let raise = Raise {
            restorer: self.restorer,
            by: CommandId(request.restore_id.0),
            instance: &request.instance,
            source: &request.source_branch,
            site: self.site,
            prepared: self.prepared,
            size: request.size,
            parallelism: self.restorer.parallelism,
            purpose: Purpose::Branch {
                slot: &slot,
                old_passwords: match request.keep_passwords {
                    true => OldPasswords::KeepApplications,
                    false => OldPasswords::Drop,
                },
            },
        };
        let mut phases = BTreeMap::new();
        let raised = Box::pin(raise.run(voice, &mut phases)).await?;
        let parent = self.claim(&raised.fork).await?;

        let summary = RestoreSummary {
            source_branch: request.source_branch.clone(),
            target: request.target.clone(),
            backup_id: self.prepared.plan.backup.backup_id,
            size: request.size,
            stop_lsn: raised.fork.at,
            fork_timeline: raised.fork.from,
            timeline: raised.fork.to,
            last_commit_at: raised.last_commit_at,
            host: compute.address().advertise.clone(),
            port: raised.port,
            duration_ms: millis(begin),
            phases,
            extensions: raised.extensions.clone(),
            checks: self.checks(&raised),
            completed_at: self.restorer.clock.now(),
        };
        let finished = self.finish(summary, &raised);
        if finished.is_err()
            && let Err(error) = self.unclaim(&parent).await
        {
            let text = service::run::chain(&error);
            tracing::warn!(error = text, "the branch's name is not given back");
        }
        finished
    }

    /// What was looked at and found, and that this is not the backup that was to be restored.
    fn checks(&self, raised: &Raised) -> Vec<PlanCheck> {
        let instead = self.prepared.plan.backup.backup_id;
        let told = self.passed_over.iter().map(|damaged| {
            let detail = format!(
                "backup {damaged} was found damaged while its files were written; the branch is made from backup \
                 {instead}, which leads to the same moment; take a new backup"
            );
            plan::warning("damaged_backup", detail)
        });
        raised.checks.iter().cloned().chain(told).collect()
    }

    /// It will be built anew, or not at all; the record is to bind nobody then. The name may be another restore's by now,
    /// whose record is the same if it left the source at the same place.
    async fn unclaim(&self, parent: &ParentBranch) -> Result<(), RestoreError> {
        let RestoreRequested {
            restore_id,
            instance,
            branch,
            ..
        } = self.request;
        if !may_give_back(&self.restorer.bus, instance, branch, *restore_id).await? {
            return Ok(());
        }
        self.restorer.give_name_back(instance, branch, parent).await
    }

    /// From here on the branch's prefix of the repository is this cluster's.
    async fn claim(&self, fork: &Fork) -> Result<ParentBranch, RestoreError> {
        let (request, backup) = (self.request, &self.prepared.plan.backup);
        let parent = ParentBranch {
            branch: request.source_branch.clone(),
            backup_id: backup.backup_id,
            fork_timeline: fork.from,
            fork_lsn: fork.at,
        };
        let record = BranchRecord {
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            system_identifier: backup.system_identifier,
            server_version: self.prepared.programs.version.0,
            wal_segment_size: backup.wal_segment_size,
            parent: Some(parent.clone()),
            created_at: self.restorer.clock.now(),
        };
        let writer = self
            .restorer
            .repository
            .writer(&request.instance, &request.branch);
        let _ = writer.claim_branch(&record).await?;
        Ok(parent)
    }

    fn finish(
        &self,
        summary: RestoreSummary,
        raised: &Raised,
    ) -> Result<FinishedBranch, RestoreError> {
        let (request, backup) = (self.request, &self.prepared.plan.backup);
        let context = dsn_context(&request.instance, &request.branch);
        let dsn = self.restorer.key.seal(&raised.uri, &context)?;
        let register = BranchRegister {
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            origin: BranchOrigin {
                branch: request.source_branch.clone(),
                restore_id: request.restore_id,
                backup_id: backup.backup_id,
                fork_timeline: raised.fork.from,
                fork_lsn: raised.fork.at,
                holder: Some(self.restorer.compute.holder()?),
            },
            timeline: raised.fork.to,
            system_identifier: backup.system_identifier,
            server_version: self.prepared.programs.version.0,
            wal_segment_size: backup.wal_segment_size,
            size: request.size,
            dsn,
            created_at: summary.completed_at,
        };
        let finished = FinishedBranch {
            restore_id: request.restore_id,
            major: self.prepared.programs.version.major(),
            port: raised.port,
            summary,
            register,
            registered: false,
        };
        finished.store(self.site)?;
        // The outcome counts from here on; the plan is of no more use.
        forget(&self.site.plan_file())?;
        Ok(finished)
    }
}
