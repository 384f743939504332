//! A branch deleted with everything that is stored of it, while somebody still writes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use bus::Progress;
use bytes::Bytes;
use events::event::BranchDeletionRequested;
use events::{RestoreTarget, topology};
use pg_format::{SegmentName, WalSegmentSize};
use testkit::postgres::PgVersion;

use crate::copy;
use crate::life::given;
use crate::world::{World, instance};

#[tokio::test]
async fn deleted_under_the_feet_of_its_archiver_and_twice() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let parents = world.back_up().await?;
    let _ = world.archive().await?;
    let finished = world.restore("b", RestoreTarget::Latest).await?;
    let branch = finished.register.branch.clone();
    let (bus, repository) = (&world.restorer.bus, &world.restorer.repository);
    // The branch is archived and backed up into its own prefix.
    let writer = repository.writer(&instance(), &branch);
    let _ = copy::back_up(&world.source, &writer).await?;
    let segment = |n: u64| {
        SegmentName::parse(
            &format!("0000000200000000000000{n:02X}"),
            WalSegmentSize::DEFAULT,
        )
    };
    let bytes = Bytes::from(vec![0_u8; 16 << 20]);
    let _ = writer.put_segment(segment(3)?, bytes.clone()).await?;
    let lease = format!("wal-archiver.{}.{branch}", instance());
    let bucket = bus.bucket(topology::LEASES);
    let held = bucket.create(&lease, "an archiver").await?;

    crate::scheduler::mark_deleting(bus, &branch).await?;
    let deletion = BranchDeletionRequested {
        instance: instance(),
        branch: branch.clone(),
        purge: true,
        restore_id: None,
    };
    let (restorer, asked) = (Arc::clone(&world.restorer), deletion.clone());
    let task = tokio::spawn(async move {
        restorer
            .delete(&asked, &given(), &Progress::default())
            .await
    });
    testkit::wait_until(
        "the server to be gone",
        crate::world::PATIENCE,
        async || !world.root_of("b").exists(),
    )
    .await?;
    // The archiver has not let go: it may still write, and nothing is deleted behind its back.
    let _ = writer.put_segment(segment(4)?, bytes.clone()).await?;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(
        repository
            .reader(&instance(), &branch)
            .record()
            .await
            .is_ok()
    );
    bucket.release(&lease, held).await?;
    task.await??;
    assert_eq!(repository.delete_branch(&instance(), &branch).await?, 0);
    let deleted = bus.last_on("zektor.branch.deleted.>").await?;
    assert!(deleted.is_some());

    // Twice, and the scheduler has forgotten it in between.
    world
        .restorer
        .delete(&deletion, &given(), &Progress::default())
        .await?;
    crate::scheduler::forget(bus, &branch).await?;
    world
        .restorer
        .delete(&deletion, &given(), &Progress::default())
        .await?;

    // The parent has everything, and the name can be used again; an old order does not touch the new branch.
    let again = world.restore("b", RestoreTarget::Latest).await?;
    assert_eq!(again.summary.backup_id, parents.backup_id);
    world
        .restorer
        .delete(&deletion, &given(), &Progress::default())
        .await?;
    assert_eq!(world.count(&again).await?, 10);
    Ok(())
}

#[tokio::test]
async fn a_deletion_that_waited_for_another_leaves_a_branch_made_anew_alone() -> Result<()> {
    let world = World::new(PgVersion::V18).await?;
    let _ = world.back_up().await?;
    let _ = world.archive().await?;
    let finished = world.restore("b", RestoreTarget::Latest).await?;
    let branch = finished.register.branch.clone();
    let bus = &world.restorer.bus;
    let lock = world.restorer.compute.lock(&world.site("b")).await?;
    crate::scheduler::mark_deleting(bus, &branch).await?;
    let deletion = BranchDeletionRequested {
        instance: instance(),
        branch: branch.clone(),
        purge: true,
        restore_id: None,
    };
    let restorer = Arc::clone(&world.restorer);
    let task = tokio::spawn(async move {
        let progress = Progress::default();
        restorer.delete(&deletion, &given(), &progress).await
    });
    // It has looked at the document by now, and waits; meanwhile the name is given to another restore.
    tokio::time::sleep(Duration::from_millis(500)).await;
    crate::scheduler::forget(bus, &branch).await?;
    let restore_id = events::RestoreId(uuid::Uuid::now_v7());
    crate::scheduler::claim(bus, &branch, restore_id).await?;
    drop(lock);
    task.await??;
    assert_eq!(world.count(&finished).await?, 10);
    let reader = world.restorer.repository.reader(&instance(), &branch);
    assert!(reader.record().await.is_ok());
    Ok(())
}
