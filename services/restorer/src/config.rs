//! The restorer's settings beyond the common ones.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::compute::LOOPBACK;
use crate::drill::DrillRules;
use crate::plan::Policy;

mod bytes;

/// The restorer's own settings.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestorerConfig {
    /// A target time must be at least so old (`ZEKTOR_RESTORE_MIN_TARGET_AGE`).
    #[serde(with = "humantime_serde")]
    pub restore_min_target_age: Duration,
    /// What a restore wants to be free beside its files, for the WAL it spools and replays (`ZEKTOR_RESTORE_ROOM`,
    /// such as `1GiB`); a drill wants twice as much.
    #[serde(with = "bytes")]
    pub restore_room: u64,
    /// Restores at once.
    pub restore_concurrency: usize,
    /// Reads of the object store at once, for each restore; each holds up to 8 MiB.
    pub restore_parallelism: usize,
    /// Drills at once (`ZEKTOR_DRILL_CONCURRENCY`); 0: this restorer does none.
    pub drill_concurrency: usize,
    /// Reads of the object store at once, for each drill (`ZEKTOR_DRILL_PARALLELISM`).
    pub drill_parallelism: usize,
    /// One of the user's statements in a drill may take so long (`ZEKTOR_DRILL_CHECK_TIMEOUT`).
    #[serde(with = "humantime_serde")]
    pub drill_check_timeout: Duration,
    /// Whether drills run `pg_amcheck` (`ZEKTOR_DRILL_AMCHECK`).
    pub drill_amcheck: bool,
    /// What one of those statements may sort and hash on disk (`ZEKTOR_DRILL_TEMP_LIMIT`, such as `4GiB`). When absent,
    /// [`Self::restore_room`] or a quarter of what is free behind the files, whichever is more.
    #[serde(with = "bytes::optional")]
    pub drill_temp_limit: Option<u64>,
    /// Whether the servers of drills may reach the network (`ZEKTOR_DRILL_NETWORK`); otherwise they may not, where the
    /// machine lets that be said.
    pub drill_network: bool,
    /// Where branches are kept; by default `compute` in the home directory, or for root with a home that the
    /// server's user cannot reach, a directory below `/var/lib/zektor`.
    pub compute_dir: Option<PathBuf>,
    /// The user that runs branches when we are root.
    pub compute_user: String,
    /// Where branches listen: PostgreSQL's `listen_addresses` (`ZEKTOR_COMPUTE_LISTEN`). Beyond this machine's own
    /// addresses, whoever has a password is let in from anywhere.
    pub compute_listen: String,
    /// The host by which others reach branches here; it is in their connection URIs (`ZEKTOR_COMPUTE_ADVERTISE`).
    pub compute_advertise: String,
    /// Folders with PostgreSQL's programs to look into first, separated by colons.
    pub postgres_bin_dirs: String,
    /// Whether branches are stopped when the restorer drains, as `zektor down` wants it.
    pub stop_branches_on_drain: bool,
}

impl Default for RestorerConfig {
    fn default() -> Self {
        RestorerConfig {
            restore_min_target_age: Duration::from_secs(120),
            restore_room: 1 << 30,
            restore_concurrency: 2,
            restore_parallelism: 8,
            drill_concurrency: 1,
            drill_parallelism: 2,
            drill_check_timeout: Duration::from_secs(600),
            drill_amcheck: true,
            drill_temp_limit: None,
            drill_network: false,
            compute_dir: None,
            compute_user: "postgres".to_owned(),
            compute_listen: LOOPBACK.to_owned(),
            compute_advertise: LOOPBACK.to_owned(),
            postgres_bin_dirs: String::new(),
            stop_branches_on_drain: false,
        }
    }
}

impl RestorerConfig {
    /// The operator's rules.
    #[must_use]
    pub fn policy(&self) -> Policy {
        Policy {
            min_target_age: self.restore_min_target_age,
            room_bytes: self.restore_room,
        }
    }

    /// The rules for drills.
    #[must_use]
    pub fn drill_rules(&self) -> DrillRules {
        DrillRules {
            parallelism: self.drill_parallelism,
            check_timeout: self.drill_check_timeout,
            amcheck: self.drill_amcheck,
            temp_bytes: self.drill_temp_limit,
        }
    }

    /// [`Self::postgres_bin_dirs`] as paths.
    #[must_use]
    pub fn bin_directories(&self) -> Vec<PathBuf> {
        let folders = self
            .postgres_bin_dirs
            .split(':')
            .filter(|folder| !folder.is_empty());
        folders.map(PathBuf::from).collect()
    }
}

#[cfg(test)]
mod tests {
    use service::config::{Environment, load};

    use super::RestorerConfig;

    #[test]
    fn the_room_of_a_restore_is_a_size() {
        let given = |room: &'static str| {
            let environment = Environment::of([("ZEKTOR_RESTORE_ROOM", room)]);
            load::<RestorerConfig>(None, &environment).map(|loaded| loaded.own.restore_room)
        };
        assert_eq!(given("64MiB").unwrap(), 64 << 20);
        assert_eq!(given("1000").unwrap(), 1000);
        assert_eq!(given("").unwrap(), 1 << 30);
        let limit = |text: &'static str| {
            let environment = Environment::of([("ZEKTOR_DRILL_TEMP_LIMIT", text)]);
            load::<RestorerConfig>(None, &environment).map(|loaded| loaded.own.drill_temp_limit)
        };
        assert_eq!(limit("").unwrap(), None);
        assert_eq!(limit("4GiB").unwrap(), Some(4 << 30));
        let refused = given("1GB").unwrap_err().to_string();
        assert!(refused.contains("ZEKTOR_RESTORE_ROOM"), "{refused}");
        assert!(refused.contains("64MiB"), "{refused}");
    }
}
