//! An archive of made-up records: backups, segments, and the shell that reads for the planner.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use events::event::BackupSummary;
use events::{BackupId, BackupType, BranchName, InstanceName, RestoreTarget, Timestamp, Trigger};
use pg_format::{Lsn, SegmentName, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};
use repository::{OpenSegment, WalObject, WalObjectKind, WalPosition};
use uuid::Uuid;
use wal_index::{Ends, Interval, SegmentIndex, TransactionEnd, WalEvent};

use crate::plan::{
    Archive, Known, Missing, Place, Plan, Policy, Refusal, Stretch, Unplanned, pg_time, plan,
};

pub(super) const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;
pub(super) const POLICY: Policy = Policy {
    min_target_age: Duration::from_secs(120),
    room_bytes: 1 << 30,
};

/// What a record is to the planner.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Kind {
    Commit,
    Abort,
    Prepare,
    Point(String),
    /// `DROP DATABASE` by a transaction that commits at this record.
    Drop(Lsn),
    Other,
}

#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) start: Lsn,
    pub(super) end: Lsn,
    pub(super) time: Timestamp,
    pub(super) xid: u32,
    pub(super) kind: Kind,
}

impl Record {
    pub(super) fn ended(&self) -> Option<TransactionEnd> {
        let committed = self.kind == Kind::Commit;
        (committed || self.kind == Kind::Abort).then(|| TransactionEnd {
            lsn: self.start,
            end: self.end,
            time: pg_time(self.time),
            xid: self.xid,
            committed,
        })
    }
}

/// `minute` minutes after the beginning of the story.
pub(super) fn minute(minute: i64) -> Timestamp {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap() + TimeDelta::minutes(minute)
}

/// A little into segment `number`.
pub(super) fn into(number: u64) -> Lsn {
    Lsn(number * SIZE.bytes() + 0x1000)
}

pub(super) fn backup(
    id: u128,
    timeline: u32,
    start: Lsn,
    stop: Lsn,
    ended: Timestamp,
) -> BackupSummary {
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
        ended_at: None,
        expires_at: None,
        wal_until: None,
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

pub(super) fn segments(timeline: u32, numbers: Range<u64>) -> impl Iterator<Item = WalObject> {
    numbers.map(move |number| WalObject {
        timeline: TimelineId(timeline),
        kind: WalObjectKind::Segment(SegmentName::new(TimelineId(timeline), number, SIZE)),
        stored_bytes: 1,
        last_modified: minute(0),
    })
}

pub(super) fn position(timeline: u32, lsn: Lsn, proven_at: Timestamp) -> Option<WalPosition> {
    Some(WalPosition {
        timeline: TimelineId(timeline),
        lsn,
        proven_at,
        first_segment: String::new(),
        updated: proven_at,
    })
}

/// The archive, and what its WAL holds along the way to where it is now.
#[derive(Clone, Debug)]
pub(super) struct World {
    pub(super) archive: Archive,
    pub(super) records: Vec<Record>,
    /// So many transaction ends in each interval.
    pub(super) ends_in_interval: usize,
}

/// A commit at each minute from 10 on, in the middle of the minute's segment; a transaction that is rolled back a
/// minute's half later. Backups end at minutes 11 and 21 (segments 11 and 21). Archived up to segment 40, minute 40.
pub(super) fn world() -> World {
    let open = SegmentName::new(TimelineId(1), 40, SIZE);
    let archive = Archive {
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
        ..Archive::default()
    };
    let records = (10..40).flat_map(|number| {
        let start = Lsn(into(number).0 + 0x40_0000);
        let of = |offset: u64, seconds: i64, kind: Kind| Record {
            start: Lsn(start.0 + offset),
            end: Lsn(start.0 + offset + 64),
            time: minute(number as i64) + TimeDelta::seconds(seconds),
            xid: 1000 + 2 * number as u32 + u32::from(kind == Kind::Abort),
            kind,
        };
        [
            of(0, 10, Kind::Other),
            of(64, 10, Kind::Commit),
            of(0x1000, 20, Kind::Point(format!("point {number}"))),
            of(0x2000, 30, Kind::Abort),
            of(0x3000, 30, Kind::Other),
        ]
    });
    World {
        archive,
        records: records.collect(),
        ends_in_interval: 1,
    }
}

impl World {
    pub(super) fn ask(&self, target: RestoreTarget) -> Result<Plan, Refusal> {
        self.ask_at(&target, minute(60))
    }

    pub(super) fn ask_at(&self, target: &RestoreTarget, now: Timestamp) -> Result<Plan, Refusal> {
        self.learn(|known| plan(&self.archive, known, target, now, POLICY))
    }

    /// Reads what is asked for.
    pub(super) fn learn<T>(
        &self,
        ask: impl Fn(&Known) -> Result<T, Unplanned>,
    ) -> Result<T, Refusal> {
        let mut known = Known::new();
        let mut asked = Vec::new();
        loop {
            let (history, missing) = match ask(&known) {
                Ok(answer) => return Ok(answer),
                Err(Unplanned::Refused(refusal)) => return Err(refusal),
                Err(Unplanned::Needs { history, missing }) => (history, missing),
            };
            assert!(!asked.contains(&missing), "{missing:?} is asked for again");
            asked.push(missing.clone());
            let wal = known.entry(history.timeline()).or_default();
            match missing {
                Missing::Index(range) => {
                    wal.add_index(range.clone(), self.index(&history, &range));
                }
                Missing::Records { range, at } => {
                    let mut stretch = Stretch::new(range, at);
                    for record in &self.records {
                        let place = Place {
                            start: record.start,
                            end: record.end,
                        };
                        stretch.note(place, record.ended(), record.kind == Kind::Prepare);
                    }
                    wal.add_stretch(stretch);
                }
                Missing::Contradicted(error) => panic!("{error}"),
            }
        }
    }

    fn index(&self, history: &TimelineHistory, range: &Range<Lsn>) -> Vec<SegmentIndex> {
        let archive = &self.archive;
        let stretches = repository::wal_stretches(&archive.objects, history, SIZE, &archive.open);
        let numbers = SIZE.segment_of(range.start)..=SIZE.segment_ending_at(range.end);
        let covered = numbers.filter_map(|number| {
            let start = SIZE.start_of(number);
            let there = stretches.iter().find(|one| one.contains(&start))?;
            Some(self.segment(number, start, there.end.min(SIZE.start_of(number + 1))))
        });
        covered.collect()
    }

    fn segment(&self, segment: u64, start: Lsn, end: Lsn) -> SegmentIndex {
        let within = |record: &&Record| (start..end).contains(&record.start);
        let records: Vec<&Record> = self.records.iter().filter(within).collect();
        let ends: Vec<TransactionEnd> = records.iter().filter_map(|one| one.ended()).collect();
        let mut intervals = Vec::new();
        let mut from = start;
        for ends in ends.chunks(self.ends_in_interval) {
            let to = ends.last().unwrap().end.min(end);
            intervals.push(interval(from, to, ends));
            from = to;
        }
        if from < end {
            intervals.push(interval(from, end, &[]));
        }
        let point = |record: &&Record| match &record.kind {
            Kind::Point(name) => Some(WalEvent::RestorePoint {
                lsn: record.start,
                end: record.end,
                time: pg_time(record.time),
                name: name.clone(),
            }),
            _ => None,
        };
        let mut events: Vec<WalEvent> = records.iter().filter_map(point).collect();
        events.extend(self.dropped(&records));
        events.sort_by_key(WalEvent::lsn);
        SegmentIndex {
            segment,
            start,
            end,
            intervals,
            events,
            open: Vec::new(),
            undecoded: 0,
        }
    }

    fn dropped(&self, within: &[&Record]) -> Vec<WalEvent> {
        let drops = self.records.iter().filter_map(|record| match record.kind {
            Kind::Drop(commit) => Some((record.start, commit)),
            _ => None,
        });
        let drops = drops.filter_map(|(lsn, commit)| {
            let commit = within.iter().find(|record| record.start == commit)?;
            Some(WalEvent::Transaction(wal_index::TransactionEvent {
                commit: commit.ended()?,
                previous: None,
                latest_before: None,
                database: None,
                dropped: Vec::new(),
                dropped_more: 0,
                created: Vec::new(),
                created_more: 0,
                dropped_databases: vec![wal_index::DroppedDatabase {
                    database: 16_384,
                    lsn,
                }],
                truncated: Vec::new(),
                rows: Vec::new(),
            }))
        });
        drops.collect()
    }
}

fn interval(start: Lsn, end: Lsn, ends: &[TransactionEnd]) -> Interval {
    let ends = ends.last().map(|last| Ends {
        count: ends.len() as u32,
        commits: ends.iter().filter(|end| end.committed).count() as u32,
        min_time: ends.iter().map(|end| end.time).min().unwrap(),
        max_time: ends.iter().map(|end| end.time).max().unwrap(),
        min_xid: ends.iter().map(|end| end.xid).min().unwrap(),
        max_xid: ends.iter().map(|end| end.xid).max().unwrap(),
        last: *last,
        last_commit: ends.iter().rev().find_map(TransactionEnd::commit),
    });
    Interval { start, end, ends }
}
