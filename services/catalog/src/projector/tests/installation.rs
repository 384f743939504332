//! An installation of one instance: what the repository has of it, and what is said of it.

use bytes::Bytes;
use events::document::{ActiveBranch, Branch};
use events::event::{
    AlertRule, BranchDeleted, BranchDeletionRequested, GapCause, SlotRiskChanged, SlotRiskLevel,
    WalGapDetected, WalObjectKind as EventKind, WalSegmentArchived,
};
use events::{
    BackupId, BackupSummary, BranchName, CommandId, Event, InstanceDocument, InstanceName,
    SealedSecret, example,
};
use pg_format::{Lsn, SegmentName, TimelineId, WalSegmentSize};
use repository::{BackupOptions, BranchRecord, Repository, WalGap, WalObjectKind};

use crate::scenario::{SEGMENT_SIZE, archived, backup_id, completed, event, lives, registered};

fn orders() -> (InstanceName, BranchName) {
    (InstanceName::new("orders").unwrap(), BranchName::main())
}

/// What an archiver says of a branch beside its WAL, the last word being the true one.
pub(super) fn announced() -> Vec<Event> {
    let (instance, branch) = orders();
    let window = |complete, second| {
        let Event::BranchWindowChanged(mut changed) = event("branch.window_changed") else {
            panic!("the type was asked for");
        };
        (changed.instance, changed.branch) = (instance.clone(), branch.clone());
        changed.window.earliest = Some(example::at(60));
        changed.window.complete = complete;
        changed.window.gaps.truncate(usize::from(!complete));
        changed.changed_at = example::at(second);
        Event::BranchWindowChanged(changed)
    };
    let risk = |level, held_bytes| {
        Event::SlotRiskChanged(SlotRiskChanged {
            instance: instance.clone(),
            branch: branch.clone(),
            level,
            held_bytes,
            limit_bytes: None,
            message: "the slot holds back 5 GiB; is the archiver running?".to_owned(),
            changed_at: example::at(9),
        })
    };
    vec![
        window(true, 1),
        risk(SlotRiskLevel::Warning, 1 << 30),
        window(false, 2),
        risk(SlotRiskLevel::Alert, 5 << 30),
    ]
}

fn size() -> WalSegmentSize {
    WalSegmentSize::new(SEGMENT_SIZE).unwrap()
}

/// Segments of two timelines, the history and the last partial of the first, and an open one that is not
/// announced. The announcements are made of the listing, as the archiver makes them.
pub(super) async fn put_wal(repository: &Repository) -> Vec<Event> {
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

    let gap = WalGap {
        timeline: TimelineId(1),
        from_lsn: Lsn(SEGMENT_SIZE),
        to_lsn: Lsn(3 * SEGMENT_SIZE),
        cause: GapCause::SlotLost,
        detected_at: example::at(7),
        proven: None,
    };
    writer.put_wal_gap(&gap).await.unwrap();

    let mut announced = vec![Event::WalGapDetected(WalGapDetected {
        instance: instance.clone(),
        branch: branch.clone(),
        timeline: gap.timeline,
        from_lsn: gap.from_lsn,
        to_lsn: gap.to_lsn,
        cause: gap.cause,
        detected_at: gap.detected_at,
    })];
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
pub(super) async fn store_in(repository: &Repository, backups: [u128; 2]) -> Vec<BackupSummary> {
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
        branches: [(branch.clone(), Branch::Active(active.clone()))].into(),
        schedules: registered.schedules,
        ..InstanceDocument::new(
            instance.clone(),
            CommandId(uuid::Uuid::nil()),
            registered.created_at,
        )
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

/// The wish that a backup goes, in the repository and told; with other things that happen to an instance.
pub(super) async fn put_mark(repository: &Repository, id: BackupId) -> Vec<Event> {
    let (instance, branch) = orders();
    let writer = repository.writer(&instance, &branch);
    let mark = example::mark();
    let read = writer.mark(id).await.unwrap();
    let _ = writer.put_mark(id, &mark, &read).await.unwrap();
    let mut told = vec![lives::marked("orders", id, mark, 900)];
    told.extend(lives::drill_life("orders", 1, Some(example::at(600))));
    told.extend(lives::alert_life("orders", AlertRule::WalGap, 7));
    told
}

/// A branch's registration, the wish to delete it, and its end.
pub(super) fn deletion(name: &str, purge: bool) -> [Event; 3] {
    let (instance, _main) = orders();
    let branch = BranchName::new(name).unwrap();
    let Event::BranchRegistered(mut registered) = event("branch.registered") else {
        panic!("the type was asked for");
    };
    registered.instance = instance.clone();
    registered.branch = branch.clone();
    [
        Event::BranchRegistered(registered),
        Event::BranchDeletionRequested(BranchDeletionRequested {
            instance: instance.clone(),
            branch: branch.clone(),
            purge,
            restore_id: None,
        }),
        Event::BranchDeleted(BranchDeleted {
            instance,
            branch,
            restore_id: None,
        }),
    ]
}

pub(super) fn completed_on(name: &str, id: BackupId) -> Event {
    let Event::BackupCompleted(mut completed) = completed("orders", id) else {
        panic!("the type was asked for");
    };
    completed.branch = BranchName::new(name).unwrap();
    completed.summary.branch = completed.branch.clone();
    Event::BackupCompleted(completed)
}

/// A segment of this branch, archived so many seconds after what is published here is said.
pub(super) fn archived_on(name: &str, seconds: i64) -> Event {
    let Event::WalSegmentArchived(mut archived) = archived("orders", 3) else {
        panic!("the type was asked for");
    };
    archived.branch = BranchName::new(name).unwrap();
    archived.archived_at = example::at(seconds);
    Event::WalSegmentArchived(archived)
}
