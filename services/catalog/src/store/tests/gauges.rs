//! What monitoring is shown.

use events::event::AlertRule;
use events::query::BackupStatus;
use events::{Event, example, topology};

use super::super::Store;
use crate::scenario::lives::{alert_life, drill_life, verified, wal_life};
use crate::scenario::{adopt, backup_id, backup_life, completed, registered, sqlite, steps};

/// Two good backups, the newer one told first, one that is damaged and one that failed; one drill of three came out well, one alert of two
/// stands.
async fn shown(store: &Store) {
    let taken = |number, second| {
        let Event::BackupCompleted(mut event) = completed("shown", backup_id(number)) else {
            panic!("the type was asked for");
        };
        event.summary.started_at = example::at(second);
        event.summary.backed_up_at = example::at(second + 61);
        event.summary.stored_bytes = second.unsigned_abs();
        Event::BackupCompleted(event)
    };
    let mut events = vec![registered("shown"), taken(2, 2000), taken(1, 1000)];
    events.extend([taken(4, 3000), verified("shown", backup_id(4), false, 3100)]);
    events.extend(backup_life("shown", backup_id(3), false));
    events.extend(drill_life("shown", 1, Some(example::at(600))));
    events.extend(drill_life("shown", 2, Some(example::at(500))));
    events.extend(drill_life("shown", 3, None));
    events.extend(alert_life("shown", AlertRule::WalGap, 10));
    let standing = alert_life("shown", AlertRule::DrillFailed, 20);
    events.extend(standing.into_iter().take(1));
    events.extend(wal_life("shown"));
    adopt(store, topology::EVENTS, example::at(0)).await;
    let applied = store.apply(topology::EVENTS, example::at(0), steps(&events, 1));
    let _ = applied.await.unwrap();

    let gauges = store.gauges().await.unwrap();
    let [last] = &gauges.last_backups[..] else {
        panic!("{:?}", gauges.last_backups);
    };
    assert_eq!(last.backed_up_at, example::at(2061));
    assert_eq!(last.started_at, Some(example::at(2000)));
    assert_eq!(last.stored_bytes, Some(2000));
    let backups: Vec<_> = gauges
        .backups
        .iter()
        .map(|of| (of.count, of.stored_bytes))
        .collect();
    assert_eq!(backups, [(3, 6000)]);
    let unusual: Vec<_> = gauges
        .unusual
        .iter()
        .map(|of| (of.status, of.count))
        .collect();
    assert_eq!(unusual, [(BackupStatus::Failed, 1)]);
    assert_eq!(gauges.wal.len(), 1);
    let wal = &gauges.wal[0];
    let totals = store.wal_totals(&wal.instance, &wal.branch).await.unwrap();
    assert!(totals.stored_bytes > 0);
    assert_eq!(
        (wal.stored_bytes, wal.count),
        (totals.stored_bytes, totals.segments)
    );
    let proofs: Vec<_> = gauges.proofs.iter().map(|proof| proof.ended_at).collect();
    assert_eq!(proofs, [example::at(600)]);
    let rules: Vec<_> = gauges.alerts.iter().map(|alert| alert.rule).collect();
    assert_eq!(rules, [AlertRule::DrillFailed]);
}

#[tokio::test]
async fn monitoring_is_shown_what_the_rows_say() {
    let (store, _directory) = sqlite().await;
    shown(&store).await;
    let server = testkit::postgres::Postgres::builder()
        .start()
        .await
        .unwrap();
    shown(&Store::open(&server.dsn()).await.unwrap()).await;
}
