//! What the planner is given: what the repository has of a branch, what is wanted of it, and what is going on.

use std::collections::BTreeSet;

use chrono::TimeDelta;
use events::document::Branch;
use events::mark::Hold;
use events::slot::{BackupSlot, backup_slot};
use events::{
    BackupId, BranchName, Event, InstanceDocument, InstanceName, SweepId, Timestamp, subject,
    topology,
};
use pg_format::WalSegmentSize;
use repository::WalObjectKind;
use repository::archive::{self, Archive, KnownManifests};
use retention::{Backup, HistoryFile, Reader, RunningBackup, Stored, WalFile, WalFileKind};

use crate::commands::World;
use crate::refusal::Unfinished;

pub(super) mod clock;
mod leftovers;

/// A branch as it was found.
pub(crate) struct Found {
    pub(crate) archive: Archive,
    pub(crate) stored: Stored,
    /// Read after what is stored.
    pub(crate) document: InstanceDocument,
    /// What time it was for the store; asked for only where something is due by this process's clock.
    pub(crate) store_now: Option<Timestamp>,
}

/// Whether retention is carried out on a branch, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Life {
    /// It is there.
    Live,
    /// It is stored and nowhere else.
    Gone,
    /// It is being made or removed: whoever does that decides.
    Between,
}

pub(crate) fn life(document: &InstanceDocument, branch: &BranchName) -> Life {
    match document.branches.get(branch) {
        Some(Branch::Active(_)) => Life::Live,
        Some(Branch::Restoring { .. } | Branch::Deleting(_)) => Life::Between,
        None => Life::Gone,
    }
}

/// What reads a branch, by the document.
pub(crate) fn readers(document: &InstanceDocument, branch: &BranchName) -> Vec<Reader> {
    let mut readers = Vec::new();
    for (name, state) in &document.branches {
        // Older versions did not say what they read.
        if let Branch::Restoring { restore_id, source } = state
            && source.as_ref().is_none_or(|source| source == branch)
        {
            let what = format!("restore {restore_id} into {}/{name}", document.instance);
            readers.push(Reader { what });
        }
    }
    if let Some(drill) = &document.running_drill
        && drill.branch == *branch
    {
        let what = format!("drill {}", drill.drill_id);
        readers.push(Reader { what });
    }
    readers
}

/// Reads a branch, but for the manifests that are known. `None` when nothing of it is stored, or the instance is gone.
pub(crate) async fn find(
    world: &World,
    (instance, branch): (&InstanceName, &BranchName),
    known: Option<&KnownManifests>,
) -> Result<Option<Found>, Unfinished> {
    let reader = world.repository.reader(instance, branch);
    // One that ends while the repository is read may be in neither, so the slot is read on both sides of that.
    let before = slot(world, instance, branch).await?;
    // One that is committed meanwhile has its manifest when the manifests are read.
    let with_packs = reader.backups_with_packs().await?;
    let (archive, size) = match known {
        Some(known) => archive::read_new(&reader, known).await?,
        None => archive::read_all(&reader).await?,
    };
    // What is going on is read after what is stored: what began later is seen, what is not listed is not touched.
    let found = world.bus.instances().get(instance).await?;
    let (Some((document, _)), Some(size)) = (found, size) else {
        return Ok(None);
    };
    let after = slot(world, instance, branch).await?;
    let known: BTreeSet<BackupId> = archive.backups.iter().map(|one| one.backup_id).collect();
    let taken: BTreeSet<BackupId> = before.into_iter().chain(after).collect();
    let mut under_way = Vec::new();
    for id in taken.difference(&known) {
        under_way.push(running(world, instance, branch, *id).await?);
    }
    let (now, grace) = (world.clock.now(), clock::grace(world));
    let mut stored = from(&archive, (now, grace), size);
    stored.live = life(&document, branch) == Life::Live;
    stored.readers.extend(readers(&document, branch));
    stored.running = under_way;
    let place = (instance, branch);
    stored.leftovers = leftovers::find(world, place, &archive, with_packs, (now, &taken)).await?;
    let mut store_now = None;
    let plan = retention::plan(&stored);
    if !plan.marks().is_empty() || plan.sweep(SweepId(uuid::Uuid::nil())).is_some() {
        store_now = clock::of_store(world, instance, branch).await?;
        // What is due is so by both clocks.
        stored.now = store_now.map_or(now, |store_now| store_now.min(now));
    }
    Ok(Some(Found {
        archive,
        stored,
        document,
        store_now,
    }))
}

/// The backup that a branch's slot names. A value that cannot be read names one that nobody knows; so does a slot that is
/// not there while the bucket may lack what runs, because it was lost.
pub(super) async fn slot(
    world: &World,
    instance: &InstanceName,
    branch: &BranchName,
) -> Result<Option<BackupId>, Unfinished> {
    let slots = world.bus.bucket(topology::SLOTS);
    let nobody = BackupId(uuid::Uuid::nil());
    let Some((value, _)) = slots.get(&backup_slot(instance, branch)).await? else {
        return Ok((!world.slots_are_whole().await?).then_some(nobody));
    };
    let named = serde_json::from_slice::<BackupSlot>(&value);
    Ok(Some(named.map_or(nobody, |slot| slot.backup_id)))
}

/// A backup that is being taken, and where its WAL begins if the worker has said so.
async fn running(
    world: &World,
    instance: &InstanceName,
    branch: &BranchName,
    id: BackupId,
) -> Result<RunningBackup, Unfinished> {
    let fence = subject::backup_fence(instance, branch, id);
    let last = world.bus.last_on(&fence).await?;
    let start = match last.map(|last| last.envelope.message) {
        // What it said in an attempt before is not the last: an attempt begins with `backup.started`.
        Some(Event::BackupProgressed(said)) => said.start.map(|at| (at.timeline, at.lsn)),
        Some(Event::BackupCompleted(said)) => Some((said.summary.timeline, said.summary.start_lsn)),
        _ => None,
    };
    Ok(RunningBackup { id, start })
}

fn from(archive: &Archive, (now, grace): (Timestamp, TimeDelta), size: WalSegmentSize) -> Stored {
    let unreadable = archive.unreadable.iter().map(|id| Reader {
        what: format!(
            "whoever knows what backup {id} needs (its manifest is damaged or of a newer version: bring it back, or \
             delete the object)"
        ),
    });
    Stored {
        now,
        grace,
        live: false,
        segment_size: size,
        archived_timeline: archive.position.as_ref().map(|position| position.timeline),
        backups: backups(archive),
        wal: wal(archive, size),
        history_files: histories(archive),
        readers: unreadable.collect(),
        running: Vec::new(),
        leftovers: Vec::new(),
    }
}

fn backups(archive: &Archive) -> Vec<Backup> {
    let backup = |summary: &events::BackupSummary| {
        let id = summary.backup_id;
        let mark = archive.marks.of(id);
        let unknown = archive.marks.unreadable.contains(&id).then(|| Hold {
            reason: Some("its mark cannot be read".to_owned()),
            since: summary.backed_up_at,
        });
        Backup {
            id,
            name: summary.name.clone(),
            timeline: summary.timeline,
            start_lsn: summary.start_lsn,
            stop_lsn: summary.stop_lsn,
            backed_up_at: summary.backed_up_at,
            expires_at: summary.expires_at,
            wal_until: summary.wal_until,
            stored_bytes: summary.stored_bytes,
            // Pages that were damaged on the source already do not count: they are in every later backup too.
            damaged: mark.is_damaged(),
            hold: mark.hold.or(unknown),
            deletion: mark.deletion,
            refers_to: archive.refers_to.get(&id).cloned().unwrap_or_default(),
        }
    };
    archive.backups.iter().map(backup).collect()
}

fn wal(archive: &Archive, size: WalSegmentSize) -> Vec<WalFile> {
    let files = archive.objects.iter().filter_map(|object| {
        let (name, kind) = match object.kind {
            WalObjectKind::History => return None,
            WalObjectKind::Segment(name) => (name, WalFileKind::Complete),
            WalObjectKind::Partial(name) => {
                let open = archive.open.iter().find(|open| open.name == name);
                let raw_bytes = open.map_or(0, |open| open.raw_bytes);
                (name, WalFileKind::Partial { raw_bytes })
            }
        };
        Some(WalFile {
            timeline: object.timeline,
            number: name.number(size),
            kind,
            stored_bytes: object.stored_bytes,
        })
    });
    files.collect()
}

fn histories(archive: &Archive) -> Vec<HistoryFile> {
    let files = archive.objects.iter();
    let files = files.filter(|object| object.kind == WalObjectKind::History);
    files
        .map(|object| HistoryFile {
            timeline: object.timeline,
            history: archive.histories.get(&object.timeline).cloned(),
            stored_bytes: object.stored_bytes,
        })
        .collect()
}
