//! The plan: what becomes of everything that is stored, and why.

mod sweep;
mod wal;

use std::collections::{BTreeMap, BTreeSet};

use events::mark::{DeletedBy, Deletion};
use events::{BackupId, Timestamp};
use pg_format::{Lsn, SegmentName, TimelineId};

use crate::judge::{Branch, Judged};
use crate::leftover::{self, LeftoverFate, LeftoverVerdict};
use crate::needs::{self, Needs};
use crate::reason::Reason;
use crate::stored::Stored;

/// What becomes of everything that is stored of a branch.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// The moment it is made for.
    pub now: Timestamp,
    /// The backups, newest first.
    pub backups: Vec<Verdict>,
    /// The WAL, by timeline and position.
    pub wal: Vec<WalVerdict>,
    /// The timeline history files, by timeline.
    pub histories: Vec<HistoryVerdict>,
    /// What backups left over, by backup.
    pub leftovers: Vec<LeftoverVerdict>,
    /// The first moment from which on every moment can be restored, when the plan is carried out.
    pub earliest: Option<Earliest>,
    /// Why nothing goes at the moment, of WAL or at all.
    pub in_the_way: Vec<Reason>,
    /// What it comes to.
    pub totals: Totals,
}

/// One backup.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The backup.
    pub backup_id: BackupId,
    /// Its name.
    pub name: String,
    /// Its end.
    pub backed_up_at: Timestamp,
    /// Whether the WAL that makes it consistent is there.
    pub whole: bool,
    /// Whether the WAL after it is kept because of it.
    pub class: Class,
    /// What becomes of it.
    pub decision: Decision,
    /// What it stores itself, in bytes.
    pub stored_bytes: u64,
    /// WAL that only it needs, in bytes.
    pub wal_bytes: u64,
}

/// Whether WAL is kept because of a backup beyond what makes it consistent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// All WAL from its start on: every moment after it can be restored from it.
    Pitr {
        /// Until then; as long as the backup when absent, and while the branch relies on it.
        until: Option<Timestamp>,
    },
    /// Only its own: it alone can be restored.
    Standalone,
}

/// What becomes of a backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It stays.
    Keep {
        /// Why; never empty.
        reasons: Vec<Reason>,
        /// When it would be marked; absent when that is not known.
        until: Option<Timestamp>,
    },
    /// It is to be marked now.
    Mark {
        /// When its retention ended.
        expired_at: Timestamp,
        /// It can be kept after all until then.
        delete_after: Timestamp,
    },
    /// It is marked.
    Grace {
        /// It can be kept after all until then.
        until: Timestamp,
    },
    /// It is to be deleted now.
    Delete,
    /// It is marked, and something is in the way.
    Postponed {
        /// What; never empty.
        why: Vec<Reason>,
        /// And it goes not before.
        not_before: Timestamp,
    },
}

/// Segments of one timeline, without a hole, with the same fate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WalVerdict {
    /// The timeline.
    pub timeline: TimelineId,
    /// The first segment.
    pub first: SegmentName,
    /// The last segment.
    pub last: SegmentName,
    /// How many they are.
    pub segments: u64,
    /// The first byte of the first.
    pub from_lsn: Lsn,
    /// The byte after the last.
    pub to_lsn: Lsn,
    /// What their objects store, in bytes; a `.partial` goes with its segment.
    pub stored_bytes: u64,
    /// What becomes of them.
    pub fate: WalFate,
}

/// What becomes of WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WalFate {
    /// It stays, because these backups need it.
    Keep(Needs),
    /// It is to be deleted now.
    Prune,
    /// No backup needs it, and something is in the way.
    Postponed {
        /// What; never empty.
        why: Vec<Reason>,
    },
}

/// A timeline history file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HistoryVerdict {
    /// The timeline.
    pub timeline: TimelineId,
    /// Bytes in the repository.
    pub stored_bytes: u64,
    /// Nothing that is kept is on the timeline or leads to it: the file is to be deleted now.
    pub goes: bool,
}

/// The beginning of the moments that can all be restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Earliest {
    /// The end of the backup.
    pub at: Timestamp,
    /// The backup.
    pub backup_id: BackupId,
}

/// Bytes in the repository.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Of backups that stay, marked ones and what others left over included.
    pub backup_bytes_kept: u64,
    /// Of backups to be deleted now.
    pub backup_bytes_going: u64,
    /// Of WAL and history files that stay.
    pub wal_bytes_kept: u64,
    /// Of WAL and history files to be deleted now.
    pub wal_bytes_going: u64,
}

/// Decides what becomes of everything that is stored of a branch.
#[must_use]
pub fn plan(stored: &Stored) -> Plan {
    let branch = Branch::of(stored);
    let judged = branch.judge();
    let pieces = needs::pieces(&branch, &judged);
    let wal = wal::verdicts(&branch, &pieces);
    let histories = wal::histories(&branch, &judged, &wal);
    let mut only: BTreeMap<BackupId, u64> = BTreeMap::new();
    for verdict in &wal {
        if let WalFate::Keep(needs) = &verdict.fate
            && let (1, Some(need)) = (needs.count, needs.longest.first())
        {
            *only.entry(need.backup_id).or_default() += verdict.stored_bytes;
        }
    }
    let verdict = |judged: &Judged<'_>| Verdict {
        backup_id: judged.backup.id,
        name: judged.backup.name.clone(),
        backed_up_at: judged.backup.backed_up_at,
        whole: judged.whole,
        class: judged.class,
        decision: judged.decision.clone(),
        stored_bytes: judged.backup.stored_bytes,
        wal_bytes: only.get(&judged.backup.id).copied().unwrap_or(0),
    };
    let mut plan = Plan {
        now: stored.now,
        backups: judged.iter().map(verdict).collect(),
        wal,
        histories,
        leftovers: leftover::verdicts(stored, &branch.in_the_way_of_leftovers()),
        earliest: earliest(&branch, &judged),
        in_the_way: branch.in_the_way(),
        totals: Totals::default(),
    };
    plan.totals = plan.add_up();
    plan
}

fn earliest(branch: &Branch<'_>, judged: &[Judged<'_>]) -> Option<Earliest> {
    // As the window does it: a damaged one only where all are.
    let sound = judged.iter().any(|one| one.stays() && !one.backup.damaged);
    let opens = |one: &&Judged<'_>| {
        one.stays() && one.whole && one.is_pitr() && !(sound && one.backup.damaged)
    };
    let leads_here = |one: &&Judged<'_>| {
        let (backup, tree) = (one.backup, &branch.tree);
        tree.current
            .is_none_or(|current| tree.leads_to(backup.timeline, backup.stop_lsn, current))
    };
    let mut oldest_first = judged.iter().rev().filter(opens);
    let here = oldest_first.clone().find(leads_here);
    here.or_else(|| oldest_first.next()).map(|one| Earliest {
        at: one.backup.backed_up_at,
        backup_id: one.backup.id,
    })
}

impl Plan {
    /// The marks to be written now.
    #[must_use]
    pub fn marks(&self) -> Vec<(BackupId, Deletion)> {
        let marks = self.backups.iter().filter_map(|verdict| {
            let Decision::Mark { delete_after, .. } = verdict.decision else {
                return None;
            };
            let deletion = Deletion {
                by: DeletedBy::Retention,
                asked_at: self.now,
                delete_after,
            };
            Some((verdict.backup_id, deletion))
        });
        marks.collect()
    }

    fn add_up(&self) -> Totals {
        let mut totals = Totals::default();
        for verdict in &self.backups {
            match verdict.decision {
                Decision::Delete => totals.backup_bytes_going += verdict.stored_bytes,
                _ => totals.backup_bytes_kept += verdict.stored_bytes,
            }
        }
        for verdict in &self.wal {
            match verdict.fate {
                WalFate::Prune => totals.wal_bytes_going += verdict.stored_bytes,
                _ => totals.wal_bytes_kept += verdict.stored_bytes,
            }
        }
        for verdict in &self.leftovers {
            match verdict.fate {
                LeftoverFate::Delete => {
                    totals.backup_bytes_going += verdict.leftover.stored_bytes;
                }
                _ => totals.backup_bytes_kept += verdict.leftover.stored_bytes,
            }
        }
        for verdict in &self.histories {
            match verdict.goes {
                true => totals.wal_bytes_going += verdict.stored_bytes,
                false => totals.wal_bytes_kept += verdict.stored_bytes,
            }
        }
        totals
    }
}
