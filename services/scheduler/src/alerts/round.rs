//! The round of each minute: what time alone changes, and what was missed.
//!
//! Every replica begins it; the first one takes the claim of the minute (a key that expires) and does it, the others do
//! not. Two that do it all the same do no harm: states change by compare-and-set.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use ::alerts::{BranchState, Fact};
use bus::CasError;
use events::{BranchName, InstanceDocument, InstanceName, Timestamp, topology};
use tokio_util::sync::CancellationToken;

use super::Watch;
use super::store::{FACTS, is_live, named_by, read};
use crate::refusal::Unfinished;

/// How often.
const ROUND: Duration = Duration::from_secs(60);
/// The claim of a round; shorter than a round, so that the next one can be claimed.
const CLAIM: Duration = Duration::from_secs(50);
const CLAIM_KEY: &str = "alerts.round";
/// First states made in a round: each reads a branch's manifests.
const FIRST_STATES: usize = 200;

type States = BTreeMap<(InstanceName, BranchName), Option<BranchState>>;

/// A branch that is protected, and its document.
pub(super) type Live<'a> = (&'a InstanceDocument, &'a BranchName);

/// Rounds until shutdown.
pub(super) async fn run(watch: &Watch, shutdown: CancellationToken) {
    let mut ticks = tokio::time::interval(ROUND);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let round = async {
            if watch.claim_round().await? {
                watch.round().await?;
            }
            Ok::<(), Unfinished>(())
        };
        tokio::select! {
            () = shutdown.cancelled() => return,
            done = round => if let Err(error) = done {
                tracing::warn!(error = %error, "alerts could not be looked at; trying again in a minute");
            }
        }
    }
}

impl Watch {
    async fn claim_round(&self) -> Result<bool, Unfinished> {
        let slots = self.bus.bucket(topology::SLOTS);
        match slots.create_with_ttl(CLAIM_KEY, "", CLAIM).await {
            Ok(_) => Ok(true),
            Err(CasError::Conflict { .. }) => Ok(false),
            Err(CasError::Bus(error)) => Err(error.into()),
        }
    }

    /// Looks at every branch once. What fails for one does not hold up the others.
    pub(super) async fn round(&self) -> Result<(), Unfinished> {
        // States first: a branch whose state is in the list was protected before the documents are read.
        let states = self.states().await?;
        let listing = self.bus.instances().listing().await?;
        let live: Vec<Live<'_>> = listing
            .documents
            .iter()
            .flat_map(|document| {
                document
                    .branches
                    .keys()
                    .map(move |branch| (document, branch))
            })
            .filter(|(document, branch)| is_live(document, branch))
            .collect();
        let names: BTreeSet<_> = live
            .iter()
            .map(|(document, branch)| (&document.instance, *branch))
            .collect();
        let others = states
            .keys()
            .filter(|(instance, branch)| !names.contains(&(instance, branch)));
        // Whose document cannot be read is not gone: time goes on for its branches as they were last known.
        let (unread, gone): (Vec<_>, Vec<_>) =
            others.partition(|(instance, _)| listing.unreadable.contains(instance));
        for (instance, branch) in unread {
            told(instance, self.look_without(instance, branch).await);
        }
        let gone: BTreeSet<_> = gone.into_iter().map(|(instance, _)| instance).collect();
        for instance in gone {
            told(instance, self.close_gone(instance).await);
        }
        let mut first = 0;
        for (document, branch) in &live {
            let kept = states.get(&(document.instance.clone(), (*branch).clone()));
            if kept.is_none() && first == FIRST_STATES {
                continue;
            }
            first += usize::from(kept.is_none());
            told(
                &document.instance,
                self.look(document, branch, kept.and_then(Option::as_ref))
                    .await,
            );
        }
        self.look_at_lags(&live, &states).await;
        Ok(())
    }

    async fn states(&self) -> Result<States, Unfinished> {
        let present = self.bucket().under(FACTS).await?;
        let named = present.into_iter().filter_map(|kept| {
            let name = named_by(&kept.key)?;
            Some((name, read(&kept.key, &kept.value?)))
        });
        Ok(named.collect())
    }

    /// Looks at a branch whose state was read; it is written only if that changes something.
    async fn look(
        &self,
        document: &InstanceDocument,
        branch: &BranchName,
        kept: Option<&BranchState>,
    ) -> Result<(), Unfinished> {
        let now = self.clock.now();
        let promise = self.promise(document, branch);
        let change = |state: &mut BranchState| self.look_now(state, promise.clone(), now);
        if let Some(kept) = kept {
            let mut looked = kept.clone();
            change(&mut looked);
            if looked == *kept && kept.outbox().is_empty() && !kept.is_closed() {
                return Ok(());
            }
        }
        self.change(&document.instance, branch, change).await
    }

    /// Looks at a branch of which nobody can say what is promised now.
    async fn look_without(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
    ) -> Result<(), Unfinished> {
        let now = self.clock.now();
        self.change(instance, branch, |state| {
            let _ = state.look(now, &self.settings);
        })
        .await
    }

    fn look_now(&self, state: &mut BranchState, promise: Fact, now: Timestamp) {
        let _ = state.observe(now, promise, now, &self.settings);
    }
}

fn told(instance: &InstanceName, done: Result<(), Unfinished>) {
    if let Err(error) = done {
        tracing::warn!(%instance, error = %error, "the alerts of an instance could not be looked at");
    }
}
