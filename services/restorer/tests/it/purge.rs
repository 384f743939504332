//! A branch deleted with everything that is stored of it, while somebody still writes.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
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
    };
    let (restorer, asked) = (Arc::clone(&world.restorer), deletion.clone());
    let task = tokio::spawn(async move { restorer.delete(&asked, &given()).await });
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
    world.restorer.delete(&deletion, &given()).await?;
    crate::scheduler::forget(bus, &branch).await?;
    world.restorer.delete(&deletion, &given()).await?;

    // The parent has everything, and the name can be used again; an old order does not touch the new branch.
    let again = world.restore("b", RestoreTarget::Latest).await?;
    assert_eq!(again.summary.backup_id, parents.backup_id);
    world.restorer.delete(&deletion, &given()).await?;
    assert_eq!(world.count(&again).await?, 10);
    Ok(())
}
