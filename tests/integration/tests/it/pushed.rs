//! A server that offers no replication slot: it pushes its WAL with `zektor wal push`, and everything else is as ever.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use chrono::{DateTime, Utc};
use events::envelope::rfc3339;
use events::{BranchName, InstanceName};
use integration::{DIGEST, Ledger, PATIENCE, Stack, Store};
use pg_format::{SegmentName, TimelineId, WalSegmentSize};
use repository::{BranchReader, WalObject};
use testkit::postgres::{PgVersion, Postgres};
use testkit::s3::{BUCKET, S3Server};
use testkit::wait_until;
use tokio::process::Command;

use crate::exactness::text;

const SEGMENT_MIB: u32 = 1;

/// A database that pushes, and the stack that it pushes to.
struct Pushing {
    postgres: Postgres,
    stack: Stack,
    environment: Vec<(String, String)>,
    ledger: Ledger,
}

impl Pushing {
    async fn start(version: PgVersion) -> Result<Pushing> {
        Self::start_with(version, &[]).await
    }

    async fn start_with(version: PgVersion, settings: &[(&str, &str)]) -> Result<Pushing> {
        let store = S3Server::start().await?;
        let mut environment = store.env();
        environment.push(("ZEKTOR_REPOSITORY_URL".to_owned(), store.url(BUCKET)));
        environment.push(("ZEKTOR_INSTANCE".to_owned(), "shop".to_owned()));
        let push = shell(&environment, "wal push %p")?;
        let postgres = Postgres::builder()
            .version(version)
            .wal_segment_size_mib(SEGMENT_MIB)
            .setting("track_commit_timestamp", "on")
            .setting("archive_mode", "on")
            .setting("archive_command", &push)
            .start()
            .await?;
        let mut builder = Stack::builder().store(Store::S3(store));
        for (name, value) in settings {
            builder = builder.env(name, *value);
        }
        let stack = builder.start().await?;
        let mut ledger = Ledger::create(&postgres).await?;
        ledger.write(20).await?;
        let dsn = postgres.dsn();
        let add = [
            "instance",
            "add",
            "shop",
            "--dsn",
            &dsn,
            "--archive-mode",
            "command",
        ];
        let _added = stack.zektor_ok(&add).await?;
        Ok(Pushing {
            postgres,
            stack,
            environment,
            ledger,
        })
    }

    fn reader(&self) -> Result<BranchReader> {
        let instance = InstanceName::new("shop")?;
        Ok(self
            .stack
            .repository()?
            .reader(&instance, &BranchName::main()))
    }

    /// `zektor` as PostgreSQL calls it: its exit code and what it said.
    async fn zektor(&self, arguments: &[&str]) -> Result<(i32, String)> {
        let output = Command::new(testkit::process::program("zektor")?)
            .args(arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .kill_on_drop(true)
            .output()
            .await?;
        let code = output.status.code().context("zektor was killed")?;
        Ok((code, String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    async fn push(&self, file: &Path) -> Result<(i32, String)> {
        self.zektor(&["wal", "push", &file.display().to_string()])
            .await
    }

    async fn fetch(&self, name: &str, destination: &Path) -> Result<(i32, String)> {
        let destination = destination.display().to_string();
        self.zektor(&["wal", "fetch", name, &destination, "--patience", "1"])
            .await
    }

    /// Writes until the open segment is another one; the name of the one that is complete now.
    async fn fill_segment(&mut self) -> Result<String> {
        self.ledger.write(2).await?;
        let open = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())";
        let name = self.postgres.psql(open).await?;
        let _lsn = self.postgres.psql("SELECT pg_switch_wal()").await?;
        Ok(name)
    }

    async fn archived(&self, name: &str) -> Result<()> {
        let reader = self.reader()?;
        let segment = segment(name)?;
        wait_until(name, PATIENCE, async || {
            reader.get_segment(segment).await.is_ok()
        })
        .await
    }

    async fn restored(&self, branch: &str, target: &[&str], digest: &str) -> Result<()> {
        let mut arguments = vec!["restore", "shop", "--as", branch, "--wait"];
        arguments.extend(target);
        let restored = self.stack.zektor_ok(&arguments).await?;
        let uri = text(&restored, "connection_uri")?;
        let found = self.postgres.psql_as(&uri, DIGEST).await?;
        ensure!(found == digest, "{branch}: {found} instead of {digest}");
        Ok(())
    }

    fn pg_wal(&self, name: &str) -> PathBuf {
        self.postgres.data_directory().join("pg_wal").join(name)
    }

    async fn status(&self) -> Result<serde_json::Value> {
        self.stack.zektor_ok(&["wal", "status", "shop"]).await
    }
}

/// A command line for PostgreSQL's shell, with what it needs in front.
fn shell(environment: &[(String, String)], command: &str) -> Result<String> {
    let variables: Vec<String> = environment
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    let program = testkit::process::program("zektor")?;
    let variables = variables.join(" ");
    Ok(format!("{variables} {} {command}", program.display()))
}

fn size() -> Result<WalSegmentSize> {
    Ok(WalSegmentSize::new(u64::from(SEGMENT_MIB) << 20)?)
}

fn segment(name: &str) -> Result<SegmentName> {
    Ok(SegmentName::parse(name, size()?)?)
}

async fn listed(reader: &BranchReader) -> Result<Vec<WalObject>> {
    Ok(reader.list_wal(size()?).await?)
}

async fn every_moment_comes_back(version: PgVersion) -> Result<()> {
    let mut pushing = Pushing::start(version).await?;
    let backup = pushing.stack.back_up("shop").await?;
    let ended_at: DateTime<Utc> = text(&backup, "backed_up_at")?.parse()?;
    pushing.ledger.write(100).await?;
    // The target lies in the open segment: whoever restores has it pushed.
    let at = pushing.ledger.points()[80].clone();
    ensure!(
        at.committed_at > ended_at,
        "the target lies before the backup"
    );
    let time = rfc3339(at.committed_at);
    pushing
        .restored("by-time", &["--time", &time], &at.digest)
        .await?;
    pushing.ledger.write(10).await?;
    let last = pushing.ledger.last().digest.clone();
    pushing.restored("latest", &["--latest"], &last).await?;

    let slots = "SELECT count(*) FROM pg_replication_slots";
    ensure!(
        pushing.postgres.psql(slots).await? == "0",
        "there is a slot"
    );
    let status = pushing.status().await?;
    ensure!(status["gaps"] == serde_json::json!([]), "{status}");
    ensure!(status["proven_at"].is_string(), "{status}");
    // Every segment that is complete has its index, made by whoever pushed it.
    let reader = pushing.reader()?;
    let indexed = reader
        .stored_wal_index(TimelineId(1), size()?.segment_of(at.lsn))
        .await?;
    let commits: u32 = indexed
        .context("no index")?
        .intervals
        .iter()
        .filter_map(|interval| interval.ends.as_ref().map(|ends| ends.commits))
        .sum();
    ensure!(commits > 0, "an index without commits");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_comes_back_from_pushed_wal_of_postgresql_15() -> Result<()> {
    every_moment_comes_back(PgVersion::V15).await
}

#[tokio::test(flavor = "multi_thread")]
async fn every_moment_comes_back_from_pushed_wal_of_postgresql_18() -> Result<()> {
    every_moment_comes_back(PgVersion::V18).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_branchs_wal_is_refused_and_changes_nothing() -> Result<()> {
    let mut pushing = Pushing::start(PgVersion::V18).await?;
    let name = pushing.fill_segment().await?;
    pushing.archived(&name).await?;
    let reader = pushing.reader()?;
    let before = listed(&reader).await?;

    let own = reader.get_segment(segment(&name)?).await?;
    let place = pushing.stack.fresh_directory("files")?;
    let file = place.join(&name);
    std::fs::write(&file, &own)?;
    let (code, said) = pushing.push(&file).await?;
    ensure!(code == 0 && said.is_empty(), "twice: {code} {said}");

    let stranger = Postgres::builder()
        .wal_segment_size_mib(SEGMENT_MIB)
        .start()
        .await?;
    let open = "SELECT pg_walfile_name(pg_switch_wal() - 1)";
    let foreign = stranger.psql(open).await?;
    let foreign_file = stranger.data_directory().join("pg_wal").join(&foreign);
    let (code, said) = pushing.push(&foreign_file).await?;
    ensure!(
        code == 3 && said.contains("is refused"),
        "foreign: {code} {said}"
    );
    ensure!(said.trim_end().lines().count() == 1, "{said}");

    let mut flipped = own.to_vec();
    let middle = flipped
        .iter()
        .rposition(|byte| *byte != 0)
        .context("zeros")?
        / 2;
    flipped[middle] ^= 1;
    std::fs::write(&file, &flipped)?;
    let (code, said) = pushing.push(&file).await?;
    ensure!(code == 3, "a flipped bit: {code} {said}");
    std::fs::write(&file, &own[..own.len() / 2])?;
    let (code, said) = pushing.push(&file).await?;
    ensure!(code == 3, "half of it: {code} {said}");
    // The right bytes, under the next segment's name.
    let next = segment(&name)?.next(size()?).to_string();
    std::fs::write(place.join(&next), &own)?;
    let (code, said) = pushing.push(&place.join(&next)).await?;
    ensure!(code == 3, "another's name: {code} {said}");
    for other in ["postgresql.conf", "000000010000000000000001.gz"] {
        std::fs::write(place.join(other), "x")?;
        let (code, said) = pushing.push(&place.join(other)).await?;
        ensure!(code == 2, "{other}: {code} {said}");
    }
    let label = place.join(format!("{name}.00000028.backup"));
    std::fs::write(&label, "START WAL LOCATION")?;
    ensure!(pushing.push(&label).await?.0 == 0, "a backup's label");
    // The open segment may have been pushed meanwhile; what was there is the same.
    let after = listed(&reader).await?;
    ensure!(
        before.iter().all(|object| after.contains(object)),
        "{after:?}"
    );
    ensure!(
        reader.get_segment(segment(&name)?).await? == own,
        "other bytes"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_down_loses_nothing_and_is_never_taken_for_absent() -> Result<()> {
    let mut pushing = Pushing::start(PgVersion::V18).await?;
    let _backup = pushing.stack.back_up("shop").await?;
    let first = pushing.fill_segment().await?;
    pushing.archived(&first).await?;
    let place = pushing.stack.fresh_directory("fetched")?;
    let file = place.join("RECOVERYXLOG");
    let (code, said) = pushing.fetch(&first, &file).await?;
    ensure!(code == 0, "{code} {said}");
    let own = pushing.reader()?.get_segment(segment(&first)?).await?;
    ensure!(std::fs::read(&file)? == own, "other bytes");
    let future = "0000000100000000000000F0";
    let (code, said) = pushing.fetch(future, &place.join("absent")).await?;
    ensure!(
        code == 1 && said.contains("not in the archive"),
        "{code} {said}"
    );
    ensure!(
        pushing
            .fetch("00000002.history", &place.join("absent"))
            .await?
            .0
            == 1,
        "no history"
    );

    let Store::S3(server) = &mut pushing.stack.store else {
        unreachable!("it was started with one")
    };
    server.kill().await?;
    for name in [&*first, future, "00000002.history", "nonsense"] {
        let (code, said) = pushing.fetch(name, &place.join("down")).await?;
        ensure!(code == 126, "{name}: {code} {said}");
    }
    let (code, said) = pushing
        .zektor(&["wal", "fetch", "--no-such-option"])
        .await?;
    ensure!(code == 126, "{code} {said}");
    ensure!(
        !place.join("absent").exists() && !place.join("down").exists(),
        "a file was left"
    );

    let mut names = Vec::new();
    for _ in 0..3 {
        names.push(pushing.fill_segment().await?);
    }
    let failed = "SELECT failed_count > 0 FROM pg_stat_archiver";
    let postgres = &pushing.postgres;
    wait_until("a push to fail", PATIENCE, async || {
        postgres
            .psql(failed)
            .await
            .is_ok_and(|failed| failed == "t")
    })
    .await?;
    ensure!(
        pushing.pg_wal(&names[0]).exists(),
        "PostgreSQL let go of it"
    );
    let Store::S3(server) = &mut pushing.stack.store else {
        unreachable!("it was started with one")
    };
    server.start_again().await?;
    // Wakes the archiver process, which would try again within a minute.
    names.push(pushing.fill_segment().await?);
    for name in &names {
        pushing.archived(name).await?;
    }
    let last = pushing.ledger.last().digest.clone();
    pushing.restored("after", &["--latest"], &last).await?;
    let status = pushing.status().await?;
    ensure!(status["gaps"] == serde_json::json!([]), "{status}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_catches_up_from_the_archive_alone() -> Result<()> {
    let mut pushing = Pushing::start(PgVersion::V18).await?;
    let standby = Postgres::builder()
        .standby_of(&pushing.postgres)
        .start()
        .await?;
    let fetch = shell(&pushing.environment, "wal fetch %f %p")?;
    for line in [
        format!("ALTER SYSTEM SET restore_command = '{fetch}'"),
        "ALTER SYSTEM SET primary_conninfo = ''".to_owned(),
        "SELECT pg_reload_conf()".to_owned(),
    ] {
        let _output = standby.psql(&line).await?;
    }
    wait_until("the standby to stream no more", PATIENCE, async || {
        let streaming = "SELECT count(*) FROM pg_stat_wal_receiver";
        standby
            .psql(streaming)
            .await
            .is_ok_and(|count| count == "0")
    })
    .await?;
    for _ in 0..3 {
        let _name = pushing.fill_segment().await?;
    }
    let last = pushing.ledger.last().digest.clone();
    wait_until("the standby to have it all", PATIENCE, async || {
        standby.psql(DIGEST).await.is_ok_and(|found| found == last)
    })
    .await?;
    ensure!(
        standby.psql("SELECT pg_is_in_recovery()").await? == "t",
        "it was promoted"
    );

    // Promoted, it pushes what the old timeline leaves, its history, and goes on.
    drop(pushing.postgres.kill9().await);
    standby.promote().await?;
    let _lsn = standby.psql("SELECT pg_switch_wal()").await?;
    let reader = pushing.reader()?;
    wait_until("the new timeline to be pushed", PATIENCE, async || {
        listed(&reader)
            .await
            .is_ok_and(|objects| objects.iter().any(|object| matches!(object.kind, repository::WalObjectKind::Segment(name) if name.timeline == TimelineId(2))))
    })
    .await?;
    ensure!(
        reader.get_history(TimelineId(2)).await.is_ok(),
        "no history"
    );
    let left = "SELECT count(*) FROM pg_ls_archive_statusdir() WHERE name LIKE '%.ready'";
    wait_until("everything to be pushed", PATIENCE, async || {
        standby.psql(left).await.is_ok_and(|count| count == "0")
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn wal_that_was_never_pushed_is_a_gap_that_is_told() -> Result<()> {
    let settings = [("ZEKTOR_WAL_PUSHED_GAP_AFTER", "2s")];
    let mut pushing = Pushing::start_with(PgVersion::V18, &settings).await?;
    let _backup = pushing.stack.back_up("shop").await?;
    let push = pushing.postgres.psql("SHOW archive_command").await?;
    let push = push.replace('\'', "''");
    let set = async |postgres: &Postgres, command: &str| -> Result<()> {
        let set = format!("ALTER SYSTEM SET archive_command = '{command}'");
        let _done = postgres.psql(&set).await?;
        let _done = postgres.psql("SELECT pg_reload_conf()").await?;
        Ok(())
    };
    set(&pushing.postgres, "true").await?;
    let lost = pushing.fill_segment().await?;
    let postgres = &pushing.postgres;
    let archived = format!("SELECT last_archived_wal >= '{lost}' FROM pg_stat_archiver");
    wait_until("a segment to be lost", PATIENCE, async || {
        postgres.psql(&archived).await.is_ok_and(|done| done == "t")
    })
    .await?;
    set(&pushing.postgres, &push).await?;
    let next = pushing.fill_segment().await?;
    pushing.archived(&next).await?;
    ensure!(
        pushing
            .reader()?
            .get_segment(segment(&lost)?)
            .await
            .is_err(),
        "it is there"
    );
    let stack = &pushing.stack;
    wait_until("the gap to be told", PATIENCE, async || {
        let status = stack.zektor_ok(&["wal", "status", "shop"]).await;
        status.is_ok_and(|status| {
            status["gaps"][0]["cause"] == "not_pushed" && status["gaps"][1].is_null()
        })
    })
    .await?;
    // A new backup is taken at once, and the moments behind it come back.
    pushing.ledger.write(5).await?;
    let _backup = pushing.stack.back_up("shop").await?;
    let last = pushing.ledger.last().digest.clone();
    pushing.restored("behind", &["--latest"], &last).await
}
