//! PostgreSQL's own point-in-time recovery, with nothing of ours in it: what a restored branch is compared with.
//!
//! A plain copy of the source, made by `pg_basebackup`, recovers from the files that the source's own
//! `archive_command` copied, stops at one `recovery_target_time` after the other, and is asked.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use anyhow::{Context, Result};
use chrono::{DateTime, Utc};
use tempfile::TempDir;
use testkit::postgres::{Builder, Postgres, StopMode};
use testkit::wait_until;

/// The copy, and the WAL it recovers from.
pub struct Oracle {
    copy: Postgres,
    archive: TempDir,
}

/// Where the source's `archive_command` copies to.
///
/// # Errors
/// As the file system's.
pub fn archive_directory() -> Result<TempDir> {
    let archive = testkit::temporary_directory()?;
    fs::set_permissions(archive.path(), fs::Permissions::from_mode(0o777))?;
    Ok(archive)
}

/// The settings that make a source archive into that directory.
#[must_use]
pub fn archiving(builder: Builder, archive: &TempDir) -> Builder {
    let command = format!("cp %p {}/%f", archive.path().display());
    builder
        .setting("archive_mode", "on")
        .setting("archive_command", &command)
}

impl Oracle {
    /// Copies the source as it is now: only moments after this can be asked for.
    ///
    /// # Errors
    /// When the copy cannot be made.
    pub async fn copy_of(source: &Postgres, archive: TempDir) -> Result<Oracle> {
        let mut copy = Postgres::builder().standby_of(source).start().await?;
        copy.stop(StopMode::Fast).await?;
        fs::remove_file(copy.data_directory().join("standby.signal"))?;
        let signal = copy.data_directory().join("recovery.signal");
        fs::write(&signal, "")?;
        Ok(Oracle { copy, archive })
    }

    /// What `queries` answer at the moment that PostgreSQL's rule gives for `time`. Times must rise from call to call.
    ///
    /// # Errors
    /// When PostgreSQL does not reach it.
    pub async fn at(&mut self, time: DateTime<Utc>, queries: &[&str]) -> Result<Vec<String>> {
        self.copy.stop(StopMode::Fast).await?;
        let settings = format!(
            "restore_command = 'cp {}/%f %p'\nprimary_conninfo = ''\nrecovery_target_time = '{}'\n\
             recovery_target_action = 'pause'\nrecovery_target_timeline = 'current'\nhot_standby = on\n",
            self.archive.path().display(),
            // No time zone names: when this file is read, the server does not know any.
            time.format("%Y-%m-%d %H:%M:%S%.6f+00")
        );
        fs::write(
            self.copy.data_directory().join("postgresql.auto.conf"),
            settings,
        )?;
        self.copy
            .start_again()
            .await
            .with_context(|| format!("the oracle does not start: {}", self.copy.log()))?;
        let limit = std::time::Duration::from_secs(120);
        wait_until("the oracle to reach its target", limit, async || {
            let state = self
                .copy
                .psql("SELECT pg_get_wal_replay_pause_state()")
                .await;
            state.is_ok_and(|state| state == "paused")
        })
        .await?;
        let mut answers = Vec::new();
        for query in queries {
            answers.push(self.copy.psql(query).await?);
        }
        Ok(answers)
    }
}
