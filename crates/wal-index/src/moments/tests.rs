//! Moments of transactions written down here, with and without the maps that tell what became of tables.

use pg_format::wal::RelationFile;
use pg_format::{Lsn, PgTimestamp};

use super::{Moment, moments};
use crate::model::{
    CreatedFile, DroppedDatabase, Ends, Interval, RowCounts, SegmentIndex, TransactionEnd,
    TransactionEvent, WalEvent,
};
use crate::names::{Database, Names, Relation, RelationHistory, RelationKind, RelationMap};

const DATABASE: u32 = 5;

fn file(number: u32) -> RelationFile {
    RelationFile {
        tablespace: 1663,
        database: DATABASE,
        number,
    }
}

fn relation(
    oid: u32,
    schema: &str,
    name: &str,
    kind: char,
    number: u32,
    table: Option<u32>,
) -> Relation {
    Relation {
        database: DATABASE,
        oid,
        schema: schema.to_owned(),
        name: name.to_owned(),
        kind: RelationKind::of(kind),
        file: file(number),
        table,
    }
}

/// `orders` with its toast and index, `lines`, and a catalog; `orders` has this file, unless it is gone.
fn map(as_of: u64, orders: Option<u32>) -> RelationMap {
    let mut relations = vec![
        relation(30_000, "public", "lines", 'r', 30_000, None),
        relation(1259, "pg_catalog", "pg_class", 'r', 16_500, None),
    ];
    if let Some(number) = orders {
        relations.extend([
            relation(20_000, "public", "orders", 'r', number, None),
            relation(
                20_001,
                "pg_toast",
                "pg_toast_20000",
                't',
                number + 1,
                Some(20_000),
            ),
            relation(
                20_002,
                "public",
                "orders_pkey",
                'i',
                number + 2,
                Some(20_000),
            ),
        ]);
    }
    let databases = [(DATABASE, "app"), (77, "old")];
    RelationMap {
        as_of: Lsn(as_of),
        databases: databases
            .map(|(oid, name)| Database {
                oid,
                name: name.to_owned(),
                read: oid == DATABASE,
            })
            .to_vec(),
        relations,
    }
}

fn names(after: Option<RelationMap>) -> Names {
    let histories = [Some(map(0x100, Some(20_000))), after]
        .into_iter()
        .flatten();
    Names::new(histories.map(RelationHistory::new).collect())
}

fn end(lsn: u64, time: i64, xid: u32) -> TransactionEnd {
    TransactionEnd {
        lsn: Lsn(lsn),
        end: Lsn(lsn + 0x40),
        time: PgTimestamp(time),
        xid,
        committed: true,
    }
}

/// Commits at 0x5000, after another transaction's end in the same interval.
fn event() -> TransactionEvent {
    TransactionEvent {
        commit: end(0x5000, 1000, 9),
        previous: Some(end(0x4000, 900, 8)),
        latest_before: Some(PgTimestamp(900)),
        database: Some(DATABASE),
        dropped: Vec::new(),
        dropped_more: 0,
        created: Vec::new(),
        created_more: 0,
        dropped_databases: Vec::new(),
        truncated: Vec::new(),
        rows: Vec::new(),
    }
}

fn created(number: u32, filled: bool) -> CreatedFile {
    CreatedFile {
        file: file(number),
        filled,
    }
}

fn orders_files() -> Vec<RelationFile> {
    vec![file(20_000), file(20_001), file(20_002)]
}

/// A segment with an interval up to 0x3000, which ends with a transaction at 0x2000, and another one.
fn segment(events: Vec<TransactionEvent>) -> SegmentIndex {
    let interval = |start, to, last: TransactionEnd| Interval {
        start: Lsn(start),
        end: Lsn(to),
        ends: Some(Ends {
            count: 1,
            commits: 1,
            min_time: last.time,
            max_time: last.time,
            min_xid: last.xid,
            max_xid: last.xid,
            last,
            last_commit: last.commit(),
        }),
    };
    SegmentIndex {
        segment: 0,
        start: Lsn(0x1000),
        end: Lsn(0x9000),
        intervals: vec![
            interval(0x1000, 0x3000, end(0x2000, 800, 7)),
            interval(0x3000, 0x9000, end(0x8000, 1100, 10)),
        ],
        events: events.into_iter().map(WalEvent::Transaction).collect(),
        open: Vec::new(),
        undecoded: 0,
    }
}

/// One line for each moment.
fn told(events: Vec<TransactionEvent>, names: &Names) -> Vec<String> {
    let tell = |moment: Moment| {
        let relation = moment.relation.as_deref().unwrap_or("?");
        let rows = moment
            .rows
            .map_or(String::new(), |rows| format!(" {rows} rows"));
        let detail = moment
            .detail
            .map_or(String::new(), |detail| format!(" ({detail})"));
        format!("{:?} {relation}{rows}{detail}", moment.kind)
    };
    moments(&[segment(events)], names)
        .into_iter()
        .map(tell)
        .collect()
}

fn check(event: TransactionEvent, after: Option<RelationMap>, expected: &[&str]) {
    assert_eq!(told(vec![event], &names(after)), expected);
}

const BY_FILES: &str =
    "kind told from the files alone: no relation map shows the table right after it";

#[test]
fn a_dropped_table_is_one_moment() {
    let mut dropped = event();
    dropped.dropped = orders_files();
    check(dropped, None, &["Drop public.orders"]);
}

#[test]
fn a_truncate_and_a_rewrite_are_told_apart_by_the_new_file() {
    for (filled, kind) in [(false, "Truncate"), (true, "Rewrite")] {
        let mut replaced = event();
        replaced.dropped = orders_files();
        // The order does not matter when a map shows which file is the table's.
        replaced.created = vec![created(40_001, !filled), created(40_000, filled)];
        let seen = map(0x6000, Some(40_000));
        check(replaced, Some(seen), &[&format!("{kind} public.orders")]);

        let mut replaced = event();
        replaced.dropped = orders_files();
        replaced.created = vec![created(40_000, filled), created(40_001, false)];
        check(
            replaced.clone(),
            None,
            &[&format!("{kind} public.orders ({BY_FILES})")],
        );
        // Yet another file since: the map tells nothing of this one.
        let seen = map(0x6000, Some(50_000));
        check(
            replaced,
            Some(seen),
            &[&format!("{kind} public.orders ({BY_FILES})")],
        );
    }
}

#[test]
fn a_drop_beside_a_new_table_is_a_drop() {
    let mut both = event();
    both.dropped = orders_files();
    both.created = vec![created(40_000, false)];
    check(
        both.clone(),
        Some(map(0x6000, None)),
        &["Drop public.orders"],
    );
    // Truncated here, and dropped later before the map: its new file goes away there.
    let mut later = event();
    later.commit = end(0x5800, 1050, 11);
    later.dropped = vec![file(40_000)];
    let lines = told(vec![both, later], &names(Some(map(0x6000, None))));
    assert_eq!(
        lines,
        [
            format!("Truncate public.orders ({BY_FILES})"),
            "Drop ? (file 1663/5/40000 (tablespace/database/number))".to_owned()
        ]
    );
}

#[test]
fn the_wal_may_say_itself_what_was_truncated() {
    let mut truncated = event();
    truncated.dropped = vec![file(60_000), file(30_000)];
    truncated.created = vec![created(70_000, true)];
    truncated.truncated = vec![(DATABASE, 20_000), (DATABASE, 30_000)];
    check(
        truncated,
        None,
        &["Truncate public.lines", "Truncate public.orders"],
    );
}

#[test]
fn indexes_are_told_only_when_dropped_alone() {
    let mut index = event();
    index.dropped = vec![file(20_002)];
    check(
        index.clone(),
        None,
        &["Drop public.orders_pkey (an index of public.orders)"],
    );
    index.created = vec![created(40_002, true)];
    check(index, None, &[]);
}

#[test]
fn what_has_no_name_is_told_by_its_files() {
    let mut unknown = event();
    unknown.dropped = vec![file(60_000), file(60_001)];
    unknown.dropped_more = 4;
    check(
        unknown,
        None,
        &["Drop ? (files 1663/5/60000, 1663/5/60001 and 4 more (tablespace/database/number))"],
    );
}

#[test]
fn catalogs_are_no_moments() {
    let mut vacuumed = event();
    vacuumed.dropped = vec![file(16_500), file(2619)];
    vacuumed.rows = [16_500, 1247]
        .map(|number| RowCounts {
            file: file(number),
            deleted: 500,
            updated: 0,
        })
        .to_vec();
    check(vacuumed, None, &[]);
}

#[test]
fn rows_are_told_by_table_unless_it_was_dropped() {
    let rows = |number, deleted, updated| RowCounts {
        file: file(number),
        deleted,
        updated,
    };
    let mut changed = event();
    changed.rows = vec![
        rows(20_000, 500, 0),
        rows(20_001, 900, 0),
        rows(30_000, 3, 200),
        rows(60_000, 700, 0),
    ];
    let lines = [
        "Delete public.orders 500 rows",
        "Update public.lines 200 rows (3 rows deleted too)",
        "Delete ? 700 rows (file 1663/5/60000 (tablespace/database/number))",
    ];
    check(changed.clone(), None, &lines);
    changed.rows.truncate(1);
    changed.dropped = orders_files();
    check(changed, None, &["Drop public.orders"]);
}

#[test]
fn just_before_is_the_last_transaction_end_and_its_time_if_that_leads_there() {
    let restore = |event: TransactionEvent| {
        let found = moments(&[segment(vec![event])], &names(None)).remove(0);
        let restore = found.restore;
        restore.map(|before| (before.last.lsn.0, before.time.map(|time| time.0)))
    };
    let mut dropped = event();
    dropped.dropped = orders_files();
    assert_eq!(restore(dropped.clone()), Some((0x4000, Some(999))));
    // An end before it has a later time: the time rule would stop there.
    let late = TransactionEvent {
        latest_before: Some(PgTimestamp(1000)),
        ..dropped.clone()
    };
    assert_eq!(restore(late), Some((0x4000, None)));
    // None in the interval: that of the one before.
    let first = TransactionEvent {
        previous: None,
        latest_before: None,
        ..dropped.clone()
    };
    assert_eq!(restore(first.clone()), Some((0x2000, Some(999))));
    let mut earlier = first;
    earlier.commit.time = PgTimestamp(800);
    assert_eq!(restore(earlier), Some((0x2000, None)));
}

#[test]
fn a_dropped_database_is_gone_before_the_commit() {
    let dropped = |lsn| {
        let mut event = event();
        event.dropped_databases = vec![DroppedDatabase {
            database: 77,
            lsn: Lsn(lsn),
        }];
        moments(&[segment(vec![event])], &names(None)).remove(0)
    };
    let late = dropped(0x4800);
    assert_eq!(
        (late.relation.as_deref(), late.before),
        (Some("old"), Lsn(0x4800))
    );
    assert_eq!(
        late.restore.map(|before| before.last.lsn),
        Some(Lsn(0x4000))
    );
    // A transaction ended between the record that removes the files and the commit.
    assert_eq!(dropped(0x3800).restore, None);
}

#[test]
fn nothing_is_known_from_before_a_hole() {
    let mut first = event();
    (first.previous, first.latest_before) = (None, None);
    first.dropped = orders_files();
    let mut early = segment(Vec::new());
    for interval in &mut early.intervals {
        (interval.start, interval.end) =
            (Lsn(interval.start.0 - 0x1000), Lsn(interval.end.0 - 0x1000));
    }
    let mut late = segment(vec![first]);
    let _ = late.intervals.remove(0);
    (early.start, early.end, late.start) = (Lsn(0), Lsn(0x2000), Lsn(0x3000));
    early.intervals.truncate(1);
    let found = moments(&[early, late], &names(None)).remove(0);
    assert_eq!(found.restore, None);
}

#[test]
fn an_index_that_is_dropped_alone_takes_no_data() {
    let gone = |files: Vec<RelationFile>| {
        let mut dropped = event();
        dropped.dropped = files;
        let mut told = moments(&[segment(vec![dropped])], &names(None));
        let moment = told.pop().unwrap();
        (moment.kind, moment.object, moment.took_data())
    };
    let drop = super::MomentKind::Drop;
    assert_eq!(
        gone(vec![file(20_002)]),
        (drop, Some(RelationKind::Index), false)
    );
    assert_eq!(
        gone(orders_files()),
        (drop, Some(RelationKind::Table), true)
    );
    assert_eq!(gone(vec![file(77_777)]), (drop, None, true));
}

#[test]
fn a_relation_is_named_alike_whatever_other_databases_there_are() {
    let mut alone = map(0x100, Some(20_000));
    alone.databases.truncate(1);
    let mut beside = map(0x200, Some(20_000));
    let mut other = beside.relations[0].clone();
    (other.database, other.file.database) = (77, 77);
    beside.relations.push(other);
    beside.databases[1].read = true;
    for maps in [vec![alone.clone()], vec![alone, beside]] {
        let names = Names::new(maps.into_iter().map(RelationHistory::new).collect());
        let mut dropped = event();
        dropped.dropped = orders_files();
        let moment = moments(&[segment(vec![dropped])], &names).remove(0);
        assert_eq!(moment.relation.as_deref(), Some("public.orders"));
        assert_eq!(moment.database_name.as_deref(), Some("app"));
    }
}
