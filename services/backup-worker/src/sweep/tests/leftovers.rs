//! What backups left over that have no manifest.

use std::time::SystemTime;

use events::Timestamp;
use events::event::{BackupCompleted, BackupFailed, BackupUpdated, FailureCause};
use events::mark::{BackupMark, DeletedBy, Deletion, Hold};
use service::{Clock as _, SystemClock};

use super::*;

#[tokio::test]
async fn what_a_backup_that_is_under_way_stored_is_not_left_over() {
    let mut place = Place::new().await;
    let branch = place
        .sweeps
        .repository
        .writer(&instance(), &BranchName::main());
    let pack = format!("v1/orders/main/packs/{}/a/000000", id(7));
    let path = object_store::path::Path::from(pack);
    let put = place
        .store
        .put_opts(&path, "chunks".into(), PutOptions::default());
    let _ = put.await.unwrap();
    let started = Event::BackupStarted(events::event::BackupStarted {
        backup_id: id(7),
        instance: instance(),
        branch: BranchName::main(),
        worker: "w".to_owned(),
        attempt: "a".to_owned(),
        started_at: example::at(0),
    });
    place.request.sweep.leftovers = vec![id(7)];
    let said = place
        .sweeps
        .outgoing(&place.request, started, "started".to_owned());
    let _ = place.sweeps.bus.publish(said).await.unwrap();
    let (request, pulse) = (&place.request, Pulse::new(&Progress::default()));
    let named = NamedPacks::default();
    let gone = place
        .sweeps
        .left_over(request, (&branch, id(7), &named), &pulse)
        .await;
    assert_eq!(gone.unwrap(), Deleted::default());
    // Nobody says so any more, and it was written to just now.
    let nobody = Sweeps {
        bus: Bus::in_memory(),
        repository: place.sweeps.repository.clone(),
        clock: Arc::clone(&place.sweeps.clock),
    };
    let gone = nobody
        .left_over(request, (&branch, id(7), &named), &pulse)
        .await;
    assert_eq!(gone.unwrap(), Deleted::default());
    assert!(branch.stored_packs(id(7)).await.unwrap().is_some());
}

/// A branch in a directory, where backup 7 has a pack that is 49 hours old and no manifest.
struct Aged {
    place: Place,
    branch: BranchWriter,
    _directory: tempfile::TempDir,
}

impl Aged {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut place = Place::new().await;
        let url = format!("file://{}", directory.path().display());
        place.sweeps.repository = Repository::open(&url, RetryPolicy::default()).unwrap();
        let pack = format!("v1/orders/main/packs/{}/a/000000", id(7));
        let pack = directory.path().join(pack);
        std::fs::create_dir_all(pack.parent().unwrap()).unwrap();
        std::fs::write(&pack, "chunks").unwrap();
        let old = SystemTime::from(SystemClock.now()) - Duration::from_secs(49 * 3600);
        std::fs::File::open(&pack)
            .unwrap()
            .set_modified(old)
            .unwrap();
        place.request.sweep.leftovers = vec![id(7)];
        let branch = place
            .sweeps
            .repository
            .writer(&instance(), &BranchName::main());
        Aged {
            place,
            branch,
            _directory: directory,
        }
    }

    async fn say(&self, event: Event) {
        let (sweeps, request) = (&self.place.sweeps, &self.place.request);
        let outgoing = sweeps.outgoing(request, event, "said".to_owned());
        let _ = sweeps.bus.publish(outgoing).await.unwrap();
    }

    /// Whether it goes, and is said to have expired.
    async fn look(&self, mark: Option<BackupMark>) -> (bool, bool) {
        if let Some(mark) = mark {
            let read = self.branch.mark(id(7)).await.unwrap();
            let _ = self.branch.put_mark(id(7), &mark, &read).await.unwrap();
        }
        let (pulse, named) = (Pulse::new(&Progress::default()), NamedPacks::default());
        let of_this = (&self.branch, id(7), &named);
        let (sweeps, request) = (&self.place.sweeps, &self.place.request);
        let _ = sweeps.left_over(request, of_this, &pulse).await.unwrap();
        let left = self.branch.stored_packs(id(7)).await.unwrap();
        let said = self.place.types().await.contains(&"backup.expired");
        (left.is_none(), said)
    }
}

fn at_start() -> Timestamp {
    example::at(0)
}

fn due() -> BackupMark {
    BackupMark {
        deletion: Some(Deletion {
            by: DeletedBy::User,
            asked_at: at_start(),
            delete_after: at_start(),
        }),
        ..BackupMark::default()
    }
}

fn completed() -> Event {
    Event::BackupCompleted(BackupCompleted {
        backup_id: id(7),
        instance: instance(),
        branch: BranchName::main(),
        summary: BackupSummary {
            backup_id: id(7),
            instance: instance(),
            branch: BranchName::main(),
            ..example::backup_summary()
        },
    })
}

fn updated(mark: BackupMark) -> Event {
    Event::BackupUpdated(BackupUpdated {
        backup_id: id(7),
        instance: instance(),
        branch: BranchName::main(),
        mark,
        updated_at: at_start(),
    })
}

fn failed() -> Event {
    Event::BackupFailed(BackupFailed {
        backup_id: id(7),
        instance: instance(),
        branch: BranchName::main(),
        cause: FailureCause::Storage,
        transient: None,
        message: "no".to_owned(),
        hint: String::new(),
        failed_at: at_start(),
    })
}

#[tokio::test]
async fn only_what_is_known_to_be_over_goes_and_what_had_been_completed_is_said_to_be_gone() {
    let held = BackupMark {
        hold: Some(Hold {
            reason: None,
            since: at_start(),
        }),
        ..due()
    };
    let cases = [
        ("nothing is known", None, None, (false, false)),
        ("failed", Some(failed()), None, (true, false)),
        ("completed", Some(completed()), None, (false, false)),
        (
            "held",
            Some(updated(held.clone())),
            Some(held),
            (false, false),
        ),
        ("let go", Some(updated(due())), Some(due()), (true, true)),
        (
            "let go, untold",
            Some(completed()),
            Some(due()),
            (true, true),
        ),
        ("let go, forgotten", None, Some(due()), (true, false)),
    ];
    for (case, said, mark, expected) in cases {
        let aged = Aged::new().await;
        if let Some(said) = said {
            aged.say(said).await;
        }
        assert_eq!(aged.look(mark).await, expected, "{case}");
    }
}
