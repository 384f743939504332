//! Where a slot stands on PostgreSQL 14, which has no `READ_REPLICATION_SLOT`.
//!
//! A physical walsender runs no SQL, so this asks the view `pg_replication_slots` over a second, ordinary
//! connection. Any role may read it; `pg_hba.conf` needs a line for that database too.

use pg_format::{TimelineHistory, TimelineId};

use super::{COMMAND_TIMEOUT, ReplicationConnection, SlotState};
use crate::error::PgError;
use crate::session::{Purpose, Session};
use crate::settings::ConnectionSettings;
use crate::sql::quote_literal;

/// `invalid_catalog_name`: there is no such database.
const SQLSTATE_NO_DATABASE: &str = "3D000";
const DURING: &str = "reading a slot";

impl ReplicationConnection {
    pub(super) async fn read_slot_before_15(
        &mut self,
        name: &str,
    ) -> Result<Option<SlotState>, PgError> {
        let settings = self.session.settings();
        let mut session = connect(settings).await?;
        let question = format!(
            "SELECT slot_type, restart_lsn FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
            quote_literal(name)
        );
        let rows = session
            .query_within(&question, DURING, COMMAND_TIMEOUT)
            .await?;
        session.wire.terminate().await;
        let Some(row) = rows.first() else {
            return Ok(None);
        };
        if row.text(0)? != "physical" {
            return Err(PgError::protocol(format!(
                "the slot {name} is not a physical one"
            )));
        }
        let Some(_) = row.optional_text(1)? else {
            return Ok(Some(SlotState {
                restart_lsn: None,
                restart_timeline: None,
            }));
        };
        let restart_lsn = row.parsed(1)?;
        Ok(Some(SlotState {
            restart_lsn: Some(restart_lsn),
            restart_timeline: Some(self.history().await?.timeline_at(restart_lsn)),
        }))
    }

    /// Of the timeline that the server is on.
    async fn history(&mut self) -> Result<TimelineHistory, PgError> {
        let timeline = self.identify_system().await?.timeline;
        let text = match timeline {
            TimelineId(1) => String::new(),
            _ => String::from_utf8_lossy(&self.timeline_history(timeline).await?.content)
                .into_owned(),
        };
        TimelineHistory::parse(timeline, &text)
            .map_err(|error| PgError::protocol(error.to_string()))
    }
}

/// To the database that the settings name, which a replication connection does not need to exist.
async fn connect(settings: &ConnectionSettings) -> Result<Session, PgError> {
    match Box::pin(Session::connect(settings, Purpose::Sql)).await {
        Err(error) if error.sqlstate() == Some(SQLSTATE_NO_DATABASE) => {
            let postgres = settings.clone().with_dbname("postgres");
            Box::pin(Session::connect(&postgres, Purpose::Sql)).await
        }
        other => other,
    }
}
