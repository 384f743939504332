//! Manifests that were read before: whoever reads a branch again and again reads only what is new of it.
//!
//! What must stay true: a manifest never changes, so what was read stands for an object of the same key, size, tag and
//! time, as the listing has them, and for no other. What cannot be read is not known. All of it may be forgotten at any
//! time. Memory is bounded: where there is no room, what is new is not kept. (Branches are read in turn, so to make room
//! by what was not read for longest would be to forget what is read next.)

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use events::event::BackupSummary;
use events::{BackupId, BranchName, InstanceName};
use object_store::ObjectMeta;

use crate::{BranchReader, Manifest};

/// What it costs to know a manifest, beside what it is made of: places in two maps.
const OVERHEAD_BYTES: usize = 128;

/// Known manifests of many branches.
#[derive(Debug)]
pub struct KnownManifests {
    most_bytes: usize,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    bytes: usize,
    instances: BTreeMap<InstanceName, BTreeMap<BranchName, Branch>>,
}

type Branch = BTreeMap<BackupId, (Version, Told)>;

/// Which object was read.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Version {
    pub(crate) bytes: u64,
    tag: Option<String>,
    changed: chrono::DateTime<chrono::Utc>,
}

impl Version {
    pub(crate) fn of(listed: ObjectMeta) -> Self {
        Version {
            bytes: listed.size,
            tag: listed.e_tag,
            changed: listed.last_modified,
        }
    }

    /// Whether it is the same object. Some stores quote the tag in one answer and not in the other, or tell the time in
    /// seconds only.
    pub(crate) fn is_same(&self, other: &Version) -> bool {
        let tags = self.tag.as_ref().zip(other.tag.as_ref());
        let same_tag =
            tags.is_none_or(|(one, other)| one.trim_matches('"') == other.trim_matches('"'));
        let same_time = self.changed.timestamp() == other.changed.timestamp();
        same_tag && same_time && self.bytes == other.bytes
    }
}

/// What a manifest tells whoever decides about restores.
#[derive(Clone, Debug)]
pub(super) struct Told {
    pub(super) summary: BackupSummary,
    /// The other backups whose packs it names.
    pub(super) others: Vec<BackupId>,
}

impl Told {
    pub(super) fn by(manifest: Manifest) -> Self {
        let own = manifest.summary.backup_id;
        let named: BTreeSet<BackupId> = manifest.packs.iter().map(|pack| pack.backup).collect();
        Told {
            others: named.into_iter().filter(|other| *other != own).collect(),
            summary: manifest.summary,
        }
    }

    fn bytes(&self) -> usize {
        let summary = &self.summary;
        let texts = summary.instance.as_str().len()
            + summary.branch.as_str().len()
            + summary.name.len()
            + summary.attempt.len();
        let pages = size_of_val(summary.damaged_pages.as_slice());
        let files = summary.damaged_pages.iter().map(|page| page.file.len());
        size_of::<(BackupId, Version, Told)>()
            + OVERHEAD_BYTES
            + texts
            + pages
            + files.sum::<usize>()
            + size_of_val(self.others.as_slice())
    }
}

impl KnownManifests {
    /// Nothing is known. At most so many bytes will be kept, as far as can be told.
    #[must_use]
    pub fn new(most_bytes: usize) -> Self {
        KnownManifests {
            most_bytes,
            known: Mutex::default(),
        }
    }

    /// How many manifests are known, and how many bytes they take.
    #[must_use]
    pub fn size(&self) -> (usize, usize) {
        let known = self.known();
        let branches = known.instances.values().flat_map(BTreeMap::values);
        (branches.map(BTreeMap::len).sum(), known.bytes)
    }

    /// The instance is gone.
    pub fn forget(&self, instance: &InstanceName) {
        let mut known = self.known();
        let gone = known.instances.remove(instance).unwrap_or_default();
        let gone = gone.values().flat_map(BTreeMap::values);
        known.bytes -= gone.map(|(_, told)| told.bytes()).sum::<usize>();
    }

    /// Only these backups of the branch are there.
    pub(super) fn keep_only(&self, branch: &BranchReader, there: &BTreeSet<BackupId>) {
        let mut known = self.known();
        let Some(branches) = known.instances.get_mut(branch.instance()) else {
            return;
        };
        let Some(backups) = branches.get_mut(branch.branch()) else {
            return;
        };
        let mut freed = 0;
        backups.retain(|id, (_, told)| {
            let stays = there.contains(id);
            freed += if stays { 0 } else { told.bytes() };
            stays
        });
        if backups.is_empty() {
            drop(branches.remove(branch.branch()));
        }
        known.bytes -= freed;
    }

    pub(super) fn get(
        &self,
        branch: &BranchReader,
        backup: BackupId,
        version: &Version,
    ) -> Option<Told> {
        let known = self.known();
        let backups = known.instances.get(branch.instance())?;
        let (read, told) = backups.get(branch.branch())?.get(&backup)?;
        (read == version).then(|| told.clone())
    }

    pub(super) fn keep(
        &self,
        branch: &BranchReader,
        backup: BackupId,
        version: Version,
        told: &Told,
    ) {
        let mut known = self.known();
        let bytes = told.bytes();
        if known.bytes + bytes > self.most_bytes {
            return;
        }
        let branches = known
            .instances
            .entry(branch.instance().clone())
            .or_default();
        let backups = branches.entry(branch.branch().clone()).or_default();
        let before = backups.insert(backup, (version, told.clone()));
        known.bytes += bytes;
        known.bytes -= before.map_or(0, |(_, before)| before.bytes());
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
