//! A promoted copy of a server, with the archive_command that it was copied with.

use anyhow::{Result, ensure};
use integration::PATIENCE;
use testkit::postgres::{PgVersion, Postgres};
use testkit::wait_until;

use super::pushing::{Pushing, listed, size};

#[tokio::test(flavor = "multi_thread")]
async fn a_promoted_copy_stores_nothing_and_its_primary_goes_on() -> Result<()> {
    let mut pushing = Pushing::start(PgVersion::V15).await?;
    let name = pushing.fill_segment().await?;
    pushing.archived(&name).await?;
    let copy = Postgres::builder().standby_of(&pushing.postgres);
    let copy = copy.start().await?;
    let _set = copy
        .psql("ALTER SYSTEM SET archive_command = 'false'")
        .await?;
    let _done = copy.psql("SELECT pg_reload_conf()").await?;
    copy.promote().await?;
    pushing.ledger.write(2).await?;
    let mut name = String::new();
    for _ in 0..3 {
        name = pushing.fill_segment().await?;
    }
    pushing.archived(&name).await?;
    let reader = pushing.reader()?;
    let beyond = super::segment(&name)?.start(size()?);
    wait_until("the archive to be followed", PATIENCE, async || {
        let position = reader.wal_position().await;
        position.is_ok_and(|position| position.lsn > beyond)
    })
    .await?;

    let _made = copy.psql("CREATE TABLE beside (n int)").await?;
    let open = "SELECT pg_walfile_name(pg_switch_wal())";
    let segment = copy.psql(open).await?;
    let pg_wal = copy.data_directory().join("pg_wal");
    for file in ["00000002.history", &segment] {
        let (code, said) = pushing.push(&pg_wal.join(file)).await?;
        let told = said.contains("timeline 2 parts from that") && said.contains("a copy");
        ensure!(code == 3 && told, "{file}: {code} {said}");
    }
    let objects = listed(&reader).await?;
    ensure!(
        objects.iter().all(|object| object.timeline.0 == 1),
        "{objects:?}"
    );
    let name = pushing.fill_segment().await?;
    pushing.archived(&name).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_pushed_into_a_branch_that_is_streamed() -> Result<()> {
    let mut pushing = Pushing::start(PgVersion::V15).await?;
    let dsn = pushing.postgres.dsn();
    let add = ["instance", "add", "streamed", "--dsn", &dsn];
    let _added = pushing.stack.zektor_ok(&add).await?;
    let name = pushing.fill_segment().await?;
    pushing.archived(&name).await?;
    let file = pushing.pg_wal(&name).display().to_string();
    let push = ["wal", "push", &file, "--instance", "streamed"];
    let (code, said) = pushing.zektor(&push).await?;
    ensure!(
        code == 3 && said.contains("streamed over its slot") && said.contains("archive_command"),
        "{code} {said}"
    );
    Ok(())
}
