//! Restores: the branch name is claimed before anything is asked of a restorer.

use std::sync::Arc;

use bus::Sequence;
use events::command::RestoreCreate;
use events::document::Branch;
use events::event::{RefusalCode, RestoreRequested};
use events::{BranchName, Event, InstanceDocument, InstanceName, MessageId, RestoreId, subject};
use repository::RepositoryError;
use retention::Taken;

use super::once::Told;
use super::{Given, World};
use crate::refusal::{Refusal, Unfinished, published_once};
use crate::retention::Rounds;

impl World {
    pub(super) async fn create_restore(
        &self,
        given: &Given,
        create: &RestoreCreate,
    ) -> Result<(), Unfinished> {
        let restore_id = RestoreId::from(given.id);
        let fence = subject::restore_fence(&create.instance, &create.branch, restore_id);
        // Requested by an earlier delivery; whatever has become of it since is not to be done again.
        if self.bus.last_on(&fence).await?.is_some() {
            return Ok(());
        }
        let document = self.document(&create.instance).await?;
        if document
            .branches
            .get(&create.source_branch)
            .and_then(Branch::active)
            .is_none()
        {
            return Err(Refusal::no_such_branch(&create.instance, &create.source_branch).into());
        }
        self.refuse_used_prefix(&document, create).await?;
        // After the document was read: a restore that is over by now has no claim any more.
        let of = (&create.instance, Told::First(&fence));
        let change = |document| claim(document, &create.branch, &create.source_branch, restore_id);
        let claimed = self.change_once(given, of, change).await?;
        if claimed.is_none() {
            return Ok(());
        }
        self.mirror(&create.instance).await?;
        let event = Event::RestoreRequested(RestoreRequested {
            restore_id,
            instance: create.instance.clone(),
            branch: create.branch.clone(),
            source_branch: create.source_branch.clone(),
            target: create.target.clone(),
            size: create.size,
            keep_passwords: create.keep_passwords,
            requested_at: self.clock.now(),
        });
        let id = MessageId::new(format!("restore.requested:{restore_id}"));
        let outgoing = self.outgoing(given, id, Some(restore_id.to_string()), event);
        let published = self
            .bus
            .publish_expecting(outgoing, &fence, Sequence::NONE)
            .await;
        Ok(published_once(published)?)
    }

    /// A deleted branch's backups live on under its name until they expire; a new branch must not mix its
    /// own with them.
    async fn refuse_used_prefix(
        &self,
        document: &InstanceDocument,
        create: &RestoreCreate,
    ) -> Result<(), Unfinished> {
        // A name that the document has is the claim's affair.
        if document.branches.contains_key(&create.branch) {
            return Ok(());
        }
        let reader = self.repository.reader(&create.instance, &create.branch);
        match RepositoryError::absent_as_none(reader.record().await)? {
            None => Ok(()),
            Some(_) => {
                let taken = match Taken::of(document, &create.branch) {
                    Some(taken) => taken,
                    None if self.is_cleared(create).await? => Taken::BeingRemoved,
                    None => Taken::Left(self.left_of(&create.instance, &create.branch).await?),
                };
                Err(refused(&taken, &create.instance, &create.branch).into())
            }
        }
    }

    /// Whether nothing is left of a branch of that name; then it is being removed from now on.
    async fn is_cleared(&self, create: &RestoreCreate) -> Result<bool, Unfinished> {
        let rounds = Rounds {
            world: self.clone(),
            memory: Arc::default(),
        };
        rounds.clear_hollow(&create.instance, &create.branch).await
    }
}

/// Claims the name, or says who has it. Claiming again what this restore has is no change.
fn claim(
    mut document: InstanceDocument,
    branch: &BranchName,
    source: &BranchName,
    restore_id: RestoreId,
) -> Result<InstanceDocument, Refusal> {
    match document.branches.get(branch) {
        Some(Branch::Restoring {
            restore_id: held, ..
        }) if *held == restore_id => Ok(document),
        None if document.sweeps.contains_key(branch) => {
            Err(refused(&Taken::BeingRemoved, &document.instance, branch))
        }
        None => {
            let claim = Branch::Restoring {
                restore_id,
                source: Some(source.clone()),
            };
            let _before = document.branches.insert(branch.clone(), claim);
            Ok(document)
        }
        Some(_) => {
            let taken = Taken::of(&document, branch).unwrap_or(Taken::Exists);
            Err(refused(&taken, &document.instance, branch))
        }
    }
}

fn refused(taken: &Taken, instance: &InstanceName, branch: &BranchName) -> Refusal {
    let (message, hint) = taken.refusal(instance, branch);
    Refusal::new(RefusalCode::NameTaken, message, hint)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use events::{BranchName, CommandId, InstanceDocument, RestoreId, example};

    use super::claim;

    #[test]
    fn a_name_is_claimed_once() {
        let document = InstanceDocument {
            branches: BTreeMap::new(),
            schedules: Vec::new(),
            ..InstanceDocument::new(
                example::instance(),
                CommandId(uuid::Uuid::nil()),
                example::at(0),
            )
        };
        let name = BranchName::new("fix").unwrap();
        let main = BranchName::main();
        let first = RestoreId(uuid::Uuid::from_u128(1));
        let second = RestoreId(uuid::Uuid::from_u128(2));
        let claimed = claim(document, &name, &main, first).unwrap();
        assert_eq!(
            claim(claimed.clone(), &name, &main, first).unwrap(),
            claimed
        );
        assert!(claim(claimed, &name, &main, second).is_err());
    }
}
