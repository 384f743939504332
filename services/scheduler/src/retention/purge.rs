//! A branch that was deleted before, and of which all that is stored is to go at once after all.
//!
//! It goes by a sweep, as what expires does: while that stands in the document nobody can claim the name, nothing of it
//! is restored, and nobody is told that something of it is kept. The sweep's id is the command's, so that a command that
//! comes twice purges once, also when the name is another branch's by then. Holds do not count, as when a branch is
//! purged with its server.

use std::collections::BTreeMap;
use std::sync::Arc;

use events::command::BranchDelete;
use events::document::{Sweep, WalStretch};
use events::event::RefusalCode;
use events::{BranchName, CommandId, InstanceDocument, InstanceName, SweepId, subject};
use pg_format::{Lsn, TimelineId};
use repository::{BranchReader, RepositoryError, WalObjectKind};
use retention::{LEFTOVER_AGE, Left, Taken};

use super::Rounds;
use super::stored::{self, Life, life, readers};
use crate::commands::World;
use crate::refusal::{Refusal, Unfinished};

/// Whether nobody writes or reads what is stored of a branch that is gone.
pub(super) async fn may_be_purged(
    world: &World,
    instance: &InstanceName,
    branch: &BranchName,
) -> Result<bool, Unfinished> {
    let running = stored::slot(world, instance, branch).await?;
    let Some((document, _)) = world.bus.instances().get(instance).await? else {
        return Ok(false);
    };
    let free = life(&document, branch) == Life::Gone && readers(&document, branch).is_empty();
    Ok(free && running.is_none() && !document.removing && *branch != BranchName::main())
}

impl World {
    /// Deletes all that is stored of a branch that is gone, or says why not.
    pub(crate) async fn purge_gone(
        &self,
        command: CommandId,
        delete: &BranchDelete,
    ) -> Result<(), Unfinished> {
        let (instance, branch) = (&delete.instance, &delete.branch);
        let sweep_id = SweepId(command.0);
        let fence = subject::sweep_fence(instance, branch, sweep_id);
        let begun = self.bus.last_on(&fence).await?.is_some();
        let rounds = Rounds {
            world: self.clone(),
            memory: Arc::default(),
        };
        let Some((document, _)) = self.bus.instances().get(instance).await? else {
            return Err(Refusal::no_such_instance(instance).into());
        };
        match document.sweeps.get(branch) {
            Some(ours) if ours.sweep_id == sweep_id => {
                return rounds.push_on(instance, branch, ours).await;
            }
            _ if begun => return Ok(()),
            _ => {}
        }
        let reader = self.repository.reader(instance, branch);
        if !is_stored(&reader).await? {
            return Err(Refusal::no_such_branch(instance, branch).into());
        }
        if let Some(id) = stored::slot(self, instance, branch).await? {
            if id.0.is_nil() {
                return Err(Unfinished::NotYet(format!(
                    "which backup of branch {branch} runs is not known at the moment"
                )));
            }
            return Err(Refusal::new(
                RefusalCode::Invalid,
                format!("backup {id} of branch {branch} has not ended yet"),
                format!(
                    "Wait until it has: `zektor backup show {instance} {id}`; then purge again."
                ),
            )
            .into());
        }
        let sweep = self.everything(&reader, sweep_id).await?;
        let claimed = self.update_document(instance, |document| claim(document, branch, &sweep));
        let _document = claimed.await?;
        rounds.push_on(instance, branch, &sweep).await
    }

    /// Refuses to delete a branch that is gone without what is stored of it: that was done.
    pub(crate) async fn is_gone(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Refusal, Unfinished> {
        if !is_stored(&self.repository.reader(instance, branch)).await? {
            return Ok(Refusal::no_such_branch(instance, branch));
        }
        let left = self.left_of(instance, branch).await?;
        Ok(Refusal::new(
            RefusalCode::NotFound,
            format!("branch {branch} of {instance} is deleted already; {left}"),
            format!(
                "To delete that too, at once and for good: `zektor branch delete {instance} {branch} --purge`."
            ),
        ))
    }

    /// What is stored of a branch that is gone.
    pub(crate) async fn left_of(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Left, Unfinished> {
        let Some(found) = stored::find(self, (instance, branch), None).await? else {
            return Ok(Left::default());
        };
        let plan = retention::plan(&found.stored);
        // What nobody wrote to for so long goes then, if nothing but that is left.
        let position = found.archive.position.as_ref();
        let settled = position.and_then(|at| at.updated.checked_add_signed(LEFTOVER_AGE));
        let until = plan.all_gone_at(found.stored.grace);
        Ok(Left {
            backups: Some(plan.backups.len()),
            until: until.map(|until| settled.map_or(until, |settled| until.max(settled))),
        })
    }

    /// All that is stored, as a sweep. What it does not name goes with it.
    async fn everything(
        &self,
        reader: &BranchReader,
        sweep_id: SweepId,
    ) -> Result<Sweep, Unfinished> {
        let record = match RepositoryError::absent_as_none(reader.record().await) {
            Err(RepositoryError::Corrupt { .. } | RepositoryError::Newer { .. }) => None,
            other => other?,
        };
        let mut stretches: BTreeMap<TimelineId, (Lsn, Lsn)> = BTreeMap::new();
        let mut histories = Vec::new();
        if let Some(size) = record.map(|record| record.wal_segment_size) {
            for object in reader.list_wal(size).await? {
                let name = match object.kind {
                    WalObjectKind::History => {
                        histories.push(object.timeline);
                        continue;
                    }
                    WalObjectKind::Segment(name) | WalObjectKind::Partial(name) => name,
                };
                let number = name.number(size);
                let (from, to) = (
                    size.start_of(number),
                    size.start_of(number.saturating_add(1)),
                );
                let all = stretches.entry(object.timeline).or_insert((from, to));
                *all = (all.0.min(from), all.1.max(to));
            }
        }
        let stretch = |(timeline, (from_lsn, to_lsn))| WalStretch {
            timeline,
            from_lsn,
            to_lsn,
        };
        Ok(Sweep {
            sweep_id,
            asked_at: self.clock.now(),
            backups: reader.list_backups().await?,
            wal: stretches.into_iter().map(stretch).collect(),
            histories,
            leftovers: Vec::new(),
            hollow: false,
            purge: true,
            withdrawn_at: None,
        })
    }
}

/// Whether anything is stored of a branch.
async fn is_stored(reader: &BranchReader) -> Result<bool, RepositoryError> {
    match RepositoryError::absent_as_none(reader.record().await) {
        Ok(Some(_)) | Err(RepositoryError::Corrupt { .. } | RepositoryError::Newer { .. }) => {
            Ok(true)
        }
        Ok(None) => Ok(!reader.find_all().await?.is_nothing()),
        Err(error) => Err(error),
    }
}

/// Puts the purge into the document, in the place of whatever is being deleted of the branch.
fn claim(
    mut document: InstanceDocument,
    branch: &BranchName,
    sweep: &Sweep,
) -> Result<InstanceDocument, Refusal> {
    let instance = document.instance.clone();
    if document.removing {
        return Err(Refusal::no_such_instance(&instance));
    }
    if let Some(taken) = Taken::of(&document, branch) {
        let (message, _) = taken.refusal(&instance, branch);
        let hint = format!("See `zektor branch list {instance}`, and try again in a moment.");
        return Err(Refusal::new(RefusalCode::Invalid, message, hint));
    }
    nothing_reads(&document, branch)?;
    let _other = document.sweeps.insert(branch.clone(), sweep.clone());
    Ok(document)
}

/// A purge takes at once what a restore or a drill may be reading.
pub(crate) fn nothing_reads(
    document: &InstanceDocument,
    branch: &BranchName,
) -> Result<(), Refusal> {
    match readers(document, branch).first() {
        None => Ok(()),
        Some(reader) => Err(Refusal::new(
            RefusalCode::Invalid,
            format!("{} reads branch {branch}", reader.what),
            "Wait until it has ended; without --purge a branch can be deleted at once.",
        )),
    }
}
