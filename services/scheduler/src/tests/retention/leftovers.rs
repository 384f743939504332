//! What failed backups stored, and names of branches of which nothing is left. The repository is a directory, so that
//! the test can make its objects old.

use std::path::Path;
use std::time::{Duration, SystemTime};

use events::document::Branch;
use events::event::BackupStarted;
use events::mark::BackupMark;
use events::retention_plan::Fate;
use events::slot::{BackupSlot, backup_slot};
use events::{BranchName, Event, RestoreId, topology};
use pg_format::SystemIdentifier;
use repository::{BackupOptions, BranchRecord, Repository, RetryPolicy, StoredBackup};
use service::{Clock as _, SystemClock};
use uuid::Uuid;

use super::super::{Place, instance};
use super::due;
use super::place::{day, id, main, protected, size};
use crate::retention::Rounds;

struct Aged {
    place: Place,
    rounds: Rounds,
    directory: tempfile::TempDir,
}

impl Aged {
    /// Three days of backups that stay, in a directory.
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut place = Place::new("2026-01-01T00:00:00Z");
        let url = format!("file://{}", directory.path().display());
        place.world.repository = Repository::open(&url, RetryPolicy::default()).unwrap();
        place.want(|document| *document = protected()).await;
        let _ = place.branch().claim_branch(&record(&main())).await.unwrap();
        place.days(1, 3, Some(300), None).await;
        place.world.recover_slots().await.unwrap();
        let rounds = place.rounds();
        Aged {
            place,
            rounds,
            directory,
        }
    }

    /// A backup that has no manifest yet.
    async fn begin(&self, number: u64) -> StoredBackup {
        let branch = self.place.branch();
        let packs = format!("v1/{}/main/packs/{}/a", instance(), id(number));
        let packs = self.directory.path().join(packs);
        std::fs::create_dir_all(&packs).unwrap();
        std::fs::write(packs.join("000000"), "chunks").unwrap();
        let pieces = branch.begin_backup(id(number), "a", BackupOptions::default());
        pieces.unwrap().finish().await.unwrap()
    }

    /// Everything was written so many hours before it is now, by the store's clock.
    fn age(&self, hours: u64) {
        let at = SystemTime::from(SystemClock.now()) - Duration::from_secs(hours * 3600);
        make_old(self.directory.path(), at);
    }

    async fn round(&self) {
        self.place.rounds().round(&instance()).await;
    }

    async fn with_packs(&self) -> Vec<u128> {
        let backups = self.place.branch().backups_with_packs().await.unwrap();
        backups.iter().map(|one| one.0.as_u128()).collect()
    }

    async fn fail(&self, number: u64) {
        let _event = self.place.give_up(id(number)).await;
    }
}

fn make_old(directory: &Path, at: SystemTime) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => make_old(&path, at),
            false => std::fs::File::open(&path)
                .unwrap()
                .set_modified(at)
                .unwrap(),
        }
    }
}

fn record(branch: &BranchName) -> BranchRecord {
    BranchRecord {
        instance: instance(),
        branch: branch.clone(),
        system_identifier: SystemIdentifier(7),
        server_version: 180_000,
        wal_segment_size: size(),
        parent: None,
        created_at: day(0),
    }
}

/// Far behind, at the time, and far ahead of the store's clock.
const CLOCKS: [&str; 3] = ["2020-01-01T00:00:00Z", "now", "2090-01-01T00:00:00Z"];

#[tokio::test]
async fn what_a_failed_backup_stored_goes_when_it_is_old_by_the_clock_of_the_store() {
    for clock in CLOCKS {
        let aged = Aged::new().await;
        let now = clock.parse().unwrap_or_else(|_| SystemClock.now());
        aged.place.clock.set(now);
        let keep = BackupMark {
            hold: super::held().hold,
            ..BackupMark::default()
        };
        for number in [1, 2, 3] {
            aged.place.mark_as(number, keep.clone()).await;
        }
        let _stored = aged.begin(7).await;
        aged.fail(7).await;
        aged.age(47);
        aged.round().await;
        assert_eq!(aged.place.work().await, 0, "{clock}");
        let told = aged.place.explain(None).await;
        assert_eq!(told.leftovers.len(), 1);
        assert!(told.leftovers[0].bytes > 0 && told.kept_bytes >= told.leftovers[0].bytes);
        assert_eq!(told.leftovers[0].fate, Fate::Grace);
        aged.age(49);
        aged.round().await;
        let expected = usize::from(clock != CLOCKS[0]);
        assert_eq!(aged.place.work().await, expected, "{clock}");
        // A clock that is behind only waits.
        let left: &[u128] = if expected == 1 { &[] } else { &[7] };
        assert_eq!(aged.with_packs().await, left);
        assert_eq!(aged.place.backups().await, [1, 2, 3]);
    }
}

#[tokio::test]
async fn what_may_still_become_a_backup_stays() {
    let aged = Aged::new().await;
    aged.place.clock.set(SystemClock.now());
    for number in [1, 2, 3] {
        aged.place.mark_as(number, super::held()).await;
    }
    for number in [7, 8, 9] {
        let _stored = aged.begin(number).await;
    }
    // 7 is under way; 8 has the slot, and NATS has lost what was said of it; 9 was completed and has lost its manifest.
    aged.place
        .tell(Event::BackupStarted(BackupStarted {
            backup_id: id(7),
            instance: instance(),
            branch: main(),
            worker: "w".to_owned(),
            attempt: "a".to_owned(),
            started_at: day(0),
        }))
        .await;
    let slot = BackupSlot {
        backup_id: id(8),
        claimed_at: day(0),
    };
    let slots = aged.place.world.bus.bucket(topology::SLOTS);
    let (key, value) = (backup_slot(&instance(), &main()), serde_json::to_vec(&slot));
    let revision = slots.create(&key, value.unwrap()).await.unwrap();
    aged.place.mark_as(9, super::held()).await;
    aged.age(1000);
    aged.round().await;
    assert_eq!(aged.place.work().await, 0);
    let told = aged.place.explain(None).await;
    assert!(
        told.leftovers.iter().all(|one| one.fate == Fate::Keep),
        "{:?}",
        told.leftovers
    );
    // Nobody knows of 8 any more: it may have been completed, and its manifest may come back.
    slots.delete(&key, revision).await.unwrap();
    aged.round().await;
    assert_eq!(aged.place.work().await, 0);
    // The deletion of 9 was broken off behind its manifest.
    aged.place.mark_as(9, due(day(1))).await;
    aged.round().await;
    assert_eq!(aged.place.work().await, 1);
    assert_eq!(aged.with_packs().await, [7, 8]);
}

/// The directory of the manifests is not listed: a rule of the bucket, a copy that is not complete.
#[tokio::test]
async fn while_a_live_branch_has_no_backup_nothing_is_left_over() {
    let aged = Aged::new().await;
    aged.place.clock.set(SystemClock.now());
    for number in [1, 2, 3] {
        aged.fail(number).await;
        let branch = format!("v1/{}/main", instance());
        let branch = aged.directory.path().join(branch);
        let packs = branch.join(format!("packs/{}/a", id(number)));
        std::fs::create_dir_all(&packs).unwrap();
        std::fs::write(packs.join("000000"), "chunks").unwrap();
        std::fs::remove_dir_all(branch.join(format!("backups/{}", id(number)))).unwrap();
    }
    aged.age(1000);
    aged.round().await;
    assert_eq!(aged.place.work().await, 0);
    assert_eq!(aged.with_packs().await, [1, 2, 3]);
    let told = aged.place.explain(None).await;
    let fates = told.leftovers.iter().map(|one| one.fate);
    assert_eq!(fates.collect::<Vec<_>>(), [Fate::Postponed; 3]);
}

#[tokio::test]
async fn a_manifest_that_comes_late_saves_its_backup() {
    for asked in [false, true] {
        let aged = Aged::new().await;
        aged.place.clock.set(SystemClock.now());
        for number in [1, 2, 3] {
            aged.place.mark_as(number, super::held()).await;
        }
        let late = aged.begin(7).await;
        aged.fail(7).await;
        aged.age(49);
        let commit = async || {
            let mut summary = aged
                .place
                .branch()
                .summaries()
                .await
                .unwrap()
                .pop()
                .unwrap();
            summary.backup_id = id(7);
            summary.stored_bytes = late.totals.stored_bytes;
            let _ = late.commit(summary).await.unwrap();
        };
        if asked {
            aged.round().await;
            assert_eq!(aged.place.count("branch.sweep_requested").await, 1);
            commit().await;
            assert_eq!(aged.place.work().await, 1);
        } else {
            let mut planned = super::sweep_of(&[]);
            planned.leftovers.push(id(7));
            commit().await;
            let (name, branch) = (instance(), main());
            let begun = aged.rounds.begin_sweep(&name, &branch, true, planned);
            begun.await.unwrap();
            assert_eq!(aged.place.count("branch.sweep_requested").await, 0);
            assert!(aged.place.document().await.sweeps.is_empty());
        }
        assert_eq!(aged.place.backups().await, [1, 2, 3, 7]);
        assert_eq!(aged.with_packs().await, [7]);
    }
}

#[tokio::test]
async fn a_branch_that_is_gone_and_empty_gives_its_name_back() {
    let aged = Aged::new().await;
    let (world, old) = (&aged.place.world, BranchName::new("old").unwrap());
    let writer = world.repository.writer(&instance(), &old);
    let names = async || {
        world
            .repository
            .list_branches_of(&instance())
            .await
            .unwrap()
    };
    // Its registration was refused: there is a record and nothing else.
    let _ = writer.claim_branch(&record(&old)).await.unwrap();
    let restoring = Branch::Restoring {
        restore_id: RestoreId(Uuid::from_u128(5)),
        source: Some(main()),
    };
    aged.place
        .want(|document| drop(document.branches.insert(old.clone(), restoring.clone())))
        .await;
    aged.round().await;
    assert_eq!(aged.place.work().await, 0, "the restore goes on");
    aged.place
        .want(|document| drop(document.branches.remove(&old)))
        .await;
    aged.round().await;
    assert_eq!(aged.place.work().await, 1);
    assert_eq!(names().await, [main()]);
    assert!(aged.place.document().await.sweeps.is_empty());
    // Somebody has archived there, not long ago.
    let _ = writer.claim_branch(&record(&old)).await.unwrap();
    let position = aged.place.branch().wal_position().await.unwrap();
    writer.put_wal_position(&position).await.unwrap();
    aged.round().await;
    assert_eq!(aged.place.work().await, 0);
    aged.age(49);
    aged.round().await;
    assert_eq!(aged.place.work().await, 1);
    assert_eq!(names().await, [main()]);
}
