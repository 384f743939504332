use std::sync::Arc;

use chrono::{DateTime, TimeDelta};
use events::event::BackupSummary;
use events::mark::{BackupMark, Expiry, Hold};
use events::{BackupId, BranchName, InstanceName, Timestamp};
use object_store::memory::InMemory;
use object_store::{ObjectStore, ObjectStoreExt as _};

use super::{PutMark, ReadMark, effective};
use crate::faulty::{Fault, FaultyStore, Operation};
use crate::{BranchWriter, Repository, RetryPolicy};

fn branch(store: Arc<dyn ObjectStore>) -> BranchWriter {
    let retry = RetryPolicy {
        attempts: 3,
        first_pause: std::time::Duration::from_millis(1),
        ..RetryPolicy::default()
    };
    let instance = InstanceName::new("orders").unwrap();
    Repository::with_store(store, "", retry).writer(&instance, &BranchName::main())
}

fn id(number: u128) -> BackupId {
    BackupId(uuid::Uuid::from_u128(number))
}

fn named(name: &str) -> BackupMark {
    BackupMark {
        name: Some(name.to_owned()),
        ..BackupMark::default()
    }
}

fn held() -> BackupMark {
    BackupMark {
        hold: Some(Hold {
            reason: None,
            since: DateTime::UNIX_EPOCH,
        }),
        ..BackupMark::default()
    }
}

/// Two read the same, and both write: the second is told what the first wrote.
async fn only_one_of_two(branch: &BranchWriter) {
    let nothing = branch.mark(id(1)).await.unwrap();
    assert_eq!(nothing.mark, BackupMark::default());
    let first = branch.put_mark(id(1), &held(), &nothing).await.unwrap();
    let PutMark::Written(first) = first else {
        panic!("{first:?}");
    };
    match branch.put_mark(id(1), &named("x"), &nothing).await.unwrap() {
        PutMark::Changed(now) => assert_eq!(now.mark, held()),
        other @ PutMark::Written(_) => panic!("{other:?}"),
    }
    let next = branch.put_mark(id(1), &named("x"), &first).await.unwrap();
    assert!(matches!(next, PutMark::Written(_)), "{next:?}");
    let late = branch.put_mark(id(1), &named("y"), &first).await.unwrap();
    assert!(matches!(late, PutMark::Changed(_)), "{late:?}");
    let marks = branch.marks().await.unwrap();
    assert_eq!((marks.of(id(1)), marks.known.len()), (named("x"), 1));
    assert_eq!(marks.of(id(2)), BackupMark::default());
    branch.delete_mark(id(1)).await.unwrap();
    branch.delete_mark(id(1)).await.unwrap();
    assert!(branch.marks().await.unwrap().known.is_empty());
}

#[tokio::test]
async fn of_two_who_decide_at_the_same_time_one_is_told() {
    only_one_of_two(&branch(Arc::new(InMemory::new()))).await;
    let directory = tempfile::tempdir().unwrap();
    let url = format!("file://{}", directory.path().display());
    let repository = Repository::open(&url, RetryPolicy::default()).unwrap();
    let instance = InstanceName::new("orders").unwrap();
    only_one_of_two(&repository.writer(&instance, &BranchName::main())).await;
}

#[tokio::test]
async fn an_answer_that_was_lost_is_ours() {
    let lost = std::sync::Mutex::new(0);
    let store = FaultyStore::new(Arc::new(InMemory::new()), move |operation, _| {
        let mut lost = lost.lock().unwrap();
        if matches!(operation, Operation::Get | Operation::List) {
            return Fault::Pass;
        }
        *lost += 1;
        match *lost % 2 {
            1 => Fault::LoseResponse,
            _ => Fault::Pass,
        }
    });
    let branch = branch(Arc::new(store));
    let mut read = ReadMark::default();
    for name in ["a", "b", "c"] {
        match branch.put_mark(id(1), &named(name), &read).await.unwrap() {
            PutMark::Written(written) => read = written,
            other @ PutMark::Changed(_) => panic!("{name}: {other:?}"),
        }
        assert_eq!(read.mark, named(name));
    }
}

#[tokio::test]
async fn a_damaged_mark_is_told() {
    let store = Arc::new(InMemory::new());
    let branch = branch(Arc::clone(&store) as Arc<dyn ObjectStore>);
    let nothing = ReadMark::default();
    for number in [1, 2] {
        let put = branch.put_mark(id(number), &held(), &nothing).await;
        assert!(put.is_ok());
    }
    let key = branch.layout.mark(id(1));
    let _ = store.put(&key.as_str().into(), "{}".into()).await.unwrap();
    let marks = branch.marks().await.unwrap();
    assert_eq!(marks.unreadable, [id(1)].into());
    assert_eq!(marks.known.keys().collect::<Vec<_>>(), [&id(2)]);
    assert!(branch.mark(id(1)).await.is_err());
    assert!(branch.put_mark(id(1), &held(), &nothing).await.is_err());
}

#[test]
fn what_the_mark_says_stands() {
    let day = |day| DateTime::UNIX_EPOCH + TimeDelta::days(day);
    let made = |expires_at, wal_until| BackupSummary {
        expires_at,
        wal_until,
        ..crate::window::tests::backup(1, 1, 2)
    };
    let check = |made: BackupSummary,
                 mark: Option<Option<Timestamp>>,
                 expected: (Option<Timestamp>, Option<Timestamp>)| {
        let mark = BackupMark {
            name: Some("other".to_owned()),
            expiry: mark.map(|expires_at| Expiry { expires_at }),
            ..BackupMark::default()
        };
        let now = effective(made, &mark);
        assert_eq!((now.expires_at, now.wal_until), expected);
        assert_eq!(now.name, "other");
    };
    let (week, year) = (Some(day(7)), Some(day(365)));
    check(made(year, week), None, (year, week));
    check(made(week, None), None, (week, None));
    check(made(year, week), Some(Some(day(3))), (Some(day(3)), None));
    check(made(week, week), Some(None), (None, week));
    check(made(year, year), None, (year, None));
    // Kept longer than it was to be kept, with no more WAL than was promised.
    check(made(week, None), Some(None), (None, week));
    check(made(week, None), Some(year), (year, week));
    check(made(None, None), Some(year), (year, None));
}
