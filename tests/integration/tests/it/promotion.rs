//! The server that is backed up is a standby, and is promoted while the backup runs: what comes of it restores
//! exactly, and so does everything after it.

use anyhow::{Context, Result, bail, ensure};
use bus::From;
use events::event::{BackupPhase, BackupProgressed};
use events::{BackupId, Event, topology};
use futures::StreamExt;
use integration::{DIGEST, Ledger, PATIENCE, Stack};
use pg_format::Lsn;
use serde_json::Value;
use testkit::postgres::{PgVersion, Postgres};
use testkit::wait_until;

use crate::exactness::{text, wait_archived};

/// Slow enough to be promoted in the middle, quick enough to wait for.
const SLOW_KIB_PER_SECOND: &str = "8192";

/// A primary that is written to, and its standby, which is backed up and archived.
struct Failover {
    stack: Stack,
    primary: Postgres,
    standby: Postgres,
    ledger: Ledger,
}

impl Failover {
    async fn start() -> Result<Failover> {
        let primary = Postgres::builder()
            .version(PgVersion::V18)
            .setting("track_commit_timestamp", "on")
            .start()
            .await?;
        let mut ledger = Ledger::create(&primary).await?;
        ledger.write(20).await?;
        let fill = "CREATE TABLE filler AS SELECT n, md5(n::text) || md5((n + 1)::text) AS text \
                    FROM generate_series(1, 400000) n; CHECKPOINT";
        let _output = primary.psql(fill).await?;
        let standby = Postgres::builder().standby_of(&primary).start().await?;
        let stack = Stack::builder()
            .env("ZEKTOR_BACKUP_MAX_RATE_KIB", SLOW_KIB_PER_SECOND)
            .start()
            .await?;
        stack.register("orders", &standby).await?;
        Ok(Failover {
            stack,
            primary,
            standby,
            ledger,
        })
    }

    /// Asks for a backup; it is in the middle of the copy, and rows are written.
    async fn in_the_middle_of_a_backup(&mut self) -> Result<BackupId> {
        let asked = self
            .stack
            .zektor_ok(&["backup", "create", "orders"])
            .await?;
        let id = text(&asked, "id")?.parse()?;
        self.progressed(id, |progress| progress.done_bytes > 0)
            .await?;
        self.ledger.write(20).await?;
        Ok(id)
    }

    async fn progressed(
        &self,
        id: BackupId,
        so_far: impl Fn(&BackupProgressed) -> bool,
    ) -> Result<()> {
        let bus = self.stack.bus().await?;
        let subjects = vec!["zektor.backup.>".to_owned()];
        let mut events = Box::pin(bus.follow(subjects, From::Start, topology::EVENTS));
        while let Some(stored) = events.next().await {
            match stored?.envelope.message {
                Event::BackupProgressed(progress)
                    if progress.backup_id == id && so_far(&progress) =>
                {
                    return Ok(());
                }
                Event::BackupCompleted(backup) if backup.backup_id == id => {
                    bail!("the backup completed before")
                }
                Event::BackupFailed(backup) if backup.backup_id == id => {
                    bail!("the backup failed: {}", backup.message)
                }
                _ => {}
            }
        }
        bail!("the events ended")
    }

    /// The primary is lost, though not a commit of it; the standby takes over.
    async fn fail_over(&mut self) -> Result<()> {
        let last = &self.ledger.last().digest;
        wait_until("the standby to have it all", PATIENCE, async || {
            let found = self.standby.psql(DIGEST).await;
            found.is_ok_and(|found| found == *last)
        })
        .await?;
        self.primary.kill9().await?;
        self.standby.promote().await?;
        self.ledger.reconnect(&self.standby).await?;
        self.ledger.write(20).await
    }

    async fn shown(&self, id: BackupId) -> Result<Value> {
        let id = id.to_string();
        self.stack
            .zektor_ok(&["backup", "show", "orders", &id])
            .await
    }

    async fn ended(&self, id: BackupId) -> Result<Value> {
        wait_until("the backup to end", PATIENCE, async || {
            let shown = self.shown(id).await;
            shown.is_ok_and(|shown| {
                ["completed", "failed"].contains(&shown["status"].as_str().unwrap_or(""))
            })
        })
        .await?;
        self.shown(id).await
    }

    /// A completed backup alone is one of the two states around its stop LSN.
    async fn restores_by_itself(&self, backup: &Value, branch: &str) -> Result<()> {
        let stop: Lsn = text(backup, "stop_lsn")?.parse()?;
        let points = self.ledger.points();
        let last_in = points
            .iter()
            .rposition(|point| point.lsn <= stop)
            .context("no commit before the stop lsn")?;
        let states = points.iter().skip(last_in).take(2);
        let states: Vec<&str> = states.map(|point| &*point.digest).collect();
        let target = ["--backup", &text(backup, "id")?];
        self.restores(branch, &target, &states).await
    }

    async fn restores(&self, branch: &str, target: &[&str], expected: &[&str]) -> Result<()> {
        let mut arguments = vec!["restore", "orders", "--as", branch, "--wait"];
        arguments.extend(target);
        let restored = self.stack.zektor_ok(&arguments).await?;
        let uri = text(&restored, "connection_uri")?;
        let digest = self.standby.psql_as(&uri, DIGEST).await?;
        ensure!(
            expected.contains(&&*digest),
            "{branch}: {digest}, not {expected:?}; {restored}"
        );
        let filler = "SELECT count(*) || md5(string_agg(text, '' ORDER BY n)) FROM filler";
        let (copy, source) = (
            self.standby.psql_as(&uri, filler).await?,
            self.standby.psql(filler).await?,
        );
        ensure!(
            copy == source,
            "{branch}: the filler is {copy}, not {source}"
        );
        let _gone = self
            .stack
            .zektor_ok(&["branch", "delete", "orders", branch])
            .await?;
        Ok(())
    }

    /// A new backup on the new timeline; the latest moment is the promoted server's; nowhere is a gap.
    async fn goes_on(&mut self) -> Result<()> {
        let backup = self.stack.back_up("orders").await?;
        ensure!(backup["timeline"] == 2, "{backup}");
        self.restores_by_itself(&backup, "new").await?;
        self.ledger.write(20).await?;
        let last = self.ledger.last().clone();
        self.restores("latest", &["--latest"], &[&last.digest])
            .await?;
        let source = self.standby.psql(DIGEST).await?;
        ensure!(source == last.digest, "the source changed: {source}");
        for command in [&["wal", "status", "orders"][..], &["window", "orders"]] {
            let answer = self.stack.zektor_ok(command).await?;
            let none = answer["gaps"].as_array().is_some_and(Vec::is_empty);
            ensure!(none, "{command:?}: {answer}");
        }
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_promoted_in_the_middle_of_its_backup() -> Result<()> {
    let mut failover = Failover::start().await?;
    let id = failover.in_the_middle_of_a_backup().await?;
    failover.fail_over().await?;
    // What was copied is thrown away; another attempt copies the promoted server.
    let backup = failover.ended(id).await?;
    ensure!(backup["status"] == "completed", "{backup}");
    ensure!(backup["timeline"] == 2, "{backup}");
    failover.restores_by_itself(&backup, "first").await?;
    failover.goes_on().await
}

/// The copy is of the standby, on the old timeline; the WAL that it needs comes to the archive after the promotion.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_promoted_while_its_backup_waits_for_wal() -> Result<()> {
    let mut failover = Failover::start().await?;
    let id = failover.in_the_middle_of_a_backup().await?;
    let _status = failover.stack.service("wal-archiver").kill9().await?;
    let waits = |progress: &BackupProgressed| progress.phase == BackupPhase::WaitingForWal;
    failover.progressed(id, waits).await?;
    failover.fail_over().await?;
    failover.stack.service("wal-archiver").start_again().await?;
    let backup = failover.ended(id).await?;
    ensure!(backup["status"] == "completed", "{backup}");
    ensure!(backup["timeline"] == 1, "{backup}");
    failover.restores_by_itself(&backup, "first").await?;
    // From the old timeline's copy over the promotion.
    let last = failover.ledger.last().clone();
    wait_archived(&failover.stack, last.lsn).await?;
    let across = ["--lsn", &last.lsn.to_string()];
    failover
        .restores("across", &across, &[&last.digest])
        .await?;
    failover.goes_on().await
}
