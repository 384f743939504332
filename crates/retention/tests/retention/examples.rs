//! The examples of the specification, and single rules, as tables.

use events::mark::{DeletedBy, Deletion};
use pg_format::{Lsn, TimelineId};
use retention::{Decision, RunningBackup, plan, project};

use crate::table::{DAY, check, check_stored, days, text};
use crate::world::{GRACE, World, at};

const YEAR: u64 = 365 * DAY;

/// Daily for 7 days, every 30 days for a year: the window is a week, the months stay.
#[test]
fn daily_for_a_week_and_monthly_for_a_year() {
    let mut world = World::new();
    for day in 0..=70 {
        if day % 30 == 0 {
            let _ = world.backup(&format!("m{day}"), Some(YEAR), Some(7 * DAY), 2);
        }
        let _ = world.backup(&format!("d{day}"), Some(7 * DAY), None, 2);
        let _ = world.round();
        days(&mut world, 1);
    }
    let stored = world.stored();
    let plan = plan(&stored);
    let found = text(&stored, &plan);
    let lines: Vec<_> = found.lines().collect();
    assert_eq!(
        lines[..8],
        [
            "d70 pitr<- keep<- (retention, newest) +0",
            "d69 pitr<- keep<76d (retention) +0",
            "d68 pitr<- keep<75d (retention) +0",
            "d67 pitr<- keep<74d (retention) +0",
            "d66 pitr<- keep<73d (retention) +0",
            "d65 pitr<- keep<72d (retention) +0",
            "d64 pitr<- mark<72d +5",
            // In the time of grace everything can be undone.
            "d63 pitr<- delete +0",
        ],
        "{lines:#?}"
    );
    assert!(
        lines[8..11].iter().zip([60, 30, 0]).all(|(line, day)| {
            *line == format!("m{day} alone keep<{}d (retention) +1", day + 365)
        }),
        "{lines:#?}"
    );
    assert_eq!(lines.last(), Some(&"from 64d"));
}

#[test]
fn only_monthly_for_a_year_keeps_its_wal_for_a_year() {
    let mut world = World::new();
    let _ = world.backup("m0", Some(YEAR), None, 4);
    days(&mut world, 30);
    let _ = world.backup("m30", Some(YEAR), None, 4);
    check(
        &world,
        &[
            "m30 pitr<- keep<- (retention, newest) +0",
            "m0 pitr<- keep<365d (retention) +121",
            "1/0-0 keep<366d of m0",
            "1/1-120 keep<366d after m0",
            "1/121-121 keep<- of m30, after m0",
            "from 0d",
        ],
    );
    check_stored(
        &project(&world.stored(), at(YEAR)),
        &[
            "m30 pitr<- keep<- (retention, newest) +0",
            "m0 pitr<- grace<366d +121",
            "1/0-0 keep<366d of m0",
            "1/1-120 keep<366d after m0",
            "1/121-121 keep<- of m30, after m0",
            "from 0d",
        ],
    );
    check_stored(
        &project(&world.stored(), at(YEAR + GRACE)),
        &[
            "m30 pitr<- keep<- (retention, newest) +1",
            "m0 pitr<- delete +0",
            "1/0-120 prune",
            "1/121-121 keep<- of m30",
            "from 30d",
        ],
    );
}

#[test]
fn by_hand_until_deleted() {
    let mut world = World::new();
    let first = world.backup("hand", None, Some(7 * DAY), 4);
    days(&mut world, 1);
    let _ = world.backup("next", None, Some(7 * DAY), 4);
    days(&mut world, 7);
    check(
        &world,
        &[
            "next pitr<- keep<- (for ever, newest) +29",
            "hand alone keep<- (for ever) +1",
            "1/0-0 keep<- of hand",
            "1/1-4 prune",
            "1/5-5 keep<- of next",
            "1/6-33 keep<- after next",
            "from 1d",
        ],
    );
    let _ = world.round();
    world.delete(first);
    check(
        &world,
        &[
            "next pitr<- keep<- (for ever, newest) +29",
            "hand alone grace<9d +1",
            "1/0-0 keep<9d of hand",
            "1/5-5 keep<- of next",
            "1/6-33 keep<- after next",
            "from 1d",
        ],
    );
    world.hour += GRACE - 1;
    let _ = world.round();
    world.undelete(first);
    world.hour += 1;
    assert!(plan(&world.stored()).deletions().next().is_none());
    world.delete(first);
    world.hour += GRACE;
    let _ = world.round();
    assert_eq!(world.backups.len(), 1);
    assert!(!world.files.contains_key(&(1, 0)));
}

#[test]
fn the_newest_is_kept_whatever_anybody_wants() {
    let mut world = World::new();
    let newest = world.backup("newest", Some(DAY), Some(0), 4);
    days(&mut world, 9);
    let kept = &[
        "1/0-0 keep<- of newest",
        "1/1-36 keep<- after newest",
        "from 0d",
    ][..];
    check(
        &world,
        &[&["newest pitr<- keep<- (newest) +37"], kept].concat(),
    );
    world.delete(newest);
    world.hour += 9 * GRACE;
    check(
        &world,
        &[&["newest pitr<- postponed (newest) +37"], kept].concat(),
    );
    // Of a branch that is gone it goes as any other.
    let mut gone = world.clone();
    gone.live = false;
    check(&gone, &["newest alone delete +0", "1/0-36 prune", "from -"]);
    // One whose WAL is not there is no newer one, nor is one that was found damaged.
    let damaged = world.backup("damaged", Some(DAY), None, 4);
    world.change(damaged, |backup| backup.damaged = true);
    let _ = world.backup("broken", Some(DAY), None, 4);
    let _ = world.files.remove(&(1, 38));
    let verdicts = plan(&world.stored()).backups;
    assert!(verdicts.iter().map(|one| one.whole).eq([false, true, true]));
    assert!(matches!(verdicts[2].decision, Decision::Postponed { .. }));
    // Of what a damaged one promises it is the only way still.
    let _ = world.backup("newer", Some(DAY), None, 4);
    let decision = |world: &World| plan(&world.stored()).backups[3].decision.clone();
    assert!(matches!(decision(&world), Decision::Postponed { .. }));
    world.change(damaged, |backup| backup.wal_until = Some(at(0)));
    assert_eq!(decision(&world), Decision::Delete);
}

#[test]
fn without_a_restorable_backup_nothing_goes() {
    let mut world = World::new();
    days(&mut world, 1);
    check(&world, &["1/0-3 postponed (nothing restorable)", "from -"]);
    let broken = world.backup("broken", Some(DAY), None, 4);
    let _ = world.files.remove(&(1, 4));
    days(&mut world, 3);
    world.delete(broken);
    world.hour += 9 * GRACE;
    check(
        &world,
        &[
            "broken pitr<- postponed (nothing restorable) +12",
            "1/0-3 postponed (nothing restorable)",
            "1/5-16 keep<- after broken",
            "from -",
        ],
    );
}

#[test]
fn a_held_one_stays_with_the_wal_of_its_class() {
    let mut world = World::new();
    let held = world.backup("held", Some(DAY), Some(2 * DAY), 4);
    world.hold(held);
    days(&mut world, 1);
    let _ = world.backup("next", Some(9 * DAY), None, 4);
    check(
        &world,
        &[
            "next pitr<- keep<- (retention, newest) +0",
            "held pitr<3d keep<- (held) +5",
            "1/0-0 keep<- of held",
            "1/1-4 keep<3d after held",
            "1/5-5 keep<- of next, after held",
            "from 0d",
        ],
    );
    // What was promised is over, and then its time of grace is too.
    let all = world.files.len();
    world.hour += DAY;
    let _ = world.round();
    assert_eq!(world.files.len(), all);
    world.hour += GRACE;
    let _ = world.round();
    assert_eq!(world.files.len(), 1 + 1);
    // Held while it was marked; let go of, the mark counts again.
    world.change(held, |backup| backup.hold = None);
    let _ = world.round();
    world.hold(held);
    world.hour += 3 * GRACE;
    let decision = |world: &World| plan(&world.stored()).backups[1].decision.clone();
    assert!(matches!(decision(&world), Decision::Postponed { .. }));
    world.change(held, |backup| backup.hold = None);
    assert_eq!(decision(&world), Decision::Delete);
}

#[test]
fn a_mark_of_retention_counts_only_after_the_retention() {
    let mut world = World::new();
    let first = world.backup("first", Some(9 * DAY), None, 4);
    let _ = world.backup("next", None, None, 4);
    let mark = Deletion {
        by: DeletedBy::Retention,
        asked_at: at(0),
        delete_after: at(DAY),
    };
    world.change(first, |backup| backup.deletion = Some(mark));
    let decision = |world: &World| plan(&world.stored()).backups[1].decision.clone();
    world.hour = 2 * DAY;
    assert!(matches!(decision(&world), Decision::Postponed { .. }));
    world.hour = 9 * DAY;
    assert_eq!(decision(&world), Decision::Delete);
    world.change(first, |backup| backup.expires_at = None);
    assert!(matches!(decision(&world), Decision::Postponed { .. }));
}

#[test]
fn nothing_goes_under_a_reader_or_an_unknown_start() {
    let mut world = World::new();
    let _ = world.backup("old", Some(DAY), None, 4);
    days(&mut world, 1);
    let _ = world.backup("new", None, Some(0), 4);
    let _ = world.round();
    world.hour += GRACE;
    world.reading = true;
    check(
        &world,
        &[
            "new pitr<- keep<- (for ever, newest) +0",
            "old pitr<- postponed (read) +5",
            "1/0-0 keep<- of old",
            "1/1-4 keep<- after old",
            "1/5-5 keep<- after old, of new",
            "from 0d",
        ],
    );
    world.reading = false;
    let mut stored = world.stored();
    let running = |start| RunningBackup {
        id: crate::world::id(9),
        start,
    };
    stored.running = vec![running(None)];
    check_stored(
        &stored,
        &[
            "new pitr<- keep<- (for ever, newest) +1",
            "old pitr<- delete +0",
            "1/0-4 postponed (running)",
            "1/5-5 keep<- of new",
            "from 1d",
        ],
    );
    // A standby's restart point.
    stored.running = vec![running(Some((TimelineId(1), Lsn(3 << 20))))];
    check_stored(
        &stored,
        &[
            "new pitr<- keep<- (for ever, newest) +0",
            "old pitr<- delete +0",
            "1/0-2 prune",
            "1/3-4 keep<- of a running one",
            "1/5-5 keep<- of new, of a running one",
            "from 1d",
        ],
    );
}
