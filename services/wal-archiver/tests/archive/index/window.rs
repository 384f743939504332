//! What can be restored is told when its shape changes, and shown as metrics.

use bus::Outgoing;
use events::event::{BackupCompleted, BackupSummary, BranchWindowChanged, Event};
use events::window::Window;
use events::{BackupId, BackupType, MessageId, Trigger};
use pg_format::{Lsn, TimelineId};
use repository::BackupOptions;
use service::{Clock, SystemClock};
use testkit::http;
use testkit::port::Port;
use testkit::postgres::Postgres;
use testkit::wait_until;

use crate::world::{PATIENCE, Registered, World};

const FIRST: u128 = 0x0192_d6a0_0000_7000_8000_0000_0000_0008;

/// Every window that was told, the first one first.
pub(crate) async fn told(world: &World, registered: &Registered) -> Vec<Window> {
    let subject = events::subject::events_of("branch.window_changed");
    let stream = world.bus.history(vec![subject], bus::Sequence(1), "EVENTS");
    let events: Vec<_> = futures::StreamExt::collect(stream.await.unwrap()).await;
    let windows = events
        .into_iter()
        .filter_map(|stored| match stored.unwrap().envelope.message {
            Event::BranchWindowChanged(BranchWindowChanged {
                window, instance, ..
            }) if instance == registered.instance => Some(window),
            _ => None,
        });
    windows.collect()
}

/// A backup without files, of the WAL between two positions.
pub(crate) async fn back_up(
    world: &World,
    registered: &Registered,
    server: &Postgres,
) -> BackupSummary {
    let lsn = async || -> Lsn {
        let ask = "SELECT pg_current_wal_insert_lsn()";
        server.psql(ask).await.unwrap().parse().unwrap()
    };
    let start_lsn = lsn().await;
    let _ = server.psql("INSERT INTO t VALUES (1)").await.unwrap();
    let stop_lsn = lsn().await;
    let _ = registered.caught_up(server).await;
    let writer = world
        .repository
        .writer(&registered.instance, &registered.branch);
    let others = writer.list_backups().await.unwrap();
    // Later than those before it.
    let last = others.last().map_or(FIRST, |last| last.0.as_u128());
    let backup_id: BackupId = format!("{:032x}", last + 1).parse().unwrap();
    let files = writer.begin_backup(backup_id, "a", BackupOptions::default());
    let stored = files.unwrap().finish().await.unwrap();
    let at = SystemClock.now();
    let number = async |sql: &str| -> u64 { server.psql(sql).await.unwrap().parse().unwrap() };
    let version = number("SELECT current_setting('server_version_num')").await;
    let summary = BackupSummary {
        backup_id,
        instance: registered.instance.clone(),
        branch: registered.branch.clone(),
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
        start_lsn,
        stop_lsn,
        timeline: TimelineId(1),
        system_identifier: pg_format::SystemIdentifier(
            number("SELECT system_identifier FROM pg_control_system()").await,
        ),
        server_version: u32::try_from(version).unwrap(),
        wal_segment_size: registered.size,
        logical_bytes: stored.totals.logical_bytes,
        stored_bytes: stored.totals.stored_bytes,
        files: stored.totals.files,
        attempt: "a".to_owned(),
        damaged_pages: Vec::new(),
    };
    let _ = stored.commit(summary.clone()).await.unwrap();
    let event = Event::BackupCompleted(BackupCompleted {
        backup_id,
        instance: registered.instance.clone(),
        branch: registered.branch.clone(),
        summary: summary.clone(),
    });
    let id = MessageId::new(format!("backup.completed:{backup_id}"));
    let _ = world
        .bus
        .publish(Outgoing::new(event, id, at))
        .await
        .unwrap();
    summary
}

#[tokio::test]
async fn the_window_is_told_and_shown() {
    let world = World::new().await;
    let server = Postgres::builder()
        .wal_segment_size_mib(1)
        .start()
        .await
        .unwrap();
    let registered = world.register("shop", &server).await;
    let port = Port::reserve().unwrap();
    let address = format!("127.0.0.1:{}", port.number());
    let builder = world.builder("one").env("ZEKTOR_HTTP_LISTEN", &address);
    let mut archiver = builder.health(&address).start().await.unwrap();
    let _ = server.psql("CREATE TABLE t (n int)").await.unwrap();
    wait_until("there to be no window", PATIENCE, async || {
        told(&world, &registered).await.len() == 1
    })
    .await
    .unwrap();
    assert_eq!(told(&world, &registered).await[0].earliest, None);
    let backup = back_up(&world, &registered, &server).await;
    wait_until("the window", PATIENCE, async || {
        told(&world, &registered).await.len() == 2
    })
    .await
    .unwrap();
    let window = told(&world, &registered).await[1].clone();
    assert_eq!(window.earliest_backup_id, Some(backup.backup_id));
    assert!(window.complete && window.gaps.is_empty());
    assert!(window.latest >= window.earliest && window.earliest.is_some());
    let earliest = backup.backed_up_at.timestamp() as f64;
    let shown = |metrics: &str, name: &str| -> Option<f64> {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(name) && line.contains("instance=\"shop\""))?;
        line.rsplit(' ').next()?.parse().ok()
    };
    let mut before = None;
    wait_until(
        "the latest moment to go on without any news",
        PATIENCE,
        async || {
            let metrics = http::get(&address, "/metrics").await.unwrap().body;
            let earliest_shown = shown(&metrics, "zektor_window_earliest").unwrap();
            assert!((earliest_shown - earliest).abs() <= 1.0, "{metrics}");
            assert_eq!(
                shown(&metrics, "zektor_window_gaps"),
                Some(0.0),
                "{metrics}"
            );
            assert!(shown(&metrics, "zektor_window_length").unwrap() >= 0.0);
            let latest = shown(&metrics, "zektor_window_latest");
            latest > *before.get_or_insert(latest)
        },
    )
    .await
    .unwrap();
    // The same shape is not told again.
    let _ = archiver.kill9().await.unwrap();
    archiver.start_again().await.unwrap();
    wait_until("the window to be seen again", PATIENCE, async || {
        let metrics = http::get(&address, "/metrics").await;
        metrics.is_ok_and(|metrics| shown(&metrics.body, "zektor_window_earliest").is_some())
    })
    .await
    .unwrap();
    assert_eq!(told(&world, &registered).await.len(), 2);
}
