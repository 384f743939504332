//! What schedulers do over days: they remind, are made anew, and hear of everything that the rules look at.

use chrono::TimeDelta;
use events::event::{BackupSkipped, BranchStarted, BranchStopped, DrillCheckResult, DrillStep};
use events::{BackupId, BackupSummary};
use repository::BackupOptions;
use uuid::Uuid;

use super::*;
use crate::alerts::heard::Heard;

const DAY: i64 = 1440;

impl Place {
    /// The newest alert's message.
    async fn message(&self) -> String {
        let filters = vec!["zektor.alert.raised.>".to_owned()];
        let bus = &self.watch.bus;
        let history = bus.history(filters, Sequence::NONE, topology::EVENTS);
        let all: Vec<_> = history.await.unwrap().collect().await;
        match all
            .into_iter()
            .next_back()
            .unwrap()
            .unwrap()
            .envelope
            .message
        {
            Event::AlertRaised(alert) => alert.message,
            other => panic!("{other:?}"),
        }
    }

    /// A backup that is in the repository.
    async fn stored(&self, number: u128, minutes: i64) {
        let (id, branch) = (BackupId(Uuid::from_u128(number)), BranchName::main());
        let writer = self.watch.repository.writer(&instance(), &branch);
        let pieces = writer.begin_backup(id, "one", BackupOptions::default());
        let stored = pieces.unwrap().finish().await.unwrap();
        let summary = BackupSummary {
            backup_id: id,
            instance: instance(),
            branch,
            attempt: "one".to_owned(),
            files: 0,
            logical_bytes: 0,
            stored_bytes: stored.totals.stored_bytes,
            requested_at: at(minutes - 2),
            started_at: at(minutes - 1),
            backed_up_at: at(minutes),
            expires_at: Some(at(minutes) + TimeDelta::days(400)),
            damaged_pages: Vec::new(),
            ..example::backup_summary()
        };
        let _committed = stored.commit(summary).await.unwrap();
    }

    async fn lag(&self, minutes: i64) {
        let lag = TimeDelta::minutes(minutes);
        let heard = Heard {
            instance: instance(),
            branch: BranchName::main(),
            at: self.watch.clock.now(),
            fact: Fact::LagSeen { lag, error: None },
        };
        self.watch.take(heard).await.unwrap();
    }
}

fn stopped() -> Event {
    let (instance, branch) = (instance(), BranchName::main());
    Event::BranchStopped(BranchStopped { instance, branch })
}

fn started() -> Event {
    let (instance, branch) = (instance(), BranchName::main());
    Event::BranchStarted(BranchStarted { instance, branch })
}

#[tokio::test]
async fn three_replicas_remind_once_a_day() {
    let mut place = Place::registered().await;
    let mut unscheduled = document(&instance());
    unscheduled.schedules.clear();
    place.put(&unscheduled).await;
    place.clock.set(at(1));
    place.hear(gap()).await;
    for minute in [2, DAY, DAY + 1, DAY + 2, 2 * DAY, 2 * DAY + 1, 2 * DAY + 2] {
        place.at(minute).await;
    }
    let told = ["+wal_gap", "1xwal_gap", "2xwal_gap"];
    assert_eq!(place.said().await, told);
    // Never, if nobody wants it.
    place.watch.settings.remind = None;
    place.at(9 * DAY).await;
    assert_eq!(place.said().await, told);
}

#[tokio::test]
async fn a_branch_that_was_stopped_by_hand_has_no_lag() {
    let place = Place::registered().await;
    place.clock.set(at(1));
    place.hear(stopped()).await;
    for minute in 2..20 {
        place.clock.set(at(minute));
        place.lag(minute).await;
    }
    place.clock.set(at(20));
    place.hear(started()).await;
    for minute in 21..26 {
        place.clock.set(at(minute));
        place.lag(minute).await;
    }
    assert!(place.said().await.is_empty());
    for minute in 26..28 {
        place.clock.set(at(minute));
        place.lag(minute).await;
    }
    assert_eq!(place.said().await, ["+archive_lag"]);
}

#[tokio::test]
async fn a_new_state_knows_that_the_branch_was_stopped_before() {
    let place = Place::registered().await;
    for (minute, event) in [(0, started()), (1, stopped())] {
        let id = MessageId::new(format!("said:{minute}"));
        let outgoing = bus::Outgoing::new(event, id, at(minute));
        let _sequence = place.watch.bus.publish(outgoing).await.unwrap();
    }
    for minute in 10..12 {
        place.clock.set(at(minute));
        place.lag(minute).await;
    }
    assert!(place.said().await.is_empty());
}

#[tokio::test]
async fn a_new_scheduler_reads_an_old_repository_and_raises_what_is_true() {
    // Its last backup is of this night: nothing is wrong, whatever was forgotten.
    let fresh = Place::registered().await;
    fresh.stored(1, 8 * DAY).await;
    fresh.stored(2, 9 * DAY).await;
    fresh.at(10 * DAY).await;
    assert!(fresh.said().await.is_empty());
    // It is counted from the backup, and not from when its manifest was read.
    fresh.at(9 * DAY + DAY * 3 / 2).await;
    assert!(fresh.said().await.is_empty());
    fresh.at(9 * DAY + DAY * 3 / 2 + 3).await;
    assert_eq!(fresh.said().await, ["+backup_overdue"]);
    // Its last backup is of three days ago, and one is promised for each.
    let late = Place::registered().await;
    late.stored(1, 7 * DAY).await;
    late.at(10 * DAY).await;
    assert_eq!(late.said().await, ["+backup_overdue"]);
    let message = late.message().await;
    assert!(
        message.starts_with("no backup was completed for 3 days"),
        "{message}"
    );
    // Nothing is stored at all.
    let bare = Place::registered().await;
    bare.at(10 * DAY).await;
    assert_eq!(bare.said().await, ["+backup_overdue"]);
    let message = bare.message().await;
    assert!(
        message.starts_with("no backup was ever completed"),
        "{message}"
    );
}

#[tokio::test]
async fn a_schedule_whose_fires_are_all_skipped_is_told_with_the_reason() {
    let place = Place::registered().await;
    let mut crowded = document(&instance());
    crowded.schedules[0].retention = "7d".parse().unwrap();
    let yearly = Schedule {
        id: events::ScheduleId(Uuid::from_u128(77)),
        name: "archive".to_owned(),
        retention: "1y".parse().unwrap(),
        ..crowded.schedules[0].clone()
    };
    crowded.schedules.push(yearly.clone());
    place.put(&crowded).await;
    for day in 0..3 {
        place.clock.set(at(day * DAY + 120));
        let Event::BackupCompleted(mut event) = completed(u128::try_from(day).unwrap()) else {
            unreachable!("it is one");
        };
        event.summary.requested_at = at(day * DAY + 110);
        event.summary.started_at = at(day * DAY + 110);
        event.summary.backed_up_at = at(day * DAY + 120);
        event.summary.expires_at = Some(at((day + 7) * DAY + 120));
        place.hear(Event::BackupCompleted(event)).await;
        let skipped = BackupSkipped {
            backup_id: BackupId(Uuid::from_u128(900)),
            instance: instance(),
            branch: BranchName::main(),
            schedule_id: yearly.id,
            name: yearly.name.clone(),
            due_at: at(day * DAY + 120),
            running: None,
            reason: "another backup of main was being taken".to_owned(),
        };
        place.hear(Event::BackupSkipped(skipped)).await;
        place.at(day * DAY + 121).await;
    }
    assert_eq!(place.said().await, ["+backup_overdue"]);
    assert_eq!(
        place.message().await,
        "no backup that is kept for 365 days was ever completed, though schedule \"archive\" promises one every 24 h; \
         it was due and skipped: another backup of main was being taken"
    );
}

#[tokio::test]
async fn a_false_check_of_a_drill_is_told_by_its_name() {
    let place = Place::registered().await;
    let of_drill = |event: &Event| matches!(event, Event::DrillFailed(_));
    let Some(Event::DrillFailed(mut failed)) = example::events().into_iter().find(of_drill) else {
        unreachable!("there is one of each");
    };
    let check = |name: &str, passed| DrillCheckResult {
        name: name.to_owned(),
        passed,
        skipped: false,
        detail: String::new(),
        duration_ms: 1,
    };
    (failed.instance, failed.branch) = (instance(), BranchName::main());
    (failed.step, failed.cause) = (DrillStep::Checks, FailureCause::Source);
    failed.checks = vec![
        check("amcheck", true),
        check("never", false),
        check("fine", true),
        check("old", false),
    ];
    place.clock.set(at(1));
    place.hear(Event::DrillFailed(failed)).await;
    assert_eq!(place.said().await, ["+drill_failed"]);
    let message = place.message().await;
    assert!(
        message.starts_with("the restore itself worked"),
        "{message}"
    );
    assert!(message.contains("\"never\", \"old\";"), "{message}");
}
