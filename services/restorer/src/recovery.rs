//! Follows a recovery from its start to the promotion, and proves that it came out as planned.
//!
//! Two ends are planned: paused right after the record that the plan names, and at the end of the served WAL where the
//! plan names none. "Ended before the target was reached" is none: the plan has seen the record. Whoever ends without a
//! target has to have replayed all that was served ([`crate::fetch::last_record_end`]).
//!
//! What must stay true: a branch is only opened if the last transaction end that was replayed is the one that the plan
//! predicted, and the branch leaves the source's history where the plan ends.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use events::Timestamp;
use events::event::RestorePhase;
use pg_format::Lsn;
use pg_replication::{PgError, SqlConnection};
use tokio::time::Instant;

use crate::compute::{Compute, ComputeError, Programs, ServerState, log_bytes, log_end};
use crate::control::Minimums;
use crate::error::RestoreError;
use crate::fetch::{WalService, taken_bytes};
use crate::plan::{Plan, Stop};
use crate::server_sql::{self, Names};
use crate::settings::{self, Server};
use crate::site::Site;
use crate::voice::Listener;

const LOOK: Duration = Duration::from_millis(100);
/// `PerformWalRecovery`, PostgreSQL `src/backend/access/transam/xlogrecovery.c`; in the server's `log_timezone`, which is UTC while it is locked.
const LAST_TRANSACTION: &str = "last completed transaction was at log time ";
/// A server that answers, but for so long neither took nor replayed WAL, does not count as alive: the attempt is
/// then given up as if the restorer had died.
const STALLED: Duration = Duration::from_secs(60 * 60);
/// The server was changed below what its WAL demands this often.
const MOST_RESTARTS: u32 = 8;

/// One recovery.
pub struct Recovery<'a> {
    /// Where it runs.
    pub compute: &'a dyn Compute,
    /// Its files.
    pub site: &'a Site,
    /// Its programs.
    pub programs: &'a Programs,
    /// What it is to do.
    pub plan: &'a Plan,
    /// Who may log in.
    pub names: &'a Names,
    /// Its configuration, without a target.
    pub server: Server<'a>,
}

/// How a recovery ended.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The time of the last transaction end that the server noted, commit or not. [`crate::plan::Prediction`] says which.
    pub last_noted: Option<Timestamp>,
    /// It stopped at its target; otherwise at what it took for the end of the WAL.
    pub at_target: bool,
    /// The server was started again in between, and may not know of what it replayed before.
    pub restarted: bool,
    /// What the server says of the transaction whose commit is to be the last; `None` if it does not know any more.
    pub last_commit_is: Option<String>,
}

impl Recovered {
    /// Compares with the plan; the time of the last commit in the branch. `left_at` is where the branch left the
    /// source's history.
    ///
    /// # Errors
    /// The branch is not what was planned.
    pub fn prove(&self, plan: &Plan, left_at: Lsn) -> Result<Option<Timestamp>, RestoreError> {
        let text = |time: Option<Timestamp>| {
            time.map_or_else(|| "none".to_owned(), events::envelope::rfc3339)
        };
        if self.at_target && left_at < plan.end_lsn {
            return Err(RestoreError::Recovery(format!(
                "recovery ended at {left_at}, before {} where the planned target does",
                plan.end_lsn
            )));
        }
        let Some(prediction) = &plan.prediction else {
            return Ok(self.last_noted);
        };
        let forgotten = self.restarted && self.last_noted.is_none();
        if self.last_noted != prediction.last_noted && !forgotten {
            return Err(RestoreError::Recovery(format!(
                "the last transaction end that was replayed is of {}, where {} was planned",
                text(self.last_noted),
                text(prediction.last_noted)
            )));
        }
        let Some(commit) = prediction.last_commit else {
            return Ok(None);
        };
        match self.last_commit_is.as_deref() {
            None | Some("committed") => Ok(Some(commit.at)),
            Some(other) => Err(RestoreError::Recovery(format!(
                "transaction {}, which was planned to be the last one committed, is {other} in the branch",
                commit.xid
            ))),
        }
    }
}

/// What a look at a server that recovers shows.
enum Look {
    /// It goes on.
    Working,
    /// It stands at its target, or for another reason.
    Paused,
    /// It has left recovery.
    Promoted,
    /// It is gone.
    Down,
}

impl Recovery<'_> {
    /// Runs it until it is promoted. Whether the end of the WAL was the real one is for the caller to prove.
    ///
    /// # Errors
    /// The server or the archive failed, or the target is not there. The server may still run.
    pub async fn run(
        &self,
        service: WalService,
        listener: &mut dyn Listener,
    ) -> Result<Recovered, RestoreError> {
        let taken = service.taken();
        tokio::select! {
            ended = service.run() => match ended {
                Ok(never) => match never {},
                Err(error) => Err(error.into()),
            },
            followed = Box::pin(self.follow(&taken, listener)) => followed,
        }
    }

    async fn follow(
        &self,
        taken: &Arc<AtomicU64>,
        listener: &mut dyn Listener,
    ) -> Result<Recovered, RestoreError> {
        let mut minimums = *self.server.minimums;
        let mut restarts = 0;
        let mut begun = self.start(&minimums).await?;
        let mut connection: Option<SqlConnection> = None;
        let mut phase = RestorePhase::Recover;
        let served = self.plan.served();
        let mut done = 0;
        let mut moved = (Instant::now(), None);
        loop {
            tokio::time::sleep(LOOK).await;
            let (look, replayed) = self.look(&mut connection).await?;
            let place = Some((restarts, phase, taken_bytes(taken, &served), replayed));
            if moved.1 != place {
                moved = (Instant::now(), place);
            }
            if moved.0.elapsed() < STALLED {
                listener.alive();
            }
            done = done.max(taken_bytes(taken, &served));
            if let Some(replayed) = replayed {
                done = done.max(replayed.min(served.end()).bytes_since(served.start()));
            }
            listener
                .progressed(phase, done, self.plan.wal_bytes().max(done))
                .await?;
            match look {
                Look::Working => {}
                Look::Promoted => {
                    return Ok(Recovered {
                        last_noted: self.last_transaction(&mut connection).await?,
                        at_target: self.plan.stop != Stop::EndOfWal,
                        restarted: restarts > 0,
                        last_commit_is: self.last_commit(&mut connection).await?,
                    });
                }
                Look::Down => {
                    connection = None;
                    let log = self.log_since(begun);
                    if !minimums.raise_from_log(&log) || restarts >= MOST_RESTARTS {
                        let log = log_end(&self.site.log_file());
                        return Err(ComputeError::ServerEnded {
                            during: "recovering",
                            log,
                        }
                        .into());
                    }
                    restarts += 1;
                    begun = self.start(&minimums).await?;
                }
                Look::Paused => {
                    // It pauses as well when the source raised a setting that this server has lower.
                    if minimums.raise_from_log(&self.log_since(begun)) && restarts < MOST_RESTARTS {
                        connection = None;
                        self.compute
                            .stop(self.site, crate::compute::Stopping::Fast)
                            .await?;
                        restarts += 1;
                        begun = self.start(&minimums).await?;
                        continue;
                    }
                    phase = RestorePhase::Promote;
                    listener.progressed(phase, done, done).await?;
                    if let Some(open) = &mut connection
                        && let Err(error) = open.query("SELECT pg_wal_replay_resume()").await
                    {
                        // It may just have left recovery; the next look tells.
                        tracing::debug!(error = &error as &dyn std::error::Error, "not resumed");
                    }
                }
            }
        }
    }

    /// Writes the configuration and starts the server; where its log will go on.
    async fn start(&self, minimums: &Minimums) -> Result<u64, RestoreError> {
        let server = Server {
            minimums,
            ..self.server
        };
        let timeline = self.plan.history.timeline();
        let conf = settings::recovering(&server, timeline, Some(&self.plan.stop));
        self.compute
            .write(&self.site.config_file(), conf.as_bytes())
            .await?;
        let begun = std::fs::metadata(self.site.log_file()).map_or(0, |log| log.len());
        self.compute
            .start(self.site, self.programs, self.server.port)
            .await?;
        Ok(begun)
    }

    /// Looks at the server; also how far it has replayed, once it says so.
    async fn look(
        &self,
        connection: &mut Option<SqlConnection>,
    ) -> Result<(Look, Option<Lsn>), RestoreError> {
        match self.compute.state(self.site).await? {
            ServerState::Down => return Ok((Look::Down, None)),
            ServerState::Busy => return Ok((Look::Working, None)),
            ServerState::Standby | ServerState::Ready => {}
        }
        let open = match connection {
            Some(open) => open,
            None => {
                let patience = Duration::from_secs(10);
                let connected =
                    server_sql::superuser(self.site, self.server.port, self.names, patience).await;
                match connected {
                    Ok((connected, _)) => connection.insert(connected),
                    Err(RestoreError::Server(error)) if error.is_transient() => {
                        return Ok((Look::Working, None));
                    }
                    Err(error) => return Err(error),
                }
            }
        };
        match ask(open, self.server.major).await {
            Ok(answer) => Ok(answer),
            Err(error) if error.is_transient() => {
                *connection = None;
                Ok((Look::Working, None))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What the server says of the commit that is to be the last.
    async fn last_commit(
        &self,
        connection: &mut Option<SqlConnection>,
    ) -> Result<Option<String>, RestoreError> {
        let commit = self.plan.prediction.and_then(|known| known.last_commit);
        let (Some(commit), Some(connection)) = (commit.filter(|one| one.xid > 0), connection)
        else {
            return Ok(None);
        };
        // The epoch is the one in which the transaction is in the past.
        let (xid, whole) = (commit.xid, 1_u64 << 32);
        let sql = format!(
            "SELECT pg_catalog.pg_xact_status((CASE WHEN next % {whole} > {xid} THEN next - next % {whole} + {xid} \
             ELSE next - next % {whole} + {xid} - {whole} END)::text::xid8) \
             FROM (SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::bigint AS next) AS s"
        );
        let rows = connection.query(&sql).await?;
        Ok(rows.first().and_then(|row| row.get(0)).map(str::to_owned))
    }

    fn log_since(&self, begun: u64) -> String {
        let bytes = log_bytes(&self.site.log_file());
        let length = std::fs::metadata(self.site.log_file()).map_or(0, |log| log.len());
        let new = usize::try_from(length.saturating_sub(begun)).unwrap_or(usize::MAX);
        let from = bytes.len().saturating_sub(new);
        String::from_utf8_lossy(&bytes[from..]).into_owned()
    }

    /// From the server, else from its log: a server that was started again in between may have replayed
    /// nothing since.
    async fn last_transaction(
        &self,
        connection: &mut Option<SqlConnection>,
    ) -> Result<Option<Timestamp>, RestoreError> {
        let mut last = None;
        if let Some(connection) = connection {
            let rows = connection
                .query("SELECT pg_last_xact_replay_timestamp()")
                .await?;
            last = rows.first().and_then(|row| row.get(0)).and_then(parse_time);
        }
        let log = String::from_utf8_lossy(&log_bytes(&self.site.log_file())).into_owned();
        let logged = log.lines().rev().find_map(|line| {
            let (_, time) = line.split_once(LAST_TRANSACTION)?;
            parse_time(&time.replace(" UTC", "+00"))
        });
        Ok(last.or(logged))
    }
}

async fn ask(connection: &mut SqlConnection, major: u32) -> Result<(Look, Option<Lsn>), PgError> {
    let paused = if major >= 14 {
        "pg_get_wal_replay_pause_state() = 'paused'"
    } else {
        "pg_is_wal_replay_paused()"
    };
    // Those functions raise an error outside of recovery; CASE keeps them from being called there.
    let sql = format!(
        "SELECT CASE WHEN pg_is_in_recovery() THEN CASE WHEN {paused} THEN 'paused' ELSE 'working' END \
         ELSE 'promoted' END, pg_last_wal_replay_lsn()"
    );
    let rows = connection.query(&sql).await?;
    let row = rows.first();
    let look = match row.and_then(|row| row.get(0)) {
        Some("promoted") => Look::Promoted,
        Some("paused") => Look::Paused,
        _ => Look::Working,
    };
    let replayed = row
        .and_then(|row| row.get(1))
        .and_then(|lsn| lsn.parse().ok());
    Ok((look, replayed))
}

/// PostgreSQL's text of a `timestamptz` in UTC.
fn parse_time(text: &str) -> Option<Timestamp> {
    let text = text.trim();
    let time = chrono::DateTime::parse_from_str(&format!("{text}00"), "%Y-%m-%d %H:%M:%S%.f%z");
    time.ok().map(|time| time.with_timezone(&chrono::Utc))
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, TimeDelta};
    use events::event::{BackupSummary, PlannedCommit};
    use events::{BackupId, BackupType, BranchName, InstanceName, Trigger};
    use pg_format::{Lsn, SystemIdentifier, TimelineHistory, TimelineId, WalSegmentSize};

    use super::{Recovered, parse_time};
    use crate::plan::{Plan, Prediction, Stop};

    fn plan() -> Plan {
        let at = DateTime::UNIX_EPOCH;
        Plan {
            backup: BackupSummary {
                backup_id: BackupId(uuid::Uuid::from_u128(1)),
                instance: InstanceName::new("orders").unwrap(),
                branch: BranchName::main(),
                name: "test".to_owned(),
                backup_type: BackupType::Full,
                trigger: Trigger::Manual,
                schedule_id: None,
                requested_at: at,
                started_at: at,
                backed_up_at: at,
                ended_at: None,
                expires_at: None,
                wal_until: None,
                start_lsn: Lsn(100),
                stop_lsn: Lsn(200),
                timeline: TimelineId(1),
                system_identifier: SystemIdentifier(7),
                server_version: 180_000,
                wal_segment_size: WalSegmentSize::DEFAULT,
                logical_bytes: 0,
                stored_bytes: 0,
                files: 0,
                attempt: "a".to_owned(),
                damaged_pages: Vec::new(),
            },
            history: TimelineHistory::root(TimelineId(1)),
            end_lsn: Lsn(500),
            fork_lsn: Lsn(500),
            stop: Stop::Lsn(Lsn(450)),
            prediction: Some(Prediction {
                last_noted: Some(at),
                last_commit: Some(PlannedCommit {
                    at: at + TimeDelta::seconds(1),
                    lsn: Lsn(450),
                    xid: 9,
                }),
            }),
            half_dropped: Vec::new(),
            notes: Vec::new(),
        }
    }

    #[test]
    fn what_came_out_otherwise_than_planned_is_not_opened() {
        let (plan, at) = (plan(), DateTime::UNIX_EPOCH);
        let good = Recovered {
            last_noted: Some(at),
            at_target: true,
            restarted: false,
            last_commit_is: Some("committed".to_owned()),
        };
        let last = Some(at + TimeDelta::seconds(1));
        assert_eq!(good.prove(&plan, Lsn(500)).unwrap(), last);
        assert!(good.prove(&plan, Lsn(450)).is_err(), "too early");
        let with = |change: &dyn Fn(&mut Recovered)| {
            let mut other = good.clone();
            change(&mut other);
            other.prove(&plan, Lsn(500))
        };
        assert!(with(&|one| one.last_noted = last).is_err(), "too late");
        assert!(
            with(&|one| one.last_noted = None).is_err(),
            "nothing replayed"
        );
        assert!(with(&|one| one.last_commit_is = Some("aborted".to_owned())).is_err());
        assert!(with(&|one| one.last_commit_is = Some("in progress".to_owned())).is_err());
        // A server that was started again behind the last end does not know it; where it ended still counts.
        let forgot = |one: &mut Recovered| (one.last_noted, one.restarted) = (None, true);
        assert!(with(&forgot).is_ok());
    }

    #[test]
    fn reads_what_postgres_prints() {
        let time = parse_time("2026-11-22 15:00:00.123456+00").unwrap();
        assert_eq!(
            events::envelope::rfc3339(time),
            "2026-11-22T15:00:00.123456Z"
        );
        assert!(parse_time("2026-11-22 15:00:00+00").is_some());
        assert!(parse_time("never").is_none());
    }
}
