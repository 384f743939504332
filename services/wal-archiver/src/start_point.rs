//! Where streaming begins: a pure decision from what the repository, the document, the slot and the
//! server say.
//!
//! What must stay true: WAL that was archived without a gap is not asked for again, the first byte
//! that is not archived is, and the answer is always the beginning of a segment, on the timeline
//! that segment is to be archived under.

use std::collections::BTreeSet;

use pg_format::{Lsn, SegmentName, SegmentNumber, TimelineHistory, TimelineId, WalSegmentSize};

/// Everything that decides where streaming begins.
#[derive(Clone, Debug)]
pub(crate) struct Evidence<'a> {
    /// The cluster's segment size.
    pub(crate) segment_size: WalSegmentSize,
    /// The history of the timeline that the server is on.
    pub(crate) history: &'a TimelineHistory,
    /// The complete segments in the repository.
    pub(crate) archived: &'a BTreeSet<SegmentName>,
    /// The `.partial` objects in the repository.
    pub(crate) partials: &'a BTreeSet<SegmentName>,
    /// The `wal/position` object.
    pub(crate) position: Option<ArchivePosition>,
    /// Of a restored branch: where its own WAL begins.
    pub(crate) fork: Option<Fork>,
    /// From where on the slot holds WAL back.
    pub(crate) slot_restart: Option<Lsn>,
    /// Of a server that pushes its WAL: what it has still to push, as far as it tells.
    pub(crate) unpushed: Option<&'a BTreeSet<SegmentName>>,
    /// How far the server's WAL is flushed.
    pub(crate) server_flush: Lsn,
}

/// What `wal/position` says: everything up to `lsn` is archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ArchivePosition {
    /// The timeline.
    pub(crate) timeline: TimelineId,
    /// Archived without a gap up to here.
    pub(crate) lsn: Lsn,
    /// Where the unbroken chain begins.
    pub(crate) first_segment: SegmentName,
}

/// Where a restored branch left its parent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fork {
    /// The last byte of the parent lies before it.
    pub(crate) lsn: Lsn,
    /// The first timeline that is the branch's own.
    pub(crate) timeline: TimelineId,
}

/// Where streaming begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StartPoint {
    /// The timeline to ask for.
    pub(crate) timeline: TimelineId,
    /// The beginning of a segment.
    pub(crate) lsn: Lsn,
    /// The first segment of the unbroken chain that streaming goes on with.
    pub(crate) chain_first: SegmentName,
    /// What decided.
    pub(crate) reason: StartReason,
}

/// What decided where streaming begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartReason {
    /// The archive goes on where it ended.
    Archive,
    /// A restored branch is archived from its fork on.
    Fork,
    /// Nothing is archived; the slot holds WAL from here on.
    Slot,
    /// Nothing is archived and nothing is held: from now on.
    Now,
}

/// Decides.
#[must_use]
pub(crate) fn start_point(evidence: &Evidence<'_>) -> StartPoint {
    let size = evidence.segment_size;
    if let Some((number, chain_first)) = chain_end(evidence) {
        return at(evidence, number, Some(chain_first), StartReason::Archive);
    }
    if let Some(fork) = evidence.fork {
        return at(evidence, size.segment_of(fork.lsn), None, StartReason::Fork);
    }
    if let Some(restart) = evidence.slot_restart {
        return at(evidence, size.segment_of(restart), None, StartReason::Slot);
    }
    at(
        evidence,
        size.segment_of(evidence.server_flush),
        None,
        StartReason::Now,
    )
}

/// Where streaming goes on when the server has removed the WAL from `missing` on: at the slot, or at
/// the server's present end when the slot is no help. `None` if neither lies beyond `missing`, so that
/// nothing was proven lost.
#[must_use]
pub(crate) fn after_gap(evidence: &Evidence<'_>, missing: Lsn) -> Option<StartPoint> {
    let size = evidence.segment_size;
    let beyond = |lsn: &Lsn| size.floor(*lsn) > size.floor(missing);
    let slot = evidence
        .slot_restart
        .filter(beyond)
        .map(|lsn| (lsn, StartReason::Slot));
    let now = Some(evidence.server_flush)
        .filter(beyond)
        .map(|lsn| (lsn, StartReason::Now));
    let (lsn, reason) = slot.or(now)?;
    Some(at(evidence, size.segment_of(lsn), None, reason))
}

/// The timeline under which recovery looks for segment `number`: the newest that has begun by its end
/// (`XLogFileReadAnyTLI`, PostgreSQL `src/backend/access/transam/xlogrecovery.c`).
#[must_use]
pub(crate) fn archived_under(
    history: &TimelineHistory,
    number: SegmentNumber,
    size: WalSegmentSize,
) -> TimelineId {
    let path = history.path();
    let begun = path
        .iter()
        .rev()
        .find(|range| size.segment_of(range.start) <= number);
    begun.map_or(history.timeline(), |range| range.timeline)
}

/// The history of an ancestor, as its own file would tell it; `None` if it is not one.
#[must_use]
pub(crate) fn history_of(
    history: &TimelineHistory,
    timeline: TimelineId,
) -> Option<TimelineHistory> {
    if timeline == history.timeline() {
        return Some(history.clone());
    }
    let mut ancestors = history.switches().iter();
    let mut known = TimelineHistory::root(ancestors.next()?.timeline);
    let mut switches = history.switches().iter();
    while known.timeline() != timeline {
        let switch = switches.next()?;
        let child = ancestors.next()?.timeline;
        known = known
            .fork(child, switch.switch_point, &switch.reason)
            .ok()?;
    }
    Some(known)
}

fn at(
    evidence: &Evidence<'_>,
    number: SegmentNumber,
    chain_first: Option<SegmentName>,
    reason: StartReason,
) -> StartPoint {
    let size = evidence.segment_size;
    let lsn = size.start_of(number);
    // Of a segment that two timelines share, the older one's part is streamed first: its `.partial`
    // is the older timeline's last word. A branch never asks for its parent's timeline.
    let oldest = evidence.fork.map_or(TimelineId(1), |fork| fork.timeline);
    let timeline = evidence.history.timeline_at(lsn).max(oldest);
    let chain_first = chain_first.unwrap_or_else(|| {
        let own = archived_under(evidence.history, number, size).max(oldest);
        SegmentName::new(own, number, size)
    });
    StartPoint {
        timeline,
        lsn,
        chain_first,
        reason,
    }
}

/// The first segment that is not archived, and where the chain that ends before it begins.
///
/// Several segments are uploaded at a time, so a crash can leave a later one without an earlier one:
/// the newest object proves nothing. `wal/position` does.
///
/// Retention takes the oldest segments, and those between two backups: what was proven and is not there any more is no
/// part of the chain, and is not asked for.
fn chain_end(evidence: &Evidence<'_>) -> Option<(SegmentNumber, SegmentName)> {
    let size = evidence.segment_size;
    let (mut number, known_first) = match evidence.position {
        Some(position) => (proven_segment(evidence, &position), position.first_segment),
        None => unproven_chain(evidence)?,
    };
    let first = known_first.number(size);
    // A position at the very end of a segment may rest on a full `.partial`. (One that is neither there
    // in part nor whole was expired.)
    if let Some(before) = number.checked_sub(1)
        && before >= first
        && evidence.partials.contains(&own_name(evidence, before))
        && !is_archived(evidence, before)
    {
        number = before;
    }
    while is_archived(evidence, number) {
        number += 1;
    }
    let mut begin = number;
    while begin > first && is_archived(evidence, begin - 1) {
        begin -= 1;
    }
    // Where nothing is left before the open segment, nothing says more than the position does.
    match begin == first || begin == number {
        true => Some((number, known_first)),
        false => Some((number, own_name(evidence, begin))),
    }
}

/// Without a position: the chain that the slot goes on with, which was only told of complete ones, or else the oldest.
///
/// A server that pushes can be asked for nothing. What is not there and does not come either was let go of, or is missing
/// for good; its last chain begins behind that.
fn unproven_chain(evidence: &Evidence<'_>) -> Option<(SegmentNumber, SegmentName)> {
    let size = evidence.segment_size;
    let archived = evidence.archived.iter();
    let oldest = archived.min_by_key(|name| name.number(size))?;
    if let Some(unpushed) = evidence.unpushed
        && let Some(begin) = last_pushed_chain(evidence, unpushed)
    {
        return Some((begin, own_name(evidence, begin)));
    }
    let held = evidence
        .slot_restart
        .map(|restart| size.segment_of(restart));
    let goes_on = |held: &SegmentNumber| {
        let before = held.checked_sub(1);
        is_archived(evidence, *held) || before.is_some_and(|before| is_archived(evidence, before))
    };
    let number = held.filter(goes_on);
    Some((number.unwrap_or(oldest.number(size)), *oldest))
}

/// Where the last row of segments begins that are there or are still to come.
fn last_pushed_chain(
    evidence: &Evidence<'_>,
    unpushed: &BTreeSet<SegmentName>,
) -> Option<SegmentNumber> {
    let own =
        |name: &&SegmentName| **name == own_name(evidence, name.number(evidence.segment_size));
    let archived = evidence.archived.iter().filter(own);
    let numbers = archived.map(|name| name.number(evidence.segment_size));
    let mut begin = numbers.max()?;
    let comes = |number| unpushed.contains(&own_name(evidence, number));
    while let Some(before) = begin.checked_sub(1)
        && (is_archived(evidence, before) || comes(before))
    {
        begin = before;
    }
    Some(begin)
}

/// The segment up to which the position proves the chain, along the server's own history.
fn proven_segment(evidence: &Evidence<'_>, position: &ArchivePosition) -> SegmentNumber {
    let (size, history) = (evidence.segment_size, evidence.history);
    if !history.contains(position.timeline) {
        // What of the chain's beginning is not there was expired, if it was proven.
        let first = position.first_segment.number(size);
        let mut proven = first..size.segment_of(position.lsn);
        return proven
            .find(|number| is_archived(evidence, *number))
            .unwrap_or(first);
    }
    // An old primary may have gone on beyond the point where its timeline was left.
    let left = history
        .switch_point(position.timeline)
        .unwrap_or(Lsn(u64::MAX));
    size.segment_of(position.lsn.min(left))
}

fn is_archived(evidence: &Evidence<'_>, number: SegmentNumber) -> bool {
    evidence.archived.contains(&own_name(evidence, number))
}

/// The name under which the server's history has a segment archived.
fn own_name(evidence: &Evidence<'_>, number: SegmentNumber) -> SegmentName {
    let size = evidence.segment_size;
    SegmentName::new(archived_under(evidence.history, number, size), number, size)
}

#[cfg(test)]
mod tests;
