//! Random histories: a branch is written to, backed up, promoted, restored, and swept, with crashes in between.

use events::BackupId;
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};
use retention::{Decision, WalFate, plan, project};

use crate::oracle;
use crate::world::{GRACE, World, at};

/// What happens next.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Write { hours: u64, quarters: u64 },
    Backup(Kind),
    Promote { lost: u64 },
    Tear { quarters: u64 },
    Lose { back: u64 },
    Hold(usize),
    Release(usize),
    Delete(usize),
    Undelete(usize),
    Damage(usize),
    Sound(usize),
    Read(bool),
    Round { steps: usize },
}

#[derive(Clone, Copy, Debug)]
struct Kind {
    keep: Option<u64>,
    wal: Option<u64>,
    quarters: u64,
    switch: bool,
    damaged: bool,
    refers: bool,
    broken: bool,
}

fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    let kind = (
        prop::option::weighted(0.8, 1..200_u64),
        prop::option::weighted(0.6, 0..120_u64),
        1..9_u64,
        any::<bool>(),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    );
    let kind = kind.prop_map(
        |(keep, wal, quarters, switch, damaged, refers, broken)| Kind {
            keep,
            wal,
            quarters,
            switch,
            damaged,
            refers,
            broken,
        },
    );
    let deed = proptest::prop_oneof![
        6 => (1..40_u64, 0..14_u64).prop_map(|(hours, quarters)| Deed::Write { hours, quarters }),
        5 => kind.prop_map(Deed::Backup),
        2 => (0..9_u64).prop_map(|lost| Deed::Promote { lost }),
        1 => (4..9_u64).prop_map(|quarters| Deed::Tear { quarters }),
        1 => (1..4_u64).prop_map(|back| Deed::Lose { back }),
        1 => (0..9_usize).prop_map(Deed::Hold),
        1 => (0..9_usize).prop_map(Deed::Release),
        1 => (0..9_usize).prop_map(Deed::Delete),
        1 => (0..9_usize).prop_map(Deed::Undelete),
        2 => (0..9_usize).prop_map(Deed::Damage),
        1 => (0..9_usize).prop_map(Deed::Sound),
        1 => any::<bool>().prop_map(Deed::Read),
        8 => steps().prop_map(|steps| Deed::Round { steps }),
    ];
    prop::collection::vec(deed, 1..60)
}

fn steps() -> impl Strategy<Value = usize> {
    proptest::prop_oneof![2 => 0..8_usize, 3 => proptest::prelude::Just(usize::MAX)]
}

fn pick(world: &World, number: usize) -> Option<BackupId> {
    let count = world.backups.len();
    world
        .backups
        .keys()
        .nth(number.checked_rem(count)?)
        .copied()
}

fn act(world: &mut World, deed: Deed) {
    match deed {
        Deed::Write { hours, quarters } => {
            world.hour += hours;
            world.write(quarters);
        }
        Deed::Backup(kind) => back_up(world, kind),
        Deed::Promote { lost } => world.promote(lost),
        Deed::Tear { quarters } => world.tear(quarters),
        Deed::Lose { back } => world.lose(back),
        Deed::Hold(number) => {
            if let Some(id) = pick(world, number) {
                world.hold(id);
            }
        }
        Deed::Release(number) => {
            if let Some(id) = pick(world, number) {
                world.change(id, |backup| backup.hold = None);
            }
        }
        Deed::Delete(number) => {
            if let Some(id) = pick(world, number) {
                world.delete(id);
            }
        }
        Deed::Undelete(number) => {
            if let Some(id) = pick(world, number) {
                world.undelete(id);
            }
        }
        Deed::Damage(number) => {
            if let Some(id) = pick(world, number) {
                world.change(id, |backup| backup.damaged = true);
            }
        }
        Deed::Sound(number) => {
            if let Some(id) = pick(world, number) {
                world.change(id, |backup| backup.damaged = false);
            }
        }
        Deed::Read(reading) => world.reading = reading,
        Deed::Round { steps } => round(world, steps),
    }
}

fn back_up(world: &mut World, kind: Kind) {
    let before = pick(world, usize::MAX);
    let begun = world.position();
    let id = world.backup("b", kind.keep, kind.wal, kind.quarters);
    if kind.broken {
        world.lose_within(begun);
    }
    if kind.switch {
        world.switch();
    }
    world.change(id, |backup| {
        backup.damaged = kind.damaged;
        if kind.refers {
            backup.refers_to.extend(before);
        }
    });
}

fn round(world: &mut World, steps: usize) {
    let relied_on = oracle::relied_on(world);
    let ways = oracle::ways_relied_on(world, &world.files);
    let before = world.clone();
    let (backups, files) = (world.backups.len(), world.files.clone());
    let stored = world.stored();
    let plan = plan(&stored);
    assert_eq!(plan, retention::plan(&stored), "it is deterministic");
    world.apply(&plan, steps);
    for id in relied_on {
        assert!(world.backups.contains_key(&id), "{id:?} was relied on");
    }
    assert_eq!(oracle::ways_relied_on(world, &world.files), ways);
    oracle::check_sound_ways(&before, world);
    if world.reading {
        assert_eq!((backups, &files), (world.backups.len(), &world.files));
    }
    if steps == usize::MAX {
        carried_out(world, &plan);
    }
}

/// What was said has happened, and nothing is left to be done.
fn carried_out(world: &World, plan: &retention::Plan) {
    let again = retention::plan(&world.stored());
    assert!(again.marks().is_empty(), "{again:?}");
    assert_eq!(again.sweep(events::SweepId(uuid::Uuid::nil())), None);
    assert_eq!(again.earliest, plan.earliest);
    let said = plan.totals;
    let found = again.totals;
    assert_eq!(found.backup_bytes_kept, said.backup_bytes_kept);
    assert_eq!(found.wal_bytes_kept, said.wal_bytes_kept);
    let bytes = |world: &World| world.files.len() as u64;
    assert_eq!(found.wal_bytes_kept, bytes(world));
}

fn live(deeds: &[Deed]) -> World {
    let mut world = World::new();
    for deed in deeds {
        act(&mut world, *deed);
        oracle::check_kept(&world);
    }
    world
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 300, failure_persistence: None, ..proptest::prelude::ProptestConfig::default() })]

    /// What is promised can be restored, what is needed is there, what is relied on stays; at every step.
    #[test]
    fn what_is_promised_is_there(deeds in deeds()) {
        let _ = live(&deeds);
    }

    /// Everything else goes, two rounds after the grace, of a live branch and of one that is gone.
    #[test]
    fn what_nobody_needs_goes(deeds in deeds(), gone: bool) {
        let mut world = live(&deeds);
        world.reading = false;
        world.live = !gone;
        // Chains of packs go link by link.
        let links = 2 + world.backups.values().filter(|one| !one.refers_to.is_empty()).count();
        world.hour += 1000;
        for _ in 0..links {
            round(&mut world, usize::MAX);
            world.hour += GRACE;
            round(&mut world, usize::MAX);
            oracle::check_kept(&world);
        }
        round(&mut world, usize::MAX);
        oracle::check_spare(&world);
    }

    /// The future is what a round every hour makes of the present.
    #[test]
    fn the_future_is_what_comes(deeds in deeds(), hours in 1..150_u64, gone: bool) {
        let mut world = live(&deeds);
        world.reading = false;
        world.live = !gone;
        let then = world.hour + hours;
        let foretold = plan(&project(&world.stored(), at(then)));
        while world.hour < then {
            let _ = world.round();
            world.hour += 1;
        }
        let _ = world.round();
        let found = plan(&world.stored());
        let backups = foretold.backups.iter().filter(|one| one.decision != Decision::Delete);
        let wal = foretold.wal.iter().filter(|one| one.fate != WalFate::Prune);
        prop_assert_eq!(found.backups, backups.cloned().collect::<Vec<_>>());
        prop_assert_eq!(found.wal, wal.cloned().collect::<Vec<_>>());
        prop_assert_eq!(found.earliest, foretold.earliest);
        prop_assert!(found.histories.iter().all(|one| !one.goes));
    }
}
