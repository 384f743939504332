use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Outgoing};
use bytes::Bytes;
use events::document::{ActiveBranch, Branch};
use events::event::{WalObjectKind as EventKind, WalSegmentArchived};
use events::query::RebuildSource;
use events::{
    BackupSummary, BranchName, CommandId, Event, InstanceDocument, InstanceName, MessageId,
    SealedSecret, example, subject, topology,
};
use pg_format::{Lsn, SegmentName, TimelineId, WalSegmentSize};
use repository::{BackupOptions, BranchRecord, Repository, RetryPolicy, WalObjectKind};
use serde_json::json;
use service::SystemClock;
use tokio_util::sync::CancellationToken;

use super::Projector;
use crate::answer::{self, answer};
use crate::rebuild::{STREAMS, rebuild};
use crate::scenario::{SEGMENT_SIZE, all_rows, backup_id, backup_life, event, registered, sqlite};
use crate::store::{Position, Store};

struct Running {
    bus: Bus,
    store: Store,
    repository: Repository,
    projector: Projector,
    shutdown: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// A projector at work on a bus and a repository in memory.
async fn start() -> Running {
    let (store, directory) = sqlite().await;
    let bus = Bus::in_memory();
    let repository = Repository::open("memory://", RetryPolicy::default()).unwrap();
    let projector = Projector::new(
        store.clone(),
        bus.clone(),
        repository.clone(),
        Arc::new(SystemClock),
    );
    let running = Running {
        bus,
        store,
        repository,
        projector,
        shutdown: CancellationToken::new(),
        _directory: directory,
    };
    running.resume();
    running
}

impl Running {
    fn resume(&self) {
        let (projector, shutdown) = (self.projector.clone(), self.shutdown.clone());
        drop(tokio::spawn(async move { projector.run(shutdown).await }));
    }

    async fn publish(&self, events: Vec<Event>) {
        for event in events {
            let id = MessageId::new(uuid::Uuid::now_v7().to_string());
            let _ = self
                .bus
                .publish(Outgoing::new(event, id, example::at(0)))
                .await
                .unwrap();
        }
    }

    async fn ask(&self, name: &str, question: serde_json::Value) -> serde_json::Value {
        answer(&self.projector, &subject::catalog_query(name), question)
            .await
            .unwrap()
    }

    /// Waits until the rows are at the end of both streams and no rebuild is wanted.
    async fn caught_up(&self) {
        let up = async {
            loop {
                let mut behind = self.store.rebuild_state().await.unwrap().wanted.is_some();
                for stream in STREAMS {
                    let last = self.bus.stream_state(stream).await.unwrap().last.0;
                    let at = self.store.position(stream).await.unwrap();
                    behind |= at.is_none_or(|at| at.created.is_none() || at.applied != last);
                }
                if !behind {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), up)
            .await
            .unwrap();
    }

    /// An installation in the streams and, as far as it belongs there, in the repository.
    async fn populate(&self) {
        self.publish(vec![registered("orders")]).await;
        for summary in store_in(&self.repository, [1, 3]).await {
            let mut life = backup_life("orders", summary.backup_id, true);
            if let Some(Event::BackupCompleted(completed)) = life.last_mut() {
                completed.summary = summary;
            }
            self.publish(life).await;
        }
        self.publish(backup_life("orders", backup_id(2), false))
            .await;
        let running: Vec<Event> = backup_life("orders", backup_id(4), true)
            .drain(..3)
            .collect();
        self.publish(running).await;
        self.publish(vec![event("restore.requested"), event("restore.started")])
            .await;
        self.publish(put_wal(&self.repository).await).await;
        self.caught_up().await;
    }
}

fn orders() -> (InstanceName, BranchName) {
    (InstanceName::new("orders").unwrap(), BranchName::main())
}

fn size() -> WalSegmentSize {
    WalSegmentSize::new(SEGMENT_SIZE).unwrap()
}

/// Segments of two timelines, the history and the last partial of the first, and an open one that is not
/// announced. The announcements are made of the listing, as the archiver makes them.
async fn put_wal(repository: &Repository) -> Vec<Event> {
    let (instance, branch) = orders();
    let writer = repository.writer(&instance, &branch);
    let name = |timeline, number| SegmentName::new(TimelineId(timeline), number, size());
    let raw = Bytes::from(vec![7_u8; usize::try_from(SEGMENT_SIZE).unwrap()]);
    for segment in [name(1, 3), name(1, 4), name(2, 5)] {
        let _ = writer.put_segment(segment, raw.clone()).await.unwrap();
    }
    for open in [name(1, 5), name(2, 6)] {
        let _ = writer.put_partial(open, raw.slice(..8192)).await.unwrap();
    }
    let history = Bytes::from_static(b"1\t0/500100\tno recovery target specified\n");
    let _ = writer.put_history(TimelineId(2), history).await.unwrap();

    let mut announced = Vec::new();
    for object in writer.list_wal(size()).await.unwrap() {
        let (kind, segment, range) = match object.kind {
            WalObjectKind::Segment(at) => (EventKind::Segment, at.to_string(), Some(at)),
            WalObjectKind::Partial(at) if at.timeline == TimelineId(2) => continue,
            WalObjectKind::Partial(at) => (EventKind::Partial, format!("{at}.partial"), Some(at)),
            WalObjectKind::History => (EventKind::History, "00000002.history".to_owned(), None),
        };
        announced.push(Event::WalSegmentArchived(WalSegmentArchived {
            instance: instance.clone(),
            branch: branch.clone(),
            timeline: object.timeline,
            segment,
            kind,
            start_lsn: range.map_or(Lsn(0), |at| at.start(size())),
            end_lsn: range.map_or(Lsn(0), |at| at.end(size())),
            stored_bytes: object.stored_bytes,
            archived_at: object.last_modified,
        }));
    }
    announced
}

/// The instance document, the branch and completed backups.
async fn store_in(repository: &Repository, backups: [u128; 2]) -> Vec<BackupSummary> {
    let (instance, branch) = orders();
    let Event::InstanceRegistered(registered) = registered("orders") else {
        panic!("the type was asked for");
    };
    let main = registered.main;
    let active = ActiveBranch {
        dsn: SealedSecret::from_base64(String::new()),
        system_identifier: main.system_identifier,
        timeline: main.timeline,
        server_version: main.server_version,
        wal_segment_size: main.wal_segment_size,
        origin: main.origin,
        size: main.size,
        created_at: main.created_at,
        archive_mode: events::ArchiveMode::default(),
        disk_risk: events::DiskRiskPolicy::default(),
    };
    let document = InstanceDocument {
        version: 1,
        instance: instance.clone(),
        registration: CommandId(uuid::Uuid::nil()),
        created_at: registered.created_at,
        removing: false,
        branches: [(branch.clone(), Branch::Active(active.clone()))].into(),
        schedules: registered.schedules,
    };
    repository.put_instance(&document).await.unwrap();
    let writer = repository.writer(&instance, &branch);
    let record = BranchRecord {
        instance: instance.clone(),
        branch: branch.clone(),
        system_identifier: active.system_identifier,
        server_version: active.server_version,
        wal_segment_size: size(),
        parent: None,
        created_at: active.created_at,
    };
    let _ = writer.claim_branch(&record).await.unwrap();
    let mut summaries = Vec::new();
    for id in backups {
        let Event::BackupCompleted(completed) = crate::scenario::completed("orders", backup_id(id))
        else {
            panic!("the type was asked for");
        };
        let attempt = completed.summary.attempt.clone();
        let backup = writer.begin_backup(backup_id(id), &attempt, BackupOptions::default());
        let stored = backup.unwrap().finish().await.unwrap();
        let mut summary = completed.summary;
        summary.files = stored.totals.files;
        summary.logical_bytes = stored.totals.logical_bytes;
        summary.stored_bytes = stored.totals.stored_bytes;
        let _ = stored.commit(summary.clone()).await.unwrap();
        summaries.push(summary);
    }
    summaries
}

#[tokio::test]
async fn rows_follow_the_streams_and_questions_are_answered() {
    let running = start().await;
    running.populate().await;
    let instances = running.ask("instance.list", json!({})).await;
    assert_eq!(instances["instances"][0]["name"], "orders");
    assert_eq!(instances["instances"][0]["backups"], 2);
    let list = running
        .ask("backup.list", json!({"instance": "orders"}))
        .await;
    assert_eq!(list["backups"].as_array().unwrap().len(), 4);
    assert_eq!(list["backups"][0]["status"], "in_progress");
    assert_eq!(list["backups"][0]["worker"], "first");
    let failed = running
        .ask("backup.list", json!({"status": "failed"}))
        .await;
    assert!(failed["backups"][0]["error"].is_string());
    let shown = running
        .ask("backup.show", json!({"id": backup_id(1)}))
        .await;
    for field in [
        "id",
        "name",
        "instance",
        "branch",
        "type",
        "status",
        "backed_up_at",
        "size_bytes",
        "logical_bytes",
        "start_lsn",
        "stop_lsn",
        "timeline",
        "trigger",
        "schedule_id",
        "expires_at",
        "error",
        "damaged_pages",
        "requested_at",
        "started_at",
        "duration_ms",
        "files",
        "server_version",
    ] {
        assert!(
            shown.get(field).is_some(),
            "{field} of the contract is missing"
        );
    }
    let wal = running
        .ask(
            "wal.summary",
            json!({"instance": "orders", "branch": "main"}),
        )
        .await;
    assert_eq!(wal["segments"], 3);
    assert_eq!(wal["last_segment"], "000000020000000000000005");
    assert_eq!(wal["gaps"], json!([]));
    let detail = running
        .ask("instance.show", json!({"instance": "orders"}))
        .await;
    assert_eq!(detail["name"], "orders");
    assert_eq!(detail["schedules"][0]["name"], "daily");
    let status = running.ask("status", json!({})).await;
    assert_eq!(status["streams"]["EVENTS"]["lag"], 0);
    assert_eq!(status["rebuilding"], json!(null));
}

#[tokio::test]
async fn what_is_not_there_is_not_found_with_a_hint() {
    let running = start().await;
    for (name, question) in [
        ("instance.show", json!({"instance": "nobody"})),
        (
            "branch.show",
            json!({"instance": "nobody", "branch": "main"}),
        ),
        ("branch.list", json!({"instance": "nobody"})),
        ("schedule.list", json!({"instance": "nobody"})),
        ("backup.list", json!({"instance": "nobody"})),
        ("backup.show", json!({"id": backup_id(9)})),
        ("restore.show", json!({"id": backup_id(9)})),
        (
            "wal.summary",
            json!({"instance": "nobody", "branch": "main"}),
        ),
    ] {
        let subject = subject::catalog_query(name);
        let error = answer(&running.projector, &subject, question)
            .await
            .unwrap_err();
        assert_eq!(error.code, "not_found", "{name}");
        assert!(!error.hint.is_empty(), "{name}");
    }
    let subject = subject::catalog_query("nonsense");
    let error = answer(&running.projector, &subject, json!({}))
        .await
        .unwrap_err();
    assert_eq!(error.code, "invalid");
}

#[tokio::test]
async fn both_rebuilds_make_the_rows_that_following_made() {
    let running = start().await;
    running.populate().await;
    let followed = all_rows(&running.store).await;
    for source in ["stream", "repository"] {
        let _ = running.ask("rebuild", json!({"from": source})).await;
        running.caught_up().await;
        let state = running.store.rebuild_state().await.unwrap();
        assert_eq!(json!(state.rebuilt_from), source);
        assert_eq!(
            all_rows(&running.store).await,
            followed,
            "rebuilt from {source}"
        );
    }
}

#[tokio::test]
async fn with_an_empty_bus_the_repository_gives_what_it_knows() {
    let running = start().await;
    running.populate().await;
    let mut known = all_rows(&running.store).await;
    known.backups.retain(|row| row.backed_up_at.is_some());
    known.restores.clear();

    let (store, _directory) = sqlite().await;
    let source = RebuildSource::Repository;
    let empty = Bus::in_memory();
    rebuild(&store, &running.repository, &empty, &SystemClock, source)
        .await
        .unwrap();
    assert_eq!(all_rows(&store).await, known);
}

#[tokio::test]
async fn another_stream_and_lost_messages_cause_a_rebuild() {
    let running = start().await;
    running.populate().await;
    let followed = all_rows(&running.store).await;
    let end = running
        .store
        .position(topology::EVENTS)
        .await
        .unwrap()
        .unwrap();
    let strangers = [
        Position {
            created: Some(example::at(-1)),
            applied: 3,
        },
        Position {
            created: end.created,
            applied: end.applied + 7,
        },
    ];
    for stranger in strangers {
        running.shutdown.cancel();
        let mut writing = running.store.begin().await.unwrap();
        writing.clear().await.unwrap();
        let Position { created, applied } = stranger;
        writing
            .set_position(topology::EVENTS, created, applied)
            .await
            .unwrap();
        writing.commit().await.unwrap();
        let shutdown = CancellationToken::new();
        let projector = running.projector.clone();
        let stop = shutdown.clone();
        let work = tokio::spawn(async move { projector.run(stop).await });
        running.caught_up().await;
        assert_eq!(all_rows(&running.store).await, followed);
        shutdown.cancel();
        work.await.unwrap();
    }
}

#[tokio::test]
async fn questions_are_answered_over_the_bus() {
    let running = start().await;
    running.populate().await;
    let (projector, shutdown) = (running.projector.clone(), running.shutdown.clone());
    drop(tokio::spawn(answer::serve(projector, shutdown)));
    let subject = subject::catalog_query("backup.list");
    let question = events::query::BackupList::default();
    let asked = async {
        loop {
            let wait = Duration::from_secs(5);
            let answer: Result<events::query::Backups, _> =
                running.bus.request(&subject, &question, wait).await;
            match answer {
                Ok(answer) => return answer,
                Err(bus::RequestError::NoResponder { .. }) => tokio::task::yield_now().await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    let answered = tokio::time::timeout(Duration::from_secs(10), asked)
        .await
        .unwrap();
    assert_eq!(answered.backups.len(), 4);
}
