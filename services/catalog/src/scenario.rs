//! For tests: events of a small installation, and everything that is in the rows.

use events::event::{BackupPhase, BackupProgressed, BackupStarted};
use events::query::RebuildSource;
use events::{BackupId, BranchName, Event, InstanceName, Timestamp, example};
use pg_format::{SegmentName, TimelineId, WalSegmentSize};

use crate::projection::project;
use crate::store::rows::{
    AlertRow, ArchiveRow, BackupRow, BackupTotalsRow, BranchRow, DrillRow, InstanceRow, PurgeRow,
    RestoreRow, ScheduleRow, SlotRiskRow, SweepRow, WalDayRow, WalFileRow, WalGapRow, WalPruneRow,
    WindowRow,
};
use crate::store::{Step, Store};

pub(crate) mod lives;

/// Small segments keep the tests quick.
pub(crate) const SEGMENT_SIZE: u64 = 1 << 20;

/// All rows, in the order of their keys.
#[derive(Debug, PartialEq)]
pub(crate) struct AllRows {
    pub(crate) instances: Vec<InstanceRow>,
    pub(crate) branches: Vec<BranchRow>,
    pub(crate) schedules: Vec<ScheduleRow>,
    pub(crate) backups: Vec<BackupRow>,
    pub(crate) backup_totals: Vec<BackupTotalsRow>,
    pub(crate) restores: Vec<RestoreRow>,
    pub(crate) segments: Vec<WalFileRow>,
    pub(crate) gaps: Vec<WalGapRow>,
    pub(crate) windows: Vec<WindowRow>,
    pub(crate) slot_risks: Vec<SlotRiskRow>,
    pub(crate) purges: Vec<PurgeRow>,
    pub(crate) archives: Vec<ArchiveRow>,
    pub(crate) wal_days: Vec<WalDayRow>,
    pub(crate) prunes: Vec<WalPruneRow>,
    pub(crate) sweeps: Vec<SweepRow>,
    pub(crate) drills: Vec<DrillRow>,
    pub(crate) alerts: Vec<AlertRow>,
}

pub(crate) async fn all_rows(store: &Store) -> AllRows {
    AllRows {
        instances: store.all().await.unwrap(),
        branches: store.all().await.unwrap(),
        schedules: store.all().await.unwrap(),
        backups: store.all().await.unwrap(),
        backup_totals: store.all().await.unwrap(),
        restores: store.all().await.unwrap(),
        segments: store.all().await.unwrap(),
        gaps: store.all().await.unwrap(),
        windows: store.all().await.unwrap(),
        slot_risks: store.all().await.unwrap(),
        purges: store.all().await.unwrap(),
        archives: store.all().await.unwrap(),
        wal_days: store.all().await.unwrap(),
        prunes: store.all().await.unwrap(),
        sweeps: store.all().await.unwrap(),
        drills: store.all().await.unwrap(),
        alerts: store.all().await.unwrap(),
    }
}

/// A new catalog in SQLite; the directory must live as long.
pub(crate) async fn sqlite() -> (Store, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let url = format!("sqlite://{}/a/catalog.sqlite", directory.path().display());
    (Store::open(&url).await.unwrap(), directory)
}

/// The first example of this type.
pub(crate) fn event(type_name: &str) -> Event {
    let of_type = |event: &Event| event.type_name() == type_name;
    example::events().into_iter().find(of_type).unwrap()
}

/// A number that stands in a UUID.
pub(crate) fn backup_id(number: u128) -> BackupId {
    BackupId(uuid::Uuid::from_u128(number))
}

fn instance(name: &str) -> InstanceName {
    InstanceName::new(name).unwrap()
}

/// The registration of an instance, created at `name`'s own moment.
pub(crate) fn registered(name: &str) -> Event {
    let Event::InstanceRegistered(mut event) = event("instance.registered") else {
        unreachable!("the type was asked for");
    };
    event.instance = instance(name);
    event.main.wal_segment_size = WalSegmentSize::new(SEGMENT_SIZE).unwrap();
    Event::InstanceRegistered(event)
}

/// A backup's life: requested, started by two workers, progressed, then failed or completed.
pub(crate) fn backup_life(name: &str, id: BackupId, succeeds: bool) -> Vec<Event> {
    let (instance, branch) = (instance(name), BranchName::main());
    let Event::BackupRequested(mut requested) = event("backup.requested") else {
        unreachable!("the type was asked for");
    };
    requested.instance = instance.clone();
    requested.backup_id = id;
    let started = |worker: &str, second| {
        Event::BackupStarted(BackupStarted {
            backup_id: id,
            instance: instance.clone(),
            branch: branch.clone(),
            worker: worker.to_owned(),
            attempt: worker.to_owned(),
            started_at: example::at(second),
        })
    };
    let progressed = Event::BackupProgressed(BackupProgressed {
        backup_id: id,
        instance: instance.clone(),
        branch: branch.clone(),
        phase: BackupPhase::Copying,
        done_bytes: 1,
        total_bytes: 2,
        start: None,
        problem: None,
    });
    let mut life = vec![
        Event::BackupRequested(requested),
        started("first", 1),
        progressed.clone(),
        started("second", 2),
        progressed,
    ];
    if succeeds {
        life.push(completed(name, id));
    } else {
        let Event::BackupFailed(mut failed) = event("backup.failed") else {
            unreachable!("the type was asked for");
        };
        failed.instance = instance;
        failed.branch = branch;
        failed.backup_id = id;
        life.push(Event::BackupFailed(failed));
    }
    life
}

/// The completion of a backup.
pub(crate) fn completed(name: &str, id: BackupId) -> Event {
    let Event::BackupCompleted(mut event) = event("backup.completed") else {
        unreachable!("the type was asked for");
    };
    event.instance = instance(name);
    event.backup_id = id;
    event.summary.instance = instance(name);
    event.summary.branch = event.branch.clone();
    event.summary.backup_id = id;
    Event::BackupCompleted(event)
}

/// The segment of this number on timeline 1, as archived.
pub(crate) fn archived(name: &str, number: u64) -> Event {
    let Event::WalSegmentArchived(mut event) = event("wal.segment.archived") else {
        unreachable!("the type was asked for");
    };
    let size = WalSegmentSize::new(SEGMENT_SIZE).unwrap();
    let segment = SegmentName::new(TimelineId(1), number, size);
    event.instance = instance(name);
    event.branch = BranchName::main();
    event.timeline = TimelineId(1);
    event.segment = segment.to_string();
    event.kind = events::event::WalObjectKind::Segment;
    event.start_lsn = segment.start(size);
    event.end_lsn = segment.end(size);
    Event::WalSegmentArchived(event)
}

/// These events as the next steps of a stream.
pub(crate) fn steps(events: &[Event], first: u64) -> Vec<Step> {
    let numbered = events.iter().zip(first..);
    numbered
        .map(|(event, sequence)| Step {
            sequence,
            changes: project(event, example::at(1000)),
            span: tracing::Span::none(),
        })
        .collect()
}

/// Makes the rows belong to a stream of which nothing is applied.
pub(crate) async fn adopt(store: &Store, stream: &str, created: Timestamp) {
    let mut writing = store.begin().await.unwrap();
    writing
        .set_position(stream, Some(created), 0)
        .await
        .unwrap();
    writing
        .rebuilt(RebuildSource::Stream, created)
        .await
        .unwrap();
    writing.commit().await.unwrap();
}
