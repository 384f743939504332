//! One suite for both databases, and a property that holds on any stream.

use events::event::{
    BranchDeleted, BranchDeletionRequested, BranchExtensionsReinstalled, ExtensionState,
};
use events::query::{BackupStatus, RebuildSource};
use events::{BranchName, Event, InstanceName, example, topology};
use proptest::prelude::*;

use super::rows::{BackupRow, InstanceRow, ScheduleRow};
use super::{BackupFilter, Page, Store, StoreError, parse};
use crate::scenario::{
    adopt, all_rows, archived, backup_id, backup_life, event, registered, sqlite, steps,
};

mod gauges;
mod histories;
mod lists;

const STREAM: &str = topology::EVENTS;

/// Everything that a database must do.
async fn conformance(store: &Store) {
    let created = example::at(0);
    store.ping().await.unwrap();
    assert_eq!(store.position(STREAM).await.unwrap(), None);
    adopt(store, STREAM, created).await;

    every_example_is_written_and_read(store).await;
    repeated_steps_change_nothing(store).await;
    another_stream_is_refused(store).await;
    lists_are_filtered_and_paged(store).await;
    wal_adds_up(store).await;
    what_is_not_committed_is_not_there(store).await;
    the_last_word_on_extensions_counts(store).await;
    an_instance_leaves_its_backups(store).await;
}

async fn apply(store: &Store, events: &[Event]) -> super::Applied {
    let position = store.position(STREAM).await.unwrap().unwrap();
    let steps = steps(events, position.applied + 1);
    let created = position.created.unwrap();
    store.apply(STREAM, created, steps).await.unwrap()
}

async fn every_example_is_written_and_read(store: &Store) {
    let _ = apply(store, &example::events()).await;
    let rows = all_rows(store).await;
    assert!(!rows.restores.is_empty() && !rows.backups.is_empty() && !rows.gaps.is_empty());
    assert_eq!(rows.slot_risks.len(), 1);
    let summary = example::backup_summary();
    let id = summary.backup_id;
    let row = store.backup(None, id).await.unwrap().unwrap();
    assert_eq!(row.status, BackupStatus::Expired);
    assert_eq!(row.damaged_pages, summary.damaged_pages);
    assert_eq!(row.stop_lsn, Some(summary.stop_lsn));
    assert_eq!(row.backed_up_at, Some(summary.backed_up_at));
}

async fn repeated_steps_change_nothing(store: &Store) {
    let before = all_rows(store).await;
    let position = store.position(STREAM).await.unwrap().unwrap();
    let again = steps(&example::events(), 1);
    let created = position.created.unwrap();
    let applied = store.apply(STREAM, created, again).await.unwrap();
    assert_eq!((applied.steps, applied.sequence), (0, position.applied));
    assert_eq!(all_rows(store).await, before);
}

async fn another_stream_is_refused(store: &Store) {
    let other = example::at(1);
    let refused = store
        .apply(STREAM, other, steps(&[registered("x")], 1_000_000))
        .await;
    assert!(matches!(refused, Err(StoreError::OtherStream { .. })));
}

async fn lists_are_filtered_and_paged(store: &Store) {
    for number in 0..5_u128 {
        let life = backup_life("listed", backup_id(number), number % 2 == 0);
        let _ = apply(store, &life).await;
    }
    let listed = InstanceName::new("listed").unwrap();
    let page = |limit, offset| Page::new(Some(limit), offset);
    let ids = |rows: Vec<BackupRow>| rows.iter().map(|row| row.id).collect::<Vec<_>>();
    let list = async |status, page| {
        let filter = BackupFilter {
            instance: Some(listed.clone()),
            branch: Some(BranchName::main()),
            status,
            ..BackupFilter::default()
        };
        ids(store.backups(&filter, page).await.unwrap())
    };
    let all = list(None, page(1000, 0)).await;
    assert_eq!(all, [4, 3, 2, 1, 0].map(backup_id));
    assert_eq!(list(None, page(2, 1)).await, all[1..3]);
    let failed = list(Some(BackupStatus::Failed), page(10, 0)).await;
    assert_eq!(failed, [3, 1].map(backup_id));
    let of_other = store.backup(Some(&example::instance()), backup_id(4)).await;
    assert_eq!(of_other.unwrap(), None);
}

async fn wal_adds_up(store: &Store) {
    let (listed, main) = (InstanceName::new("listed").unwrap(), BranchName::main());
    let segments = [3, 5, 4, 8, 7].map(|number| archived("listed", number));
    let _ = apply(store, &segments).await;
    let totals = store.wal_totals(&listed, &main).await.unwrap();
    assert_eq!(totals.segments, 5);
    assert!(totals.stored_bytes > 0);
    let (first, last) = store.wal_ends(&listed, &main).await.unwrap().unwrap();
    assert!(first.segment.ends_with('3') && last.segment.ends_with('8'));
    let holes = store.wal_holes(&listed, &main).await.unwrap();
    assert_eq!(holes.len(), 1, "{holes:?}");
    assert_eq!(holes[0].from_lsn.0, 6 << 20);
    assert_eq!(holes[0].to_lsn.0, 7 << 20);
}

async fn what_is_not_committed_is_not_there(store: &Store) {
    let before = all_rows(store).await;
    store.want_rebuild(RebuildSource::Repository).await.unwrap();
    let mut writing = store.begin().await.unwrap();
    writing.clear().await.unwrap();
    // A reader meanwhile: the old rows.
    assert_eq!(all_rows(store).await, before);
    drop(writing);
    assert_eq!(all_rows(store).await, before);
    let state = store.rebuild_state().await.unwrap();
    assert_eq!(state.wanted, Some(RebuildSource::Repository));
    store.note_rebuild_error("no store").await.unwrap();
    let state = store.rebuild_state().await.unwrap();
    assert_eq!(state.error.as_deref(), Some("no store"));
    let mut writing = store.begin().await.unwrap();
    writing
        .rebuilt(RebuildSource::Repository, example::at(9))
        .await
        .unwrap();
    writing.commit().await.unwrap();
    let state = store.rebuild_state().await.unwrap();
    assert_eq!((state.wanted, state.error), (None, None));
    assert_eq!(state.rebuilt_at, Some(example::at(9)));
}

async fn the_last_word_on_extensions_counts(store: &Store) {
    let Event::BranchExtensionsReinstalled(mut reinstalled) =
        event("branch.extensions_reinstalled")
    else {
        panic!("the type was asked for");
    };
    let Event::BranchRegistered(branch) = event("branch.registered") else {
        panic!("the type was asked for");
    };
    let id = branch.registered.origin.as_ref().unwrap().restore_id;
    reinstalled.branch = branch.branch.clone();
    reinstalled.extensions[0].state = ExtensionState::NeedsReinstalling;
    let wanted = reinstalled.extensions.clone();
    let of_nobody = BranchExtensionsReinstalled {
        branch: BranchName::new("nobody").unwrap(),
        ..reinstalled.clone()
    };
    let before = all_rows(store).await.restores;
    let nobodys = Event::BranchExtensionsReinstalled(of_nobody);
    let _ = apply(store, &[Event::BranchRegistered(branch), nobodys]).await;
    assert_eq!(all_rows(store).await.restores, before);
    let _ = apply(store, &[Event::BranchExtensionsReinstalled(reinstalled)]).await;
    assert_eq!(store.restore(id).await.unwrap().unwrap().extensions, wanted);
}

async fn an_instance_leaves_its_backups(store: &Store) {
    let Event::BranchWindowChanged(mut changed) = event("branch.window_changed") else {
        panic!("the type was asked for");
    };
    changed.instance = InstanceName::new("listed").unwrap();
    changed.branch = BranchName::main();
    let window = async || {
        let found = store.window(&changed.instance, &changed.branch).await;
        found.unwrap().map(|row| row.restorable)
    };
    let said = Event::BranchWindowChanged(changed.clone());
    let _ = apply(store, &[registered("listed"), said]).await;
    assert_eq!(window().await, Some(changed.window.clone()));
    let view = store.instance(&InstanceName::new("listed").unwrap()).await;
    let view = view.unwrap().unwrap();
    assert_eq!((view.branches, view.backups), (1, 3));
    assert!(view.last_backup_at.is_some());
    let Event::InstanceRemoved(mut removed) = event("instance.removed") else {
        panic!("the type was asked for");
    };
    removed.instance = InstanceName::new("listed").unwrap();
    let _ = apply(store, &[Event::InstanceRemoved(removed.clone())]).await;
    assert_eq!(window().await, None);
    let gone = |instance: &InstanceName| *instance != removed.instance;
    assert!(
        store
            .all::<InstanceRow>()
            .await
            .unwrap()
            .iter()
            .all(|row| gone(&row.instance))
    );
    assert!(
        store
            .all::<ScheduleRow>()
            .await
            .unwrap()
            .iter()
            .all(|row| gone(&row.instance))
    );
    let page = Page::new(None, 0);
    let filter = BackupFilter {
        instance: Some(removed.instance.clone()),
        ..BackupFilter::default()
    };
    let kept = store.backups(&filter, page).await.unwrap();
    assert_eq!(kept.len(), 5);
}

#[tokio::test]
async fn sqlite_conforms() {
    let (store, _directory) = sqlite().await;
    conformance(&store).await;
}

#[tokio::test]
async fn postgres_conforms() {
    for version in testkit::postgres::PgVersion::ALL {
        let server = testkit::postgres::Postgres::builder()
            .version(version)
            .start();
        let server = server.await.unwrap();
        let store = Store::open(&server.dsn()).await.unwrap();
        conformance(&store).await;
        // Opened again: the tables are there.
        let again = Store::open(&server.dsn()).await.unwrap();
        assert!(again.position(STREAM).await.unwrap().is_some());
    }
}

#[test]
fn urls_are_those_of_the_contract() {
    for url in [
        "sqlite://relative.sqlite",
        "mysql://u:geheim@h/d",
        "/a/file",
        "",
    ] {
        let error = parse(url).unwrap_err().to_string();
        assert!(error.contains("ZEKTOR_CATALOG_URL"), "{error}");
        assert!(!error.contains("geheim"), "{error}");
    }
}

/// A branch that comes, and goes with its backups and its WAL.
fn deletion_of(name: &str, branch: &str) -> Vec<Event> {
    let instance = InstanceName::new(name).unwrap();
    let branch = BranchName::new(branch).unwrap();
    let (Event::BranchRegistered(mut registered), Event::WalSegmentArchived(mut file)) =
        (event("branch.registered"), archived(name, 3))
    else {
        panic!("the types were asked for");
    };
    (registered.instance, registered.branch) = (instance.clone(), branch.clone());
    file.branch = branch.clone();
    vec![
        Event::BranchRegistered(registered),
        Event::WalSegmentArchived(file),
        Event::BranchDeletionRequested(BranchDeletionRequested {
            instance: instance.clone(),
            branch: branch.clone(),
            purge: true,
            restore_id: None,
        }),
        Event::BranchDeleted(BranchDeleted {
            instance,
            branch,
            restore_id: None,
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Batches of any size, each delivered once or twice, from an earlier point or not, with the store
    /// opened again in between: the same rows as once in order.
    #[test]
    fn any_replay_makes_the_same_rows(
        events in histories::interleaved(),
        batches in proptest::collection::vec((1_usize..12, 0_usize..8, any::<bool>()), 1..20),
    ) {
        let events = histories::plain(&events);
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let created = example::at(0);
            let (once, _once_directory) = sqlite().await;
            adopt(&once, STREAM, created).await;
            let _ = once.apply(STREAM, created, steps(&events, 1)).await.unwrap();

            let (mut store, directory) = sqlite().await;
            adopt(&store, STREAM, created).await;
            let mut reached = 0;
            let mut batches = batches.iter().cycle();
            while reached < events.len() {
                let (length, back, reopen) = *batches.next().unwrap();
                let from = reached.saturating_sub(back);
                reached = events.len().min(reached + length);
                let batch = steps(&events[from..reached], from as u64 + 1);
                let _ = store.apply(STREAM, created, batch).await.unwrap();
                if reopen {
                    let url = format!("sqlite://{}/a/catalog.sqlite", directory.path().display());
                    store = Store::open(&url).await.unwrap();
                }
            }
            assert_eq!(all_rows(&store).await, all_rows(&once).await);
            let position = store.position(STREAM).await.unwrap().unwrap();
            assert_eq!(position.applied, events.len() as u64);
        });
    }
}
