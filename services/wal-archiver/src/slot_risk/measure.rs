//! Asks the server what the slot holds back: in SQL, or, where we may not, over the replication protocol.

use std::str::FromStr;

use pg_replication::{
    ConnectionSettings, PgError, ReplicationConnection, Row, SqlConnection, quote_literal,
};

use crate::error::ArchiveError;

/// What the server says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Measured {
    /// WAL that our slot holds back, in bytes; `None` if there is no slot, or it holds nothing.
    pub(super) held: Option<u64>,
    /// The server is about to invalidate the slot, or has done it.
    pub(super) endangered: bool,
    /// `max_slot_wal_keep_size` in bytes, if there is a limit.
    pub(super) keep_limit: Option<u64>,
    /// WAL that another slot holds back, in bytes.
    pub(super) held_by_others: u64,
    /// The size of `pg_wal`, where we may ask for it.
    pub(super) pg_wal: Option<u64>,
}

/// Nothing was measured.
#[derive(Debug, thiserror::Error)]
pub(super) enum MeasureError {
    #[error(transparent)]
    Settings(Box<ArchiveError>),
    #[error("the server cannot be asked what the slot holds back")]
    Server(#[from] PgError),
    #[error("the server said {text:?} where a number is expected")]
    Number { text: String },
}

/// Asks over a connection that is kept.
#[derive(Default)]
pub(super) struct Meter {
    connection: Option<SqlConnection>,
    /// SQL was refused; the replication protocol tells less.
    refused: bool,
}

impl Meter {
    pub(super) async fn measure(
        &mut self,
        settings: &ConnectionSettings,
        slot: &str,
    ) -> Result<Measured, MeasureError> {
        if !self.refused {
            match self.in_sql(settings, slot).await {
                Err(MeasureError::Server(error)) if !error.is_transient() => {
                    let error = service::run::chain(&error);
                    tracing::debug!(error, "the slot is measured over the replication protocol");
                    self.refused = true;
                }
                measured => return measured,
            }
        }
        over_replication(settings, slot).await
    }

    async fn in_sql(
        &mut self,
        settings: &ConnectionSettings,
        slot: &str,
    ) -> Result<Measured, MeasureError> {
        // A connection that failed is not used again.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => SqlConnection::connect(settings).await?,
        };
        let rows = connection.query(&question(slot)).await?;
        let row = rows.first();
        let keep_megabytes: i64 = field(row, 2)?.unwrap_or(-1);
        let pg_wal = if row.and_then(|row| row.get(4)) == Some("t") {
            let sum = "SELECT pg_catalog.sum(size)::bigint FROM pg_catalog.pg_ls_waldir()";
            field(connection.query(sum).await?.first(), 0)?
        } else {
            None
        };
        let status = row.and_then(|row| row.get(1));
        self.connection = Some(connection);
        Ok(Measured {
            held: field(row, 0)?,
            endangered: matches!(status, Some("unreserved" | "lost")),
            keep_limit: u64::try_from(keep_megabytes).ok().map(|mib| mib << 20),
            held_by_others: field(row, 3)?.unwrap_or(0),
            pg_wal,
        })
    }
}

/// held, wal_status, max_slot_wal_keep_size, held by others, whether `pg_wal` may be looked into.
fn question(slot: &str) -> String {
    let slot = quote_literal(slot);
    format!(
        "SELECT greatest(pg_catalog.pg_wal_lsn_diff(p.lsn, s.restart_lsn), 0)::bigint, s.wal_status, \
            (SELECT setting FROM pg_catalog.pg_settings WHERE name = 'max_slot_wal_keep_size'), \
            (SELECT greatest(pg_catalog.max(pg_catalog.pg_wal_lsn_diff(p.lsn, o.restart_lsn)), 0)::bigint \
                FROM pg_catalog.pg_replication_slots o WHERE o.slot_name <> {slot}), \
            pg_catalog.has_function_privilege('pg_catalog.pg_ls_waldir()', 'EXECUTE') \
         FROM (SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
                ELSE pg_catalog.pg_current_wal_flush_lsn() END AS lsn) p \
         LEFT JOIN pg_catalog.pg_replication_slots s ON s.slot_name = {slot}"
    )
}

fn field<T: FromStr>(row: Option<&Row>, index: usize) -> Result<Option<T>, MeasureError> {
    let text = row.and_then(|row| row.get(index));
    let number = |text: &str| {
        text.parse().map_err(|_| MeasureError::Number {
            text: text.to_owned(),
        })
    };
    text.map(number).transpose()
}

async fn over_replication(
    settings: &ConnectionSettings,
    slot: &str,
) -> Result<Measured, MeasureError> {
    let mut connection = ReplicationConnection::connect(settings).await?;
    let state = connection.read_slot(slot).await?;
    let shown = connection.show("max_slot_wal_keep_size").await?;
    let end = connection.identify_system().await?.flush_lsn;
    connection.close().await;
    let restart = state.and_then(|state| state.restart_lsn);
    Ok(Measured {
        held: restart.map(|restart| end.bytes_since(restart)),
        keep_limit: bytes_shown(&shown),
        ..Measured::default()
    })
}

/// `-1`, `512MB`, `2GB`: as `SHOW` prints a setting in megabytes.
fn bytes_shown(shown: &str) -> Option<u64> {
    let digits = shown.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &shown[digits.len()..] {
        "MB" => 20,
        "GB" => 30,
        "TB" => 40,
        _ => 0,
    };
    digits.parse::<u64>().ok()?.checked_shl(shift)
}

#[cfg(test)]
mod tests {
    use super::bytes_shown;

    #[test]
    fn limits_are_read_as_the_server_prints_them() {
        let check = |shown, bytes| assert_eq!(bytes_shown(shown), bytes, "{shown}");
        check("-1", None);
        check("0", Some(0));
        check("512MB", Some(512 << 20));
        check("2GB", Some(2 << 30));
    }
}
