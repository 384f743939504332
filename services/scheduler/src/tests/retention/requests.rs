//! What a round asks of the store.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use chrono::TimeDelta;
use events::document::ManualBackup;
use events::mark::{BackupMark, Verification};
use object_store::memory::InMemory;
use repository::faulty::{Fault, FaultyStore, Operation};
use repository::{Repository, RetryPolicy};

use super::super::{Place, instance};
use super::place::{day, id, main};

/// By what is done and the last part of the key.
type Counted = BTreeMap<(String, String), u64>;

/// Counts what a store is asked since it was looked at last.
#[derive(Clone, Default)]
struct Requests(Arc<Mutex<Counted>>);

impl Requests {
    fn store(&self) -> Repository {
        let counted = self.clone();
        let store = FaultyStore::new(Arc::new(InMemory::new()), move |operation, path| {
            let what = path.filename().unwrap_or_default().to_owned();
            let key = (format!("{operation:?}"), what);
            *counted.0.lock().unwrap().entry(key).or_default() += 1;
            Fault::Pass
        });
        Repository::with_store(Arc::new(store), "", RetryPolicy::default())
    }

    fn take(&self) -> Counted {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn of(counted: &Counted, operation: Operation, what: &str) -> u64 {
    let key = (format!("{operation:?}"), what.to_owned());
    counted.get(&key).copied().unwrap_or_default()
}

/// Forty backups, of which half were verified, and one more each day: a round reads the new one and all marks.
#[tokio::test]
async fn of_a_branch_that_changes_only_what_is_new_is_read() {
    let requests = Requests::default();
    let (mut place, _) = Place::retained().await;
    place.world.repository = requests.store();
    place.days(1, 40, Some(365), Some(1)).await;
    for number in 1..=20 {
        let verified = Verification {
            at: day(40),
            sound: true,
        };
        let mark = BackupMark {
            verified: Some(verified),
            ..BackupMark::default()
        };
        place.mark_as(number, mark).await;
    }
    let rounds = place.rounds();
    place.at(41);
    rounds.round(&instance()).await;
    let _ = place.work().await;
    rounds.round(&instance()).await;
    for today in 41..=45 {
        place.days(today, today, Some(365), Some(1)).await;
        place
            .clock
            .set(day(today.cast_signed()) + TimeDelta::hours(1));
        // It was asked for by hand, and took a place then.
        let taken = ManualBackup {
            branch: main(),
            requested_at: day(today.cast_signed()),
        };
        place
            .want(|document| {
                let _ = document.manual_backups.insert(id(today), taken.clone());
            })
            .await;
        let _ = requests.take();
        rounds.round(&instance()).await;
        let counted = requests.take();
        let manifests = of(&counted, Operation::Get, "manifest");
        let marks = of(&counted, Operation::Get, "mark");
        // A sweep of the day's wal is looked at twice.
        assert_eq!(manifests, 1, "{counted:?}");
        assert!(marks >= 20, "{counted:?}");
        let all: u64 = counted.values().sum();
        assert!(all - marks <= 16, "{counted:?}");
        // As it was without: a replica that knows nothing.
        let other = place.rounds();
        let _ = place.work().await;
        let _ = requests.take();
        other.round(&instance()).await;
        let before = requests.take();
        assert_eq!(of(&before, Operation::Get, "manifest"), today, "{before:?}");
    }
    let (backups, bytes) = rounds.memory.manifests.size();
    assert_eq!(backups, 45);
    assert!(bytes < 1000 * backups, "{bytes}");
}
