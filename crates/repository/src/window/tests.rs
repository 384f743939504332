use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta};
use events::event::{BackupSummary, GapCause};
use events::window::Window;
use events::{BackupId, BackupType, BranchName, InstanceName, Timestamp, Trigger};
use pg_format::{Lsn, SegmentName, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};
use proptest::prelude::{Strategy, prop, prop_assert, prop_assert_eq, proptest};

use super::window;
use crate::archive::Archive;
use crate::{GapProof, OpenSegment, WalGap, WalObject, WalObjectKind, WalPosition};

/// Positions here are in quarters of a segment.
const QUARTER: u64 = 1 << 18;

fn size() -> WalSegmentSize {
    WalSegmentSize::new(4 * QUARTER).unwrap()
}

fn lsn(quarter: u64) -> Lsn {
    Lsn(quarter * QUARTER)
}

fn quarter(lsn: Lsn) -> u64 {
    lsn.0 / QUARTER
}

/// The story's clock: at `tenth` tenths of a minute the WAL is at that tenth of a quarter.
fn at(tenth: u64) -> Timestamp {
    DateTime::UNIX_EPOCH + TimeDelta::seconds(6 * i64::try_from(tenth).unwrap())
}

fn tenth(time: Timestamp) -> u64 {
    u64::try_from(time.timestamp() / 6).unwrap()
}

fn name(timeline: u32, number: u64) -> SegmentName {
    SegmentName::new(TimelineId(timeline), number, size())
}

/// A backup that ended a little after its stop, by the clock.
pub(crate) fn backup(timeline: u32, start: u64, stop: u64) -> BackupSummary {
    BackupSummary {
        backup_id: BackupId(uuid::Uuid::from_u128(u128::from(start * 1000 + stop))),
        instance: InstanceName::new("orders").unwrap(),
        branch: BranchName::main(),
        name: "nightly".to_owned(),
        backup_type: BackupType::Full,
        trigger: Trigger::Manual,
        schedule_id: None,
        requested_at: at(0),
        started_at: at(0),
        backed_up_at: at(stop * 10 + 1),
        ended_at: None,
        expires_at: None,
        wal_until: None,
        start_lsn: lsn(start),
        stop_lsn: lsn(stop),
        timeline: TimelineId(timeline),
        system_identifier: SystemIdentifier(7),
        server_version: 180_006,
        wal_segment_size: size(),
        logical_bytes: 1,
        stored_bytes: 1,
        files: 1,
        attempt: "a".to_owned(),
        damaged_pages: Vec::new(),
    }
}

pub(crate) fn position(timeline: u32, end: u64) -> WalPosition {
    WalPosition {
        timeline: TimelineId(timeline),
        lsn: lsn(end),
        proven_at: at(end * 10 + 5),
        first_segment: String::new(),
        updated: at(0),
    }
}

/// Whole segments `(timeline, number)`, the filled quarters of partial ones, switches `(timeline, quarter)`.
fn archive(
    backups: &[(u32, u64, u64)],
    end: Option<(u32, u64)>,
    segments: &[(u32, std::ops::Range<u64>)],
    partial: &[(u32, u64, u64)],
    switches: &[u64],
) -> Archive {
    let object = |timeline, kind| WalObject {
        timeline: TimelineId(timeline),
        kind,
        stored_bytes: 1,
        last_modified: DateTime::UNIX_EPOCH,
    };
    let whole = segments.iter().flat_map(|(timeline, numbers)| {
        let kinds = numbers.clone();
        kinds.map(|number| object(*timeline, WalObjectKind::Segment(name(*timeline, number))))
    });
    let open = |(timeline, number, quarters): &(u32, u64, u64)| OpenSegment {
        name: name(*timeline, *number),
        raw_bytes: quarters * QUARTER,
    };
    let mut text = String::new();
    let mut histories = BTreeMap::new();
    for (number, switch) in (1..).zip(switches) {
        text += &format!("{number}\t{}\tx\n", lsn(*switch));
        let timeline = TimelineId(number + 1);
        let history = TimelineHistory::parse(timeline, &text).unwrap();
        let _ = histories.insert(timeline, history);
    }
    Archive {
        backups: backups
            .iter()
            .map(|(timeline, start, stop)| backup(*timeline, *start, *stop))
            .collect(),
        position: end.map(|(timeline, end)| position(timeline, end)),
        objects: whole.collect(),
        histories,
        open: partial.iter().map(open).collect(),
        gaps: Vec::new(),
        ..Archive::default()
    }
}

/// Commits happen at every quarter, a little after its beginning.
fn last_commit(_: TimelineId, before: Lsn) -> Option<Timestamp> {
    Some(at(quarter(before).checked_sub(1)? * 10 + 2))
}

/// In tenths for times and quarters for positions: `earliest..latest@lsn`, then the gaps, `from@lsn-lsn:again`.
fn text(window: &Window) -> String {
    let or_dash = |number: Option<u64>| number.map_or("-".to_owned(), |number| number.to_string());
    let time = |time: Option<Timestamp>| or_dash(time.map(tenth));
    let mut text = format!(
        "{}..{}@{}",
        time(window.earliest),
        time(window.latest),
        or_dash(window.latest_lsn.map(quarter))
    );
    for gap in &window.gaps {
        text += &format!(
            " {}@{}/{}-{}:{}",
            time(gap.from),
            gap.timeline,
            quarter(gap.from_lsn),
            or_dash(gap.to_lsn.map(quarter)),
            time(gap.restorable_again_at)
        );
    }
    assert_eq!(
        window.complete,
        window.earliest.is_some() && window.gaps.is_empty()
    );
    assert_eq!(
        window.earliest.is_some(),
        window.earliest_backup_id.is_some()
    );
    text
}

fn check(archive: &Archive, expected: &str) {
    assert_eq!(
        text(&window(archive, &last_commit)),
        expected,
        "{archive:#?}"
    );
}

#[test]
fn an_unbroken_archive() {
    check(&Archive::default(), "-..-@-");
    let whole = &[(1, 0..5)];
    check(&archive(&[], Some((1, 20)), whole, &[], &[]), "-..-@-");
    check(
        &archive(&[(1, 5, 6)], Some((1, 20)), whole, &[], &[]),
        "61..205@20",
    );
    // Two backups, the first counts; the open segment counts as far as it goes.
    let two = &[(1, 9, 10), (1, 5, 6)];
    check(
        &archive(two, Some((1, 21)), whole, &[(1, 5, 1)], &[]),
        "61..215@21",
    );
    // More is stored than is proven.
    check(&archive(two, Some((1, 18)), whole, &[], &[]), "61..185@18");
    // WAL from before the first backup is of no use, and its gaps are none.
    check(
        &archive(two, Some((1, 20)), &[(1, 1..5)], &[], &[]),
        "61..205@20",
    );
    let early = &[(1, 0..1), (1, 2..5)];
    check(
        &archive(&[(1, 9, 10)], Some((1, 20)), early, &[], &[]),
        "101..205@20",
    );
}

#[test]
fn a_backup_without_its_own_wal_opens_nothing() {
    let holes = &[(1, 0..1), (1, 2..5)];
    check(
        &archive(&[(1, 5, 6)], Some((1, 20)), holes, &[], &[]),
        "-..-@-",
    );
    check(
        &archive(&[(1, 5, 6), (1, 9, 10)], Some((1, 20)), holes, &[], &[]),
        "101..205@20",
    );
    // The gap is behind its stop, inside of the same segment: on its own it is whole.
    let own = archive(&[(1, 1, 2)], Some((1, 20)), &[(1, 2..5)], &[(1, 0, 2)], &[]);
    check(&own, "21..21@2 21@1/2-8:-");
    let own = archive(&[(1, 1, 3)], Some((1, 20)), &[(1, 2..5)], &[(1, 0, 2)], &[]);
    check(&own, "-..-@-");
}

#[test]
fn a_gap_is_closed_by_the_next_backup_behind_it() {
    let one = &[(1, 0..3), (1, 4..8)];
    let gap = |backups: &[(u32, u64, u64)]| archive(backups, Some((1, 32)), one, &[], &[]);
    check(&gap(&[(1, 5, 6)]), "61..112@12 112@1/12-16:-");
    check(
        &gap(&[(1, 5, 6), (1, 17, 18)]),
        "61..325@32 112@1/12-16:181",
    );
    // It began before the end of the gap.
    check(&gap(&[(1, 5, 6), (1, 15, 18)]), "61..112@12 112@1/12-16:-");
    check(
        &gap(&[(1, 5, 6), (1, 10, 18), (1, 20, 21)]),
        "61..325@32 112@1/12-16:211",
    );
    // The segment that was open when it began counts.
    let open = archive(&[(1, 5, 6)], Some((1, 32)), one, &[(1, 3, 2)], &[]);
    check(&open, "61..132@14 132@1/14-16:-");
    // No commit since the backup.
    check(
        &archive(&[(1, 10, 12)], Some((1, 32)), one, &[], &[]),
        "121..121@12 121@1/12-16:-",
    );
}

#[test]
fn backups_that_are_kept_alone_are_no_beginning_of_the_window() {
    let alone = |mut archive: Archive, which: usize| {
        for backup in archive.backups.iter_mut().take(which) {
            backup.wal_until = Some(backup.backed_up_at);
        }
        archive
    };
    let three = || {
        archive(
            &[(1, 1, 2), (1, 21, 22), (1, 41, 42)],
            Some((1, 50)),
            &[(1, 0..1), (1, 5..6), (1, 10..12)],
            &[(1, 12, 2)],
            &[],
        )
    };
    let all = window(&three(), &last_commit);
    assert_eq!((all.earliest, all.gaps.len()), (Some(at(21)), 2));
    let newest = window(&alone(three(), 2), &last_commit);
    assert_eq!((newest.earliest, newest.complete), (Some(at(421)), true));
    // The last island stands whatever its backups are, and so does what lies behind one that is kept.
    let every = window(&alone(three(), 3), &last_commit);
    assert_eq!((every.earliest, every.complete), (Some(at(421)), true));
    let middle = window(&alone(three(), 1), &last_commit);
    assert_eq!((middle.earliest, middle.gaps.len()), (Some(at(221)), 1));
}

#[test]
fn two_gaps() {
    let two = &[(1, 0..3), (1, 4..6), (1, 7..9)];
    let gaps = |backups: &[(u32, u64, u64)]| archive(backups, Some((1, 36)), two, &[], &[]);
    check(
        &gaps(&[(1, 5, 6), (1, 17, 18), (1, 29, 30)]),
        "61..365@36 112@1/12-16:181 232@1/24-28:301",
    );
    // No backup between them: both end with the same.
    check(
        &gaps(&[(1, 5, 6), (1, 29, 30)]),
        "61..365@36 112@1/12-16:301 112@1/24-28:301",
    );
    check(
        &gaps(&[(1, 5, 6), (1, 17, 18)]),
        "61..232@24 112@1/12-16:181 232@1/24-28:-",
    );
    check(
        &gaps(&[(1, 5, 6)]),
        "61..112@12 112@1/12-16:- 112@1/24-28:-",
    );
    check(&gaps(&[(1, 29, 30)]), "301..365@36");
}

#[test]
fn what_the_last_commit_was_may_be_unknown() {
    let gap = archive(
        &[(1, 5, 6)],
        Some((1, 32)),
        &[(1, 0..3), (1, 4..8)],
        &[],
        &[],
    );
    assert_eq!(text(&window(&gap, &|_, _| None)), "61..61@12 61@1/12-16:-");
    // A stale position is a proof too.
    let mut stale = gap;
    stale.position = Some(position(1, 9));
    assert_eq!(text(&window(&stale, &|_, _| None)), "61..95@9");
}

#[test]
fn a_gap_at_the_end_is_open() {
    // The end is not where the position says.
    let lost = archive(&[(1, 5, 6)], Some((1, 14)), &[(1, 0..3)], &[], &[]);
    check(&lost, "61..112@12 112@1/12--:-");
    // The archiver knows of a gap and has not begun the chain behind it.
    let mut known = archive(&[(1, 5, 6)], Some((1, 12)), &[(1, 0..3)], &[], &[]);
    known.gaps = vec![WalGap {
        timeline: TimelineId(1),
        from_lsn: lsn(12),
        to_lsn: lsn(24),
        cause: GapCause::SlotLost,
        detected_at: at(0),
        proven: None,
    }];
    check(&known, "61..125@12 125@1/12-24:-");
    // What was proven before it is not taken back.
    let proven = |gap: u64| GapProof {
        lsn: lsn(gap),
        at: at(127),
    };
    known.gaps[0].proven = Some(proven(12));
    check(&known, "61..127@12 127@1/12-24:-");
    known.gaps[0].proven = Some(proven(13));
    check(&known, "61..125@12 125@1/12-24:-");
    known.gaps[0].proven = None;
    // What was recorded and came nevertheless is no gap.
    let mut came = archive(&[(1, 5, 6)], Some((1, 32)), &[(1, 0..8)], &[], &[]);
    came.gaps = known.gaps;
    check(&came, "61..325@32");
}

#[test]
fn the_position_may_be_behind_or_missing() {
    let whole = &[(1, 0..5)];
    let backups = &[(1, 5, 6), (1, 13, 14)];
    check(
        &archive(backups, Some((1, 10)), whole, &[], &[]),
        "61..141@14",
    );
    check(&archive(backups, None, whole, &[], &[]), "61..141@14");
    check(&archive(&[(1, 5, 6)], None, whole, &[], &[]), "61..61@6");
    let gap = &[(1, 0..2), (1, 3..5)];
    check(
        &archive(backups, None, gap, &[], &[]),
        "61..141@14 72@1/8-12:141",
    );
}

#[test]
fn along_the_timelines() {
    // Timeline 2 begins in the middle of segment 3; its first segment holds what was before.
    let promoted = &[(1, 0..3), (2, 3..6)];
    let after = |backups: &[(u32, u64, u64)], segments: &[(u32, std::ops::Range<u64>)]| {
        archive(backups, Some((2, 24)), segments, &[], &[14])
    };
    check(&after(&[(1, 5, 6)], promoted), "61..245@24");
    check(&after(&[(1, 5, 6), (2, 17, 18)], promoted), "61..245@24");
    // The old timeline went on: what was backed up there after the switch is not on the way.
    let old = &[(1, 0..6), (2, 3..6)];
    check(&after(&[(1, 16, 17)], old), "-..-@-");
    check(&after(&[(1, 16, 17), (2, 19, 20)], old), "201..245@24");
    check(&after(&[(1, 5, 6)], old), "61..245@24");
    // The new timeline's first segment is missing: the old one leads to the switch.
    let hole = &[(1, 0..5), (2, 4..6)];
    check(
        &after(&[(1, 5, 6), (2, 17, 18)], hole),
        "61..245@24 132@2/14-16:181",
    );
    let partial = archive(
        &[(1, 5, 6)],
        Some((2, 24)),
        &[(1, 0..3), (2, 4..6)],
        &[(1, 3, 2)],
        &[14],
    );
    check(&partial, "61..132@14 132@2/14-16:-");
    // Nobody knows where timeline 2 came from.
    let mut lost = after(&[(1, 5, 6)], promoted);
    lost.histories.clear();
    check(&lost, "-..-@-");
    assert_eq!(window(&lost, &last_commit).timeline, Some(TimelineId(2)));
    // Twice promoted, the second time at once.
    let twice = archive(
        &[(1, 5, 6)],
        Some((3, 24)),
        &[(1, 0..3), (3, 3..6)],
        &[],
        &[14, 14],
    );
    check(&twice, "61..245@24");
}

/// Whether each byte of a quarter is archived, asked one file after the other.
fn is_archived(archive: &Archive, history: &TimelineHistory, at: u64) -> bool {
    history.path().iter().any(|range| {
        let file = name(range.timeline.0, at / 4);
        let begun = range.start < file.end(size());
        let goes_on = range.end.is_none_or(|end| end > lsn(at));
        let whole = |object: &WalObject| object.kind == WalObjectKind::Segment(file);
        let part = |open: &OpenSegment| {
            open.name == file && lsn(at + 1) <= Lsn(file.start(size()).0 + open.raw_bytes)
        };
        let there = archive.objects.iter().any(whole) || archive.open.iter().any(part);
        begun && goes_on && there
    })
}

const STORY: u64 = 40;

fn archives() -> impl Strategy<Value = Archive> {
    let backups = prop::collection::btree_map(2..STORY, (1..4_u32, 1..6_u64), 0..6);
    let holes = prop::collection::btree_set((1..4_u32, 0..STORY / 4), 0..12);
    let partial = prop::collection::vec((1..4_u32, 0..STORY / 4, 1..4_u64), 0..4);
    let end = prop::option::weighted(0.9, (1..4_u32, 0..STORY));
    let switches = (1..STORY, 1..STORY).prop_map(|(a, b)| [a.min(b), a.max(b)]);
    (backups, holes, partial, end, switches).prop_map(|(backups, holes, partial, end, switches)| {
        let backups: Vec<_> = backups
            .into_iter()
            .map(|(stop, (timeline, length))| (timeline, stop.saturating_sub(length), stop))
            .collect();
        let all = (1..4).flat_map(|timeline| (0..STORY / 4).map(move |number| (timeline, number)));
        let segments: Vec<_> = all
            .filter(|one| !holes.contains(one))
            .map(|(timeline, number)| (timeline, number..number + 1))
            .collect();
        archive(&backups, end, &segments, &partial, &switches)
    })
}

proptest! {
    /// A position can be restored when some backup ends before it and all WAL from that backup's start is there.
    #[test]
    fn promises_what_can_be_restored_and_nothing_else(archive in archives()) {
        let window = window(&archive, &last_commit);
        let newest = archive.backups.iter().map(|backup| (backup.timeline, backup.stop_lsn)).max();
        let timeline = archive.position.as_ref().map(|position| position.timeline);
        let Some(timeline) = timeline.or(newest.map(|newest| newest.0)) else {
            return Ok(());
        };
        let root = TimelineHistory::root(timeline);
        let history = archive.histories.get(&timeline).unwrap_or(&root);
        let on_path = |backup: &&BackupSummary| {
            let left = history.switch_point(backup.timeline);
            history.contains(backup.timeline) && left.is_none_or(|left| backup.stop_lsn <= left)
        };
        let from = |backup: &BackupSummary, to: u64| {
            let mut quarters = quarter(backup.start_lsn)..to;
            quarters.all(|at| is_archived(&archive, history, at))
        };
        let bases: Vec<_> = archive.backups.iter().filter(on_path)
            .filter(|backup| from(backup, quarter(backup.stop_lsn))).collect();
        let proven = archive.position.as_ref().map(|position| position.lsn);
        let end = proven.max(bases.iter().map(|backup| backup.stop_lsn).max());
        let ends = |again: Timestamp| bases.iter().find(|base| base.backed_up_at == again).unwrap();
        let earliest = bases.iter().find(|base| Some(base.backup_id) == window.earliest_backup_id);
        prop_assert_eq!(earliest.map(|base| base.backed_up_at), window.earliest);
        for at in 0..=end.map_or(0, quarter) {
            let expected = bases.iter().any(|base| quarter(base.stop_lsn) <= at && from(base, at));
            let gap = window.gaps.iter().any(|gap| {
                let closed = gap.restorable_again_at.map(|again| ends(again).stop_lsn);
                gap.from_lsn < lsn(at) && closed.is_none_or(|closed| lsn(at) < closed)
            });
            let begun = earliest.is_some_and(|base| base.stop_lsn <= lsn(at));
            let promised = begun && Some(lsn(at)) <= window.latest_lsn && !gap;
            prop_assert_eq!(promised, expected, "at {}: {}", at, text(&window));
        }
        // No time is promised that what is there does not reach.
        if let (Some(latest), Some(latest_lsn)) = (window.latest, window.latest_lsn) {
            prop_assert!(tenth(latest) <= quarter(latest_lsn) * 10 + 5);
            prop_assert!(window.earliest.is_some_and(|earliest| earliest <= latest));
        }
        for gap in &window.gaps {
            prop_assert!(gap.from.is_some_and(|from| tenth(from) <= quarter(gap.from_lsn) * 10 + 5));
            prop_assert!(gap.restorable_again_at.is_none_or(|again| Some(again) > gap.from));
            prop_assert!(gap.to_lsn.is_none_or(|to| to > gap.from_lsn));
            prop_assert!(!is_archived(&archive, history, quarter(gap.from_lsn)));
        }
    }
}
