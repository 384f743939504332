//! How long a page of a list takes, of a million backups.

use std::time::{Duration, Instant};

use events::query::{BackupPlace, BackupStatus};
use events::{BranchName, Event, InstanceName, ScheduleId, Timestamp, example, topology};

use super::{INSTANCES, backup_id, instance, must, server};
use crate::projection::project;
use crate::read_ahead::LARGEST_BATCH;
use crate::scenario::lives::{expired, skipped};
use crate::scenario::{adopt, backup_life, completed, registered, sqlite};
use crate::store::{BackupFilter, Page, Step, Store};

/// A page of backups, of a million.
const LISTED_WITHIN: Duration = Duration::from_millis(50);

/// A backup of the list that is measured: asked for in the second of its number, most of the long list gone.
fn listed(number: u64, name: &str) -> Vec<Event> {
    let id = backup_id(number);
    let asked_at = example::at(number as i64);
    let schedule = ScheduleId(uuid::Uuid::from_u128(u128::from(number % 3)));
    match number % 100 {
        0 => {
            let mut life = backup_life(name, id, false);
            for event in &mut life {
                if let Event::BackupRequested(requested) = event {
                    requested.requested_at = asked_at;
                }
            }
            life
        }
        1 => {
            let Event::BackupSkipped(mut event) = skipped(name, id, schedule) else {
                unreachable!("made so");
            };
            event.due_at = asked_at;
            vec![Event::BackupSkipped(event)]
        }
        place => {
            let Event::BackupCompleted(mut event) = completed(name, id) else {
                unreachable!("made so");
            };
            event.summary.requested_at = asked_at;
            event.summary.started_at = asked_at;
            event.summary.backed_up_at = asked_at;
            event.summary.schedule_id = Some(schedule);
            event.summary.name = format!("nightly {number}");
            let mut life = vec![Event::BackupCompleted(event)];
            life.extend((place < 40).then(|| expired(name, id, number as i64 + 86_400)));
            life
        }
    }
}

/// A million backups: a hundred thousand of one instance, a hundred of every other, older ones first.
async fn fill(store: &Store) -> u64 {
    let (stream, created) = (topology::EVENTS, example::at(0));
    adopt(store, stream, created).await;
    let (mut sequence, mut backups) = (0, 0);
    for round in 0..100 {
        let mut events = Vec::new();
        for of in 0..INSTANCES {
            events.extend((round == 0).then(|| registered(instance(of).as_str())));
            events.extend(listed(backups, instance(of).as_str()));
            backups += 1;
            if of % 10 == 0 {
                events.extend(listed(backups, "largest"));
                backups += 1;
            }
        }
        for part in events.chunks(LARGEST_BATCH) {
            let steps = part
                .iter()
                .zip(sequence + 1..)
                .map(|(event, sequence)| Step {
                    sequence,
                    changes: project(event, created),
                    span: tracing::Span::none(),
                });
            let _ = store.apply(stream, created, steps.collect()).await.unwrap();
            sequence += part.len() as u64;
        }
        if round % 20 == 19 {
            println!("{backups} backups");
        }
    }
    backups
}

async fn measure(store: &Store, label: &str, question: &str, filter: BackupFilter, page: Page) {
    let mut times = Vec::new();
    let mut rows = 0;
    for _ in 0..200 {
        let began = Instant::now();
        rows = store.backups(&filter, page).await.unwrap().len();
        times.push(began.elapsed());
        if times.iter().sum::<Duration>() > Duration::from_secs(20) {
            break;
        }
    }
    let p99 = told(label, &format!("{question}: {rows} rows"), times);
    // Of what is in no index, most rows may have to be read.
    let searched = filter.name.is_some();
    let within = searched || p99 < LISTED_WITHIN;
    must(within, &format!("{label}: {question} in {LISTED_WITHIN:?}"));
}

/// Says how long it took; what of a hundred ninety-nine took at most.
fn told(label: &str, question: &str, mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!(
        "{label}: {question}: {} times, p50 {:.1?}, p99 {:.1?}",
        times.len(),
        at(50),
        at(99)
    );
    at(99)
}

/// All pages of a list, each from where the one before ended.
async fn through(store: &Store, label: &str, filter: &BackupFilter) {
    let mut filter = filter.clone();
    let mut times = Vec::new();
    loop {
        let began = Instant::now();
        let rows = store.backups(&filter, Page::new(None, 0)).await.unwrap();
        times.push(began.elapsed());
        let Some(last) = rows.last() else {
            break;
        };
        filter.after = Some(BackupPlace {
            at: last.listed_at,
            id: last.id,
        });
    }
    let p99 = told(label, "of the largest, page after page", times);
    must(
        p99 < LISTED_WITHIN,
        &format!("{label}: a page in {LISTED_WITHIN:?}"),
    );
}

/// All pages of the instances.
async fn instances(store: &Store, label: &str) {
    for size in [100, 1000] {
        let (mut after, mut times) = (None, Vec::new());
        loop {
            let began = Instant::now();
            let page = Page::new(Some(size), 0);
            let found = store.instances(after.as_ref(), page).await.unwrap();
            times.push(began.elapsed());
            let Some(last) = found.last() else {
                break;
            };
            after = Some(last.name.clone());
        }
        let _p99 = told(label, &format!("instances, {size} a page"), times);
    }
    let mut times = Vec::new();
    for _ in 0..5 {
        let begin = Instant::now();
        let _gauges = store.gauges().await.unwrap();
        times.push(begin.elapsed());
    }
    let _p99 = told(label, "what monitoring is shown", times);
}

async fn lists(store: &Store, label: &str) {
    let backups = fill(store).await;
    println!("{label}: {backups} backups");
    let largest = InstanceName::new("largest").unwrap();
    let of = |instance: InstanceName| BackupFilter {
        instance: Some(instance),
        ..BackupFilter::default()
    };
    let page = Page::new(None, 0);
    let at = |number: u64| -> Option<Timestamp> { Some(example::at(number as i64)) };
    let questions = vec![
        ("of one with 100", of(instance(77)), page),
        ("of the largest", of(largest.clone()), page),
        (
            "of the largest, 1000",
            of(largest.clone()),
            Page::new(Some(1000), 0),
        ),
        (
            "of the largest, after 50000",
            of(largest.clone()),
            Page::new(None, 50_000),
        ),
        (
            "of the largest, all",
            BackupFilter {
                all: true,
                ..of(largest.clone())
            },
            page,
        ),
        (
            "of its branch",
            BackupFilter {
                branch: Some(BranchName::main()),
                ..of(largest.clone())
            },
            page,
        ),
        (
            "of a branch without any",
            BackupFilter {
                branch: Some(BranchName::new("x").unwrap()),
                ..of(largest.clone())
            },
            page,
        ),
        (
            "failed of the largest",
            BackupFilter {
                status: Some(BackupStatus::Failed),
                ..of(largest.clone())
            },
            page,
        ),
        (
            "in progress of the largest",
            BackupFilter {
                status: Some(BackupStatus::InProgress),
                ..of(largest.clone())
            },
            page,
        ),
        (
            "completed of the largest",
            BackupFilter {
                status: Some(BackupStatus::Completed),
                ..of(largest.clone())
            },
            page,
        ),
        (
            "of a schedule",
            BackupFilter {
                schedule: Some(ScheduleId(uuid::Uuid::from_u128(2))),
                ..of(largest.clone())
            },
            page,
        ),
        (
            "from and to",
            BackupFilter {
                from: at(400_000),
                to: at(500_000),
                ..of(largest.clone())
            },
            page,
        ),
        (
            "by name, many",
            BackupFilter {
                name: Some("NIGHTLY".to_owned()),
                ..of(largest.clone())
            },
            page,
        ),
        (
            "of its branch, by name, none",
            BackupFilter {
                branch: Some(BranchName::main()),
                name: Some("yearly".to_owned()),
                ..of(largest.clone())
            },
            page,
        ),
        (
            "by name, none",
            BackupFilter {
                name: Some("yearly".to_owned()),
                ..of(largest.clone())
            },
            page,
        ),
        ("of all", BackupFilter::default(), page),
        (
            "of all, all",
            BackupFilter {
                all: true,
                ..BackupFilter::default()
            },
            page,
        ),
        (
            "failed of all",
            BackupFilter {
                status: Some(BackupStatus::Failed),
                ..BackupFilter::default()
            },
            page,
        ),
        (
            "in progress of all",
            BackupFilter {
                status: Some(BackupStatus::InProgress),
                ..BackupFilter::default()
            },
            page,
        ),
        (
            "completed of all",
            BackupFilter {
                status: Some(BackupStatus::Completed),
                ..BackupFilter::default()
            },
            page,
        ),
        (
            "by name of all, none",
            BackupFilter {
                name: Some("yearly".to_owned()),
                ..BackupFilter::default()
            },
            page,
        ),
    ];
    for (question, filter, page) in questions {
        measure(store, label, question, filter, page).await;
    }
    through(store, label, &of(largest.clone())).await;
    instances(store, label).await;
    let began = Instant::now();
    let last = store
        .last_backup_at(&largest, &BranchName::main())
        .await
        .unwrap();
    println!(
        "{label}: last backup {}: {:.1?}",
        last.is_some(),
        began.elapsed()
    );
    let began = Instant::now();
    let span = (example::at(0), example::at(2_000_000));
    let points = store
        .backup_measures(&largest, &BranchName::main(), span)
        .await
        .unwrap()
        .len();
    println!("{label}: series: {points} points, {:.1?}", began.elapsed());
}

#[tokio::test]
#[ignore = "a measurement"]
async fn scale_lists_on_sqlite() {
    let (store, _directory) = sqlite().await;
    lists(&store, "sqlite").await;
}

#[tokio::test]
#[ignore = "a measurement"]
async fn scale_lists_on_postgres() {
    let server = server().await;
    let store = Store::open(&server.dsn()).await.unwrap();
    lists(&store, "postgres").await;
}
