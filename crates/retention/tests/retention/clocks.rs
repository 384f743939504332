//! A source whose clock was wrong: stamps lie, WAL does not.

use retention::{Decision, Reason, plan};

use crate::table::{DAY, days};
use crate::world::{GRACE, World, at};

fn decision(world: &World, name: &str) -> Decision {
    let plan = plan(&world.stored());
    let found = plan.backups.into_iter().find(|one| one.name == name);
    found.unwrap().decision
}

#[test]
fn a_stamp_that_is_ahead_makes_nobody_the_newest() {
    let mut world = World::new();
    world.ahead = 100 * 24;
    let first = world.backup("ahead", Some(DAY), None, 4);
    // What it is kept for, somebody has said.
    world.change(first, |backup| backup.expires_at = Some(at(DAY)));
    days(&mut world, 1);
    world.ahead = 0;
    let _ = world.backup("now", Some(DAY), None, 4);
    days(&mut world, 10);
    let order: Vec<_> = plan(&world.stored())
        .backups
        .into_iter()
        .map(|one| one.name)
        .collect();
    assert_eq!(order, ["now", "ahead"]);
    let Decision::Keep { reasons, .. } = decision(&world, "now") else {
        panic!("{:?}", decision(&world, "now"));
    };
    assert_eq!(reasons, [Reason::NewestRestorable]);
    assert!(matches!(decision(&world, "ahead"), Decision::Mark { .. }));
}

#[test]
fn a_stamp_that_is_ahead_of_the_damaged_one_after_it_stands_in_for_it() {
    let mut world = World::new();
    world.ahead = 100 * 24;
    let first = world.backup("ahead", None, None, 4);
    days(&mut world, 1);
    world.ahead = 0;
    let damaged = world.backup("damaged", Some(30 * DAY), None, 4);
    world.change(damaged, |backup| backup.damaged = true);
    days(&mut world, 1);
    let _ = world.backup("now", Some(30 * DAY), None, 4);
    world.delete(first);
    world.hour += GRACE;
    let Decision::Postponed { why, .. } = decision(&world, "ahead") else {
        panic!("{:?}", decision(&world, "ahead"));
    };
    assert!(matches!(&why[..], [Reason::StandsIn { .. }]), "{why:?}");
}

/// On a timeline that was left, and on the one that came of it.
#[test]
fn a_stamp_that_is_behind_is_no_older_than_what_leads_to_it() {
    let mut world = World::new();
    days(&mut world, 10);
    let _ = world.backup("before", Some(DAY), None, 4);
    days(&mut world, 50);
    world.promote(0);
    world.ahead = -24 * 59;
    let _ = world.backup("behind", Some(DAY), None, 4);
    days(&mut world, 10);
    assert!(matches!(decision(&world, "behind"), Decision::Keep { .. }));
    assert!(matches!(decision(&world, "before"), Decision::Mark { .. }));
}
