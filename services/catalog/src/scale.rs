//! How fast the catalog is with much in it: `cargo test --release -p catalog -- --ignored --nocapture --test-threads 1
//! scale`. What is promised (`docs/scale.md`) must hold, of a release build.

use std::time::{Duration, Instant};

use events::event::{BackupPhase, BackupProgressed, BackupStarted, WalObjectKind};
use events::{BackupId, BranchName, Event, InstanceName, example, topology};
use pg_format::{SegmentName, TimelineId, WalSegmentSize};
use testkit::postgres::Postgres;

use crate::projection::project;
use crate::read_ahead::LARGEST_BATCH;
use crate::scenario::{adopt, completed, event, sqlite};
use crate::store::{Step, Store};

mod bus;
mod lists;

const INSTANCES: u64 = 10_000;
const EVENTS: u64 = 1_000_000;
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
                problem: None,
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
