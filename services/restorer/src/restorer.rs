//! What every part of the service holds, and the decisions that need the repository but no compute.

use std::sync::Arc;

use bus::Bus;
use events::document::{Branch, Sweep};
use events::event::RefusalCode;
use events::plan::{RestoreAnswer, RestorePreview, RestoreQuestion, RestoreRefusal};
use events::{BackupId, BranchName, InstanceName, RestoreId, RestoreTarget};
use pg_replication::ConnectionSettings;
use repository::archive::{self, Archive};
use repository::{Repository, RepositoryError};
use retention::{Left, Taken};
use service::seal::{ExposeSecret as _, dsn_context};
use service::{Clock, MasterKey};
use tokio_util::sync::CancellationToken;

use crate::compute::{Compute, Programs};
use crate::error::RestoreError;
use crate::freshness;
use crate::index::IndexCache;
use crate::outcome;
use crate::plan::{self, Plan, Policy, Refusal, StoredPlan};
use crate::preflight::{self, SourceServers};
use crate::server_sql::Names;
use crate::site::Site;

/// What the restorer keeps so as not to read it again: nothing of it changes.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// The commit-time index.
    pub index: IndexCache,
    /// What backups say of their sources.
    pub sources: SourceServers,
}

/// The service.
pub struct Restorer {
    /// The bus.
    pub bus: Bus,
    /// The repository.
    pub repository: Repository,
    /// Where branches run.
    pub compute: Arc<dyn Compute>,
    /// Seals and opens credentials.
    pub key: Arc<MasterKey>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// The operator's rules.
    pub policy: Policy,
    /// This restorer's name among its replicas.
    pub name: String,
    /// Reads of packs at once, for each restore.
    pub parallelism: usize,
    /// Cancelled when the service is to end.
    pub drain: CancellationToken,
    /// What was read before.
    pub memory: Memory,
}

/// A plan and all that must be known before anything is started.
pub struct Prepared {
    /// The plan.
    pub plan: Plan,
    /// The server's programs.
    pub programs: Programs,
    /// Who can log in on the source, hopefully.
    pub names: Names,
}

impl Restorer {
    /// The plan of a restore: the one that an earlier attempt followed here, or a new one; never with a backup of
    /// `passed_over` for its base. Everything that can be refused is refused here.
    ///
    /// # Errors
    /// [`RestoreError::Refused`], or the repository or the bus failed.
    pub async fn prepare(
        &self,
        restore_id: RestoreId,
        site: &Site,
        source: &BranchName,
        target: &RestoreTarget,
        passed_over: &[BackupId],
    ) -> Result<Prepared, RestoreError> {
        let usable = |stored: &StoredPlan| {
            stored.restore_id == restore_id && !passed_over.contains(&stored.backup_id())
        };
        let stored = outcome::stored_plan(site)?.filter(usable);
        let plan = match stored {
            Some(stored) => stored.plan().map_err(|source| RestoreError::Stored {
                what: site.plan_file().display().to_string(),
                source: Box::new(source),
            })?,
            None => {
                self.check_name(&site.instance, &site.branch).await?;
                let mut archive = self.archive(&site.instance, source, target).await?;
                let backups = &mut archive.backups;
                backups.retain(|backup| !passed_over.contains(&backup.backup_id));
                let reader = self.repository.reader(&site.instance, source);
                self.decide(&reader, &archive, target).await?
            }
        };
        let programs = self.programs(&plan).await?;
        let _ = preflight::disk(
            &plan,
            self.compute.free_bytes().await,
            self.policy.room_bytes,
        )?;
        let names = self.names(&site.instance, source).await?;
        Ok(Prepared {
            plan,
            programs,
            names,
        })
    }

    /// What is stored of the source, after the archiver had the chance to catch up with the target.
    pub(crate) async fn archive(
        &self,
        instance: &InstanceName,
        source: &BranchName,
        target: &RestoreTarget,
    ) -> Result<Archive, RestoreError> {
        let reader = self.repository.reader(instance, source);
        let position = archive::position(&reader).await?;
        if freshness::would_help(target, position.as_ref(), self.clock.now()) {
            freshness::ask_archiver(&self.bus, instance, source).await;
        }
        let sweep = self.sweep_of(instance, source).await?;
        if let RestoreTarget::Backup { id, .. } = target
            && let Some(sweep) = sweep.as_ref().filter(|sweep| sweep.backups.contains(id))
        {
            return Err(Refusal::being_deleted(*id, sweep.asked_at).into());
        }
        Ok(without(archive::read(&reader).await?, sweep))
    }

    /// What is stored of a branch and not being deleted.
    ///
    /// # Errors
    /// The repository or the bus failed.
    pub(crate) async fn kept(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Archive, RestoreError> {
        let sweep = self.sweep_of(instance, branch).await?;
        let reader = self.repository.reader(instance, branch);
        Ok(without(archive::read(&reader).await?, sweep))
    }

    /// What is being deleted of a branch. To be read after the restore's claim and before the repository: while the
    /// claim stands no other sweep begins, and one that has ended by now is not in the listing any more.
    pub(crate) async fn sweep_of(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Option<Sweep>, RestoreError> {
        let found = self.bus.instances().get(instance).await?;
        Ok(found.and_then(|(document, _)| document.sweeps.get(branch).cloned()))
    }

    /// A branch writes to a prefix of its own: one that was used before is not ours.
    async fn check_name(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<(), RestoreError> {
        let record = self.repository.reader(instance, branch).record().await;
        match RepositoryError::absent_as_none(record)? {
            None => Ok(()),
            Some(_) => {
                Err(Refusal::name_taken(&Taken::Left(Left::default()), instance, branch).into())
            }
        }
    }

    /// The user and database of the source's connection URI.
    pub(crate) async fn names(
        &self,
        instance: &InstanceName,
        source: &BranchName,
    ) -> Result<Names, RestoreError> {
        let document = self.bus.instances().get(instance).await?;
        let unknown = || {
            let message = format!("instance {instance} has no active branch {source}");
            Refusal::new(RefusalCode::NotFound, message, "see `zektor branch list`")
        };
        let (document, _) = document.ok_or_else(unknown)?;
        let branch = document.branches.get(source).and_then(Branch::active);
        let sealed = &branch.ok_or_else(unknown)?.dsn;
        let dsn = match self.key.open(sealed, &dsn_context(instance, source)) {
            Ok(dsn) => dsn,
            Err(error) => {
                // The data is not sealed: with another key it comes back all the same.
                tracing::warn!(
                    %instance, %source, error = &error as &dyn std::error::Error,
                    "the source's credentials cannot be opened; restoring without their names"
                );
                return Ok(Names {
                    user: "postgres".to_owned(),
                    database: "postgres".to_owned(),
                });
            }
        };
        let settings = ConnectionSettings::parse(dsn.expose_secret())?;
        Ok(Names {
            user: settings.user().to_owned(),
            database: settings.dbname().to_owned(),
        })
    }

    /// Answers what a restore would do.
    pub async fn answer(&self, question: RestoreQuestion) -> RestoreAnswer {
        match self.preview(&question).await {
            Ok(preview) => RestoreAnswer::Possible(preview),
            Err(RestoreError::Refused(Refusal {
                code,
                message,
                hint,
            })) => RestoreAnswer::Refused(RestoreRefusal {
                code,
                message,
                hint,
            }),
            Err(error) => {
                let text = service::run::chain(&error);
                tracing::warn!(error = text, "a dry run failed");
                let hint = "check the object store, and try again".to_owned();
                RestoreAnswer::Unknown {
                    message: text,
                    hint,
                }
            }
        }
    }

    async fn preview(&self, question: &RestoreQuestion) -> Result<RestorePreview, RestoreError> {
        let RestoreQuestion {
            instance,
            source_branch,
            ..
        } = question;
        let archive = self
            .archive(instance, source_branch, &question.target)
            .await?;
        let reader = self.repository.reader(instance, source_branch);
        let plan = self.decide(&reader, &archive, &question.target).await?;
        let (_, before) = self.preflight(&archive, &plan, question.size).await?;
        let mut checks = plan.checks();
        checks.extend(before);
        if let Some(branch) = &question.branch {
            let document = self.bus.instances().get(instance).await?;
            if let Some(taken) = document.and_then(|(document, _)| Taken::of(&document, branch)) {
                return Err(Refusal::name_taken(&taken, instance, branch).into());
            }
            self.check_name(instance, branch).await?;
            checks.push(plan::passed(
                "branch_name",
                format!("{branch} was not used before"),
            ));
        }
        let archive = archive.preferring_sound();
        let latest = self.latest_time(&reader, &archive).await?;
        Ok(RestorePreview {
            target: question.target.clone(),
            plan: plan.summary(),
            fork_lsn: Some(plan.fork_lsn),
            estimated_ms: plan.estimated_ms(),
            checks,
            latest,
        })
    }
}

fn without(archive: Archive, sweep: Option<Sweep>) -> Archive {
    match sweep {
        Some(sweep) => archive.without(&sweep),
        None => archive,
    }
}
