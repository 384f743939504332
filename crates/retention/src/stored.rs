//! What is given: everything stored of one branch, and what is going on with it.

use chrono::TimeDelta;
use events::mark::{DeletedBy, Deletion, Hold};
use events::{BackupId, Timestamp};
use pg_format::{Lsn, SegmentNumber, TimelineHistory, TimelineId, WalSegmentSize};

/// One branch, at one moment.
///
/// Read the marks and what is going on *after* the listing of WAL: what is not in the listing is never pruned, while a
/// restore that began unseen would be.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The moment.
    pub now: Timestamp,
    /// How long something is marked before it is deleted; less than nothing counts as nothing.
    pub grace: TimeDelta,
    /// Whether the branch exists and is to be protected; of one that is gone everything goes by its own retention.
    pub live: bool,
    /// The branch's WAL segment size.
    pub segment_size: WalSegmentSize,
    /// The timeline that is archived now (the archive's position); the newest there is when it is not known.
    pub archived_timeline: Option<TimelineId>,
    /// The completed backups, in any order.
    pub backups: Vec<Backup>,
    /// The listing of WAL, in any order.
    pub wal: Vec<WalFile>,
    /// The timeline history files.
    pub history_files: Vec<HistoryFile>,
    /// Restores and drills that read the branch.
    pub readers: Vec<Reader>,
    /// Backups that are being taken.
    pub running: Vec<RunningBackup>,
    /// What is stored of backups that have no manifest, and that no manifest names.
    pub leftovers: Vec<Leftover>,
}

/// What is stored of a backup without a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leftover {
    /// The backup.
    pub backup_id: BackupId,
    /// Bytes in the repository.
    pub stored_bytes: u64,
    /// When the last of it was written: so long before [`Stored::now`] as it is by the store's own clock.
    pub last_written: Timestamp,
    /// What is known of the backup.
    pub ended: Ended,
}

/// What is known of a backup that has no manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It has failed, or was let go.
    Over,
    /// It waits or is being taken, as far as anybody has heard.
    UnderWay,
    /// It was completed, or may have been: nobody knows any more. Nobody let it go, and whoever lost its manifest may
    /// bring it back.
    ManifestLost,
}

/// A completed backup, with its mark.
#[derive(Clone, Debug, PartialEq)]
pub struct Backup {
    /// The backup.
    pub id: BackupId,
    /// Its name.
    pub name: String,
    /// The timeline of its start.
    pub timeline: TimelineId,
    /// Recovery begins here.
    pub start_lsn: Lsn,
    /// It is consistent from here on.
    pub stop_lsn: Lsn,
    /// Its end.
    pub backed_up_at: Timestamp,
    /// When its retention is over; until somebody deletes it when absent.
    pub expires_at: Option<Timestamp>,
    /// Until when all WAL from its start on is kept because of it; as long as the backup when absent.
    pub wal_until: Option<Timestamp>,
    /// What it stores itself, in bytes.
    pub stored_bytes: u64,
    /// It was found damaged: it is not what a live branch can rely on. Otherwise it is kept like any other.
    pub damaged: bool,
    /// It stays whatever its retention says.
    pub hold: Option<Hold>,
    /// It is to go.
    pub deletion: Option<Deletion>,
    /// The backups whose packs it names: they stay as long as this one.
    pub refers_to: Vec<BackupId>,
}

impl Backup {
    /// When its mark lets it go. None: its retention wants it no longer, or never did want it, to go.
    pub(crate) fn due(&self, deletion: &Deletion) -> Option<Timestamp> {
        match deletion.by {
            DeletedBy::User => Some(deletion.delete_after),
            DeletedBy::Retention => self.expires_at.map(|end| end.max(deletion.delete_after)),
        }
    }
}

/// One object of WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalFile {
    /// The timeline.
    pub timeline: TimelineId,
    /// Which segment.
    pub number: SegmentNumber,
    /// How much of it.
    pub kind: WalFileKind,
    /// Bytes in the repository.
    pub stored_bytes: u64,
}

/// How much of a segment an object holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum WalFileKind {
    /// All.
    Complete,
    /// The beginning.
    Partial {
        /// So many bytes of WAL; zero when that is not known.
        raw_bytes: u64,
    },
}

/// One timeline history file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistoryFile {
    /// The timeline.
    pub timeline: TimelineId,
    /// What it says; absent when it cannot be understood. Then the timeline may have come from anywhere, and what leads
    /// there is kept.
    pub history: Option<TimelineHistory>,
    /// Bytes in the repository.
    pub stored_bytes: u64,
}

/// Something that reads the branch: while it does, nothing is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// For people, such as `restore 0198… into orders/yesterday`.
    pub what: String,
}

/// A backup that is being taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningBackup {
    /// The backup.
    pub id: BackupId,
    /// Where its WAL begins. While that is not known no WAL is pruned: a standby's restart point may lie far back.
    pub start: Option<(TimelineId, Lsn)>,
}
