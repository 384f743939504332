//! Building the rows anew: from what the streams still hold, or from a listing of the repository and what
//! the streams hold over it.
//!
//! The repository knows instances, branches, schedules, completed backups with their marks (another name or end, held, to
//! go, what the last verification found), sweeps under way, WAL and what is missing of it, from their beginning.
//! Running, failed, skipped and expired backups, restores, drills, alerts, sweeps that are done, whether a branch's
//! server is stopped, windows and slots' risks are only in the streams, which forget (events after a year, WAL after
//! thirty days); windows and risks are said anew by their archivers. So is what WAL came in a day, if it went since: days
//! before that are made of what is left of them. All of it is one transaction: readers see the old rows until the new
//! ones are complete, and a rebuild that was killed has changed nothing but the note that it is wanted.

use bus::{Bus, BusError, Sequence};
use events::document::Branch;
use events::event::{RegisteredBranch, WalObjectKind as EventKind};
use events::query::{BranchState, RebuildSource};
use events::{BranchName, InstanceDocument, InstanceName, topology};
use pg_format::{Lsn, WalSegmentSize};
use repository::{BranchReader, Repository, RepositoryError, WalGap, WalObject, WalObjectKind};
use service::Clock;

use crate::projection::{
    Change, completed_backup, marked_backup, project, put_branch, put_schedule,
};
use crate::read_ahead::{LARGEST_BATCH, next_batch, read_ahead};
use crate::store::rows::{InstanceRow, SweepRow, WalFileRow, WalGapRow};
use crate::store::{Step, Store, StoreError, Writing};

/// The streams that are projected.
pub(crate) const STREAMS: [&str; 2] = [topology::EVENTS, topology::WAL];

/// A rebuild failed; the rows are as before.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RebuildError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the repository cannot be listed; check ZEKTOR_REPOSITORY_URL")]
    Repository(#[from] RepositoryError),
    #[error("the streams cannot be read")]
    Bus(#[from] BusError),
}

/// Everything in a stream. Not said by its subjects: the server reads a list of them ten times slower than all.
pub(crate) fn everything() -> Vec<String> {
    Vec::new()
}

/// Replaces all rows, in one transaction.
pub(crate) async fn rebuild(
    store: &Store,
    repository: &Repository,
    bus: &Bus,
    clock: &dyn Clock,
    source: RebuildSource,
) -> Result<(), RebuildError> {
    let mut writing = store.begin().await?;
    writing.clear().await?;
    if source == RebuildSource::Repository {
        list_repository(repository, &mut writing).await?;
    }
    for stream in STREAMS {
        match replay(bus, stream, &mut writing).await {
            Ok(()) => {}
            // The repository's rows are right without the bus; what it has is applied when it is back.
            Err(RebuildError::Bus(error))
                if source == RebuildSource::Repository && error.is_transient() =>
            {
                tracing::warn!(
                    stream,
                    error = &error as &dyn std::error::Error,
                    "rebuilt without what the stream holds"
                );
                writing.set_position(stream, None, 0).await?;
            }
            Err(error) => return Err(error),
        }
    }
    writing.rebuilt(source, clock.now()).await?;
    let counts = writing.counts().await?;
    writing.commit().await?;
    tracing::info!(?source, ?counts, "the rows were built anew");
    Ok(())
}

/// Applies what a stream holds now.
async fn replay(bus: &Bus, stream: &str, writing: &mut Writing) -> Result<(), RebuildError> {
    let state = bus.stream_state(stream).await?;
    let mut reached = state.last.0;
    let history = bus.history(everything(), Sequence(1), stream).await?;
    let mut steps = read_ahead(stream, history, |stored| Step {
        sequence: stored.sequence.0,
        changes: project(&stored.envelope.message, stored.envelope.time),
        span: tracing::Span::none(),
    });
    while let Some((batch, end)) = next_batch(&mut steps).await {
        reached = batch
            .last()
            .map_or(reached, |step| reached.max(step.sequence));
        let changes = batch.into_iter().flat_map(|step| step.changes);
        writing.change_all(changes.collect()).await?;
        if let Some(error) = end {
            return Err(error.into());
        }
    }
    writing
        .set_position(stream, Some(state.created), reached)
        .await?;
    Ok(())
}

/// The rows of everything the repository has.
async fn list_repository(
    repository: &Repository,
    writing: &mut Writing,
) -> Result<(), RebuildError> {
    let documents = repository.instances().await?;
    // The mirror of a removed instance stays, to tell a removal from a loss. One that cannot be read was left out and
    // logged: of that instance there is what is stored, and what the streams say.
    for document in documents.into_iter().filter(|document| !document.removing) {
        writing.change_all(of_document(&document)).await?;
    }
    for (instance, branch) in repository.list_branches().await? {
        let reader = repository.reader(&instance, &branch);
        list_backups(&reader, writing).await?;
        let gaps = readable(reader.wal_gaps().await)?.unwrap_or_default();
        let gaps = gaps.into_iter().map(|gap| gap_row(&reader, gap));
        writing.change_all(gaps.collect()).await?;
        if let Some(record) = readable(reader.record().await)? {
            list_wal(&reader, record.wal_segment_size, writing).await?;
        }
    }
    Ok(())
}

/// Completed backups, and what is wanted of them since.
async fn list_backups(reader: &BranchReader, writing: &mut Writing) -> Result<(), RebuildError> {
    let mut marks = reader.marks().await?.known;
    for id in reader.list_backups().await? {
        // One backup that cannot be read must not hide the others.
        let Some(manifest) = readable(reader.manifest(id).await)? else {
            continue;
        };
        writing.change(completed_backup(&manifest.summary)).await?;
        if let Some(mark) = marks.remove(&id) {
            let marked = marked_backup(reader.instance(), reader.branch(), id, mark);
            writing.change(marked).await?;
        }
    }
    Ok(())
}

/// Absent, damaged or too new objects are passed over; a store that does not answer is an error.
fn readable<T>(read: repository::Result<T>) -> Result<Option<T>, RebuildError> {
    use repository::ErrorClass::{Absent, Transient};
    match read {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.class() == Absent => Ok(None),
        Err(error) if error.class() == Transient => Err(error.into()),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "passed over an object"
            );
            Ok(None)
        }
    }
}

/// What an instance's events would have said.
fn of_document(document: &InstanceDocument) -> Vec<Change> {
    let instance = &document.instance;
    let mut changes = vec![Change::PutInstance(InstanceRow {
        instance: instance.clone(),
        created_at: document.created_at,
        pool: document.pool.clone(),
        drills: document.drills.clone(),
    })];
    for (name, branch) in &document.branches {
        let (active, state) = match branch {
            Branch::Restoring { .. } => continue,
            Branch::Active(active) => (active, BranchState::Active),
            Branch::Deleting(active) => (active, BranchState::Deleting),
        };
        let registered = RegisteredBranch::from(active);
        changes.push(put_branch(instance, name, &registered, state));
    }
    changes.extend(document.schedules.iter().map(|s| put_schedule(instance, s)));
    changes.extend(document.sweeps.iter().map(|(branch, sweep)| {
        Change::Sweep(SweepRow {
            instance: instance.clone(),
            branch: branch.clone(),
            id: sweep.sweep_id,
            asked_at: Some(sweep.asked_at),
            histories: sweep.histories.clone(),
            objects: None,
            bytes: None,
            swept_at: None,
        })
    }));
    changes
}

async fn list_wal(
    reader: &BranchReader,
    size: WalSegmentSize,
    writing: &mut Writing,
) -> Result<(), RebuildError> {
    let objects = reader.list_wal(size).await?;
    let newest = objects.iter().map(|object| object.timeline).max();
    // The open segment of the newest timeline is not announced; the ends of older ones are.
    let open = |object: &WalObject| {
        matches!(object.kind, WalObjectKind::Partial(_)) && Some(object.timeline) == newest
    };
    let told: Vec<&WalObject> = objects.iter().filter(|object| !open(object)).collect();
    for part in told.chunks(LARGEST_BATCH) {
        let rows = part.iter().map(|object| {
            Change::PutFile(file_row(reader.instance(), reader.branch(), object, size))
        });
        writing.change_all(rows.collect()).await?;
    }
    Ok(())
}

/// The row that the archiver's announcement of this gap makes.
fn gap_row(reader: &BranchReader, gap: WalGap) -> Change {
    Change::PutGap(WalGapRow {
        instance: reader.instance().clone(),
        branch: reader.branch().clone(),
        timeline: gap.timeline,
        from_lsn: gap.from_lsn,
        to_lsn: gap.to_lsn,
        cause: gap.cause,
        detected_at: gap.detected_at,
    })
}

/// The row that the archiver's announcement of this object makes; it is made of the listing too.
fn file_row(
    instance: &InstanceName,
    branch: &BranchName,
    object: &WalObject,
    size: WalSegmentSize,
) -> WalFileRow {
    let (kind, segment, start_lsn, end_lsn) = match object.kind {
        WalObjectKind::Segment(name) => {
            let (start, end) = (name.start(size), name.end(size));
            (EventKind::Segment, name.to_string(), start, end)
        }
        WalObjectKind::Partial(name) => {
            let (start, end) = (name.start(size), name.end(size));
            (EventKind::Partial, format!("{name}.partial"), start, end)
        }
        WalObjectKind::History => {
            let file = object.timeline.history_file_name();
            (EventKind::History, file, Lsn(0), Lsn(0))
        }
    };
    WalFileRow {
        instance: instance.clone(),
        branch: branch.clone(),
        timeline: object.timeline,
        start_lsn,
        kind,
        segment,
        end_lsn,
        stored_bytes: object.stored_bytes,
        archived_at: object.last_modified,
    }
}
