//! However events come, in batches of whatever size, again and late: the same rows.

use std::collections::VecDeque;

use events::query::BackupStatus;
use events::{BranchName, Event, InstanceName, example};
use proptest::prelude::*;

use super::super::rows::{BackupRow, BackupTotalsRow};
use super::{STREAM, Store, deletion_of};
use crate::scenario::lives::unmoved_lives;
use crate::scenario::{
    AllRows, adopt, all_rows, backup_id, backup_life, event, registered, sqlite, steps,
};

/// An event, and whether it may be told again at any time.
pub(super) type Told = (Event, bool);

/// Events of two instances, in an order that streams allow: each life in order, lives interleaved.
pub(super) fn interleaved() -> impl Strategy<Value = Vec<Told>> {
    let told = |again: bool| move |event: Event| (event, again);
    let mut lives: Vec<VecDeque<Told>> = Vec::new();
    for number in 0..6_u128 {
        let name = if number % 2 == 0 { "a" } else { "b" };
        let life = backup_life(name, backup_id(number), number % 3 != 0);
        lives.push(life.into_iter().map(told(false)).collect());
    }
    for life in ["a", "b"].into_iter().flat_map(unmoved_lives) {
        lives.push(life.into_iter().map(told(true)).collect());
    }
    let mut examples = example::events();
    examples.extend([event("schedule.created"), event("instance.updated")]);
    lives.push(examples.into_iter().map(told(false)).collect());
    lives.push([registered("a"), registered("b")].map(told(false)).into());
    lives.push(
        deletion_of("b", "gone")
            .into_iter()
            .map(told(false))
            .collect(),
    );
    let total = lives.iter().map(VecDeque::len).sum::<usize>();
    proptest::collection::vec(any::<prop::sample::Index>(), total).prop_map(move |choices| {
        let mut left = lives.clone();
        let mut events = Vec::with_capacity(total);
        for choice in choices {
            left.retain(|life| !life.is_empty());
            let at = choice.index(left.len());
            events.extend(left[at].pop_front());
        }
        events
    })
}

/// The rows when every event is a transaction of its own.
async fn one_by_one(events: &[Event]) -> AllRows {
    let (store, _directory) = sqlite().await;
    let created = example::at(0);
    adopt(&store, STREAM, created).await;
    for step in steps(events, 1) {
        let _ = store.apply(STREAM, created, vec![step]).await.unwrap();
    }
    all_rows(&store).await
}

/// Applies them in batches of these sizes.
async fn in_batches(store: &Store, events: &[Event], sizes: &[usize]) -> AllRows {
    let created = example::at(0);
    adopt(store, STREAM, created).await;
    let mut sizes = sizes.iter().cycle();
    let mut reached = 0;
    while reached < events.len() {
        let end = events.len().min(reached + sizes.next().unwrap());
        let batch = steps(&events[reached..end], reached as u64 + 1);
        let _ = store.apply(STREAM, created, batch).await.unwrap();
        reached = end;
    }
    let rows = all_rows(store).await;
    assert_eq!(rows.backup_totals, added_up(&rows.backups));
    rows
}

/// The totals, from the backups one by one.
fn added_up(backups: &[BackupRow]) -> Vec<BackupTotalsRow> {
    let mut totals: Vec<BackupTotalsRow> = Vec::new();
    let completed = |row: &&BackupRow| row.status == BackupStatus::Completed;
    for row in backups.iter().filter(completed) {
        let stored_bytes = row.size_bytes.unwrap_or(0);
        match totals.last_mut() {
            Some(last) if (&last.instance, &last.branch) == (&row.instance, &row.branch) => {
                last.backups += 1;
                last.stored_bytes += stored_bytes;
            }
            _ => totals.push(BackupTotalsRow {
                instance: row.instance.clone(),
                branch: row.branch.clone(),
                backups: 1,
                stored_bytes,
            }),
        }
    }
    totals
}

/// With some events told again, somewhere after they were told first.
fn repeated(events: &[Told], again: &[(prop::sample::Index, prop::sample::Index)]) -> Vec<Event> {
    let mut told: Vec<Event> = events.iter().map(|(event, _)| event.clone()).collect();
    for (which, place) in again {
        let which = which.index(events.len());
        let (event, may_repeat) = &events[which];
        if *may_repeat {
            let first = told.iter().position(|told| told == event).unwrap();
            let place = first + 1 + place.index(told.len() - first);
            told.insert(place, event.clone());
        }
    }
    told
}

pub(super) fn plain(events: &[Told]) -> Vec<Event> {
    events.iter().map(|(event, _)| event.clone()).collect()
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Runtime::new().unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// A batch is nothing but its events, one after the other.
    #[test]
    fn any_batching_makes_the_same_rows(
        events in interleaved(),
        sizes in proptest::collection::vec(1_usize..60, 1..20),
    ) {
        let events = plain(&events);
        runtime().block_on(async {
            let expected = one_by_one(&events).await;
            let (store, _directory) = sqlite().await;
            assert_eq!(in_batches(&store, &events, &sizes).await, expected);
        });
    }

    /// What has ended stays as it ended, whatever is told late.
    #[test]
    fn what_is_told_again_changes_nothing(
        events in interleaved(),
        again in proptest::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 1..40),
    ) {
        runtime().block_on(async {
            let (once, _directory) = sqlite().await;
            let expected = in_batches(&once, &plain(&events), &[usize::MAX / 2]).await;
            let (twice, _directory) = sqlite().await;
            let told = repeated(&events, &again);
            assert_eq!(in_batches(&twice, &told, &[usize::MAX / 2]).await, expected);
        });
    }
}

/// The same on a server, where statements are others.
#[tokio::test]
async fn postgres_makes_the_same_rows() {
    use proptest::strategy::ValueTree as _;
    let server = testkit::postgres::Postgres::builder()
        .start()
        .await
        .unwrap();
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    for sizes in [&[1_usize][..], &[7, 64, 200], &[100_000]] {
        let events = plain(&interleaved().new_tree(&mut runner).unwrap().current());
        let store = Store::open(&server.dsn()).await.unwrap();
        let mut writing = store.begin().await.unwrap();
        writing.clear().await.unwrap();
        writing.commit().await.unwrap();
        let rows = in_batches(&store, &events, sizes).await;
        assert_eq!(rows, one_by_one(&events).await);
    }
}

#[tokio::test]
async fn what_wal_adds_up_to_is_the_sum_of_what_came_and_went() {
    let (store, _directory) = sqlite().await;
    let told = crate::scenario::lives::wal_life("a");
    let rows = in_batches(&store, &told, &[5]).await;
    let files = &rows.segments;
    assert_eq!(files.len(), 10, "twelve and six came, eight went");
    let archive = &rows.archives[0];
    assert_eq!(archive.segments, 10);
    let stored: u64 = files.iter().map(|file| file.stored_bytes).sum();
    assert_eq!(archive.stored_bytes, stored);
    let came: u64 = rows.wal_days.iter().map(|day| day.added_bytes).sum();
    let went: u64 = rows.wal_days.iter().map(|day| day.pruned_bytes).sum();
    assert_eq!(came - went, stored);
    assert_eq!(came, (0..18).map(|number| 1000 + number).sum::<u64>());
    let stretches: Vec<(u64, u64)> = rows
        .prunes
        .iter()
        .map(|prune| (prune.from_lsn.0 >> 20, prune.to_lsn.0 >> 20))
        .collect();
    assert_eq!(stretches, [(0, 6), (8, 10)]);
    let (a, main) = (InstanceName::new("a").unwrap(), BranchName::main());
    let (first, _) = store.wal_ends(&a, &main).await.unwrap().unwrap();
    assert_eq!(first.start_lsn.0 >> 20, 6);
}
