//! Why a new branch cannot have a name, in the same words for whoever refuses it.
//!
//! What is stored of a deleted branch keeps its name: the WAL of two clusters never rests under one name.

use std::fmt;

use chrono::SubsecRound as _;
use events::document::Branch;
use events::{BranchName, InstanceDocument, InstanceName, Timestamp};

use crate::plan::{Decision, Plan, WalFate};
use crate::{LeftoverFate, judge::later};

/// Why a new branch cannot have a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Taken {
    /// There is such a branch.
    Exists,
    /// A restore that is under way has it.
    BeingRestored,
    /// The branch, or the last of what is stored of it, is going at this moment.
    BeingRemoved,
    /// The branch was deleted, and something of it is stored.
    Left(Left),
}

/// What is stored of a branch that was deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// How many backups, if that is known.
    pub backups: Option<usize>,
    /// Until when, if that is known; it may be an hour longer.
    pub until: Option<Timestamp>,
}

impl Taken {
    /// Who has the name by what is wanted of the instance.
    #[must_use]
    pub fn of(document: &InstanceDocument, branch: &BranchName) -> Option<Self> {
        match document.branches.get(branch) {
            Some(Branch::Active(_)) => Some(Taken::Exists),
            Some(Branch::Restoring { .. }) => Some(Taken::BeingRestored),
            Some(Branch::Deleting(_)) => Some(Taken::BeingRemoved),
            None => {
                let sweep = document.sweeps.get(branch)?;
                (sweep.purge || sweep.hollow).then_some(Taken::BeingRemoved)
            }
        }
    }

    /// What is said, and what can be done.
    #[must_use]
    pub fn refusal(&self, instance: &InstanceName, branch: &BranchName) -> (String, String) {
        let another = "Choose another name with --as.";
        let (message, hint) = match self {
            Taken::Exists if *branch == BranchName::main() => (
                format!(
                    "main is the database of {instance} itself; a restore makes a branch beside it"
                ),
                another.to_owned(),
            ),
            Taken::Exists => (
                format!("instance {instance} already has a branch {branch}"),
                another.to_owned(),
            ),
            Taken::BeingRestored => (
                format!("branch {branch} of {instance} is being restored"),
                another.to_owned(),
            ),
            Taken::BeingRemoved => (
                format!("branch {branch} of {instance} is being removed; that takes a moment"),
                "Try again in a moment, or choose another name with --as.".to_owned(),
            ),
            Taken::Left(left) => (
                format!("the name {branch} is taken: {left}"),
                format!(
                    "Choose another name with --as, or delete all that is stored of {branch}, at once and for good: `zektor \
                     branch delete {instance} {branch} --purge`."
                ),
            ),
        };
        (message, hint)
    }
}

impl fmt::Display for Left {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (what, verb) = match self.backups {
            None => ("backups or wal".to_owned(), "are"),
            Some(0) => (
                "no backup, but what it or a failed backup left over".to_owned(),
                "is",
            ),
            Some(1) => ("1 backup".to_owned(), "is"),
            Some(many) => (format!("{many} backups"), "are"),
        };
        write!(
            f,
            "of a branch of that name that was deleted {what} {verb} stored"
        )?;
        match (self.until, self.backups) {
            (Some(until), _) => {
                let until = until.trunc_subsecs(0).format("%Y-%m-%d %H:%M UTC");
                write!(f, " until {until}")
            }
            (None, None) => Ok(()),
            (None, Some(_)) => write!(
                f,
                ", and not of all of it is known when it goes (`zektor retention explain` says why)"
            ),
        }
    }
}

impl Plan {
    /// When the last of all that is stored goes by itself, of a branch that is gone; `None` when that is not known, as of
    /// what is held.
    #[must_use]
    pub fn all_gone_at(&self, grace: chrono::TimeDelta) -> Option<Timestamp> {
        let backups = self.backups.iter().map(|one| match &one.decision {
            Decision::Keep { until, .. } => until.map(|until| later(until, grace)),
            Decision::Mark { delete_after, .. } => Some(*delete_after),
            Decision::Grace { until } => Some(*until),
            Decision::Delete => Some(self.now),
            Decision::Postponed { .. } => None,
        });
        let leftovers = self.leftovers.iter().map(|one| match &one.fate {
            LeftoverFate::Wait { until } => Some(*until),
            LeftoverFate::Delete => Some(self.now),
            LeftoverFate::Postponed { .. } | LeftoverFate::UnderWay | LeftoverFate::Stays => None,
        });
        let wal = self.wal.iter().map(|one| match &one.fate {
            // As long as the backups that need it.
            WalFate::Keep(_) | WalFate::Prune => Some(self.now),
            WalFate::Postponed { .. } => None,
        });
        let ends: Option<Vec<Timestamp>> = backups.chain(leftovers).chain(wal).collect();
        Some(ends?.into_iter().max().unwrap_or(self.now))
    }
}
