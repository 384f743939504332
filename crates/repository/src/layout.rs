//! Where every object is: the keys of `ARCHITECTURE.md`'s "Repository layout".
//!
//! Keys are relative to the repository's root. Names are validated where they are made
//! ([`InstanceName`], [`BranchName`]), so no key can leave its branch.

use events::{BackupId, BranchName, InstanceName};
use pg_format::{Lsn, SegmentName, TimelineId};

use crate::WalObjectKind;

/// The first part of every key: the layout's version.
pub(crate) const ROOT: &str = "v1";

/// Mirrored instance documents.
pub(crate) const INSTANCES: &str = "v1/instances";

pub(crate) fn instance_document(instance: &InstanceName) -> String {
    format!("{INSTANCES}/{instance}.json")
}

/// The keys of one branch.
#[derive(Clone, Debug)]
pub(crate) struct BranchLayout {
    root: String,
}

impl BranchLayout {
    pub(crate) fn new(instance: &InstanceName, branch: &BranchName) -> Self {
        BranchLayout {
            root: format!("{ROOT}/{instance}/{branch}"),
        }
    }

    pub(crate) fn root(&self) -> String {
        self.root.clone()
    }

    pub(crate) fn record(&self) -> String {
        format!("{}/branch.json", self.root)
    }

    /// Written and deleted by whoever asks for the store's time.
    pub(crate) fn clock(&self) -> String {
        format!("{}/clock", self.root)
    }

    pub(crate) fn backups(&self) -> String {
        format!("{}/backups", self.root)
    }

    /// The manifest of backup `id` and what stands beside it.
    pub(crate) fn backup(&self, id: BackupId) -> String {
        format!("{}/backups/{id}", self.root)
    }

    pub(crate) fn manifest(&self, id: BackupId) -> String {
        format!("{}/backups/{id}/manifest", self.root)
    }

    /// What is wanted of backup `id`.
    pub(crate) fn mark(&self, id: BackupId) -> String {
        format!("{}/backups/{id}/mark", self.root)
    }

    /// The data of all backups.
    pub(crate) fn all_packs(&self) -> String {
        format!("{}/packs", self.root)
    }

    /// Everything that attempts at backup `id` have stored.
    pub(crate) fn packs(&self, id: BackupId) -> String {
        format!("{}/packs/{id}", self.root)
    }

    pub(crate) fn attempt(&self, id: BackupId, attempt: &str) -> String {
        format!("{}/packs/{id}/{attempt}", self.root)
    }

    pub(crate) fn pack(&self, id: BackupId, attempt: &str, number: u32) -> String {
        format!("{}/packs/{id}/{attempt}/{number:06}", self.root)
    }

    pub(crate) fn index(&self, id: BackupId, attempt: &str, number: u32) -> String {
        format!("{}/packs/{id}/{attempt}/index-{number:06}", self.root)
    }

    pub(crate) fn wal(&self) -> String {
        format!("{}/wal", self.root)
    }

    /// The segments and the history file of a timeline.
    pub(crate) fn wal_of(&self, timeline: TimelineId) -> String {
        format!("{}/wal/{}", self.root, timeline.to_hex())
    }

    pub(crate) fn wal_position(&self) -> String {
        format!("{}/wal/position", self.root)
    }

    pub(crate) fn wal_gaps(&self) -> String {
        format!("{}/wal/gaps", self.root)
    }

    pub(crate) fn wal_gap(&self, timeline: TimelineId, from: Lsn) -> String {
        format!(
            "{}/wal/gaps/{}-{:016X}",
            self.root,
            timeline.to_hex(),
            from.0
        )
    }

    /// Everything of the commit-time index.
    pub(crate) fn wal_index(&self) -> String {
        format!("{}/wal-index", self.root)
    }

    /// The commit-time index of 64 segments.
    pub(crate) fn wal_index_group(&self, timeline: TimelineId, group: u64) -> String {
        let timeline = timeline.to_hex();
        format!("{}/wal-index/{timeline}/{group:016X}", self.root)
    }

    pub(crate) fn relation_maps(&self) -> String {
        format!("{}/wal-index/relations", self.root)
    }

    /// The relation map that was begun at `lsn`.
    pub(crate) fn relation_map(&self, timeline: TimelineId, lsn: Lsn) -> String {
        let timeline = timeline.to_hex();
        format!(
            "{}/wal-index/relations/{timeline}-{:016X}",
            self.root, lsn.0
        )
    }

    pub(crate) fn segment(&self, name: SegmentName) -> String {
        format!("{}/wal/{}/{name}", self.root, name.timeline.to_hex())
    }

    /// The key of any object of the archive.
    pub(crate) fn wal_object(&self, timeline: TimelineId, kind: WalObjectKind) -> String {
        match kind {
            WalObjectKind::History => self.history(timeline),
            WalObjectKind::Segment(name) => self.segment(name),
            WalObjectKind::Partial(name) => self.partial(name),
        }
    }

    pub(crate) fn partial(&self, name: SegmentName) -> String {
        format!(
            "{}/wal/{}/{name}.partial",
            self.root,
            name.timeline.to_hex()
        )
    }

    pub(crate) fn history(&self, timeline: TimelineId) -> String {
        let file = timeline.history_file_name();
        format!("{}/wal/{}/{file}", self.root, timeline.to_hex())
    }
}

/// The backup that has a manifest at this key.
pub(crate) fn committed(key: &str) -> Option<BackupId> {
    backup_of(key.strip_suffix("/manifest")?)
}

/// The backup that has a mark at this key.
pub(crate) fn marked(key: &str) -> Option<BackupId> {
    backup_of(key.strip_suffix("/mark")?)
}

fn backup_of(directory: &str) -> Option<BackupId> {
    directory.rsplit('/').next()?.parse().ok()
}

/// An attempt's name becomes part of a key: 1 to 64 of `[A-Za-z0-9_-]`.
pub(crate) fn is_attempt_name(name: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    (1..=64).contains(&name.len()) && name.chars().all(allowed)
}
