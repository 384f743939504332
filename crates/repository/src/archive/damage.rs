//! What verifications have found of the backups that are there.
//!
//! What must stay true: a damaged backup is a beginning of anything only where there is no sound one; WAL that was found
//! damaged is no way to anywhere until it is written again.

use std::collections::BTreeSet;

use events::BackupId;
use events::event::{BackupSummary, GapCause};
use events::window::DamagedBackup;

use super::Archive;
use crate::{WalGap, WalObjectKind};

impl Archive {
    /// The backups that were found damaged when they were last read whole, the first to end first.
    #[must_use]
    pub fn damaged(&self) -> Vec<&BackupSummary> {
        let damaged = |backup: &&BackupSummary| self.marks.of(backup.backup_id).is_damaged();
        let mut damaged: Vec<_> = self.backups.iter().filter(damaged).collect();
        damaged.sort_by_key(|backup| (backup.backed_up_at, backup.backup_id));
        damaged
    }

    /// The same, as whoever asks for the window is told.
    #[must_use]
    pub fn told_damaged(&self) -> Vec<DamagedBackup> {
        let told = |backup: &BackupSummary| DamagedBackup {
            backup_id: backup.backup_id,
            backed_up_at: backup.backed_up_at,
            found_at: self
                .marks
                .of(backup.backup_id)
                .verified
                .map(|verified| verified.at),
        };
        self.damaged().into_iter().map(told).collect()
    }

    /// Without the segments that were found damaged and were not written since: whoever restores acts as if they were
    /// missing, which is what [`Archive::gaps`] says of them.
    pub(super) fn without_damaged_wal(mut self) -> Self {
        let Some(size) = self.backups.first().map(|backup| backup.wal_segment_size) else {
            return self;
        };
        let damaged = self
            .gaps
            .iter()
            .filter(|gap| gap.cause == GapCause::Damaged);
        let damaged: Vec<&WalGap> = damaged.collect();
        self.objects.retain(|object| {
            let WalObjectKind::Segment(name) = object.kind else {
                return true;
            };
            !damaged.iter().any(|gap| {
                gap.timeline == object.timeline
                    && gap.from_lsn <= name.start(size)
                    && name.end(size) <= gap.to_lsn
                    && object.last_modified <= gap.detected_at
            })
        });
        self
    }

    /// Without the damaged backups, as long as there is a sound one: neither the window nor a plan begins with them.
    #[must_use]
    pub fn preferring_sound(mut self) -> Self {
        let damaged: BTreeSet<BackupId> = self
            .damaged()
            .iter()
            .map(|backup| backup.backup_id)
            .collect();
        if damaged.len() < self.backups.len() {
            self.backups
                .retain(|backup| !damaged.contains(&backup.backup_id));
        }
        self
    }
}
