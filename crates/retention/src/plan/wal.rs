//! The WAL and the history files of a plan.

use super::*;
use crate::needs::Piece;
use crate::segments::Run;

pub(super) fn verdicts(
    branch: &Branch<'_>,
    pieces: &BTreeMap<TimelineId, Vec<Piece>>,
) -> Vec<WalVerdict> {
    let mut verdicts = Verdicts {
        branch,
        all: Vec::new(),
    };
    for timeline in branch.segments.timelines() {
        let unneeded = match obstacles(branch, timeline) {
            why if why.is_empty() => WalFate::Prune,
            why => WalFate::Postponed { why },
        };
        let mut next = Some(0);
        for piece in pieces.get(&timeline).into_iter().flatten() {
            if let Some(first) = next.filter(|first| *first < piece.first) {
                verdicts.add(timeline, first..=piece.first - 1, &unneeded);
            }
            let keep = WalFate::Keep(piece.needs.clone());
            verdicts.add(timeline, piece.first..=piece.last, &keep);
            next = piece.last.checked_add(1);
        }
        if let Some(first) = next {
            verdicts.add(timeline, first..=u64::MAX, &unneeded);
        }
    }
    verdicts.all
}

/// Why WAL of a timeline stays that no backup needs.
fn obstacles(branch: &Branch<'_>, timeline: TimelineId) -> Vec<Reason> {
    let mut why = Vec::new();
    if let Some(current) = branch.unreached() {
        let path = branch.tree.path(current);
        if path.iter().any(|range| range.timeline == timeline) {
            why.push(Reason::NoBackupLeadsHere { timeline: current });
        }
    }
    if let Some(current) = newer_than_archived(branch, timeline) {
        why.push(Reason::NewerThanArchived { timeline: current });
    }
    why.extend(branch.in_the_way());
    why
}

/// A promotion may be archived before the archive's position tells of it.
fn newer_than_archived(branch: &Branch<'_>, timeline: TimelineId) -> Option<TimelineId> {
    let current = branch.tree.current?;
    (branch.stored.live && timeline > current).then_some(current)
}

struct Verdicts<'a> {
    branch: &'a Branch<'a>,
    all: Vec<WalVerdict>,
}

impl Verdicts<'_> {
    /// What is stored of these segments has this fate.
    fn add(
        &mut self,
        timeline: TimelineId,
        numbers: std::ops::RangeInclusive<u64>,
        fate: &WalFate,
    ) {
        let branch = self.branch;
        for run in branch
            .segments
            .stored(timeline, *numbers.start(), *numbers.end())
        {
            self.push(timeline, run, fate);
        }
    }

    fn push(&mut self, timeline: TimelineId, run: Run, fate: &WalFate) {
        let size = self.branch.stored.segment_size;
        let from_lsn = size.start_of(run.first);
        let last = SegmentName::new(timeline, run.last, size);
        let segments = run.last - run.first + 1;
        let stored_bytes = self.branch.segments.bytes(timeline, run);
        if let Some(before) = self.all.last_mut()
            && (before.timeline, before.to_lsn) == (timeline, from_lsn)
            && before.fate == *fate
        {
            before.last = last;
            before.segments += segments;
            before.to_lsn = last.end(size);
            before.stored_bytes += stored_bytes;
            return;
        }
        self.all.push(WalVerdict {
            timeline,
            first: SegmentName::new(timeline, run.first, size),
            last,
            segments,
            from_lsn,
            to_lsn: last.end(size),
            stored_bytes,
            fate: fate.clone(),
        });
    }
}

/// A history file stays while anything that stays is on its timeline, or leads to it, or comes from it.
pub(super) fn histories(
    branch: &Branch<'_>,
    judged: &[Judged<'_>],
    wal: &[WalVerdict],
) -> Vec<HistoryVerdict> {
    let tree = &branch.tree;
    let mut ends = BTreeSet::new();
    let kept = wal.iter().filter(|verdict| verdict.fate != WalFate::Prune);
    ends.extend(kept.map(|verdict| verdict.timeline));
    for one in judged.iter().filter(|one| one.stays()) {
        let backup = one.backup;
        let _ = ends.insert(backup.timeline);
        if one.is_pitr() {
            let onward = tree.onward(backup.timeline, backup.stop_lsn);
            ends.extend(onward.map(|onward| onward.timeline));
        }
    }
    for (timeline, start) in branch.stored.running.iter().filter_map(|one| one.start) {
        let _ = ends.insert(timeline);
        let onward = tree.onward(timeline, start);
        ends.extend(onward.map(|onward| onward.timeline));
    }
    ends.extend(tree.current.filter(|_| branch.stored.live));
    let nothing_goes = !branch.in_the_way().is_empty();
    let files = branch.stored.history_files.iter();
    ends.extend(
        files
            .clone()
            .map(|file| file.timeline)
            .filter(|timeline| nothing_goes || newer_than_archived(branch, *timeline).is_some()),
    );
    let lines: BTreeSet<_> = ends.into_iter().flat_map(|end| tree.line(end)).collect();
    let verdict = |file: &crate::HistoryFile| HistoryVerdict {
        timeline: file.timeline,
        stored_bytes: file.stored_bytes,
        goes: !lines.contains(&file.timeline),
    };
    let mut verdicts: Vec<_> = files.map(verdict).collect();
    verdicts.sort_unstable_by_key(|verdict| verdict.timeline);
    verdicts
}
