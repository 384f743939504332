//! A server whose clock is not this worker's.

use chrono::TimeDelta;
use events::{Retention, WalKeep};
use service::{ManualClock, SystemClock};

use super::*;

/// A backup by a worker whose clock is that many days ahead of the server's, or behind it.
async fn taken(server: &Postgres, ahead: i64, wal: WalKeep) -> BackupSummary {
    let mut place = place(server, WorkerConfig::default()).await;
    let now = SystemClock.now() + TimeDelta::days(ahead);
    place.jobs.world.clock = Arc::new(ManualClock::new(now));
    place.request.retention = Some(Retention::SEVEN_DAYS);
    place.request.wal = wal;
    let mut attempt = place.attempt("a").await;
    let (branch, dsn) = attempt.source().await.unwrap();
    let taken = Box::pin(attempt.take(&branch, &dsn)).await.unwrap();
    let summary = attempt.summarise(&branch, &taken);
    assert_eq!(summary.ended_at, Some(now));
    summary
}

#[tokio::test]
async fn a_clock_that_is_behind_takes_nothing_from_what_was_promised() {
    let server = Postgres::builder().start().await.unwrap();
    let three: Retention = "3d".parse().unwrap();
    // The server is ten days behind.
    let summary = taken(&server, 10, WalKeep::For(three)).await;
    let now = summary.ended_at.unwrap();
    assert_eq!(summary.expires_at, Some(now + TimeDelta::days(7)));
    assert_eq!(summary.wal_until, Some(now + TimeDelta::days(3)));
    let differ = summary.clocks_differ_by().unwrap();
    assert!((differ + TimeDelta::days(10)).abs() < TimeDelta::hours(1));
    // Targets are by the server's clock, as commits are.
    assert!(summary.backed_up_at < now - TimeDelta::days(9));
    // This worker is.
    let summary = taken(&server, -10, WalKeep::Standalone).await;
    let end = summary.backed_up_at;
    assert_eq!(summary.expires_at, Some(end + TimeDelta::days(7)));
    assert_eq!(summary.wal_until, Some(end));
    assert!(summary.clocks_differ_by().is_some());
    // Both are right, but for what the backup took to end.
    let summary = taken(&server, 0, WalKeep::AsLongAsBackup).await;
    assert_eq!(summary.clocks_differ_by(), None);
    assert_eq!(summary.wal_until, None);
}
