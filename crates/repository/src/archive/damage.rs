//! What verifications have found of the backups that are there.
//!
//! What must stay true: a damaged backup is a beginning of anything only where there is no sound one.

use std::collections::BTreeSet;

use events::BackupId;
use events::event::BackupSummary;
use events::window::DamagedBackup;

use super::Archive;

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
