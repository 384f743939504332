//! A server that offers no replication slot: it pushes its WAL with `zektor wal push`, and everything else is as ever.

mod copies;
mod pushing;

use anyhow::{Context, Result, bail, ensure};
use chrono::{DateTime, Utc};
use events::envelope::rfc3339;
use integration::{DIGEST, PATIENCE, Store};
use pg_format::TimelineId;
use repository::WalObjectKind;
use testkit::postgres::{PgVersion, Postgres};
use testkit::s3::S3Server;
use testkit::wait_until;

use crate::exactness::text;
use pushing::{Pushing, Role, SEGMENT_MIB, listed, segment, shell, size};

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

fn store(pushing: &mut Pushing) -> Result<&mut S3Server> {
    match &mut pushing.stack.store {
        Store::S3(server) => Ok(server),
        Store::Local => bail!("the store is a directory"),
    }
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

    store(&mut pushing)?.kill().await?;
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
    store(&mut pushing)?.start_again().await?;
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
            .is_ok_and(|objects| objects.iter().any(|object| matches!(object.kind, WalObjectKind::Segment(name) if name.timeline == TimelineId(2))))
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
    let mut pushing = Pushing::start_with(PgVersion::V18, Role::Superuser, &settings).await?;
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

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_database_is_proven_complete_without_a_segment_for_it() -> Result<()> {
    let settings = [
        ("ZEKTOR_POSITION_INTERVAL", "300ms"),
        ("ZEKTOR_WAL_PUSHED_SWITCH_AFTER", "1s"),
    ];
    let mut pushing = Pushing::start_with(PgVersion::V15, Role::Superuser, &settings).await?;
    let name = pushing.fill_segment().await?;
    pushing.archived(&name).await?;
    let reader = pushing.reader()?;
    let proven = async |after: DateTime<Utc>| {
        let what = format!("the archive to be proven complete after {after}");
        wait_until(&what, PATIENCE, async || {
            let position = reader.wal_position().await;
            position.is_ok_and(|position| position.proven_at > after)
        })
        .await
    };
    let clock = async |postgres: &Postgres| -> Result<DateTime<Utc>> {
        let micros = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
        let micros = postgres.psql(micros).await?.parse()?;
        DateTime::from_timestamp_micros(micros).context("a time")
    };
    proven(clock(&pushing.postgres).await?).await?;
    let before = listed(&reader).await?.len();
    // Records that belong to no transaction, in the open segment.
    let _lsn = pushing.postgres.psql("CHECKPOINT").await?;
    let position = reader.wal_position().await?;
    let beyond = format!(
        "SELECT pg_current_wal_insert_lsn() - '{}' > 40",
        position.lsn
    );
    ensure!(pushing.postgres.psql(&beyond).await? == "t", "no wal");
    for _ in 0..5 {
        proven(clock(&pushing.postgres).await?).await?;
    }
    ensure!(
        listed(&reader).await?.len() == before,
        "segments were forced out"
    );
    // What an archiver knows of the xids goes with it: the next one asks for one segment, and no more.
    let _status = pushing.stack.service("wal-archiver").kill9().await?;
    let away_at = clock(&pushing.postgres).await?;
    pushing.stack.service("wal-archiver").start_again().await?;
    proven(away_at).await?;
    let again = listed(&reader).await?.len();
    ensure!(again <= before + 1, "{again} instead of {before}");
    for _ in 0..5 {
        proven(clock(&pushing.postgres).await?).await?;
    }
    ensure!(
        listed(&reader).await?.len() == again,
        "segments were forced out"
    );
    // A commit is not proven while it lies in the open segment.
    pushing.ledger.write(1).await?;
    let commit = pushing.ledger.last().clone();
    let name = pushing.fill_segment().await?;
    let position = reader.wal_position().await?;
    let covered = position.lsn >= commit.lsn;
    ensure!(
        covered || position.proven_at < commit.committed_at,
        "{position:?}"
    );
    pushing.archived(&name).await?;
    proven(pushing.ledger.last().committed_at).await?;
    let position = reader.wal_position().await?;
    ensure!(position.lsn >= pushing.ledger.last().lsn, "{position:?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_rights_waits_for_archive_timeout_and_is_told_so() -> Result<()> {
    let settings = [("ZEKTOR_POSITION_INTERVAL", "300ms")];
    let mut pushing = Pushing::start_with(PgVersion::V18, Role::Backup, &settings).await?;
    let name = pushing.fill_segment().await?;
    pushing.archived(&name).await?;
    wait_until("advice", PATIENCE, async || {
        let status = pushing.status().await;
        status.is_ok_and(|status| {
            let error = status["error"].as_str().unwrap_or_default();
            error.contains("archive_timeout") && error.contains("pg_switch_wal")
        })
    })
    .await?;
    for line in [
        "ALTER SYSTEM SET archive_timeout = 1",
        "SELECT pg_reload_conf()",
    ] {
        let _output = pushing.postgres.psql(line).await?;
    }
    let _backup = pushing.stack.back_up("shop").await?;
    pushing.ledger.write(5).await?;
    let commit = pushing.ledger.last().clone();
    let reader = pushing.reader()?;
    wait_until(
        "the last commit to be proven archived",
        PATIENCE,
        async || {
            let position = reader.wal_position().await;
            position.is_ok_and(|position| position.proven_at >= commit.committed_at)
        },
    )
    .await?;
    ensure!(pushing.status().await?["error"].is_null(), "still advised");
    pushing
        .restored("latest", &["--latest"], &commit.digest)
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_ended_timeline_leaves_is_kept_until_the_segment_comes() -> Result<()> {
    let mut pushing = Pushing::start(PgVersion::V18).await?;
    let before = pushing.fill_segment().await?;
    pushing.archived(&before).await?;
    pushing.ledger.write(3).await?;
    let commit = pushing.ledger.last().lsn;
    let open = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())";
    let name = pushing.postgres.psql(open).await?;
    // As a promoted server has it: behind the last record there is whatever the file was before.
    let mut raw = std::fs::read(pushing.pg_wal(&name))?;
    let half = raw.len() / 2;
    raw[half..].fill(0xAB);
    let place = pushing.stack.fresh_directory("partial")?;
    let file = place.join(format!("{name}.partial"));
    std::fs::write(&file, &raw)?;
    let (code, said) = pushing.push(&file).await?;
    ensure!(code == 0, "{code} {said}");
    let reader = pushing.reader()?;
    let stored = reader.get_partial(segment(&name)?).await?;
    let wanted = size()?.offset_in_segment(commit);
    let enough = u64::try_from(stored.len())? >= wanted && stored.len() <= half;
    ensure!(enough && raw.starts_with(&stored), "{} bytes", stored.len());
    let fetched = place.join("RECOVERYXLOG");
    let (code, said) = pushing.fetch(&name, &fetched).await?;
    ensure!(code == 0, "{code} {said}");
    let fetched = std::fs::read(&fetched)?;
    ensure!(
        fetched.len() == raw.len() && fetched.starts_with(&stored),
        "another size"
    );
    // Another cluster's is not taken.
    raw[24] ^= 1;
    std::fs::write(&file, &raw)?;
    let (code, said) = pushing.push(&file).await?;
    ensure!(code == 3, "{code} {said}");

    let name = pushing.fill_segment().await?;
    pushing.archived(&name).await?;
    wait_until("the partial to go", PATIENCE, async || {
        let partial = segment(&name).map(|name| reader.get_partial(name));
        match partial {
            Ok(partial) => partial.await.is_err_and(|error| error.is_absent()),
            Err(_) => false,
        }
    })
    .await
}
