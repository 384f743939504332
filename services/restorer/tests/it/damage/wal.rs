//! WAL that turns out to be damaged counts as missing, until it is written again.

use anyhow::{Context as _, Result};
use events::event::{Event, GapCause, WalGapDetected};
use events::window::WindowQuestion;
use events::{BranchName, RestoreTarget};
use object_store::path::Path;
use object_store::{ObjectStore as _, ObjectStoreExt as _};
use repository::WalGap;
use testkit::postgres::PgVersion;

use crate::copy;
use crate::world::{World, instance};

/// What was last told of WAL.
async fn told(world: &World) -> Result<Option<WalGapDetected>> {
    let subject = "zektor.wal.gap.detected.orders.main";
    let last = world.restorer.bus.last_on(subject).await?;
    Ok(match last.map(|last| last.envelope.message) {
        Some(Event::WalGapDetected(gap)) => Some(gap),
        _ => None,
    })
}

async fn window(world: &World) -> Result<events::window::Window> {
    let question = WindowQuestion {
        instance: instance(),
        branch: BranchName::main(),
    };
    Ok(world.restorer.window(&question).await?)
}

#[tokio::test]
async fn a_damaged_segment_is_told_and_counts_as_missing_until_it_is_written_again() -> Result<()> {
    let world = World::without_tablespace(PgVersion::V15).await?;
    let _ = world.back_up().await?;
    world.rows(11..=15).await?;
    let before = copy::clock(&world.source).await?;
    world.rows(16..=17).await?;
    let _ = world.source.psql("SELECT pg_switch_wal()").await?;
    world.rows(18..=18).await?;
    let damaged = "SELECT pg_walfile_name(pg_current_wal_lsn())";
    let damaged = world.source.psql(damaged).await?;
    world.rows(19..=20).await?;
    let _ = world.source.psql("SELECT pg_switch_wal()").await?;
    world.rows(21..=25).await?;
    let _ = world.archive().await?;
    assert!(window(&world).await?.complete);

    let wal = world.stored.list(Some(&Path::from("v1/orders/main/wal")));
    let wal: Vec<_> = futures::TryStreamExt::try_collect(wal).await?;
    let named = wal.into_iter().map(|object| object.location);
    let segment = named
        .into_iter()
        .find(|one| one.filename() == Some(damaged.trim()));
    let segment = segment.context("no such segment")?;
    let sound = world.stored.get(&segment).await?.bytes().await?;
    let mut bytes = sound.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x01;
    let _ = world.stored.put(&segment, bytes.into()).await?;

    let ended = world
        .run(&world.request("b", RestoreTarget::Latest))
        .await?;
    assert!(
        matches!(ended, Event::RestoreFailed(_) | Event::RestoreRefused(_)),
        "{ended:?}"
    );
    let gap = told(&world).await?;
    let gap = gap.with_context(|| format!("nothing is told: {ended:?}"))?;
    assert_eq!(gap.cause, GapCause::Damaged);
    let size = pg_format::WalSegmentSize::DEFAULT;
    let name = pg_format::SegmentName::parse(damaged.trim(), size)?;
    assert_eq!(
        (gap.from_lsn, gap.to_lsn),
        (name.start(size), name.end(size))
    );

    // The scheduler keeps it.
    let found = WalGap {
        timeline: gap.timeline,
        from_lsn: gap.from_lsn,
        to_lsn: gap.to_lsn,
        cause: gap.cause,
        detected_at: gap.detected_at,
        proven: None,
    };
    world.writer.put_wal_gap(&found).await?;
    let seen = window(&world).await?;
    assert!(!seen.complete);
    assert_eq!(seen.gaps[0].from_lsn, gap.from_lsn);
    let ended = world
        .run(&world.request("b", RestoreTarget::Latest))
        .await?;
    assert!(matches!(ended, Event::RestoreRefused(_)), "{ended:?}");
    let finished = world
        .restore("c", RestoreTarget::Time { at: before })
        .await?;
    assert_eq!(world.count(&finished).await?, 15);

    let _ = world.stored.put(&segment, sound.into()).await?;
    assert!(window(&world).await?.complete);
    let finished = world.restore("d", RestoreTarget::Latest).await?;
    assert_eq!(world.count(&finished).await?, 25);
    Ok(())
}
