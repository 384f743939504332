//! What the server of a branch that pushes its WAL is asked.

use std::collections::BTreeSet;

use pg_format::{Lsn, PgTimestamp, SegmentName, TimelineHistory, TimelineId, WalSegmentSize};
use pg_replication::{
    ConnectionSettings, PgError, ReplicationConnection, Row, SqlConnection, quote_literal,
};

use crate::error::ArchiveError;
use crate::session::BranchContext;

/// What is shown while a standby pushes.
pub(super) const STANDBY: &str = "the server is a standby, which cannot say what its primary has committed; what it \
     pushes is archived, but without a latest restorable time";

/// What the server says of itself at a moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Observation {
    /// Its clock, before the rest was read.
    pub(super) clock: PgTimestamp,
    pub(super) timeline: TimelineId,
    /// In recovery.
    pub(super) standby: bool,
    /// Whether a transaction that has an xid was open behind the clock, prepared ones included.
    pub(super) open: bool,
    /// Of a snapshot behind that: every transaction before this has ended,
    pub(super) xmin: u64,
    /// and none from this one on has.
    pub(super) xmax: u64,
    /// Where the next record of WAL will be, read after the snapshot.
    pub(super) lsn: Lsn,
}

/// Two connections: some is told over the replication protocol only, the rest by queries only.
pub(super) struct Server {
    replication: ReplicationConnection,
    sql: SqlConnection,
    history: TimelineHistory,
    flush_lsn: Lsn,
    may_switch: bool,
    may_list: bool,
    may_list_status: bool,
}

impl Server {
    /// Connects, and refuses another cluster.
    pub(super) async fn connect(
        branch: &BranchContext,
        settings: &ConnectionSettings,
    ) -> Result<Server, ArchiveError> {
        let mut replication = ReplicationConnection::connect(settings).await?;
        let identity = replication.identify_system().await?;
        let expected = branch.branch.system_identifier;
        if identity.system_identifier != expected {
            let found = identity.system_identifier;
            return Err(ArchiveError::ForeignSystem { found, expected });
        }
        let history = history(&mut replication, identity.timeline).await?;
        let mut sql = SqlConnection::connect(settings).await?;
        check_segment_size(&mut sql, branch.branch.wal_segment_size).await?;
        let rights = "SELECT has_function_privilege('pg_switch_wal()', 'EXECUTE'), \
                      has_function_privilege('pg_ls_waldir()', 'EXECUTE'), \
                      has_function_privilege('pg_ls_archive_statusdir()', 'EXECUTE')";
        let rights = one_row(&mut sql, rights).await?;
        let may = |index| rights.as_ref().and_then(|row| row.get(index)) == Some("t");
        Ok(Server {
            flush_lsn: identity.flush_lsn,
            may_switch: may(0),
            may_list: may(1),
            may_list_status: may(2),
            replication,
            sql,
            history,
        })
    }

    /// The history of the timeline that the server was on.
    pub(super) fn history(&self) -> &TimelineHistory {
        &self.history
    }

    /// How far its WAL went when the session began.
    pub(super) fn flush_lsn(&self) -> Lsn {
        self.flush_lsn
    }

    pub(super) fn major(&self) -> u32 {
        self.replication.server_version().major()
    }

    /// Whether it is in recovery.
    pub(super) async fn is_standby(&mut self) -> Result<bool, PgError> {
        let asked = one_row(&mut self.sql, "SELECT pg_is_in_recovery()").await?;
        Ok(asked.as_ref().and_then(|row| row.get(0)) == Some("t"))
    }

    /// Asks where the server is. The order of the questions makes it a claim: what was committed by the clock lies
    /// before the position, and is seen as open or as ended.
    pub(super) async fn observe(&mut self) -> Result<Observation, ArchiveError> {
        let identity = self.replication.identify_system().await?;
        let clock = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let clock = one_row(&mut self.sql, clock).await?;
        // What other roles do is hidden, their xids are not.
        let open = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE backend_xid IS NOT NULL) \
                    OR EXISTS (SELECT FROM pg_prepared_xacts)";
        let open = one_row(&mut self.sql, open).await?;
        let rest = "SELECT pg_is_in_recovery(), pg_snapshot_xmin(seen), pg_snapshot_xmax(seen), \
                    CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_insert_lsn() END \
                    FROM pg_current_snapshot() AS seen";
        let rest = one_row(&mut self.sql, rest).await?;
        let text = |row: &Option<Row>, index| {
            row.as_ref()
                .and_then(|row| row.get(index))
                .map(str::to_owned)
        };
        let observation = || {
            let micros: i64 = text(&clock, 0)?.parse().ok()?;
            Some(Observation {
                clock: PgTimestamp::from_unix_micros(micros),
                timeline: identity.timeline,
                standby: text(&rest, 0)? == "t",
                open: text(&open, 0)? == "t",
                xmin: text(&rest, 1)?.parse().ok()?,
                xmax: text(&rest, 2)?.parse().ok()?,
                lsn: text(&rest, 3)?.parse().ok()?,
            })
        };
        observation().ok_or(ArchiveError::Position)
    }

    /// Has the open segment pushed, if the role may; false if it may not.
    pub(super) async fn switch_wal(&mut self) -> Result<bool, PgError> {
        if !self.may_switch {
            return Ok(false);
        }
        let _ = self.sql.query("SELECT pg_switch_wal()").await?;
        tracing::debug!("the open segment is asked for");
        Ok(true)
    }

    /// Whether the server says that it does not have a segment any more; false if it may not be asked.
    pub(super) async fn has_removed(&mut self, name: SegmentName) -> Result<bool, PgError> {
        if !self.may_list {
            return Ok(false);
        }
        let name = quote_literal(&name.to_string());
        let listed = format!("SELECT count(*) FROM pg_ls_waldir() WHERE name = {name}");
        let listed = one_row(&mut self.sql, &listed).await?;
        Ok(listed.as_ref().and_then(|row| row.get(0)) == Some("0"))
    }

    /// The segments that it has still to push; none if it may not be asked.
    pub(super) async fn unpushed(
        &mut self,
        size: WalSegmentSize,
    ) -> Result<BTreeSet<SegmentName>, PgError> {
        if !self.may_list_status {
            return Ok(BTreeSet::new());
        }
        let listed = "SELECT name FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
        let rows = self.sql.query(listed).await?;
        let names = rows
            .iter()
            .filter_map(|row| row.get(0)?.strip_suffix(".ready"));
        Ok(names
            .filter_map(|name| SegmentName::parse(name, size).ok())
            .collect())
    }

    /// What is wrong with the pushing, in words for a person.
    pub(super) async fn complaint(&mut self) -> Result<Option<String>, PgError> {
        let question = "SELECT current_setting('archive_mode'), last_failed_wal, \
                        coalesce(last_failed_time > coalesce(last_archived_time, '-infinity'), false), \
                        (SELECT setting FROM pg_settings WHERE name = 'archive_timeout') FROM pg_stat_archiver";
        let Some(row) = one_row(&mut self.sql, question).await? else {
            return Ok(None);
        };
        if row.get(0) == Some("off") {
            let text = "archive_mode is off, so the server pushes nothing; set it to on and restart the server";
            return Ok(Some(text.to_owned()));
        }
        if row.get(2) == Some("t") {
            let wal = row.get(1).unwrap_or("a file");
            return Ok(Some(format!(
                "the server's archive_command failed for {wal}; its log says why, and it tries again"
            )));
        }
        let bounded = row.get(3) != Some("0") || self.may_switch;
        let text = "the open segment is archived only when it is full: set archive_timeout to a minute, or grant the role \
                    EXECUTE on pg_switch_wal()";
        Ok((!bounded).then(|| text.to_owned()))
    }
}

async fn history(
    connection: &mut ReplicationConnection,
    timeline: TimelineId,
) -> Result<TimelineHistory, ArchiveError> {
    if timeline == TimelineId(1) {
        return Ok(TimelineHistory::root(timeline));
    }
    let file = connection.timeline_history(timeline).await?;
    TimelineHistory::parse(timeline, &String::from_utf8_lossy(&file.content))
        .map_err(|source| ArchiveError::History { timeline, source })
}

async fn check_segment_size(
    sql: &mut SqlConnection,
    expected: WalSegmentSize,
) -> Result<(), ArchiveError> {
    let bytes = "SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'";
    let found = one_row(sql, bytes).await?;
    let found = found
        .as_ref()
        .and_then(|row| row.get(0))
        .unwrap_or_default();
    if found.parse() == Ok(expected.bytes()) {
        return Ok(());
    }
    Err(ArchiveError::SegmentSize {
        found: found.to_owned(),
        expected,
    })
}

async fn one_row(sql: &mut SqlConnection, query: &str) -> Result<Option<Row>, PgError> {
    Ok(sql.query(query).await?.into_iter().next())
}
