//! Which branches are ours: the instance documents, and the leases.
//!
//! What must stay true: with the bus down nothing that runs is stopped, and a process that starts then
//! finds its branches in the repository.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, InstanceChange, Listing};
use events::document::ActiveBranch;
use events::position::PositionQuestion;
use events::{InstanceDocument, InstanceName, subject};
use futures::StreamExt;
use repository::{Repository, RepositoryError};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::branch_task;
use crate::lease::{Holding, Lease};
use crate::session::BranchContext;
use crate::status::{BranchKey, Observed, Statuses};

/// How long a start waits for the bus before it turns to the repository.
const BUS_PATIENCE: Duration = Duration::from_secs(3);
const BUS_POLL: Duration = Duration::from_millis(50);
/// All replicas of a question's audience; only one holds the branch.
const QUEUE_GROUP: &str = "wal-archiver";

/// The branches that are to be archived.
#[must_use]
pub(crate) fn wanted<'a>(
    documents: impl IntoIterator<Item = &'a InstanceDocument>,
) -> BTreeMap<BranchKey, ActiveBranch> {
    let mut wanted = BTreeMap::new();
    for document in documents.into_iter().filter(|document| !document.removing) {
        for (branch, state) in &document.branches {
            if let Some(active) = state.active() {
                let instance = document.instance.clone();
                let key = BranchKey {
                    instance,
                    branch: branch.clone(),
                };
                let _ = wanted.insert(key, active.clone());
            }
        }
    }
    wanted
}

/// Makes the context of a branch.
pub(crate) type MakeContext = Arc<dyn Fn(BranchKey, ActiveBranch) -> BranchContext + Send + Sync>;

/// Keeps a task for every branch that is to be archived.
pub(crate) struct Assignments {
    /// The bus.
    pub(crate) bus: Bus,
    /// The repository, for the mirrored documents.
    pub(crate) repository: Repository,
    /// Our name on leases.
    pub(crate) holder: String,
    /// Makes the context of a branch.
    pub(crate) make_context: MakeContext,
    /// What is known of the branches.
    pub(crate) statuses: Statuses,
    /// A lease's life.
    pub(crate) lease_ttl: Duration,
    /// How often everything is looked at again.
    pub(crate) rescan_interval: Duration,
    /// Branches at most.
    pub(crate) limit: usize,
}

struct Assigned {
    branch: ActiveBranch,
    cancel: CancellationToken,
    task: JoinHandle<()>,
}

impl Assignments {
    /// Follows the documents until `shutdown`, then lets every branch end.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let mut documents = self.first_documents().await;
        let mut changes = self.bus.instances().watch();
        let mut rescan = tokio::time::interval(self.rescan_interval);
        let slots = Arc::new(Semaphore::new(self.limit));
        let mut assigned = BTreeMap::new();
        loop {
            self.assign(&documents, &mut assigned, &slots).await;
            tokio::select! {
                () = shutdown.cancelled() => break,
                Some(change) = changes.next() => apply(&mut documents, change),
                _ = rescan.tick() => {
                    // What was removed while nobody looked is in no change.
                    if self.bus.is_connected()
                        && let Ok(listed) = self.bus.instances().listing().await
                    {
                        documents = reconcile(documents, listed, &self.repository).await;
                    }
                }
            }
        }
        end_all(assigned.into_values()).await;
    }

    async fn first_documents(&self) -> BTreeMap<InstanceName, InstanceDocument> {
        let connected = async {
            while !self.bus.is_connected() {
                tokio::time::sleep(BUS_POLL).await;
            }
        };
        let mirrored = self.repository.instances().await;
        if let Err(error) = &mirrored {
            tracing::error!(%error, "the repository does not tell the instances");
        }
        let mirrored = by_name(mirrored.unwrap_or_default());
        if tokio::time::timeout(BUS_PATIENCE, connected).await.is_ok() {
            match self.bus.instances().listing().await {
                Ok(listed) => return reconcile(mirrored, listed, &self.repository).await,
                Err(error) => tracing::warn!(%error, "the bus does not tell the instances"),
            }
        }
        tracing::warn!(
            instances = mirrored.len(),
            "the bus cannot be asked; the instances are those in the repository"
        );
        mirrored
    }

    async fn assign(
        &self,
        documents: &BTreeMap<InstanceName, InstanceDocument>,
        assigned: &mut BTreeMap<BranchKey, Assigned>,
        slots: &Arc<Semaphore>,
    ) {
        let wanted = wanted(documents.values());
        let stale: Vec<BranchKey> = assigned
            .iter()
            .filter(|(key, have)| wanted.get(key) != Some(&have.branch))
            .map(|(key, _)| key.clone())
            .collect();
        end_all(stale.iter().filter_map(|key| assigned.remove(key))).await;
        stale.iter().for_each(|key| self.statuses.forget(key));
        for (key, branch) in wanted {
            if assigned.contains_key(&key) {
                continue;
            }
            let cancel = CancellationToken::new();
            let task = tokio::spawn(keep_branch(
                self.bus.clone(),
                Lease::new(&self.bus, &key, &self.holder, self.lease_ttl),
                self.lease_ttl / 3,
                (self.make_context)(key.clone(), branch.clone()),
                Arc::clone(slots),
                cancel.clone(),
            ));
            let _ = assigned.insert(
                key,
                Assigned {
                    branch,
                    cancel,
                    task,
                },
            );
        }
    }
}

fn apply(documents: &mut BTreeMap<InstanceName, InstanceDocument>, change: InstanceChange) {
    let _ = match change.document {
        Some(document) => documents.insert(change.instance, document),
        None => documents.remove(&change.instance),
    };
}

/// What the bus lists, and what it does not list but the repository still mirrors: a bucket that was lost
/// is no removal. What is mirrored as being removed is removed, whatever is remembered of it. What cannot be read is as
/// it was last known.
async fn reconcile(
    known: BTreeMap<InstanceName, InstanceDocument>,
    listed: Listing,
    repository: &Repository,
) -> BTreeMap<InstanceName, InstanceDocument> {
    let mut documents = by_name(listed.documents);
    for (instance, document) in known {
        if documents.contains_key(&instance) {
            continue;
        }
        if listed.unreadable.contains(&instance) {
            let _ = documents.insert(instance, document);
            continue;
        }
        let mirrored = repository.instance(&instance).await;
        let removed = match RepositoryError::absent_as_none(mirrored) {
            Ok(mirrored) => mirrored.is_none_or(|mirrored| mirrored.removing),
            Err(_) => false,
        };
        if !removed {
            tracing::warn!(%instance, "the bus does not know the instance, but it was not removed");
            let _ = documents.insert(instance, document);
        }
    }
    documents
}

fn by_name(documents: Vec<InstanceDocument>) -> BTreeMap<InstanceName, InstanceDocument> {
    documents
        .into_iter()
        .map(|document| (document.instance.clone(), document))
        .collect()
}

async fn end_all(assigned: impl Iterator<Item = Assigned>) {
    let ending: Vec<Assigned> = assigned
        .inspect(|assigned| assigned.cancel.cancel())
        .collect();
    for assigned in ending {
        if let Err(error) = assigned.task.await {
            tracing::error!(%error, "a branch's task ended abnormally");
        }
    }
}

/// Archives the branch whenever its lease is not another's.
async fn keep_branch(
    bus: Bus,
    lease: Lease,
    renewal: Duration,
    context: BranchContext,
    slots: Arc<Semaphore>,
    cancel: CancellationToken,
) {
    let _slot = tokio::select! {
        slot = slots.acquire_owned() => slot,
        () = cancel.cancelled() => return,
    };
    let mut holding = Holding::Unknown;
    while !cancel.is_cancelled() {
        holding = lease.hold(holding).await;
        if holding != Holding::Theirs {
            holding = archive_while_held(&bus, &lease, renewal, &context, holding, &cancel).await;
        }
        tokio::select! {
            () = cancel.cancelled() => {}
            () = tokio::time::sleep(renewal) => {}
        }
    }
    lease.release(holding).await;
}

/// Archives until the lease is another's or the branch is taken away.
async fn archive_while_held(
    bus: &Bus,
    lease: &Lease,
    renewal: Duration,
    context: &BranchContext,
    mut holding: Holding,
    cancel: &CancellationToken,
) -> Holding {
    let stop = cancel.child_token();
    let archiving = tokio::spawn(branch_task::run(context.clone(), stop.clone()));
    let answering = tokio::spawn(answer(bus.clone(), context.clone(), stop.clone()));
    while holding != Holding::Theirs {
        tokio::select! {
            () = cancel.cancelled() => break,
            () = tokio::time::sleep(renewal) => holding = lease.hold(holding).await,
        }
    }
    stop.cancel();
    if holding == Holding::Theirs {
        let key = &context.key;
        tracing::warn!(instance = %key.instance, branch = %key.branch, "another archiver has the branch");
    }
    for task in [archiving, answering] {
        if let Err(error) = task.await {
            tracing::error!(%error, "a branch's task ended abnormally");
        }
    }
    context.status.update(|seen| *seen = Observed::default());
    holding
}

/// Shorter than the patience of whoever asks.
const PROVE_WITHIN: Duration = Duration::from_secs(3);

/// Answers where the archive of the branch is.
async fn answer(bus: Bus, context: BranchContext, stop: CancellationToken) {
    let subject = subject::archiver_position(&context.key.instance, &context.key.branch);
    let status = Arc::clone(&context.status);
    let handler = move |_subject: String, question: PositionQuestion| {
        let status = Arc::clone(&status);
        async move {
            if question.prove {
                let begun = Instant::now();
                if !status.haste.prove(PROVE_WITHIN).await {
                    tracing::debug!("no proof in time");
                }
                // What is proven to have happened has names then.
                let left = PROVE_WITHIN.saturating_sub(begun.elapsed());
                status.relations.settle(left).await;
            }
            Ok(status.position())
        }
    };
    if let Err(error) = bus.serve(&subject, QUEUE_GROUP, handler, stop).await {
        tracing::error!(%error, "the position of the archive cannot be asked for");
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use events::Timestamp;
    use repository::RetryPolicy;

    fn document(name: &str) -> InstanceDocument {
        InstanceDocument {
            branches: BTreeMap::new(),
            schedules: Vec::new(),
            ..InstanceDocument::new(
                name.parse().unwrap(),
                "0192d6a0-0000-7000-8000-000000000001".parse().unwrap(),
                Timestamp::UNIX_EPOCH,
            )
        }
    }

    #[tokio::test]
    async fn what_the_bus_forgot_is_kept_and_what_was_removed_is_not() {
        let repository = Repository::open("memory://", RetryPolicy::default()).unwrap();
        repository
            .put_instance(&document("forgotten"))
            .await
            .unwrap();
        let mut removing = document("removing");
        removing.removing = true;
        repository.put_instance(&removing).await.unwrap();
        let known = by_name(vec![
            document("listed"),
            document("forgotten"),
            document("removing"),
            document("removed"),
        ]);
        let listed = Listing {
            documents: vec![document("listed"), document("new")],
            unreadable: BTreeSet::new(),
        };
        let found = reconcile(known, listed, &repository).await;
        let names: Vec<String> = found.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["forgotten", "listed", "new"]);
    }

    #[tokio::test]
    async fn what_cannot_be_read_is_archived_as_it_was_last_known() {
        let repository = Repository::open("memory://", RetryPolicy::default()).unwrap();
        let bus = Bus::in_memory();
        let bucket = bus.bucket(events::topology::INSTANCES);
        let _revision = bucket.create("orders", "of a later version").await.unwrap();
        // There is no mirror of it: that says nothing either.
        let known = by_name(vec![document("orders"), document("removed")]);
        let listed = bus.instances().listing().await.unwrap();
        let found = reconcile(known, listed, &repository).await;
        let names: Vec<String> = found.keys().map(ToString::to_string).collect();
        assert_eq!(names, ["orders"]);
    }
}
