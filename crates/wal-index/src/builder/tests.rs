//! The builder against the plain rule, over WAL that is written here.

mod wal;

use std::collections::BTreeMap;

use pg_format::wal::WalReader;
use pg_format::{Lsn, PgTimestamp};
use proptest::collection::vec;
use proptest::prelude::{
    Just, ProptestConfig, Strategy, any, prop_assert_eq, prop_oneof, proptest,
};

use super::{IndexBuilder, IndexSettings};
use crate::model::{OpenTransaction, SegmentIndex, TransactionEvent, WalEvent};
use crate::{decode, encode};
use wal::{SEGMENT, Wal, file, segment_size};

const SETTINGS: IndexSettings = IndexSettings { threshold_rows: 2 };

/// What a server could do; transactions are 100 to 105, subtransactions of them 1100 and up.
#[derive(Clone, Debug)]
enum Op {
    Delete(u32, bool, u32),
    Update(u32, bool, u32),
    Insert(u32, u32),
    Create(u32, bool, u32),
    DropDatabase(u32),
    Commit(u32, i64, Vec<u32>),
    Abort(u32, bool),
    Prepare(u32),
    CommitPrepared(u32, i64),
    Crash,
    Fill(usize),
}

fn op() -> impl Strategy<Value = Op> {
    let xid = || 100u32..106;
    let number = || 1u32..5;
    prop_oneof![
        4 => (xid(), any::<bool>(), number()).prop_map(|(x, sub, n)| Op::Delete(x, sub, n)),
        4 => (xid(), any::<bool>(), number()).prop_map(|(x, sub, n)| Op::Update(x, sub, n)),
        1 => (xid(), number()).prop_map(|(x, n)| Op::Insert(x, n)),
        2 => (xid(), any::<bool>(), 50u32..60).prop_map(|(x, sub, n)| Op::Create(x, sub, n)),
        1 => xid().prop_map(Op::DropDatabase),
        3 => (xid(), -3i64..9, vec(50u32..60, 0..3)).prop_map(|(x, t, d)| Op::Commit(x, t, d)),
        1 => (xid(), any::<bool>()).prop_map(|(x, sub)| Op::Abort(x, sub)),
        1 => xid().prop_map(Op::Prepare),
        1 => (xid(), -3i64..9).prop_map(|(x, t)| Op::CommitPrepared(x, t)),
        1 => Just(Op::Crash),
        3 => (0usize..200_000).prop_map(Op::Fill),
    ]
}

/// What one xid has done.
#[derive(Clone, Default)]
struct Done {
    rows: BTreeMap<u32, (u64, u64)>,
    /// Number, and whether it is filled.
    created: Vec<(u32, bool)>,
    databases: Vec<Lsn>,
    prepared: bool,
}

/// Writes the WAL, and says what transactions the index must tell of.
#[derive(Default)]
struct Oracle {
    open: BTreeMap<u32, Done>,
    events: Vec<TransactionEvent>,
    ends: u32,
    clock: i64,
}

impl Oracle {
    fn apply(&mut self, wal: &mut Wal, op: &Op) {
        let own = |xid: u32, sub: bool| if sub { xid + 1000 } else { xid };
        match op {
            Op::Delete(xid, sub, number) => {
                let _ = wal.heap(own(*xid, *sub), 0x10, *number);
                let done = self.open.entry(own(*xid, *sub)).or_default();
                done.rows.entry(*number).or_default().0 += 1;
            }
            Op::Update(xid, sub, number) => {
                let _ = wal.heap(own(*xid, *sub), 0x20, *number);
                let done = self.open.entry(own(*xid, *sub)).or_default();
                done.rows.entry(*number).or_default().1 += 1;
            }
            Op::Insert(xid, number) => {
                // The file that was created last, and that nobody has written to.
                let number = number + 50;
                let _ = wal.heap(*xid, 0x00, number);
                for created in self.open.values_mut().flat_map(|done| &mut done.created) {
                    created.1 |= created.0 == number;
                }
            }
            Op::Create(xid, sub, number) => {
                let exists = self.open.values().flat_map(|done| &done.created);
                if exists.clone().any(|created| created.0 == *number) {
                    return;
                }
                let _ = wal.create(own(*xid, *sub), *number);
                let done = self.open.entry(own(*xid, *sub)).or_default();
                done.created.push((*number, false));
            }
            Op::DropDatabase(xid) => {
                let (lsn, _) = wal.drop_database(*xid, 77);
                let done = self.open.entry(*xid).or_default();
                if done.databases.is_empty() {
                    done.databases.push(lsn);
                }
            }
            Op::Commit(xid, jump, dropped) => {
                if !self.open.get(xid).is_some_and(|done| done.prepared) {
                    self.clock += jump;
                    let at = wal.commit(*xid, self.clock, &[xid + 1000], dropped, false);
                    self.committed(*xid, at, &[*xid, xid + 1000], dropped);
                }
            }
            Op::CommitPrepared(xid, jump) => {
                if self.open.get(xid).is_some_and(|done| done.prepared) {
                    self.clock += jump;
                    let at = wal.commit(*xid, self.clock, &[], &[], true);
                    self.committed(*xid, at, &[*xid], &[]);
                }
            }
            Op::Abort(xid, sub) => {
                let _ = wal.abort(own(*xid, *sub), self.clock);
                self.ends += 1;
                let _ = self.open.remove(&own(*xid, *sub));
            }
            Op::Prepare(xid) => self.prepare(wal, *xid),
            Op::Crash => {
                let _ = wal.shutdown_checkpoint();
                self.open.retain(|_, done| done.prepared);
            }
            Op::Fill(bytes) => wal.fill(*bytes),
        }
    }

    fn prepare(&mut self, wal: &mut Wal, xid: u32) {
        let _ = wal.prepare(xid, &[xid + 1000]);
        let sub = self.open.remove(&(xid + 1000));
        if sub.is_none() && !self.open.contains_key(&xid) {
            return;
        }
        let whole = self.open.entry(xid).or_default();
        whole.prepared = true;
        let sub = sub.unwrap_or_default();
        for (number, (deleted, updated)) in sub.rows {
            let own = whole.rows.entry(number).or_default();
            *own = (own.0 + deleted, own.1 + updated);
        }
        whole.created.extend(sub.created);
    }

    fn committed(&mut self, xid: u32, (lsn, end): (Lsn, Lsn), xids: &[u32], dropped: &[u32]) {
        self.ends += 1;
        let mut whole = Done::default();
        for done in xids.iter().filter_map(|xid| self.open.remove(xid)) {
            for (number, (deleted, updated)) in done.rows {
                let own = whole.rows.entry(number).or_default();
                *own = (own.0 + deleted, own.1 + updated);
            }
            whole.created.extend(done.created);
            whole.databases.extend(done.databases);
        }
        let own: Vec<u32> = whole.created.iter().map(|created| created.0).collect();
        let event = TransactionEvent {
            commit: crate::TransactionEnd {
                lsn,
                end,
                time: PgTimestamp(self.clock),
                xid,
                committed: true,
            },
            previous: None,
            latest_before: None,
            database: None,
            dropped: dropped
                .iter()
                .filter(|n| !own.contains(n))
                .map(|n| file(*n))
                .collect(),
            dropped_more: 0,
            created: whole
                .created
                .iter()
                .filter(|created| !dropped.contains(&created.0))
                .map(|created| crate::CreatedFile {
                    file: file(created.0),
                    filled: created.1,
                })
                .collect(),
            created_more: 0,
            dropped_databases: whole
                .databases
                .iter()
                .map(|lsn| crate::DroppedDatabase {
                    database: 77,
                    lsn: *lsn,
                })
                .collect(),
            truncated: Vec::new(),
            rows: whole
                .rows
                .iter()
                .filter(|(_, (deleted, updated))| *deleted >= 2 || *updated >= 2)
                .map(|(number, (deleted, updated))| crate::RowCounts {
                    file: file(*number),
                    deleted: *deleted,
                    updated: *updated,
                })
                .collect(),
        };
        let tells = !event.dropped.is_empty()
            || !event.created.is_empty()
            || !event.dropped_databases.is_empty()
            || !event.rows.is_empty();
        if tells {
            self.events.push(event);
        }
    }
}

/// Reads segments from `from` on in pieces, with a builder that has `carry`; the last one is as far as it goes.
fn build(wal: &Wal, from: u64, carry: Vec<OpenTransaction>, piece: usize) -> Vec<SegmentIndex> {
    let start = Lsn(wal.start().0 + from * SEGMENT);
    let mut reader = WalReader::new(wal.config(start)).unwrap();
    let mut builder = IndexBuilder::new(SETTINGS, segment_size(), start, carry);
    let mut segments = Vec::new();
    for bytes in wal.bytes()[(from * SEGMENT) as usize..].chunks(piece) {
        reader
            .feed_each(bytes, |record| builder.observe(record))
            .unwrap();
        builder.advance(reader.unfinished_record().unwrap_or(reader.position()));
        segments.extend(std::iter::from_fn(|| builder.take_finished()));
    }
    segments.push(builder.unfinished(reader.position()));
    segments
}

fn events(segments: &[SegmentIndex]) -> Vec<TransactionEvent> {
    let events = segments.iter().flat_map(|segment| &segment.events);
    events
        .filter_map(|event| match event {
            WalEvent::Transaction(event) => Some(event.clone()),
            _ => None,
        })
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn the_index_is_what_was_done_wherever_building_began(
        ops in vec(op(), 0..120), piece in 1000usize..400_000,
    ) {
        let (mut wal, mut oracle) = (Wal::new(), Oracle::default());
        for op in &ops {
            oracle.apply(&mut wal, op);
        }
        let whole = build(&wal, 0, Vec::new(), usize::MAX);

        let mut found = events(&whole);
        for event in &mut found {
            (event.previous, event.latest_before) = (None, None);
        }
        prop_assert_eq!(found, oracle.events);
        let intervals = || whole.iter().flat_map(|segment| &segment.intervals);
        let ends: u32 = intervals().filter_map(|i| i.ends.as_ref()).map(|ends| ends.count).sum();
        prop_assert_eq!(ends, oracle.ends);
        let mut position = wal.start();
        for interval in intervals() {
            prop_assert_eq!(interval.start, position);
            position = interval.end;
        }
        prop_assert_eq!(position, wal.end());

        prop_assert_eq!(&build(&wal, 0, Vec::new(), piece), &whole);
        let decoded = decode(&encode(&whole)).unwrap();
        prop_assert_eq!(&decoded, &whole);
        for border in 1..whole.len() {
            let carry = decoded[border - 1].open.clone();
            prop_assert_eq!(&build(&wal, border as u64, carry, piece)[..], &whole[border..]);
        }
    }
}

#[test]
fn an_end_that_is_not_understood_is_counted() {
    let mut wal = Wal::new();
    let _ = wal.heap(100, 0x10, 1);
    let _ = wal.heap(100, 0x10, 1);
    // Flags that no version has.
    let mut main = 5i64.to_le_bytes().to_vec();
    main.extend((1u32 << 20).to_le_bytes());
    let (lsn, _) = wal.record(100, 1, 0x80, &[], &main);
    let segment = build(&wal, 0, Vec::new(), usize::MAX).remove(0);
    let ends = segment.intervals[0].ends.as_ref().unwrap();
    assert_eq!((ends.count, ends.last.lsn, ends.last.time.0), (1, lsn, 5));
    assert_eq!((segment.undecoded, segment.open), (1, Vec::new()));
}

#[test]
fn what_is_remembered_over_a_border_is_bounded() {
    let mut wal = Wal::new();
    let _ = wal.drop_database(1, 77);
    for xid in 2..2000 {
        let _ = wal.heap(xid, 0x10, 1);
    }
    let _ = wal.heap(1999, 0x10, 1);
    wal.fill(SEGMENT as usize);
    let open = &build(&wal, 0, Vec::new(), usize::MAX)[0].open;
    assert_eq!(open.len(), 1000);
    assert_eq!((open[0].xid, open[999].xid), (1, 1999));
    assert_eq!(open[0].dropped_databases.len(), 1);
    assert_eq!(open[999].rows[0].deleted, 2);
}

#[test]
fn an_unlogged_table_that_a_transaction_made_and_dropped_is_no_loss() {
    let mut wal = Wal::new();
    // Of an unlogged table the WAL tells the init fork only.
    let _ = wal.create_fork(100, 50, 3);
    let _ = wal.create(1100, 51);
    let _ = wal.commit(100, 1, &[1100], &[50, 51], false);
    let _ = wal.create_fork(101, 52, 3);
    let _ = wal.commit(101, 2, &[], &[60], false);
    let events = events(&build(&wal, 0, Vec::new(), usize::MAX));
    let told: Vec<_> = events.iter().map(|event| event.commit.xid).collect();
    assert_eq!(told, [101]);
    assert_eq!(events[0].dropped, [file(60)]);
    let created = events[0].created.iter();
    let created: Vec<_> = created.map(|one| (one.file, one.filled)).collect();
    assert_eq!(created, [(file(52), true)]);
}

#[test]
fn catalog_changes_are_told_once() {
    let mut wal = Wal::new();
    let _ = wal.create(100, 50);
    let (_, end) = wal.commit(100, 1, &[], &[], false);
    let mut builder = IndexBuilder::new(SETTINGS, segment_size(), wal.start(), Vec::new());
    let mut reader = WalReader::new(wal.config(wal.start())).unwrap();
    reader
        .feed_each(wal.bytes(), |record| builder.observe(record))
        .unwrap();
    let changes = builder.take_catalog_changes().unwrap();
    assert_eq!(
        (changes.files, changes.commits, changes.end),
        (true, 1, end)
    );
    assert_eq!(builder.take_catalog_changes(), None);
}

#[test]
fn a_slow_stretch_is_told_second_by_second() {
    let mut wal = Wal::new();
    for second in 0..100 {
        let _ = wal.commit(100, second * 1_000_000, &[], &[], false);
        wal.fill(20_000);
    }
    let intervals: Vec<_> = build(&wal, 0, Vec::new(), usize::MAX)
        .into_iter()
        .flat_map(|segment| segment.intervals)
        .collect();
    for ends in intervals
        .iter()
        .filter_map(|interval| interval.ends.as_ref())
    {
        assert!(ends.count <= 2, "{ends:?}");
    }
}

#[test]
fn what_crosses_a_border_belongs_where_it_begins() {
    let mut wal = Wal::new();
    let _ = wal.create(100, 51);
    let room = SEGMENT - wal.end().0 % SEGMENT;
    // Page headers take some of it; what is left is less than the commit record.
    wal.fill(room as usize - 24 * (room as usize / 8192) - 200);
    let subtransactions: Vec<u32> = (1000..1200).collect();
    let (lsn, end) = wal.commit(101, 3, &subtransactions, &[7], false);
    let _ = wal.heap(100, 0x00, 51);
    let _ = wal.commit(100, 4, &[], &[], false);

    let whole = build(&wal, 0, Vec::new(), usize::MAX);
    let [first, second] = &whole[..] else {
        panic!("{whole:#?}");
    };
    assert!(lsn < first.end && end > first.end);
    let ends = first.intervals.last().unwrap().ends.as_ref().unwrap();
    assert_eq!((ends.last.lsn, ends.last.end), (lsn, end));
    assert_eq!(first.intervals.last().unwrap().end, first.end);
    assert_eq!(events(std::slice::from_ref(first))[0].dropped, [file(7)]);
    assert!(!first.open[0].created[0].filled);
    let resumed = build(&wal, 1, first.open.clone(), usize::MAX);
    assert_eq!(&resumed[0], second);
    assert!(events(&resumed)[0].created[0].filled);
}
