//! States at rest, and their announcements on the way out.

use ::alerts::{Announcement, BranchState};
use bus::{Bucket, BusError, CasError, FenceError, Outgoing, Revision, Sequence};
use events::document::Branch;
use events::{BranchName, InstanceDocument, InstanceName, subject, topology};

use super::Watch;
use super::heard::Heard;
use crate::refusal::Unfinished;

/// What the keys of states begin with.
pub(super) const FACTS: &str = "facts";
/// So many writers there are not.
const CONFLICT_LIMIT: usize = 32;
/// Others may publish the same announcements at the same time.
const PUBLISH_LIMIT: usize = 16;

/// A stored state.
pub(super) struct Kept {
    pub(super) state: BranchState,
    pub(super) revision: Revision,
}

pub(super) fn key(instance: &InstanceName, branch: &BranchName) -> String {
    format!("{FACTS}.{instance}.{branch}")
}

/// Instance and branch of a key.
pub(super) fn named_by(key: &str) -> Option<(InstanceName, BranchName)> {
    let (instance, branch) = key
        .strip_prefix(FACTS)?
        .strip_prefix('.')?
        .split_once('.')?;
    Some((
        InstanceName::new(instance).ok()?,
        BranchName::new(branch).ok()?,
    ))
}

/// Every event about one rule of one branch.
pub(crate) fn alert_fence(
    instance: &InstanceName,
    branch: &BranchName,
    rule: impl std::fmt::Display,
) -> String {
    format!("{}.alert.*.{instance}.{branch}.{rule}", subject::ROOT)
}

pub(super) fn is_live(document: &InstanceDocument, branch: &BranchName) -> bool {
    let found = document.branches.get(branch);
    !document.removing && found.and_then(Branch::active).is_some()
}

impl Watch {
    pub(super) fn bucket(&self) -> Bucket {
        self.bus.bucket(topology::ALERTS)
    }

    /// The branch's state, if it has one that can be read. One that cannot be read is of another version: it is made anew.
    async fn kept(&self, key: &str) -> Result<Option<(Option<BranchState>, Revision)>, BusError> {
        let found = self.bucket().get(key).await?;
        Ok(found.map(|(bytes, revision)| (read(key, &bytes), revision)))
    }

    /// Changes a branch's state by compare-and-set, and announces what follows. `change` may run more than once. A branch
    /// without a state gets its first one, if it is protected; otherwise nothing is done.
    pub(super) async fn change(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        change: impl Fn(&mut BranchState),
    ) -> Result<(), Unfinished> {
        let key = key(instance, branch);
        for _ in 0..CONFLICT_LIMIT {
            let (state, revision) = match self.kept(&key).await? {
                Some((Some(state), revision)) if !state.is_closed() => (state, Some(revision)),
                Some((Some(_), _)) => {
                    // Of a branch of this name that was there before: it is brought to its end first.
                    self.close(instance, branch).await?;
                    continue;
                }
                other => {
                    let Some(state) = self.first(instance, branch).await? else {
                        return Ok(());
                    };
                    (state, other.map(|(_, revision)| revision))
                }
            };
            let mut changed = state.clone();
            change(&mut changed);
            if changed == state && revision.is_some() {
                return self
                    .announce(
                        instance,
                        branch,
                        Kept {
                            state,
                            revision: revision.unwrap_or_default(),
                        },
                    )
                    .await;
            }
            if let Some(revision) = self.write(&key, &changed, revision).await? {
                return self
                    .announce(
                        instance,
                        branch,
                        Kept {
                            state: changed,
                            revision,
                        },
                    )
                    .await;
            }
        }
        Err(contended(&key))
    }

    async fn first(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<Option<BranchState>, Unfinished> {
        let Some((document, _)) = self.bus.instances().get(instance).await? else {
            return Ok(None);
        };
        if !is_live(&document, branch) {
            return Ok(None);
        }
        let mut state = self.seeded(&document, branch, self.clock.now()).await?;
        self.note_stop(&mut state, (instance, branch)).await?;
        Ok(Some(state))
    }

    pub(super) async fn take(&self, heard: Heard) -> Result<(), Unfinished> {
        let now = self.clock.now();
        self.change(&heard.instance, &heard.branch, |state| {
            let _ = state.observe(heard.at, heard.fact.clone(), now, &self.settings);
        })
        .await
    }

    /// Closes the states of an instance's branches that are not protected any more, and forgets them.
    pub(super) async fn close_gone(&self, instance: &InstanceName) -> Result<(), Unfinished> {
        for kept in self.bucket().under(&format!("{FACTS}.{instance}")).await? {
            let Some((instance, branch)) = named_by(&kept.key) else {
                continue;
            };
            let document = self.bus.instances().get(&instance).await?;
            if document.is_none_or(|(document, _)| !is_live(&document, &branch)) {
                self.close(&instance, &branch).await?;
            }
        }
        Ok(())
    }

    async fn close(&self, instance: &InstanceName, branch: &BranchName) -> Result<(), Unfinished> {
        let (key, now) = (key(instance, branch), self.clock.now());
        for _ in 0..CONFLICT_LIMIT {
            let Some((state, mut revision)) = self.kept(&key).await? else {
                return Ok(());
            };
            if let Some(mut state) = state {
                if !state.is_closed() {
                    let _ = state.close(now);
                    match self.write(&key, &state, Some(revision)).await? {
                        Some(written) => revision = written,
                        None => continue,
                    }
                }
                for said in state.outbox() {
                    self.publish(instance, branch, &state, said).await?;
                }
            }
            match self.bucket().delete(&key, revision).await {
                Ok(()) => return Ok(()),
                Err(CasError::Conflict { .. }) => {}
                Err(CasError::Bus(error)) => return Err(error.into()),
            }
        }
        Err(contended(&key))
    }

    /// Writes a state over what was read (nothing, without a revision); none when somebody else was faster.
    async fn write(
        &self,
        key: &str,
        state: &BranchState,
        read: Option<Revision>,
    ) -> Result<Option<Revision>, BusError> {
        let bytes = serde_json::to_vec(state).map_err(|source| BusError::Encode {
            what: format!("the alerts' state {key}"),
            source,
        })?;
        let written = match read {
            Some(revision) => self.bucket().update(key, bytes, revision).await,
            None => self.bucket().create(key, bytes).await,
        };
        match written {
            Ok(revision) => Ok(Some(revision)),
            Err(CasError::Conflict { .. }) => Ok(None),
            Err(CasError::Bus(error)) => Err(error),
        }
    }

    /// Publishes what a stored state has to say, and then forgets it. Whoever dies in between is followed by the next
    /// that looks; what was published already is recognised.
    async fn announce(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        kept: Kept,
    ) -> Result<(), Unfinished> {
        let Kept {
            mut state,
            revision,
        } = kept;
        let Some(last) = state.outbox().last().map(|said| said.serial) else {
            return Ok(());
        };
        for said in state.outbox() {
            self.publish(instance, branch, &state, said).await?;
        }
        state.announced(last);
        // Another writer has the same words still to say; it, or the next look, will find them said.
        let _ = self
            .write(&key(instance, branch), &state, Some(revision))
            .await?;
        Ok(())
    }

    async fn publish(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        state: &BranchState,
        said: &Announcement,
    ) -> Result<(), Unfinished> {
        let fence = alert_fence(instance, branch, said.rule);
        let id = state.message_id(instance, branch, said);
        for _ in 0..PUBLISH_LIMIT {
            let now = self.clock.now();
            let head = self.bus.last_on(&fence).await?;
            if head
                .as_ref()
                .is_some_and(|head| state.is_said(said, &head.envelope.id, now))
            {
                return Ok(());
            }
            let last = head.map_or(Sequence::NONE, |head| head.sequence);
            let event = Outgoing::new(said.event(instance, branch), id.clone(), now);
            match self.bus.publish_expecting(event, &fence, last).await {
                Ok(_) => {
                    tracing::info!(%instance, %branch, rule = %said.rule, change = ?said.change, "alert");
                    return Ok(());
                }
                Err(FenceError::Lost { .. }) => {}
                Err(FenceError::Bus(error)) => return Err(error.into()),
            }
        }
        Err(contended(&fence))
    }
}

pub(super) fn read(key: &str, bytes: &[u8]) -> Option<BranchState> {
    match serde_json::from_slice(bytes) {
        Ok(state) => Some(state),
        Err(error) => {
            tracing::warn!(key, error = %error, "the state of a branch's alerts cannot be read and is made anew");
            None
        }
    }
}

fn contended(what: &str) -> Unfinished {
    Unfinished::NotYet(format!("others change {what} all the time"))
}
