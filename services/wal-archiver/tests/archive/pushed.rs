//! Servers that push their WAL: who may carry the archive on. What `wal push` stores is stored here by the test.

use std::path::Path;

use bytes::Bytes;
use events::ArchiveMode;
use events::document::WalStretch;
use pg_format::{SegmentName, TimelineId};
use testkit::postgres::{PgVersion, Postgres, StopMode};
use testkit::wait_until;

use crate::world::{PATIENCE, Registered, World};

/// A server that lays what it would push into a directory.
async fn pushing(version: PgVersion, outbox: &Path) -> Postgres {
    let command = format!("cp %p {}/%f", outbox.display());
    let server = Postgres::builder()
        .version(version)
        .wal_segment_size_mib(1)
        .setting("autovacuum", "off")
        .setting("wal_keep_size", "1GB")
        .setting("archive_mode", "on")
        .setting("archive_command", &command)
        .start()
        .await
        .unwrap();
    let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
    server
}

fn outbox() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let open = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(directory.path(), open).unwrap();
    directory
}

/// Fills a segment; its name.
async fn fill(server: &Postgres) -> String {
    let insert = "INSERT INTO t SELECT generate_series(1, 1000)";
    let _ = server.psql(insert).await.unwrap();
    let open = "SELECT pg_walfile_name(pg_current_wal_insert_lsn())";
    let name = server.psql(open).await.unwrap();
    let _ = server.psql("SELECT pg_switch_wal()").await.unwrap();
    name
}

/// Stores everything up to `name`, once the server has laid it there.
async fn store(world: &World, registered: &Registered, outbox: &Path, name: &str) {
    wait_until("the server to archive it", PATIENCE, async || {
        let file = std::fs::metadata(outbox.join(name));
        file.is_ok_and(|file| file.len() == registered.size.bytes())
    })
    .await
    .unwrap();
    let (instance, branch) = (&registered.instance, &registered.branch);
    let writer = world.repository.writer(instance, branch);
    for entry in std::fs::read_dir(outbox).unwrap() {
        let entry = entry.unwrap();
        let found = entry.file_name().into_string().unwrap();
        let bytes = Bytes::from(std::fs::read(entry.path()).unwrap());
        if let Some(timeline) = found.strip_suffix(".history") {
            let timeline = TimelineId::from_hex(timeline).unwrap();
            let _ = writer.put_history(timeline, bytes).await.unwrap();
        } else if let Ok(segment) = SegmentName::parse(&found, registered.size)
            && *found <= *name
        {
            let _ = writer.put_segment(segment, bytes).await.unwrap();
        }
    }
}

/// Stores this one and nothing else, once the server has laid it there.
async fn store_only(world: &World, registered: &Registered, outbox: &Path, name: &str) {
    let path = outbox.join(name);
    wait_until("the server to archive it", PATIENCE, async || {
        let file = std::fs::metadata(&path);
        file.is_ok_and(|file| file.len() == registered.size.bytes())
    })
    .await
    .unwrap();
    let (instance, branch) = (&registered.instance, &registered.branch);
    let writer = world.repository.writer(instance, branch);
    let segment = SegmentName::parse(name, registered.size).unwrap();
    let bytes = Bytes::from(std::fs::read(&path).unwrap());
    let _ = writer.put_segment(segment, bytes).await.unwrap();
}

async fn archived(registered: &Registered, name: &str) {
    let name = SegmentName::parse(name, registered.size).unwrap();
    let end = registered.size.start_of(name.number(registered.size) + 1);
    let mut last = None;
    let followed = wait_until("the position to follow", PATIENCE, async || {
        last = registered.position().await;
        last.as_ref()
            .is_some_and(|position| (position.timeline, position.lsn) >= (name.timeline, end))
    });
    if let Err(error) = followed.await {
        panic!("{error}: {name} {last:?}");
    }
}

async fn wait_for_error(world: &World, registered: &Registered, text: &str) -> String {
    let mut last = None;
    let seen = wait_until("the refusal", PATIENCE, async || {
        last = world.ask(registered).await;
        let error = last.as_ref().and_then(|answer| answer.error.as_ref());
        error.is_some_and(|error| error.contains(text))
    });
    if let Err(error) = seen.await {
        panic!("{error}: {last:?} {:?}", registered.position().await);
    }
    last.and_then(|answer| answer.error).unwrap()
}

async fn register(world: &World, server: &Postgres) -> Registered {
    let registered = world.registered("shop", server).await;
    let by_command = |active: &mut events::document::ActiveBranch| {
        active.archive_mode = ArchiveMode::Command;
    };
    world.change(&registered, by_command).await;
    registered
}

#[tokio::test]
async fn an_old_primary_that_pushes_does_not_take_the_archive_back() {
    let world = World::new().await;
    let (of_old, of_new) = (outbox(), outbox());
    let mut old = pushing(PgVersion::V15, of_old.path()).await;
    let registered = register(&world, &old).await;
    let _archiver = world.archiver("one").await;
    let name = fill(&old).await;
    store(&world, &registered, of_old.path(), &name).await;
    archived(&registered, &name).await;

    let new = Postgres::builder().standby_of(&old).start().await.unwrap();
    old.stop(StopMode::Fast).await.unwrap();
    let command = format!("cp %p {}/%f", of_new.path().display());
    let set = format!("ALTER SYSTEM SET archive_command = '{command}'");
    let _ = new.psql(&set).await.unwrap();
    let _ = new.psql("SELECT pg_reload_conf()").await.unwrap();
    new.promote().await.unwrap();
    world.moves_to(&registered, &new).await;
    let name = fill(&new).await;
    // What the old primary pushed as it ended.
    let before = SegmentName::parse(&name, registered.size).unwrap();
    let left = before.number(registered.size) - 1;
    let left = SegmentName::new(TimelineId(1), left, registered.size).to_string();
    if of_old.path().join(&left).exists() {
        store(&world, &registered, of_old.path(), &left).await;
    }
    store(&world, &registered, of_new.path(), &name).await;
    archived(&registered, &name).await;
    let position = registered.position().await.unwrap();
    assert_eq!(position.timeline, TimelineId(2));

    old.start_again().await.unwrap();
    world.moves_to(&registered, &old).await;
    let error = wait_for_error(&world, &registered, "old primary").await;
    assert!(error.contains("connection uri"), "what to do: {error}");
    let _ = fill(&old).await;
    let name = fill(&old).await;
    store(&world, &registered, of_old.path(), &name).await;
    let _ = wait_for_error(&world, &registered, "old primary").await;
    let after = registered.position().await.unwrap();
    assert_eq!(after.timeline, TimelineId(2));
    assert!(after.lsn >= position.lsn && after.proven_at >= position.proven_at);

    world.moves_to(&registered, &new).await;
    let name = fill(&new).await;
    store(&world, &registered, of_new.path(), &name).await;
    archived(&registered, &name).await;
    let archive = repository::archive::read(&registered.reader).await.unwrap();
    assert!(archive.gaps.is_empty(), "{:?}", archive.gaps);
}

#[tokio::test]
async fn a_server_that_pushes_and_was_set_back_is_refused() {
    let world = World::new().await;
    let outbox = outbox();
    let mut server = pushing(PgVersion::V15, outbox.path()).await;
    let registered = register(&world, &server).await;
    let _archiver = world.archiver("one").await;
    let name = fill(&server).await;
    store(&world, &registered, outbox.path(), &name).await;
    archived(&registered, &name).await;
    server.stop(StopMode::Fast).await.unwrap();
    let data = server.data_directory().to_owned();
    let snapshot = data.with_extension("snapshot");
    let mut copy = std::process::Command::new("cp");
    assert!(
        copy.arg("-a")
            .args([&data, &snapshot])
            .status()
            .unwrap()
            .success()
    );
    server.start_again().await.unwrap();
    let _ = fill(&server).await;
    let _ = fill(&server).await;
    let name = fill(&server).await;
    store(&world, &registered, outbox.path(), &name).await;
    archived(&registered, &name).await;
    let position = registered.position().await.unwrap();
    server.stop(StopMode::Fast).await.unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    std::fs::rename(&snapshot, &data).unwrap();
    server.start_again().await.unwrap();
    let _ = wait_for_error(&world, &registered, "set back").await;
    let after = registered.position().await.unwrap();
    assert_eq!(
        (after.timeline, after.lsn),
        (position.timeline, position.lsn)
    );
}

/// Retention has let go of what lies between two backups, and then the position was lost.
#[tokio::test]
async fn without_its_position_the_archive_goes_on_behind_what_was_let_go() {
    let world = World::new().await;
    let outbox = outbox();
    let server = pushing(PgVersion::V15, outbox.path()).await;
    let registered = register(&world, &server).await;
    let archiver = async || {
        let builder = world.builder("one");
        let builder = builder.env("ZEKTOR_WAL_PUSHED_GAP_AFTER", "1s");
        builder.start().await.unwrap()
    };
    let mut first = archiver().await;
    let mut names = Vec::new();
    for _ in 0..8 {
        names.push(fill(&server).await);
    }
    store(&world, &registered, outbox.path(), &names[7]).await;
    archived(&registered, &names[7]).await;
    let _ = first.terminate().await.unwrap();

    let size = registered.size;
    let name = |text: &str| SegmentName::parse(text, size).unwrap();
    let (instance, branch) = (&registered.instance, &registered.branch);
    let writer = world.repository.writer(instance, branch);
    let stretch = WalStretch {
        timeline: TimelineId(1),
        from_lsn: name(&names[2]).start(size),
        to_lsn: name(&names[5]).start(size),
    };
    let pruned = writer.prune_wal(&[stretch], size, &|| {}).await.unwrap();
    assert!(pruned[0].segments >= 3, "{pruned:?}");
    let before = registered.segments().await;
    let root = world.repository_directory();
    let position = format!("v1/{instance}/{branch}/wal/position");
    std::fs::remove_file(root.join(position)).unwrap();

    let second = archiver().await;
    let last = fill(&server).await;
    store_only(&world, &registered, outbox.path(), &last).await;
    archived(&registered, &last).await;
    let position = registered.position().await.unwrap();
    assert_eq!(name(&position.first_segment), name(&names[5]));
    let archive = repository::archive::read(&registered.reader).await.unwrap();
    assert_eq!(archive.gaps, []);
    let mut expected = before;
    expected.push(name(&last));
    assert_eq!(registered.segments().await, expected);
    assert!(!second.log().contains("missing for good"));
}
