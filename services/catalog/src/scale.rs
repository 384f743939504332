//! How fast the catalog is with much in it: `cargo test --release -p catalog -- --ignored --nocapture --test-threads 1
//! scale`. What is promised (`docs/scale.md`) must hold, of a release build.

use std::time::{Duration, Instant};

use events::event::{BackupPhase, BackupProgressed, BackupStarted, WalObjectKind};
use events::query::{BackupPlace, BackupStatus};
use events::{BackupId, BranchName, Event, InstanceName, ScheduleId, Timestamp, example, topology};
use pg_format::{SegmentName, TimelineId, WalSegmentSize};
use testkit::postgres::Postgres;

use crate::projection::project;
use crate::read_ahead::LARGEST_BATCH;
use crate::scenario::lives::{expired, skipped};
use crate::scenario::{adopt, backup_life, completed, event, registered, sqlite};
use crate::store::{BackupFilter, Page, Step, Store};

mod bus;

const INSTANCES: u64 = 10_000;
const EVENTS: u64 = 1_000_000;
/// A page of backups, of a million.
const LISTED_WITHIN: Duration = Duration::from_millis(50);
/// Of ten events, those of backups; the others are of WAL.
const OF_BACKUPS: u64 = 4;
/// Events of one backup.
const LIFE: u64 = 5;

fn instance(number: u64) -> InstanceName {
    InstanceName::new(format!("instance-{number:05}")).unwrap()
}

fn backup_id(number: u64) -> BackupId {
    let name = number.to_be_bytes();
    BackupId(uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, &name))
}

/// Events as they come from many instances at once: WAL of each in turn, and as many backups under way as there are
/// instances.
struct Traffic {
    requested: Event,
    completed: Event,
    archived: Event,
}

impl Traffic {
    fn new() -> Self {
        Traffic {
            requested: event("backup.requested"),
            completed: completed("any", backup_id(0)),
            archived: event("wal.segment.archived"),
        }
    }

    fn event(&self, number: u64) -> Event {
        let (ten, place) = (number / 10, number % 10);
        match place < OF_BACKUPS {
            true => self.of_backup(ten * OF_BACKUPS + place),
            false => self.of_wal(ten * (10 - OF_BACKUPS) + place - OF_BACKUPS),
        }
    }

    fn of_backup(&self, number: u64) -> Event {
        let round = number / (INSTANCES * LIFE);
        let (step, of) = (number / INSTANCES % LIFE, number % INSTANCES);
        let (name, branch) = (instance(of), BranchName::main());
        let id = backup_id(round * INSTANCES + of);
        let at = example::at((round * LIFE + step) as i64 * 3600);
        match step {
            0 => {
                let Event::BackupRequested(mut event) = self.requested.clone() else {
                    unreachable!("made so");
                };
                (event.instance, event.branch) = (name, branch);
                (event.backup_id, event.requested_at) = (id, at);
                Event::BackupRequested(event)
            }
            1 => Event::BackupStarted(BackupStarted {
                backup_id: id,
                instance: name,
                branch,
                worker: "worker-1".to_owned(),
                attempt: "1".to_owned(),
                started_at: at,
            }),
            2 | 3 => Event::BackupProgressed(BackupProgressed {
                backup_id: id,
                instance: name,
                branch,
                phase: BackupPhase::Copying,
                done_bytes: step << 30,
                total_bytes: 4 << 30,
                start: None,
            }),
            _ => {
                let Event::BackupCompleted(mut event) = self.completed.clone() else {
                    unreachable!("made so");
                };
                event.summary.requested_at = at;
                event.summary.backed_up_at = at;
                (event.summary.instance, event.summary.branch) = (name.clone(), branch.clone());
                (event.instance, event.branch) = (name, branch);
                (event.backup_id, event.summary.backup_id) = (id, id);
                Event::BackupCompleted(event)
            }
        }
    }

    fn of_wal(&self, number: u64) -> Event {
        let Event::WalSegmentArchived(mut event) = self.archived.clone() else {
            unreachable!("made so");
        };
        let size = WalSegmentSize::new(16 << 20).unwrap();
        let (round, of) = (number / INSTANCES, number % INSTANCES);
        let segment = SegmentName::new(TimelineId(1), round + 1, size);
        (event.instance, event.branch) = (instance(of), BranchName::main());
        (event.timeline, event.kind) = (TimelineId(1), WalObjectKind::Segment);
        event.segment = segment.to_string();
        (event.start_lsn, event.end_lsn) = (segment.start(size), segment.end(size));
        event.archived_at = example::at(round as i64 * 300);
        Event::WalSegmentArchived(event)
    }
}

/// Of a release build this must hold.
fn must(holds: bool, what: &str) {
    assert!(holds || cfg!(debug_assertions), "{what}");
}

/// Applies all events in batches; how many a second, without what making them costs.
async fn rate(store: &Store, label: &str, least: u64) {
    let (stream, created) = (topology::EVENTS, example::at(0));
    adopt(store, stream, created).await;
    let traffic = Traffic::new();
    let mut spent = Duration::ZERO;
    let mut reached = 0;
    while reached < EVENTS {
        let end = EVENTS.min(reached + LARGEST_BATCH as u64);
        let events: Vec<Event> = (reached..end).map(|number| traffic.event(number)).collect();
        let began = Instant::now();
        let steps = events
            .iter()
            .zip(reached + 1..)
            .map(|(event, sequence)| Step {
                sequence,
                changes: project(event, created),
                span: tracing::Span::none(),
            });
        let _ = store.apply(stream, created, steps.collect()).await.unwrap();
        spent += began.elapsed();
        reached = end;
        if reached % 100_000 == 0 {
            let rate = reached as f64 / spent.as_secs_f64();
            println!("{label}: {reached} events, {rate:.0}/s so far");
        }
    }
    println!("{label}: {} events in {spent:.1?}", EVENTS);
    let enough = EVENTS as f64 / spent.as_secs_f64() >= least as f64;
    must(enough, &format!("{label}: {least} events a second"));
}

async fn server() -> Postgres {
    let builder = Postgres::builder()
        .durable(true)
        .setting("shared_buffers", "256MB")
        .setting("max_wal_size", "4GB");
    builder.start().await.unwrap()
}

#[tokio::test]
#[ignore = "a measurement"]
async fn scale_projection_on_sqlite() {
    let (store, _directory) = sqlite().await;
    rate(&store, "sqlite", 10_000).await;
}

#[tokio::test]
#[ignore = "a measurement"]
async fn scale_projection_on_postgres() {
    let server = server().await;
    let store = Store::open(&server.dsn()).await.unwrap();
    rate(&store, "postgres", 5_000).await;
}

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
