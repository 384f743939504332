//! History that nobody asks for any more: two years of it stay.
//!
//! What must stay true: nothing goes of what is still there or still stands; few rows go in one transaction, so that
//! projecting waits for none of it.

use events::Timestamp;

use super::cache::bind;
use super::column::Column;
use super::{Result, Store, cannot};

/// Two years, in microseconds.
const KEPT_MICROS: i64 = 2 * 366 * 86_400_000_000;
/// Rows of one transaction.
const MOST_ROWS: u64 = 1000;

/// Tables, their keys, and which of their rows are over.
const OVER: [(&str, &str, &str); 6] = [
    ("backups", "instance, branch, id", "deleted_at < $1"),
    (
        "backups",
        "instance, branch, id",
        "status <> 'completed' AND status IN ('requested', 'in_progress', 'failed', 'skipped') AND listed_at < $1",
    ),
    ("drills", "instance, branch, id", "listed_at < $1"),
    (
        "alerts",
        "instance, branch, rule, since",
        "resolved_at < $1",
    ),
    ("sweeps", "instance, branch, id", "swept_at < $1"),
    ("wal_days", "instance, branch, day", "day < $1"),
];

impl Store {
    /// Deletes what was over two years before `now`; how many rows that were.
    pub(crate) async fn clean(&self, now: Timestamp) -> Result<u64> {
        let before = now.timestamp_micros().saturating_sub(KEPT_MICROS);
        let before = Timestamp::from_timestamp_micros(before).unwrap_or(now);
        let mut cleaned = 0;
        for (table, key, over) in OVER {
            loop {
                let sql = format!(
                    "DELETE FROM {table} WHERE ({key}) IN \
                     (SELECT {key} FROM {table} WHERE {over} LIMIT {MOST_ROWS})"
                );
                let done = bind(sql, [before.to_sql()].into_iter())
                    .execute(&self.writer)
                    .await;
                let rows = done.map_err(cannot("forget old rows"))?.rows_affected();
                cleaned += rows;
                if rows < MOST_ROWS {
                    break;
                }
            }
        }
        Ok(cleaned)
    }
}
