//! What `pg_control` says of the cluster that was backed up: the settings below which a standby refuses to
//! replay its WAL.

use pg_format::ControlFile;

/// Settings that recovery needs at least (PostgreSQL docs, "Hot Standby", "Administrator's Overview").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Minimums {
    /// `max_connections`.
    pub max_connections: u32,
    /// `max_worker_processes`.
    pub max_worker_processes: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: u32,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
}

/// A source may have raised its settings after the backup; these cost little and make that rare.
impl Default for Minimums {
    fn default() -> Self {
        Minimums {
            max_connections: 200,
            max_worker_processes: 32,
            max_wal_senders: 20,
            max_prepared_transactions: 0,
            max_locks_per_transaction: 64,
            track_commit_timestamp: false,
        }
    }
}

impl Minimums {
    /// Raises the defaults to what `pg_control` says.
    #[must_use]
    pub fn of(control: &ControlFile) -> Self {
        // The server never writes a negative one.
        let at_least = |default: u32, found: i32| default.max(u32::try_from(found).unwrap_or(0));
        let (default, found) = (Minimums::default(), control.settings);
        Minimums {
            max_connections: at_least(default.max_connections, found.max_connections),
            max_worker_processes: at_least(
                default.max_worker_processes,
                found.max_worker_processes,
            ),
            max_wal_senders: at_least(default.max_wal_senders, found.max_wal_senders),
            max_prepared_transactions: at_least(
                default.max_prepared_transactions,
                found.max_prepared_transactions,
            ),
            max_locks_per_transaction: at_least(
                default.max_locks_per_transaction,
                found.max_locks_per_transaction,
            ),
            track_commit_timestamp: control.track_commit_timestamp,
        }
    }

    /// Raises what the server's log complains of:
    /// `max_connections = 100 is a lower setting than on the primary server, where its value was 500.`
    ///
    /// True if anything was raised.
    pub fn raise_from_log(&mut self, log: &str) -> bool {
        const COMPLAINT: &str =
            " is a lower setting than on the primary server, where its value was ";
        let before = *self;
        for line in log.lines() {
            if let Some((setting, value)) = line.split_once(COMPLAINT)
                && let Some((setting, _)) = setting.split_once(" = ")
                && let Some(name) = setting.split_whitespace().last()
            {
                self.raise(name, value.trim_end_matches('.'));
            }
        }
        *self != before
    }

    fn raise(&mut self, name: &str, value: &str) {
        let setting = match name {
            "max_connections" => &mut self.max_connections,
            "max_worker_processes" => &mut self.max_worker_processes,
            "max_wal_senders" => &mut self.max_wal_senders,
            "max_prepared_transactions" => &mut self.max_prepared_transactions,
            "max_locks_per_transaction" => &mut self.max_locks_per_transaction,
            _ => return,
        };
        if let Ok(value) = value.parse::<u32>() {
            *setting = (*setting).max(value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Minimums;

    #[test]
    fn learns_from_the_log_what_was_raised_later() {
        let mut minimums = Minimums::default();
        let log = "2026-01-01 [7] WARNING:  hot standby is not possible because of insufficient parameter \
                   settings\n2026-01-01 [7] DETAIL:  max_connections = 200 is a lower setting than on the \
                   primary server, where its value was 900.\n";
        assert!(minimums.raise_from_log(log));
        assert_eq!(minimums.max_connections, 900);
        assert!(!minimums.raise_from_log(log));
    }
}
