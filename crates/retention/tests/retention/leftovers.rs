//! What backups left over that have no manifest.

use chrono::TimeDelta;
use events::BackupId;
use retention::{Ended, LEFTOVER_AGE, Leftover, LeftoverFate, Reason, RunningBackup, Stored, plan};
use uuid::Uuid;

use crate::table::DAY;
use crate::world::World;

fn left(stored: &mut Stored) {
    stored.leftovers.push(Leftover {
        backup_id: BackupId(Uuid::from_u128(77)),
        stored_bytes: 1,
        last_written: stored.now - LEFTOVER_AGE,
        ended: Ended::Over,
    });
}

fn fate(stored: &Stored) -> LeftoverFate {
    let plan = plan(stored);
    assert_eq!(plan.leftovers.len(), 1);
    let goes = plan.leftovers_going().count() == 1;
    let fate = plan.leftovers[0].fate.clone();
    assert_eq!(goes, fate == LeftoverFate::Delete);
    fate
}

#[test]
fn packs_without_a_manifest_stay_while_a_live_branch_has_no_backup_that_can_be_restored() {
    let mut world = World::new();
    let _ = world.backup("b", Some(7 * DAY), None, 2);
    let mut stored = world.stored();
    left(&mut stored);
    assert_eq!(fate(&stored), LeftoverFate::Delete);
    // The manifests are not listed: a lifecycle rule, a copy that is not complete.
    stored.backups.clear();
    let why = vec![Reason::NothingRestorable];
    assert_eq!(fate(&stored), LeftoverFate::Postponed { why });
    stored.live = false;
    assert_eq!(fate(&stored), LeftoverFate::Delete);
}

#[test]
fn packs_without_a_manifest_stay_while_a_backup_is_taken_that_may_name_them() {
    let mut world = World::new();
    let _ = world.backup("b", Some(7 * DAY), None, 2);
    let mut stored = world.stored();
    left(&mut stored);
    let by = BackupId(Uuid::from_u128(78));
    let first = &stored.backups[0];
    stored.running.push(RunningBackup {
        id: by,
        start: Some((first.timeline, first.stop_lsn)),
    });
    let why = vec![Reason::MayBeNamed { by }];
    assert_eq!(fate(&stored), LeftoverFate::Postponed { why });
    stored.now += TimeDelta::days(1);
    stored.running.clear();
    assert_eq!(fate(&stored), LeftoverFate::Delete);
}
