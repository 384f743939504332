//! A wall clock that a test moves: for servers and services alike, each of which sees the same time.
//!
//! libfaketime adds the offset that a file holds to what the machine's clock says. Only the wall clock is moved: what
//! is measured and waited for goes on at its ordinary pace.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tempfile::TempDir;

/// A wall clock that a test moves.
#[derive(Debug)]
pub struct FakeClock {
    library: PathBuf,
    place: TempDir,
    /// Seconds that it is ahead of the machine's.
    ahead: u64,
}

impl FakeClock {
    /// A clock that is `ahead` of the machine's.
    ///
    /// # Errors
    /// When libfaketime is not installed.
    pub fn ahead(ahead: Duration) -> Result<Self> {
        let library =
            provision::fake_clock().context("libfaketime is missing: run `cargo xtask setup`")?;
        let place = crate::temporary_directory()?;
        let mut clock = FakeClock {
            library,
            place,
            ahead: 0,
        };
        clock.advance(ahead)?;
        Ok(clock)
    }

    /// What a process must have in its environment to live by this clock.
    #[must_use]
    pub fn environment(&self) -> Vec<(String, String)> {
        [
            ("LD_PRELOAD", self.library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE", self.file().display().to_string()),
            ("FAKETIME_NO_CACHE", "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
            ("FAKETIME_DONT_RESET", "1".to_owned()),
            ("NO_FAKE_STAT", "1".to_owned()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .to_vec()
    }

    /// Moves it on, for everybody at once.
    ///
    /// # Errors
    /// As the file system's.
    pub fn advance(&mut self, by: Duration) -> Result<()> {
        self.ahead += by.as_secs();
        // Renamed, so that nobody reads half of it.
        let new = self.place.path().join("clock.new");
        fs::write(&new, format!("+{}\n", self.ahead))?;
        Ok(fs::rename(&new, self.file())?)
    }

    /// What it says now, since 1970.
    #[must_use]
    pub fn now(&self) -> Duration {
        let machine = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or_default();
        machine + Duration::from_secs(self.ahead)
    }

    fn file(&self) -> PathBuf {
        self.place.path().join("clock")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::FakeClock;
    use crate::postgres::{PgVersion, Postgres};

    #[tokio::test]
    async fn a_server_lives_by_it() {
        let day = Duration::from_secs(86_400);
        let mut clock = FakeClock::ahead(day).unwrap();
        let server = Postgres::builder()
            .version(PgVersion::V15)
            .envs(clock.environment());
        let server = server.start().await.unwrap();
        let difference = async |clock: &FakeClock| {
            let asked = "SELECT extract(epoch FROM clock_timestamp())";
            let said: f64 = server.psql(asked).await.unwrap().parse().unwrap();
            (said - clock.now().as_secs_f64()).abs()
        };
        assert!(difference(&clock).await < 5.0);
        clock.advance(30 * day).unwrap();
        assert!(difference(&clock).await < 5.0);
    }
}
