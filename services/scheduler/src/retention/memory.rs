//! What a replica remembers of its rounds, so that the next one of a branch costs one listing: what was stored then, and
//! until when nothing can be due if that has not changed. If it has, the manifests that were read are still known.
//!
//! It may be forgotten at any time; then the next round reads everything.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::TimeDelta;
use events::{BranchName, InstanceName, Timestamp};
use repository::Digest;
use repository::archive::KnownManifests;
use retention::{Class, Decision, LeftoverFate, Plan, WalFate};

/// Everything is read again after so long, whatever was foreseen.
const LONGEST_QUIET: TimeDelta = TimeDelta::days(1);

/// Some hundred thousand backups. Of a fleet that has more, the rest is read again in each round.
const MOST_KNOWN_BYTES: usize = 128 << 20;

/// By branch.
pub(crate) struct Memory {
    pub(crate) manifests: KnownManifests,
    branches: Mutex<BTreeMap<InstanceName, BTreeMap<BranchName, Quiet>>>,
}

impl Default for Memory {
    fn default() -> Self {
        Memory {
            manifests: KnownManifests::new(MOST_KNOWN_BYTES),
            branches: Mutex::default(),
        }
    }
}

/// Nothing is due.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Quiet {
    /// While the backups and marks are these,
    pub(crate) digest: Digest,
    /// the branch is there, or is gone,
    pub(crate) live: bool,
    /// and it is not before this moment
    pub(crate) since: Timestamp,
    /// nor after this one.
    pub(crate) until: Timestamp,
}

impl Memory {
    pub(crate) fn is_quiet(
        &self,
        (instance, branch): (&InstanceName, &BranchName),
        (digest, live): (Digest, bool),
        now: Timestamp,
    ) -> bool {
        let branches = self.branches();
        let known = branches.get(instance).and_then(|known| known.get(branch));
        known.is_some_and(|known| {
            (known.digest, known.live) == (digest, live)
                && (known.since..known.until).contains(&now)
        })
    }

    pub(crate) fn keep(&self, instance: &InstanceName, branch: &BranchName, quiet: Option<Quiet>) {
        let mut branches = self.branches();
        let known = branches.entry(instance.clone()).or_default();
        match quiet {
            Some(quiet) => drop(known.insert(branch.clone(), quiet)),
            None => drop(known.remove(branch)),
        }
    }

    pub(crate) fn forget(&self, instance: &InstanceName) {
        drop(self.branches().remove(instance));
        self.manifests.forget(instance);
    }

    fn branches(&self) -> MutexGuard<'_, BTreeMap<InstanceName, BTreeMap<BranchName, Quiet>>> {
        self.branches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when a plan stays as it is, if what is stored does; `None` when something is to be done or is in the way.
pub(crate) fn quiet_until(plan: &Plan) -> Option<Timestamp> {
    let mut until = plan.now + LONGEST_QUIET;
    for verdict in &plan.backups {
        match &verdict.decision {
            Decision::Keep {
                until: Some(end), ..
            }
            | Decision::Grace { until: end } => {
                until = until.min(*end);
            }
            Decision::Keep { until: None, .. } => {}
            Decision::Mark { .. } | Decision::Delete | Decision::Postponed { .. } => return None,
        }
        if let Class::Pitr { until: Some(end) } = verdict.class {
            until = until.min(end);
        }
    }
    for verdict in &plan.leftovers {
        match &verdict.fate {
            LeftoverFate::Wait { until: end } => until = until.min(*end),
            LeftoverFate::UnderWay | LeftoverFate::Stays => {}
            LeftoverFate::Delete | LeftoverFate::Postponed { .. } => return None,
        }
    }
    let done = plan.in_the_way.is_empty()
        && plan
            .wal
            .iter()
            .all(|one| matches!(one.fate, WalFate::Keep(_)))
        && plan.histories.iter().all(|one| !one.goes);
    done.then_some(until)
}
