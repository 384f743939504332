//! Releases the slot: it is dropped, not advanced. An advanced slot would go on to hold WAL back while the archive is
//! away, and would have to be advanced again and again.

use std::time::Duration;

use events::document::slot_name;
use pg_replication::{PgError, ReplicationConnection, SqlConnection, quote_literal};

use crate::error::ArchiveError;
use crate::session::{BranchContext, connection_settings};

/// "Replication slot is active": our own connection was closed, but its process on the server may not have seen it.
const SQLSTATE_OBJECT_IN_USE: &str = "55006";
const PAUSE: Duration = Duration::from_millis(250);
const ATTEMPTS: u32 = 60;
/// From the fourth attempt on, the process that still has the slot is ended.
const PATIENT_ATTEMPTS: u32 = 4;

/// Drops the branch's slot, and asks for a checkpoint: only that removes the WAL.
///
/// # Errors
/// The server cannot be reached, or somebody else holds the slot.
pub(crate) async fn release(branch: &BranchContext) -> Result<(), ArchiveError> {
    let settings = connection_settings(branch)?;
    let slot = slot_name(&branch.key.instance, &branch.key.branch);
    let mut connection = ReplicationConnection::connect(&settings).await?;
    let mut attempt = 0;
    loop {
        attempt += 1;
        match connection.drop_slot(&slot).await {
            Ok(_) => break,
            Err(error) if error.sqlstate() != Some(SQLSTATE_OBJECT_IN_USE) => {
                return Err(error.into());
            }
            Err(error) if attempt == ATTEMPTS => return Err(error.into()),
            Err(_) => {}
        }
        if attempt >= PATIENT_ATTEMPTS {
            let end = format!(
                "SELECT pg_catalog.pg_terminate_backend(active_pid) FROM pg_catalog.pg_replication_slots \
                 WHERE active AND slot_name = {}",
                quote_literal(&slot)
            );
            run(&settings, &end).await;
        }
        tokio::time::sleep(PAUSE).await;
    }
    connection.close().await;
    run(&settings, "CHECKPOINT").await;
    Ok(())
}

/// Runs what helps, but may not be allowed to us.
async fn run(settings: &pg_replication::ConnectionSettings, sql: &str) {
    let outcome = async {
        let mut connection = SqlConnection::connect(settings).await?;
        let _ = connection.query(sql).await?;
        connection.close().await;
        Ok::<_, PgError>(())
    };
    if let Err(error) = outcome.await {
        let error = service::run::chain(&error);
        tracing::warn!(error, sql, "could not be done; it is not necessary");
    }
}
