//! The window of a branch, with the last commits before its gaps looked up in the index.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use chrono::DateTime;
use events::Timestamp;
use events::window::Window;
use pg_format::{Lsn, PgTimestamp};
use wal_index::IndexSettings;

use super::window;
use crate::archive::Archive;
use crate::{BranchReader, Result, WalPath};

impl BranchReader {
    /// The [`window`] of the branch of which `archive` was read; damaged backups are no part of it while there is a sound
    /// one. Reads WAL or its index only where the window has gaps.
    ///
    /// # Errors
    /// As [`Self::each_index`].
    pub async fn restorable_window(
        &self,
        archive: &Archive,
        settings: IndexSettings,
    ) -> Result<Window> {
        let sound;
        let archive = if archive.damaged().is_empty() {
            archive
        } else {
            sound = archive.clone().preferring_sound();
            &sound
        };
        let asked = Mutex::new(BTreeMap::new());
        let found = window(archive, &|_, lsn| {
            let mut asked = asked.lock().unwrap_or_else(PoisonError::into_inner);
            let _ = asked.insert(lsn, None);
            None
        });
        let mut commits = asked.into_inner().unwrap_or_else(PoisonError::into_inner);
        if commits.is_empty() {
            return Ok(found);
        }
        let newest = archive.backups.iter().map(|backup| backup.timeline).max();
        // The way that the window itself takes.
        let Some(path) = found
            .timeline
            .or(newest)
            .and_then(|to| WalPath::to(archive, to))
        else {
            return Ok(found);
        };
        for (lsn, time) in &mut commits {
            *time = self.last_commit_time(&path, settings, *lsn).await?;
        }
        Ok(window(archive, &|_, lsn| {
            commits.get(&lsn).copied().flatten()
        }))
    }

    async fn last_commit_time(
        &self,
        path: &WalPath,
        settings: IndexSettings,
        before: Lsn,
    ) -> Result<Option<Timestamp>> {
        let stretches = path.stretches();
        let ends_here = |wal: &&std::ops::Range<Lsn>| wal.start < before && before <= wal.end;
        let Some(stretch) = stretches.iter().find(ends_here) else {
            return Ok(None);
        };
        let commit = self.last_commit_before(path, settings, before, stretch.start);
        Ok(commit.await?.and_then(|commit| moment(commit.time)))
    }
}

fn moment(time: PgTimestamp) -> Option<Timestamp> {
    DateTime::from_timestamp_micros(time.to_unix_micros())
}
