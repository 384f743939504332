//! How much WAL a branch stores in a day, from the listing that retention makes anyway: at least once a day, and soon
//! after each backup.

use std::collections::BTreeMap;

use ::alerts::Fact;
use chrono::{DurationRound as _, TimeDelta};
use events::{BranchName, InstanceName, Timestamp};
use repository::WalObject;

use super::Watch;
use super::heard::Heard;
use crate::commands::World;

/// As many as the rules remember.
const DAYS: usize = 9;

/// Tells the rules what is stored of a branch's WAL. That it cannot be told now is no harm: it is listed again.
pub(crate) async fn tell_wal(
    world: &World,
    (instance, branch): (&InstanceName, &BranchName),
    objects: &[WalObject],
) {
    let watch = Watch::of(world);
    let heard = Heard {
        instance: instance.clone(),
        branch: branch.clone(),
        at: watch.clock.now(),
        fact: Fact::WalStored(by_day(objects)),
    };
    if let Err(error) = watch.take(heard).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(%instance, %branch, error, "the rules of alerts do not know yet how much wal is stored");
    }
}

/// Bytes by the day they were stored on, the newest days.
fn by_day(objects: &[WalObject]) -> Vec<(Timestamp, u64)> {
    let mut days: BTreeMap<Timestamp, u64> = BTreeMap::new();
    for object in objects {
        if let Ok(day) = object.last_modified.duration_trunc(TimeDelta::days(1)) {
            let stored = days.entry(day).or_default();
            *stored = stored.saturating_add(object.stored_bytes);
        }
    }
    let old = days.len().saturating_sub(DAYS);
    days.into_iter().skip(old).collect()
}

#[cfg(test)]
mod tests {
    use bus::Decision;
    use events::{BranchName, InstanceDocument};
    use pg_format::TimelineId;
    use repository::WalObjectKind;

    use super::*;
    use crate::alerts::tests::{document, instance};
    use crate::tests::Place;

    fn object(at: &str, stored_bytes: u64) -> WalObject {
        WalObject {
            timeline: TimelineId(1),
            kind: WalObjectKind::History,
            stored_bytes,
            last_modified: at.parse().unwrap(),
        }
    }

    #[test]
    fn bytes_are_counted_by_the_day_and_old_days_are_left_out() {
        let day = |day: u32| -> Timestamp {
            let text = format!("2026-03-{day:02}T00:00:00Z");
            text.parse().unwrap()
        };
        let objects = [
            object("2026-03-02T23:59:59Z", 5),
            object("2026-03-01T12:00:00Z", 1),
            object("2026-03-02T00:00:00Z", 7),
        ];
        assert_eq!(by_day(&objects), [(day(1), 1), (day(2), 12)]);
        let long: Vec<_> = (1..30)
            .map(|number| object(&day(number).to_rfc3339(), 1))
            .collect();
        let days = by_day(&long);
        assert_eq!((days.len(), days[0].0), (DAYS, day(21)));
    }

    #[tokio::test]
    async fn what_retention_lists_reaches_the_rules() {
        let place = Place::new("2026-03-10T00:00:30Z");
        let (instance, branch) = (instance(), BranchName::main());
        let wanted = document(&instance);
        let put = |_: Option<&InstanceDocument>| Decision::Put(Box::new(wanted.clone()), ());
        place
            .world
            .bus
            .instances()
            .update(&instance, put)
            .await
            .unwrap();
        let mut objects: Vec<_> = (5..9)
            .map(|day| object(&format!("2026-03-{day:02}T12:00:00Z"), 1 << 20))
            .collect();
        objects.push(object("2026-03-10T00:00:10Z", 3 << 30));
        tell_wal(&place.world, (&instance, &branch), &objects).await;
        let fence = super::super::alert_fence(&instance, &branch, "storage_growth");
        let said = place.world.bus.last_on(&fence).await.unwrap().unwrap();
        let events::Event::AlertRaised(alert) = said.envelope.message else {
            panic!("{said:?}");
        };
        assert!(
            alert
                .message
                .starts_with("the WAL of 2026-03-10 takes 3.0 GiB"),
            "{}",
            alert.message
        );
    }
}
