use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use events::event::{BackupSummary, RefusalCode};
use events::{
    BackupId, BackupType, BranchName, InstanceName, RestoreId, RestoreTarget, Timestamp, Trigger,
};
use pg_format::{Lsn, SegmentName, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};
use proptest::prelude::{any, prop, prop_assert, proptest};
use repository::{OpenSegment, WalObject, WalObjectKind, WalPosition};
use uuid::Uuid;

use super::{Archive, Plan, Policy, Refusal, Stop, StoredPlan, plan};

const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;
const POLICY: Policy = Policy {
    min_target_age: Duration::from_secs(120),
};

/// `minute` minutes after the beginning of the story.
fn minute(minute: i64) -> Timestamp {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap() + TimeDelta::minutes(minute)
}

/// A little into segment `number`.
fn into(number: u64) -> Lsn {
    Lsn(number * SIZE.bytes() + 0x1000)
}

fn backup(id: u128, timeline: u32, start: Lsn, stop: Lsn, ended: Timestamp) -> BackupSummary {
    BackupSummary {
        backup_id: BackupId(Uuid::from_u128(id)),
        instance: InstanceName::new("orders").unwrap(),
        branch: BranchName::main(),
        name: "nightly".to_owned(),
        backup_type: BackupType::Full,
        trigger: Trigger::Manual,
        schedule_id: None,
        requested_at: ended - TimeDelta::minutes(2),
        started_at: ended - TimeDelta::minutes(1),
        backed_up_at: ended,
        expires_at: None,
        start_lsn: start,
        stop_lsn: stop,
        timeline: TimelineId(timeline),
        system_identifier: SystemIdentifier(7),
        server_version: 180_006,
        wal_segment_size: SIZE,
        logical_bytes: 1_000_000,
        stored_bytes: 500_000,
        files: 900,
        attempt: "a".to_owned(),
        damaged_pages: Vec::new(),
    }
}

fn segments(timeline: u32, numbers: std::ops::Range<u64>) -> impl Iterator<Item = WalObject> {
    numbers.map(move |number| WalObject {
        timeline: TimelineId(timeline),
        kind: WalObjectKind::Segment(SegmentName::new(TimelineId(timeline), number, SIZE)),
        stored_bytes: 1,
        // A segment a minute.
        last_modified: minute(i64::try_from(number).unwrap()),
    })
}

fn position(timeline: u32, lsn: Lsn, proven_at: Timestamp) -> Option<WalPosition> {
    Some(WalPosition {
        timeline: TimelineId(timeline),
        lsn,
        proven_at,
        first_segment: String::new(),
        updated: proven_at,
    })
}

/// Backups end at minutes 11 and 21 (segments 11 and 21); archived up to segment 40, minute 40.
fn archive() -> Archive {
    let open = SegmentName::new(TimelineId(1), 40, SIZE);
    Archive {
        backups: vec![
            backup(1, 1, into(10), into(11), minute(11)),
            backup(2, 1, into(20), into(21), minute(21)),
        ],
        position: position(1, into(40), minute(40)),
        objects: segments(1, 10..40).collect(),
        histories: BTreeMap::new(),
        open: vec![OpenSegment {
            name: open,
            raw_bytes: 0x1000,
        }],
        gaps: Vec::new(),
    }
}

fn ask(archive: &Archive, target: RestoreTarget) -> Result<Plan, Refusal> {
    plan(archive, &target, minute(60), POLICY)
}

fn number(plan: &Plan) -> u128 {
    plan.backup.backup_id.0.as_u128()
}

fn time(at: Timestamp) -> RestoreTarget {
    RestoreTarget::Time { at }
}

fn lsn(lsn: Lsn) -> RestoreTarget {
    RestoreTarget::Lsn { lsn }
}

#[test]
fn the_base_ends_before_the_target() {
    let check = |target: RestoreTarget, base: u128, end: Lsn| {
        let plan = ask(&archive(), target.clone()).unwrap();
        assert_eq!((number(&plan), plan.end_lsn), (base, end), "{target:?}");
        assert_eq!(plan.history.timeline(), TimelineId(1));
    };
    let end = into(40);
    check(time(minute(11)), 1, end);
    check(time(minute(20)), 1, end);
    check(time(minute(21) - TimeDelta::microseconds(1)), 1, end);
    check(time(minute(21)), 2, end);
    check(time(minute(40)), 2, end);
    check(lsn(into(11)), 1, end);
    check(lsn(Lsn(into(21).0 - 1)), 1, end);
    check(lsn(into(21)), 2, end);
    check(lsn(end), 2, end);
    check(RestoreTarget::Latest, 2, end);
    check(
        RestoreTarget::RestorePoint {
            name: "before".to_owned(),
        },
        1,
        end,
    );
    check(
        RestoreTarget::Backup {
            id: BackupId(Uuid::from_u128(1)),
        },
        1,
        into(11),
    );
}

#[test]
fn what_cannot_succeed_is_refused_with_the_nearest_target() {
    let check = |archive: &Archive, target: RestoreTarget, code: RefusalCode, says: &str| {
        let refusal = ask(archive, target).unwrap_err();
        assert_eq!(refusal.code, code, "{refusal}");
        assert!(refusal.message.contains(says), "{refusal} has no {says:?}");
        assert!(!refusal.hint.is_empty());
    };
    let full = archive();
    let outside = RefusalCode::OutsideWindow;
    let text = |at| events::envelope::rfc3339(at);
    let early = minute(11) - TimeDelta::microseconds(1);
    check(&full, time(early), outside, &text(minute(11)));
    check(&full, time(minute(41)), outside, &text(minute(40)));
    check(
        &full,
        time(minute(59)),
        outside,
        "less than 120 seconds ago",
    );
    check(&full, time(minute(70)), outside, &text(minute(40)));
    check(
        &full,
        lsn(Lsn(into(11).0 - 1)),
        outside,
        &into(11).to_string(),
    );
    check(
        &full,
        lsn(Lsn(into(40).0 + 1)),
        outside,
        &into(40).to_string(),
    );
    let unknown = RestoreTarget::Backup {
        id: BackupId(Uuid::from_u128(9)),
    };
    check(&full, unknown, RefusalCode::NotFound, "no completed backup");
    let long = RestoreTarget::RestorePoint {
        name: "x".repeat(64),
    };
    check(&full, long, RefusalCode::Invalid, "cannot be the name");
    check(
        &Archive::default(),
        RestoreTarget::Latest,
        RefusalCode::NotFound,
        "no completed backup",
    );
    let silent = Archive {
        position: None,
        ..archive()
    };
    check(&silent, RestoreTarget::Latest, outside, "no wal");
}

#[test]
fn a_gap_cuts_the_window() {
    let mut gapped = archive();
    let missing = SegmentName::new(TimelineId(1), 30, SIZE);
    gapped
        .objects
        .retain(|object| object.kind != WalObjectKind::Segment(missing));
    let gap = missing.start(SIZE);
    assert!(
        ask(&gapped, RestoreTarget::Latest)
            .unwrap_err()
            .message
            .contains(&gap.to_string())
    );
    assert!(
        ask(&gapped, lsn(into(35)))
            .unwrap_err()
            .message
            .contains(&gap.to_string())
    );
    let before = ask(&gapped, lsn(into(29))).unwrap();
    assert_eq!((before.end_lsn, before.must_reach), (gap, true));
    // The last segment before the gap was stored at minute 29.
    assert!(ask(&gapped, time(minute(35))).is_err());
    let before = ask(&gapped, time(minute(28))).unwrap();
    assert_eq!((before.end_lsn, before.must_reach), (gap, true));
    // A backup behind the gap does not need what is missing.
    gapped
        .backups
        .push(backup(3, 1, into(32), into(33), minute(33)));
    let behind = ask(&gapped, time(minute(35))).unwrap();
    assert_eq!((number(&behind), behind.must_reach), (3, false));
}

/// Timeline 2 leaves timeline 1 in segment 30; the old server went on to segment 33.
fn after_promotion() -> Archive {
    let text = format!("1\t{}\tno recovery target specified\n", into(30));
    let history = TimelineHistory::parse(TimelineId(2), &text).unwrap();
    let mut archive = archive();
    archive.objects = segments(1, 10..34).chain(segments(2, 30..41)).collect();
    archive.position = position(2, into(40), minute(40));
    archive.histories = BTreeMap::from([(TimelineId(2), history)]);
    archive
        .backups
        .push(backup(4, 1, into(31), into(32), minute(32)));
    archive
}

#[test]
fn follows_the_timeline_that_is_archived_now() {
    let archive = after_promotion();
    let plan = ask(&archive, time(minute(35))).unwrap();
    // Backup 4 was taken on the abandoned end of timeline 1.
    assert_eq!((number(&plan), plan.history.timeline()), (2, TimelineId(2)));
    let plan = ask(
        &archive,
        RestoreTarget::Backup {
            id: BackupId(Uuid::from_u128(4)),
        },
    )
    .unwrap();
    assert_eq!(
        (plan.end_lsn, plan.history.timeline()),
        (into(32), TimelineId(1))
    );
    let no_history = Archive {
        histories: BTreeMap::new(),
        ..archive
    };
    assert!(
        ask(&no_history, RestoreTarget::Latest)
            .unwrap_err()
            .message
            .contains("history")
    );
}

#[test]
fn a_stored_plan_is_the_same_plan() {
    let plan = ask(&after_promotion(), time(minute(35))).unwrap();
    let stored = StoredPlan::new(RestoreId(Uuid::from_u128(5)), &plan);
    let text = serde_json::to_string(&stored).unwrap();
    let read: StoredPlan = serde_json::from_str(&text).unwrap();
    assert_eq!(read.plan().unwrap(), plan);
}

proptest! {
    #[test]
    fn never_a_base_after_the_target_and_never_beyond_the_end(
        ends in prop::collection::vec((0_u64..60, 0_i64..60), 0..6),
        missing in prop::collection::vec(0_u64..60, 0..4),
        archived in 1_u64..60,
        proven in 0_i64..60,
        target_minute in 0_i64..70,
        target_lsn in 0_u64..70,
        by_time in any::<bool>(),
    ) {
        let backups = ends.iter().enumerate().map(|(id, (segment, ended))| {
            backup(id as u128, 1, into(*segment), Lsn(into(*segment).0 + 99), minute(*ended))
        });
        let archive = Archive {
            backups: backups.collect(),
            position: position(1, into(archived), minute(proven)),
            objects: segments(1, 0..archived + 1)
                .filter(|object| !missing.iter().any(|gone| {
                    object.kind == WalObjectKind::Segment(SegmentName::new(TimelineId(1), *gone, SIZE))
                }))
                .collect(),
            ..Archive::default()
        };
        let target = if by_time { time(minute(target_minute)) } else { lsn(into(target_lsn)) };
        if let Ok(plan) = ask(&archive, target) {
            match plan.stop {
                Stop::Time(at) => {
                    prop_assert!(plan.backup.backed_up_at <= at && at <= minute(proven));
                }
                Stop::Lsn(lsn) => prop_assert!(plan.backup.stop_lsn <= lsn && lsn <= plan.end_lsn),
                ref other => prop_assert!(false, "{other:?}"),
            }
            prop_assert!(plan.backup.stop_lsn <= plan.end_lsn && plan.end_lsn <= into(archived));
            let served = plan.served();
            for number in served.first()..=served.last() {
                prop_assert!(!missing.contains(&number), "segment {} is missing", number);
            }
        }
    }
}
