//! Which backups need which WAL, and so what becomes of it.
//!
//! A timeline is cut where a need begins or ends; between two cuts everything has the same fate. So the work grows with
//! the backups and the holes in the listing, not with the segments.

use std::collections::{BTreeMap, BTreeSet};

use events::{BackupId, Timestamp};
use pg_format::{Lsn, SegmentNumber, TimelineId};

use crate::judge::{Branch, Judged};

/// So many backups are named for each stretch of WAL.
const MOST_NAMED: usize = 10;

/// Why WAL is needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Without it the backup cannot be restored at all.
    Consistency,
    /// Without it moments after the backup cannot be restored from it.
    Onward,
    /// A backup that is being taken began before it.
    Running,
}

/// One backup that needs WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The backup.
    pub backup_id: BackupId,
    /// What for.
    pub purpose: Purpose,
    /// When it needs it no longer, at the earliest; absent when that is not known.
    pub until: Option<Timestamp>,
}

/// The backups that need a stretch of WAL.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// Those that need it longest, at most ten.
    pub longest: Vec<Need>,
    /// How many there are.
    pub count: usize,
}

impl Need {
    /// The longest comes first.
    fn rank(&self) -> (bool, std::cmp::Reverse<Option<Timestamp>>, BackupId) {
        let for_ever = self.until.is_none();
        let longest = std::cmp::Reverse(self.until);
        (!for_ever, longest, self.backup_id)
    }
}

impl Needs {
    /// When nobody needs it any longer, at the earliest; absent when that is not known.
    #[must_use]
    pub fn until(&self) -> Option<Timestamp> {
        self.longest.first()?.until
    }

    fn add(&mut self, need: Need) {
        self.count += 1;
        self.name(need);
    }

    fn name(&mut self, need: Need) {
        let rank = need.rank();
        let at = self.longest.partition_point(|other| other.rank() <= rank);
        if at < MOST_NAMED {
            self.longest.truncate(MOST_NAMED - 1);
            self.longest.insert(at, need);
        }
    }

    fn merge(&mut self, other: &Needs) {
        self.count += other.count;
        for need in &other.longest {
            self.name(*need);
        }
    }
}

/// Who needs what of one timeline.
#[derive(Default)]
struct Claims {
    /// From a segment on, without end.
    onward: BTreeMap<SegmentNumber, Needs>,
    /// From a segment to another.
    own: Vec<(SegmentNumber, SegmentNumber, Need)>,
}

/// Segments that the same backups need.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) first: SegmentNumber,
    pub(crate) last: SegmentNumber,
    pub(crate) needs: Needs,
}

/// Every timeline with anything needed, cut into pieces without a hole between them.
pub(crate) fn pieces(
    branch: &Branch<'_>,
    judged: &[Judged<'_>],
) -> BTreeMap<TimelineId, Vec<Piece>> {
    let mut claims: BTreeMap<TimelineId, Claims> = BTreeMap::new();
    for one in judged.iter().filter(|one| one.stays()) {
        claim(branch, one, &mut claims);
    }
    for running in &branch.stored.running {
        if let Some((timeline, start)) = running.start {
            let need = Need {
                backup_id: running.id,
                purpose: Purpose::Running,
                until: None,
            };
            let first = branch.stored.segment_size.segment_of(start);
            claims.entry(timeline).or_default().onward(first, need);
            claim_onward(branch, (timeline, start), need, &mut claims);
        }
    }
    let cut = claims.into_iter();
    cut.map(|(timeline, claims)| (timeline, claims.cut()))
        .collect()
}

fn claim(branch: &Branch<'_>, one: &Judged<'_>, claims: &mut BTreeMap<TimelineId, Claims>) {
    let backup = one.backup;
    let goes_at = one.goes_at(branch.stored.grace);
    let own = Need {
        backup_id: backup.id,
        purpose: Purpose::Consistency,
        until: goes_at,
    };
    for (timeline, first, last) in branch.own_wal(backup) {
        let claims = claims.entry(timeline).or_default();
        claims.own.push((first, last, own));
    }
    if !one.is_pitr() {
        return;
    }
    let onward = Need {
        purpose: Purpose::Onward,
        until: one.onward_until(branch.stored.grace),
        ..own
    };
    let size = branch.stored.segment_size;
    let stop = backup.stop_lsn.max(backup.start_lsn);
    let next = size.segment_ending_at(stop).saturating_add(1);
    claims
        .entry(backup.timeline)
        .or_default()
        .onward(next, onward);
    claim_onward(branch, (backup.timeline, stop), onward, claims);
}

/// On every other timeline that can be reached from there.
fn claim_onward(
    branch: &Branch<'_>,
    (timeline, stop): (TimelineId, Lsn),
    need: Need,
    claims: &mut BTreeMap<TimelineId, Claims>,
) {
    for onward in branch.tree.onward(timeline, stop) {
        let first = branch.stored.segment_size.segment_of(onward.from);
        let claims = claims.entry(onward.timeline).or_default();
        claims.onward(first, need);
    }
}

impl Claims {
    fn onward(&mut self, first: SegmentNumber, need: Need) {
        self.onward.entry(first).or_default().add(need);
    }

    fn cut(&self) -> Vec<Piece> {
        let mut begin: BTreeMap<SegmentNumber, Vec<usize>> = BTreeMap::new();
        let mut end: BTreeMap<SegmentNumber, Vec<usize>> = BTreeMap::new();
        let mut cuts: BTreeSet<SegmentNumber> = self.onward.keys().copied().collect();
        for (index, (first, last, _)) in self.own.iter().enumerate() {
            let after = last.saturating_add(1);
            begin.entry(*first).or_default().push(index);
            end.entry(after).or_default().push(index);
            cuts.extend([*first, after]);
        }
        let mut onward = Needs::default();
        let mut own = BTreeSet::new();
        let mut pieces = Vec::with_capacity(cuts.len());
        let mut cuts = cuts.into_iter().peekable();
        while let Some(first) = cuts.next() {
            let ranked = |index: &usize| (self.own[*index].2.rank(), *index);
            for index in end.get(&first).into_iter().flatten() {
                let _ = own.remove(&ranked(index));
            }
            for index in begin.get(&first).into_iter().flatten() {
                let _ = own.insert(ranked(index));
            }
            if let Some(needs) = self.onward.get(&first) {
                onward.merge(needs);
            }
            let mut needs = onward.clone();
            needs.count += own.len();
            for (_, index) in own.iter().take(MOST_NAMED) {
                needs.name(self.own[*index].2);
            }
            if needs.count > 0 {
                let last = cuts.peek().map_or(SegmentNumber::MAX, |next| next - 1);
                pieces.push(Piece { first, last, needs });
            }
        }
        pieces
    }
}
