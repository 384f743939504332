use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, Outgoing};
use events::query::RebuildSource;
use events::{Event, MessageId, example, subject, topology};
use repository::{Repository, RetryPolicy};
use serde_json::json;
use service::SystemClock;
use tokio_util::sync::CancellationToken;

use super::Projector;
use crate::answer::{self, answer};
use crate::rebuild::{STREAMS, rebuild};
use crate::scenario::{all_rows, backup_id, backup_life, event, registered, sqlite};
use crate::store::{Position, Store};

mod drills;
mod installation;
mod marks;
mod pages;

use installation::{announced, archived_on, completed_on, deletion, put_mark, put_wal, store_in};

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
        self.publish(put_mark(&self.repository, backup_id(1)).await)
            .await;
        self.publish(put_wal(&self.repository).await).await;
        self.publish(announced()).await;
        self.caught_up().await;
    }
}

#[tokio::test]
async fn rows_follow_the_streams_and_questions_are_answered() {
    let running = start().await;
    running.populate().await;
    let instances = running.ask("instance.list", json!({})).await;
    assert_eq!(instances["instances"][0]["name"], "orders");
    assert_eq!(instances["instances"][0]["backups"], 1);
    assert_eq!(instances["instances"][0]["proven_in_ms"], 3500);
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
        "wal_until",
        "hold",
        "deletion",
        "deleted_at",
        "verified_at",
    ] {
        assert!(
            shown.get(field).is_some(),
            "{field} of the contract is missing"
        );
    }
    assert_eq!(shown["status"], "expired");
    assert_eq!(shown["name"], "audit 2026");
    assert!(shown["deletion"]["delete_after"].is_string());
    let drills = running
        .ask("drill.list", json!({"instance": "orders"}))
        .await;
    assert_eq!(drills["drills"][0]["status"], "completed");
    let id = drills["drills"][0]["id"].clone();
    let drill = running.ask("drill.show", json!({"id": id})).await;
    assert_eq!(drill, drills["drills"][0]);
    let alerts = running.ask("alert.list", json!({"resolved": true})).await;
    assert_eq!(alerts["alerts"][0]["rule"], "wal_gap");
    let question = json!({"instance": "orders", "branch": "main", "from": example::at(-1)});
    let series = running.ask("series", question).await;
    assert_eq!(series["backups"].as_array().unwrap().len(), 2);
    assert!(series["wal"][0]["added_bytes"].as_u64().unwrap() > 0);
    let wal = running
        .ask(
            "wal.summary",
            json!({"instance": "orders", "branch": "main"}),
        )
        .await;
    assert_eq!(wal["segments"], 3);
    assert_eq!(wal["last_segment"], "000000020000000000000005");
    assert_eq!(wal["gaps"][0]["cause"], "slot_lost");
    assert_eq!(wal["slot_risk"]["level"], "alert");
    assert_eq!(wal["slot_risk"]["held_bytes"], 5_u64 << 30);
    let detail = running
        .ask("instance.show", json!({"instance": "orders"}))
        .await;
    assert_eq!(detail["name"], "orders");
    assert_eq!(detail["schedules"][0]["name"], "daily");
    let branch = &detail["branch_list"][0];
    let shown = running
        .ask(
            "branch.show",
            json!({"instance": "orders", "branch": "main"}),
        )
        .await;
    assert_eq!(shown, *branch);
    assert_eq!(branch["window"]["complete"], false);
    assert_eq!(branch["window"]["gaps"], 1);
    assert_eq!(branch["window"]["earliest"], json!(example::at(60)));
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
        ("drill.show", json!({"id": backup_id(9)})),
        ("drill.list", json!({"instance": "nobody"})),
        ("alert.list", json!({"instance": "nobody"})),
        ("series", json!({"instance": "nobody", "branch": "main"})),
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
async fn of_a_purged_branch_nothing_is_left_and_nothing_comes_back() {
    let running = start().await;
    running.populate().await;
    let before = all_rows(&running.store).await;
    let [registered, requested, deleted] = deletion("fix", true);
    let stored = [completed_on("fix", backup_id(9)), archived_on("fix", -60)];
    running.publish(vec![registered]).await;
    running.publish(stored.to_vec()).await;
    running.caught_up().await;
    let with_branch = all_rows(&running.store).await;
    assert_eq!(with_branch.backups.len(), before.backups.len() + 1);
    assert_eq!(with_branch.segments.len(), before.segments.len() + 1);
    running.publish(vec![requested, deleted]).await;
    running.caught_up().await;
    // Told late, and told of a later branch of that name.
    running.publish(vec![archived_on("fix", -30)]).await;
    running.caught_up().await;
    let after = all_rows(&running.store).await;
    assert_eq!(after.backups, before.backups);
    assert_eq!(after.segments, before.segments);
    assert_eq!(after.branches, before.branches);
    running.publish(vec![archived_on("fix", 30)]).await;
    running.caught_up().await;
    let again = all_rows(&running.store).await;
    assert_eq!(again.segments.len(), before.segments.len() + 1);
    for source in ["stream", "repository"] {
        let _ = running.ask("rebuild", json!({"from": source})).await;
        running.caught_up().await;
        assert_eq!(all_rows(&running.store).await, again, "from {source}");
    }

    // Deleted without that wish, it leaves what is stored of it.
    let [_, requested, deleted] = deletion("fix", false);
    running.publish(vec![requested, deleted]).await;
    running.caught_up().await;
    assert_eq!(all_rows(&running.store).await.segments, again.segments);
}

#[tokio::test]
async fn with_an_empty_bus_the_repository_gives_what_it_knows() {
    let running = start().await;
    running.populate().await;
    let mut known = all_rows(&running.store).await;
    known.backups.retain(|row| row.backed_up_at.is_some());
    known.restores.clear();
    // A mark says what is wanted, not since when.
    known
        .backups
        .iter_mut()
        .for_each(|row| row.marked_at = None);
    known.windows.clear();
    known.slot_risks.clear();
    known.drills.clear();
    known.alerts.clear();
    known.sweeps.clear();

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
