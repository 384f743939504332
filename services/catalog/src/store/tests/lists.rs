//! Lists of backups, drills and alerts, their filters, and what is forgotten of them.

use events::event::AlertRule;
use events::mark::DeletedBy;
use events::query::{BackupPlace, BackupStatus};
use events::{BackupId, BranchName, Event, InstanceName, ScheduleId, Timestamp, example, topology};

use super::super::{BackupFilter, Page, Store};
use crate::scenario::lives::{alert_life, deletion, drill_life, expired, marked, skipped};
use crate::scenario::{adopt, all_rows, backup_id, completed, registered, sqlite, steps};

const DAY: i64 = 86_400;

fn instance() -> InstanceName {
    InstanceName::new("listed").unwrap()
}

/// A completed backup that was asked for at this second, by this name and schedule.
fn taken(number: u128, second: i64, name: &str, schedule: Option<u128>) -> Event {
    let Event::BackupCompleted(mut event) = completed("listed", backup_id(number)) else {
        panic!("the type was asked for");
    };
    let summary = &mut event.summary;
    summary.requested_at = example::at(second);
    summary.started_at = example::at(second + 1);
    summary.backed_up_at = example::at(second + 61);
    summary.name = name.to_owned();
    summary.stored_bytes = 1000 + u64::try_from(number).unwrap();
    summary.schedule_id = schedule.map(|number| ScheduleId(uuid::Uuid::from_u128(number)));
    Event::BackupCompleted(event)
}

/// Six backups: 1 of a schedule, 2 by hand, 3 in its time of grace, 4 gone, 5 skipped, 6 kept after all.
async fn listed(store: &Store) {
    let of_schedule = ScheduleId(uuid::Uuid::from_u128(7));
    let Event::BackupSkipped(mut skipped) = skipped("listed", backup_id(5), of_schedule) else {
        panic!("the type was asked for");
    };
    skipped.due_at = example::at(500);
    let events = vec![
        registered("listed"),
        taken(1, 100, "daily 100%", Some(7)),
        taken(2, 200, "Vor dem Ärger", None),
        taken(3, 300, "daily", Some(7)),
        marked(
            "listed",
            backup_id(3),
            deletion(DeletedBy::Retention, 900),
            900,
        ),
        taken(4, 400, "daily", Some(7)),
        marked("listed", backup_id(4), deletion(DeletedBy::User, 900), 900),
        expired("listed", backup_id(4), 900 + DAY),
        Event::BackupSkipped(skipped),
        taken(6, 600, "daily", Some(8)),
        marked("listed", backup_id(6), deletion(DeletedBy::User, 900), 900),
        marked(
            "listed",
            backup_id(6),
            events::mark::BackupMark::default(),
            901,
        ),
    ];
    adopt(store, topology::EVENTS, example::at(0)).await;
    let steps = steps(&events, 1);
    let _ = store
        .apply(topology::EVENTS, example::at(0), steps)
        .await
        .unwrap();
}

async fn check(store: &Store, filter: BackupFilter, expected: &[u128]) {
    for page in [1, 2, 1000] {
        let mut found: Vec<BackupId> = Vec::new();
        loop {
            let offset = u32::try_from(found.len()).unwrap();
            let rows = store.backups(&filter, Page::new(Some(page), offset)).await;
            let rows = rows.unwrap();
            found.extend(rows.iter().map(|row| row.id));
            if rows.len() < page as usize {
                break;
            }
        }
        let expected: Vec<BackupId> = expected.iter().copied().map(backup_id).collect();
        assert_eq!(found, expected, "{filter:?} by {page}");
        assert_eq!(through(store, filter.clone(), page).await, expected);
    }
}

/// Page after page, each from where the one before ended.
async fn through(store: &Store, mut filter: BackupFilter, page: u32) -> Vec<BackupId> {
    let mut found = Vec::new();
    loop {
        let rows = store.backups(&filter, Page::new(Some(page), 0)).await;
        let rows = rows.unwrap();
        let Some(last) = rows.last() else {
            return found;
        };
        filter.after = Some(BackupPlace {
            at: last.listed_at,
            id: last.id,
        });
        found.extend(rows.iter().map(|row| row.id));
    }
}

async fn every_filter(store: &Store) {
    let of_instance = || BackupFilter {
        instance: Some(instance()),
        ..BackupFilter::default()
    };
    check(store, of_instance(), &[6, 3, 2, 1]).await;
    check(store, BackupFilter::default(), &[6, 3, 2, 1]).await;
    let all = true;
    check(
        store,
        BackupFilter {
            all,
            ..of_instance()
        },
        &[6, 5, 4, 3, 2, 1],
    )
    .await;
    let branch = Some(BranchName::main());
    check(
        store,
        BackupFilter {
            branch,
            all,
            ..of_instance()
        },
        &[6, 5, 4, 3, 2, 1],
    )
    .await;
    let branch = Some(BranchName::new("other").unwrap());
    check(
        store,
        BackupFilter {
            branch,
            ..of_instance()
        },
        &[],
    )
    .await;
    for (status, expected) in [
        (BackupStatus::Completed, &[6, 2, 1][..]),
        (BackupStatus::Expired, &[4, 3]),
        (BackupStatus::Skipped, &[5]),
        (BackupStatus::Failed, &[]),
    ] {
        let status = Some(status);
        check(
            store,
            BackupFilter {
                status,
                ..of_instance()
            },
            expected,
        )
        .await;
        check(
            store,
            BackupFilter {
                status,
                ..BackupFilter::default()
            },
            expected,
        )
        .await;
    }
    let schedule = Some(ScheduleId(uuid::Uuid::from_u128(7)));
    check(
        store,
        BackupFilter {
            schedule,
            ..of_instance()
        },
        &[3, 1],
    )
    .await;
    check(
        store,
        BackupFilter {
            schedule,
            all,
            ..of_instance()
        },
        &[5, 4, 3, 1],
    )
    .await;
    let (from, to) = (Some(example::at(200)), Some(example::at(600)));
    check(
        store,
        BackupFilter {
            from,
            to,
            ..of_instance()
        },
        &[3, 2],
    )
    .await;
    check(
        store,
        BackupFilter {
            from,
            to,
            all,
            ..of_instance()
        },
        &[5, 4, 3, 2],
    )
    .await;
    for (name, expected) in [
        ("DAILY", &[6, 3, 1][..]),
        ("ärger", &[2]),
        ("ÄRGER", &[2]),
        ("100%", &[1]),
        ("0_", &[]),
        ("nobody's", &[]),
    ] {
        let name = Some(name.to_owned());
        check(
            store,
            BackupFilter {
                name,
                ..of_instance()
            },
            expected,
        )
        .await;
    }
    let row = store.backup(None, backup_id(3)).await.unwrap().unwrap();
    let mark = row.mark.unwrap();
    assert_eq!(mark.deletion.unwrap().delete_after, example::at(900 + DAY));
    assert_eq!(row.deleted_at, None);
    let kept = store.backup(None, backup_id(6)).await.unwrap().unwrap();
    assert_eq!((kept.mark, kept.own), (None, None));
}

#[tokio::test]
async fn backups_are_listed_by_every_filter() {
    let (store, _directory) = sqlite().await;
    listed(&store).await;
    every_filter(&store).await;
    pages(&store).await;
    let server = testkit::postgres::Postgres::builder()
        .start()
        .await
        .unwrap();
    let store = Store::open(&server.dsn()).await.unwrap();
    listed(&store).await;
    every_filter(&store).await;
    pages(&store).await;
}

/// Pages that begin among backups of one moment, pages far down, and instances.
async fn pages(store: &Store) {
    let mut events = Vec::new();
    for number in 100..1300 {
        let Event::BackupCompleted(mut event) = taken(number, 1000, "at once", None) else {
            panic!("the type was asked for");
        };
        let instance = InstanceName::new("many").unwrap();
        (event.instance, event.summary.instance) = (instance.clone(), instance);
        events.push(Event::BackupCompleted(event));
    }
    // In the order of a dictionary, these come otherwise.
    let names = ["a-b", "a-c", "a0", "aa", "b", "listed", "z"];
    events.extend(names.iter().rev().map(|name| registered(name)));
    apply_more(store, events).await;
    let filter = BackupFilter {
        instance: Some(InstanceName::new("many").unwrap()),
        ..BackupFilter::default()
    };
    let expected: Vec<BackupId> = (100..1300).rev().map(backup_id).collect();
    for page in [7, 1000] {
        assert_eq!(through(store, filter.clone(), page).await, expected);
    }
    let rows = store.backups(&filter, Page::new(Some(3), 1100)).await;
    let ids: Vec<BackupId> = rows.unwrap().iter().map(|row| row.id).collect();
    assert_eq!(ids, expected[1100..1103]);

    for size in [1, 3, 100] {
        let (mut after, mut found) = (None, Vec::new());
        loop {
            let page = Page::new(Some(size), 0);
            let views = store.instances(after.as_ref(), page).await.unwrap();
            let Some(last) = views.last() else {
                break;
            };
            after = Some(last.name.clone());
            found.extend(views.iter().map(|view| view.name.to_string()));
        }
        assert_eq!(found, names, "{size} a page");
    }
}

async fn apply_more(store: &Store, events: Vec<Event>) {
    let position = store.position(topology::EVENTS).await.unwrap().unwrap();
    let steps = steps(&events, position.applied + 1);
    let _ = store
        .apply(topology::EVENTS, example::at(0), steps)
        .await
        .unwrap();
}

#[tokio::test]
async fn an_instance_says_what_was_proven_and_what_stands() {
    let (store, _directory) = sqlite().await;
    listed(&store).await;
    let view = async || store.instance(&instance()).await.unwrap().unwrap();
    assert_eq!((view().await.proven_at, view().await.alerts), (None, 0));
    let mut events = drill_life("listed", 1, Some(example::at(600)));
    events.extend(drill_life("listed", 2, None));
    // Of one of the same name before.
    events.extend(drill_life("listed", 3, Some(example::at(-600))));
    events.extend(alert_life("listed", AlertRule::WalGap, 10));
    events.extend(
        alert_life("listed", AlertRule::DrillFailed, 20)
            .into_iter()
            .take(1),
    );
    apply_more(&store, events).await;
    let shown = view().await;
    assert_eq!(shown.proven_at, Some(example::at(600)));
    assert_eq!(shown.proven_target, Some(example::drill_summary().target));
    assert_eq!(
        shown.proven_in_ms,
        Some(example::drill_summary().restore_ms)
    );
    assert_eq!(shown.alerts, 1);
    let page = Page::new(None, 0);
    let alerts = async |resolved| {
        let rows = store
            .alerts(Some(&instance()), resolved, page)
            .await
            .unwrap();
        rows.iter().map(|row| row.rule).collect::<Vec<_>>()
    };
    assert_eq!(alerts(false).await, [AlertRule::DrillFailed]);
    assert_eq!(
        alerts(true).await,
        [AlertRule::DrillFailed, AlertRule::WalGap]
    );
    assert_eq!(
        store.drills(Some(&instance()), page).await.unwrap().len(),
        3
    );

    let Event::InstanceRemoved(mut removed) = crate::scenario::event("instance.removed") else {
        panic!("the type was asked for");
    };
    removed.instance = instance();
    apply_more(&store, vec![Event::InstanceRemoved(removed)]).await;
    assert_eq!(alerts(false).await, []);
}

#[tokio::test]
async fn what_is_long_over_is_forgotten_and_what_is_there_is_not() {
    let (store, _directory) = sqlite().await;
    listed(&store).await;
    let mut events = drill_life("listed", 1, Some(example::at(600)));
    events.extend(alert_life("listed", AlertRule::WalGap, 10));
    events.extend(
        alert_life("listed", AlertRule::DrillFailed, 20)
            .into_iter()
            .take(1),
    );
    events.extend(crate::scenario::lives::wal_life("listed"));
    apply_more(&store, events).await;
    let before = all_rows(&store).await;
    let at = |days: i64| -> Timestamp { example::at(days * DAY) };
    assert_eq!(store.clean(at(700)).await.unwrap(), 0);
    assert_eq!(all_rows(&store).await, before);
    assert!(store.clean(at(2 * 366 + 30)).await.unwrap() > 0);
    let after = all_rows(&store).await;
    let ids: Vec<BackupId> = after.backups.iter().map(|row| row.id).collect();
    assert_eq!(ids, [1, 2, 3, 6].map(backup_id));
    assert_eq!((after.drills.len(), after.alerts.len()), (0, 1));
    assert!(after.wal_days.is_empty());
    assert_eq!(after.segments, before.segments);
    assert_eq!(after.archives, before.archives);
}

#[tokio::test]
async fn a_schedule_last_asked_for_a_backup_when_it_was_not_skipped() {
    let (store, _directory) = sqlite().await;
    listed(&store).await;
    for (number, last) in [(7, Some(400)), (8, Some(600)), (9, None)] {
        let schedule = ScheduleId(uuid::Uuid::from_u128(number));
        let found = store.last_request_of(&instance(), schedule).await.unwrap();
        assert_eq!(found, last.map(example::at), "schedule {number}");
    }
}
