//! Timelines, references between backups, and the bounds of a sweep.

use retention::plan;

use crate::table::{DAY, check, days, text};
use crate::world::{GRACE, World};

/// A failover to a standby that had not got the newest backup's end.
#[test]
fn what_leads_to_the_archived_timeline_is_kept() {
    let mut world = World::new();
    let _ = world.backup("old", Some(DAY), None, 4);
    days(&mut world, 2);
    let _ = world.backup("lost", Some(DAY), None, 4);
    world.promote(2);
    world.write(6);
    let _ = world.round();
    world.hour += 9 * GRACE;
    check(
        &world,
        &[
            "lost pitr<- keep<- (newest) +0",
            "old pitr<- keep<- (leads to 2) +11",
            "1/0-0 keep<- of old",
            "1/1-8 keep<- after old",
            "1/9-9 keep<- after old, of lost",
            "2/9-10 keep<- after old",
            "from 0d",
        ],
    );
    // The old one is gone, and there is no new one yet.
    let old = crate::world::id(1);
    let mut without = world.clone();
    let _ = without.backups.remove(&old);
    check(
        &without,
        &[
            "lost pitr<- keep<- (newest) +1",
            "1/0-8 postponed (no way to 2)",
            "1/9-9 keep<- of lost",
            "2/9-10 postponed (no way to 2)",
            "from 2d",
        ],
    );
    let _ = world.backup("new", Some(DAY), None, 4);
    let _ = world.round();
    world.hour += GRACE;
    check(
        &world,
        &[
            "new pitr<- keep<- (newest) +1",
            "lost pitr<- delete +0",
            "old pitr<- delete +0",
            "1/0-9 prune",
            "2/9-10 prune",
            "2/11-11 keep<- of new",
            "from 11d",
        ],
    );
}

#[test]
fn dead_ends_and_their_histories_go_with_the_last_that_leads_there() {
    let mut world = World::new();
    let _ = world.backup("base", Some(3 * DAY), None, 4);
    days(&mut world, 1);
    world.promote(0);
    days(&mut world, 1);
    // In place back to before the second timeline.
    world.current = 1;
    world.promote(4);
    days(&mut world, 1);
    let _ = world.backup("new", Some(9 * DAY), None, 4);
    check(
        &world,
        &[
            "new pitr<- keep<- (retention, newest) +0",
            "base pitr<- mark<4d +13",
            "1/0-0 keep<4d of base",
            "1/1-4 keep<4d after base",
            "2/5-8 keep<4d after base",
            "3/4-7 keep<4d after base",
            "3/8-8 keep<- of new, after base",
            "from 0d",
        ],
    );
    let _ = world.round();
    world.hour += GRACE;
    check(
        &world,
        &[
            "new pitr<- keep<- (retention, newest) +1",
            "base pitr<- delete +0",
            "1/0-4 prune",
            "2/5-8 prune",
            "3/4-7 prune",
            "3/8-8 keep<- of new",
            "history 2 goes",
            "from 3d",
        ],
    );
    // Whose history cannot be read may have come from anywhere.
    let mut stored = world.stored();
    stored.backups[0].deletion = None;
    stored.history_files[0].history = None;
    let kept = plan(&stored);
    assert!(kept.pruned().next().is_none() && kept.histories.iter().all(|one| !one.goes));
}

/// Restores leave the damaged one out: the moments that it promises are reached from the one before it.
#[test]
fn the_sound_way_to_what_a_damaged_one_promises_stays() {
    let mut world = World::new();
    let _ = world.backup("s0", Some(2 * DAY), None, 4);
    days(&mut world, 1);
    let damaged = world.backup("d1", Some(2 * DAY), None, 4);
    world.change(damaged, |backup| backup.damaged = true);
    days(&mut world, 1);
    let _ = world.backup("s2", Some(9 * DAY), None, 4);
    let newest = "s2 pitr<- keep<- (retention, newest) +0";
    check(
        &world,
        &[
            newest,
            "d1 pitr<- keep<3d (retention) +0",
            "s0 pitr<- keep<4d (stands in) +5",
            "1/0-0 keep<5d of s0",
            "1/1-4 keep<5d after s0",
            "1/5-5 keep<5d after s0, of d1",
            "1/6-9 keep<5d after s0, after d1",
            "1/10-10 keep<- of s2, after s0, after d1",
            "from 0d",
        ],
    );
    let mut by_hand = world.clone();
    let all = world.files.len();
    while world.hour < 5 * DAY {
        let _ = world.round();
        assert!(world.backups.contains_key(&crate::world::id(1)));
        assert_eq!(world.files.len(), all);
        world.hour += 1;
    }
    let _ = world.round();
    assert_eq!((world.backups.len(), world.files.len()), (1, 1));
    // Who deletes the damaged one gives up what it promised, once that cannot be taken back any more.
    by_hand.delete(damaged);
    let texts = |world: &World| {
        let stored = world.stored();
        let text = text(&stored, &plan(&stored));
        text.lines().take(3).map(str::to_owned).collect::<Vec<_>>()
    };
    let stands = "s0 pitr<- keep<3d (stands in) +5";
    assert_eq!(texts(&by_hand), [newest, "d1 pitr<- grace<3d +0", stands]);
    by_hand.hour += GRACE;
    let marked = "s0 pitr<- mark<4d +10";
    assert_eq!(texts(&by_hand), [newest, "d1 pitr<- delete +0", marked]);
}

/// As `zektor window` begins.
#[test]
fn the_window_begins_with_a_damaged_one_only_where_all_are() {
    let mut world = World::new();
    let first = world.backup("first", None, None, 4);
    world.change(first, |backup| backup.damaged = true);
    days(&mut world, 1);
    let from = |world: &World| plan(&world.stored()).earliest.map(|one| one.backup_id);
    assert_eq!(from(&world), Some(first));
    let second = world.backup("second", None, None, 4);
    assert_eq!(from(&world), Some(second));
    world.change(second, |backup| backup.damaged = true);
    assert_eq!(from(&world), Some(first));
}

#[test]
fn the_nearest_that_leads_to_a_damaged_one_stands_in() {
    let mut world = World::new();
    let keep = Some(DAY);
    let _ = world.backup("far", keep, None, 4);
    let _ = world.backup("near", keep, keep, 4);
    world.write(4);
    let _ = world.backup("left", keep, None, 8);
    world.promote(2);
    world.write(6);
    let damaged = world.backup("d", Some(30 * DAY), Some(8 * DAY), 4);
    world.change(damaged, |backup| backup.damaged = true);
    world.write(4);
    let _ = world.backup("new", keep, None, 4);
    world.hour += 9 * DAY - 1;
    let lines = |world: &World| {
        let stored = world.stored();
        let text = text(&stored, &plan(&stored));
        text.lines().take(5).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(
        lines(&world),
        [
            "new pitr<- keep<- (newest) +0",
            "d pitr<9d keep<30d (retention) +0",
            "left pitr<- mark<9d23h +0",
            "near pitr<9d keep<9d (stands in) +0",
            "far pitr<- mark<9d23h +1",
        ]
    );
    // Over a gap none leads, and what it promised is over in the end.
    let mut torn = world.clone();
    let _ = torn.files.remove(&(1, 2));
    world.hour += 1;
    for world in [torn, world] {
        let near = lines(&world)[3].clone();
        assert!(near.contains("mark<"), "{near}");
    }
}

#[test]
fn bases_go_after_what_names_their_packs() {
    let mut world = World::new();
    let base = world.backup("base", Some(DAY), None, 4);
    world.hour += 1;
    let child = world.backup("child", Some(DAY), None, 4);
    world.change(child, |backup| backup.refers_to = vec![base]);
    world.hour += 1;
    let _ = world.backup("new", None, None, 4);
    world.hour += 2 * DAY;
    world.delete(base);
    let decisions = |world: &World| {
        let plan = plan(&world.stored());
        let line = text(&world.stored(), &plan);
        line.lines()
            .skip(1)
            .take(2)
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        decisions(&world),
        [
            "child pitr<- mark<3d2h +0",
            "base pitr<- postponed (named by 1) +1"
        ]
    );
    let _ = world.round();
    world.hour += GRACE;
    let plan = plan(&world.stored());
    assert!(plan.deletions().eq([child, base]));
}

#[test]
fn a_sweep_is_bounded_and_in_order() {
    let mut world = World::new();
    for _ in 0..600 {
        world.hour += 1;
        let _ = world.backup("b", Some(1), None, 4);
    }
    let _ = world.round();
    world.hour += GRACE + 1;
    let sweep = |world: &World| {
        let plan = plan(&world.stored());
        plan.sweep(events::SweepId(uuid::Uuid::nil()))
    };
    let first = sweep(&world).unwrap();
    assert_eq!((first.backups.len(), first.wal.len()), (500, 0));
    let _ = world.round();
    let second = sweep(&world).unwrap();
    assert_eq!((second.backups.len(), second.wal.len()), (99, 1));
    let _ = world.round();
    assert_eq!(sweep(&world), None);
    assert_eq!((world.backups.len(), world.files.len()), (1, 1));
}
