//! Looks at a database before it is protected: can it be backed up and archived at all?

use events::event::RefusalCode;
use pg_format::{ServerVersion, SystemIdentifier, TimelineId, WalSegmentSize};
use pg_replication::{
    ConnectionSettings, OLDEST_MAJOR, PgError, ReplicationConnection, ReserveWal, SlotCreation,
    SqlConnection,
};

use crate::refusal::Refusal;

/// What was found.
pub(crate) struct Source {
    pub(crate) system_identifier: SystemIdentifier,
    pub(crate) timeline: TimelineId,
    pub(crate) server_version: ServerVersion,
    pub(crate) wal_segment_size: WalSegmentSize,
    connection: ReplicationConnection,
}

/// Connects as the archiver will, and checks what the server's configuration allows.
pub(crate) async fn inspect(settings: &ConnectionSettings) -> Result<Source, Refusal> {
    let mut connection = ReplicationConnection::connect(settings)
        .await
        .map_err(|error| unreachable(&error))?;
    let server_version = connection.server_version();
    if server_version.major() < OLDEST_MAJOR {
        return Err(Refusal::new(
            RefusalCode::UnsuitableSource,
            format!(
                "the server is PostgreSQL {server_version}; zektor needs {OLDEST_MAJOR} or newer"
            ),
            "Upgrade the server first.",
        ));
    }
    let identity = connection
        .identify_system()
        .await
        .map_err(|error| unreachable(&error))?;
    let wal_level = connection
        .show("wal_level")
        .await
        .map_err(|error| unreachable(&error))?;
    if wal_level == "minimal" {
        return Err(Refusal::new(
            RefusalCode::UnsuitableSource,
            "the server writes WAL with wal_level = minimal, which cannot be restored from",
            "Set wal_level = replica and restart the server.",
        ));
    }
    let segment_size = connection
        .show("wal_segment_size")
        .await
        .map_err(|error| unreachable(&error))?;
    let wal_segment_size = parse_size(&segment_size).ok_or_else(|| {
        Refusal::new(
            RefusalCode::UnsuitableSource,
            format!("the server says wal_segment_size = {segment_size:?}, which is not a size"),
            "Report this; it should not happen.",
        )
    })?;
    // On PostgreSQL 14 this takes an ordinary connection, which pg_hba.conf may refuse.
    let _absent = connection.read_slot("zektor_probe").await.map_err(|error| {
        Refusal::new(
            RefusalCode::SourceUnreachable,
            format!("cannot read replication slots: {error}"),
            "On PostgreSQL 14 the role also needs a line in pg_hba.conf for ordinary connections to the \
             database that the URI names.",
        )
    })?;
    // Backups ask the database too, if they may; a replication connection does not look whether it is there.
    let ordinary = SqlConnection::connect(settings).await;
    if let Some(error) = ordinary.err().filter(|e| e.sqlstate() == Some("3D000")) {
        return Err(unreachable(&error));
    }
    Ok(Source {
        system_identifier: identity.system_identifier,
        timeline: identity.timeline,
        server_version,
        wal_segment_size,
        connection,
    })
}

impl Source {
    /// Whether the server has a slot of this name.
    pub(crate) async fn has_slot(&mut self, slot: &str) -> Result<bool, Refusal> {
        let read = self.connection.read_slot(slot).await;
        Ok(read.map_err(|error| unreachable(&error))?.is_some())
    }

    /// Makes the slot, so that WAL is kept from this moment on, whenever the archiver comes.
    pub(crate) async fn reserve_wal(&mut self, slot: &str) -> Result<SlotCreation, Refusal> {
        self.connection.create_physical_slot(slot, ReserveWal::Now).await.map_err(|error| {
            let full = error.sqlstate() == Some("53400");
            let hint = if full {
                "Raise max_replication_slots and restart the server, or drop a slot that nobody uses; \
                 or let the server push its WAL: --archive-mode command."
            } else {
                "Give the role the REPLICATION attribute: ALTER ROLE ... REPLICATION."
            };
            Refusal::new(
                RefusalCode::UnsuitableSource,
                format!("the replication slot {slot} could not be made: {error}"),
                hint,
            )
        })
    }
}

/// `16MB`, `1GB`: how `SHOW wal_segment_size` answers.
fn parse_size(text: &str) -> Option<WalSegmentSize> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit: u64 = match &text[digits..] {
        "" | "B" => 1,
        "kB" => 1 << 10,
        "MB" => 1 << 20,
        "GB" => 1 << 30,
        _ => return None,
    };
    WalSegmentSize::new(number.checked_mul(unit)?).ok()
}

fn unreachable(error: &PgError) -> Refusal {
    let hint = match error.sqlstate() {
        Some("28P01" | "28000") => {
            "Check user and password, and that pg_hba.conf has a line for replication connections of \
             this user from here."
        }
        Some("42501") => "Give the role the REPLICATION attribute: ALTER ROLE ... REPLICATION.",
        Some("53300") => {
            "Set wal_level = replica and raise max_wal_senders (it is 0, or all are in use), then restart \
             the server."
        }
        Some("3D000") => "The database named in the connection URI does not exist.",
        _ => {
            "Check that the server runs, and that host, port and TLS settings in the URI are right."
        }
    };
    Refusal::new(
        RefusalCode::SourceUnreachable,
        format!("cannot use the database: {error}"),
        hint,
    )
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_as_the_server_shows_them() {
        for (text, bytes) in [("1MB", 1 << 20), ("16MB", 16 << 20), ("1GB", 1 << 30)] {
            assert_eq!(parse_size(text).unwrap().bytes(), bytes);
        }
        for text in ["", "MB", "3MB", "16TB", "16 MB"] {
            assert!(parse_size(text).is_none(), "{text:?}");
        }
    }
}
