//! Clocks of schedulers that are wrong, beside an object store that has the time.

use std::sync::Arc;

use chrono::TimeDelta;
use events::Timestamp;
use events::mark::Deletion;
use service::{Clock as _, SystemClock};

use super::super::{Place, command_id, instance};
use super::place::{day, id};
use crate::config::SchedulerConfig;
use crate::retention::Rounds;

/// Whole days since the tests' first one, by the store's clock.
fn today() -> i64 {
    (SystemClock.now() - day(0)).num_days()
}

impl Place {
    /// Four backups of the last days, kept for so long.
    async fn witnessed(kept: i64) -> (Self, Rounds) {
        let (mut place, _) = Place::retained().await;
        place.world.config = Arc::new(SchedulerConfig {
            retention_store_clock: true,
            ..SchedulerConfig::default()
        });
        let last = u64::try_from(today()).unwrap();
        place.days(last - 4, last - 1, Some(kept), None).await;
        let rounds = place.rounds();
        (place, rounds)
    }

    async fn deletion(&self, number: i64) -> Option<Deletion> {
        let number = u64::try_from(number).unwrap();
        self.branch().mark(id(number)).await.unwrap().mark.deletion
    }
}

fn after_a_grace() -> Timestamp {
    // A store may tell the time in seconds only.
    SystemClock.now() + TimeDelta::days(1) - TimeDelta::minutes(1)
}

#[tokio::test]
async fn a_clock_that_is_ahead_marks_and_deletes_nothing_by_itself() {
    let (place, rounds) = Place::witnessed(7).await;
    for days in [30, 31, 32, 400] {
        place.clock.set(SystemClock.now() + TimeDelta::days(days));
        for _ in 0..3 {
            rounds.round(&instance()).await;
            let _ = place.work().await;
        }
    }
    assert_eq!(place.types().await, Vec::<&str>::new());
    assert_eq!(place.backups().await.len(), 4);
    assert_eq!(place.segments().await.len(), 40);
}

#[tokio::test]
async fn a_clock_that_is_ahead_ends_no_time_of_grace() {
    let (place, rounds) = Place::witnessed(1).await;
    place.clock.set(SystemClock.now());
    rounds.round(&instance()).await;
    let first = place.deletion(today() - 4).await.unwrap();
    assert!(first.delete_after >= after_a_grace());
    place.clock.set(SystemClock.now() + TimeDelta::days(30));
    for _ in 0..3 {
        rounds.round(&instance()).await;
        let _ = place.work().await;
    }
    assert_eq!(place.backups().await.len(), 4);
}

#[tokio::test]
async fn a_clock_that_is_behind_takes_nothing_from_the_time_of_grace() {
    let (place, rounds) = Place::witnessed(1).await;
    place.clock.set(SystemClock.now() - TimeDelta::hours(49));
    rounds.round(&instance()).await;
    let marked = place.deletion(today() - 4).await.unwrap();
    assert!(marked.delete_after >= after_a_grace(), "{marked:?}");
    // And so when somebody asks for it.
    let delete = events::Command::BackupDelete(events::command::BackupDelete {
        instance: instance(),
        branch: super::place::main(),
        backup_id: id(u64::try_from(today() - 1).unwrap()),
    });
    let outcome = place.deliver(command_id(1), 1, delete).await;
    assert_eq!(outcome, bus::Outcome::Done);
    let asked = place.deletion(today() - 1).await.unwrap();
    assert!(asked.delete_after >= after_a_grace(), "{asked:?}");
    // The others have the time.
    place.clock.set(SystemClock.now());
    place.rounds().round(&instance()).await;
    assert_eq!(place.work().await, 0);
}
