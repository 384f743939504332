//! No restored branch stays without a base backup: until one is complete, it has no past to return to.
//!
//! The first one is asked for when the branch is registered, and by no schedule; so when it fails, no fire makes up for
//! it. Every replica looks at all restored branches, each round, and asks for the next attempt after a growing pause, for
//! as long as there is none. Which attempt that is follows from the fences of their ids, and that there is a backup from
//! the repository: nothing is remembered that would be lost with NATS, and however many replicas ask, they ask once.

use std::collections::{HashMap, HashSet};

use bus::Stored;
use chrono::TimeDelta;
use events::document::Branch;
use events::{BackupId, BranchName, Event, InstanceDocument, RestoreId, Timestamp, subject};
use futures::StreamExt as _;

use crate::commands::World;
use crate::refusal::Unfinished;
use crate::slots::WhenBusy;

/// Before each further attempt, in minutes; the last one before all others.
const PAUSES: [i64; 4] = [5, 15, 45, 60];
/// Branches looked at at once.
const AT_ONCE: usize = 16;

/// What this process knows of restored branches, by the restore that made them.
#[derive(Default)]
pub(crate) struct FirstBackups {
    /// They have a backup: the newest of a live branch never goes.
    there: HashSet<RestoreId>,
    /// So many attempts have failed.
    failed: HashMap<RestoreId, u32>,
}

/// A restored branch.
struct Restored<'a> {
    document: &'a InstanceDocument,
    branch: &'a BranchName,
    restore_id: RestoreId,
}

/// Where it stands.
enum Standing {
    /// It has a backup.
    There,
    /// It has none yet, after so many attempts that failed.
    Missing(u32),
}

impl FirstBackups {
    /// Asks for every first backup that is missing and due.
    pub(crate) async fn round(
        &mut self,
        world: &World,
        documents: &[InstanceDocument],
    ) -> Result<(), Unfinished> {
        let all: Vec<_> = documents.iter().flat_map(restored).collect();
        let ids: HashSet<_> = all.iter().map(|one| one.restore_id).collect();
        self.there.retain(|id| ids.contains(id));
        self.failed.retain(|id, _| ids.contains(id));
        let missing = all
            .iter()
            .filter(|one| !self.there.contains(&one.restore_id));
        let looks: Vec<_> = missing
            .map(|one| {
                let failed = self.failed.get(&one.restore_id).copied().unwrap_or(0);
                async move { (one, one.look(world, failed).await) }
            })
            .collect();
        let mut looks = futures::stream::iter(looks).buffer_unordered(AT_ONCE);
        while let Some((one, standing)) = looks.next().await {
            match standing {
                Ok(Standing::There) => {
                    let _new = self.there.insert(one.restore_id);
                    let _before = self.failed.remove(&one.restore_id);
                }
                Ok(Standing::Missing(failed)) => {
                    let _before = self.failed.insert(one.restore_id, failed);
                }
                Err(Unfinished::Bus(error)) if error.is_transient() => return Err(error.into()),
                // What is wrong with one says nothing of the others.
                Err(error) => {
                    let (instance, branch) = (&one.document.instance, one.branch);
                    tracing::warn!(%instance, %branch, %error, "the first backup of a branch cannot be looked at; trying again");
                }
            }
        }
        Ok(())
    }
}

fn restored(document: &InstanceDocument) -> impl Iterator<Item = Restored<'_>> {
    let branches = document.branches.iter().filter(|_| !document.removing);
    branches.filter_map(move |(branch, state)| {
        let origin = Branch::active(state)?.origin.as_ref()?;
        let restore_id = origin.restore_id;
        Some(Restored {
            document,
            branch,
            restore_id,
        })
    })
}

impl Restored<'_> {
    /// Looks what has become of the attempts, of which so many are known to have failed, and asks for the next one.
    async fn look(&self, world: &World, known: u32) -> Result<Standing, Unfinished> {
        let (instance, branch) = (&self.document.instance, self.branch);
        let (mut failed, mut failed_at) = (known.saturating_sub(1), None);
        loop {
            let id = BackupId::first_of_branch_again(self.restore_id, failed);
            let fence = subject::backup_fence(instance, branch, id);
            match world.bus.last_on(&fence).await? {
                None => break,
                Some(last) => match ended(&last) {
                    None => return Ok(Standing::Missing(failed)),
                    Some(true) => return Ok(Standing::There),
                    Some(false) => failed_at = Some(last.envelope.time),
                },
            }
            failed = failed.saturating_add(1);
        }
        let now = world.clock.now();
        if failed_at.is_some_and(|at| !is_over(pause_after(failed), at, now)) {
            return Ok(Standing::Missing(failed));
        }
        let reader = world.repository.reader(instance, branch);
        if !reader.list_backups().await?.is_empty() {
            return Ok(Standing::There);
        }
        if world.is_stopped(instance, branch).await? {
            return Ok(Standing::Missing(failed));
        }
        let request = world.first_backup(self.document, branch, (self.restore_id, failed));
        tracing::warn!(%instance, %branch, backup = %request.backup_id, attempt = failed + 1, "a restored branch has no backup; one is requested");
        let _asked = world.ask_for_backup(request, None, WhenBusy::Leave).await?;
        Ok(Standing::Missing(failed))
    }
}

/// Whether a backup that has ended is, or was, there; none while it has not ended.
fn ended(last: &Stored<Event>) -> Option<bool> {
    match &last.envelope.message {
        Event::BackupQueued(_)
        | Event::BackupRequested(_)
        | Event::BackupStarted(_)
        | Event::BackupProgressed(_) => None,
        Event::BackupFailed(_) | Event::BackupRefused(_) => Some(false),
        _ => Some(true),
    }
}

fn pause_after(failed: u32) -> TimeDelta {
    let pauses = usize::try_from(failed).unwrap_or(usize::MAX);
    let place = pauses.clamp(1, PAUSES.len()) - 1;
    TimeDelta::minutes(PAUSES[place])
}

/// A failure that is further ahead than any pause was told by a clock that was ahead.
fn is_over(pause: TimeDelta, failed_at: Timestamp, now: Timestamp) -> bool {
    let passed = now - failed_at;
    passed >= pause || passed <= -TimeDelta::minutes(PAUSES[PAUSES.len() - 1])
}
