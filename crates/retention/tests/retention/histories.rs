//! Random histories: a branch is written to, backed up, promoted, restored, and swept, with crashes in between.

use events::BackupId;
use proptest::prelude::{Strategy, any, prop, prop_assert, prop_assert_eq, proptest};
use retention::{Decision, Ended, WalFate, plan, project};

use crate::oracle;
use crate::world::{GRACE, World, at, lsn};

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
    Begin { lag: u64 },
    Say,
    Complete(Kind),
    Fail,
    Misplace(usize),
    Clock(i64),
    Round { steps: usize },
    Ask,
    Carry { steps: usize },
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

fn kinds() -> impl Strategy<Value = Kind> {
    let kind = (
        prop::option::weighted(0.8, 1..200_u64),
        prop::option::weighted(0.6, 0..120_u64),
        1..9_u64,
        any::<bool>(),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
        prop::bool::weighted(0.1),
    );
    kind.prop_map(
        |(keep, wal, quarters, switch, damaged, refers, broken)| Kind {
            keep,
            wal,
            quarters,
            switch,
            damaged,
            refers,
            broken,
        },
    )
}

/// What one process and one hand do, with clocks that are right.
fn deeds() -> impl Strategy<Value = Vec<Deed>> {
    prop::collection::vec(deed(), 1..60)
}

/// Beside that: backups that run, what they leave over, sweeps that wait for their worker, and a source whose clock is
/// wrong.
fn all_deeds() -> impl Strategy<Value = Vec<Deed>> {
    let more = proptest::prop_oneof![
        2 => (0..30_u64).prop_map(|lag| Deed::Begin { lag }),
        1 => proptest::prelude::Just(Deed::Say),
        2 => kinds().prop_map(Deed::Complete),
        1 => proptest::prelude::Just(Deed::Fail),
        1 => (0..9_usize).prop_map(Deed::Misplace),
        3 => (-400..400_i64).prop_map(Deed::Clock),
        4 => proptest::prelude::Just(Deed::Ask),
        4 => steps().prop_map(|steps| Deed::Carry { steps }),
    ];
    let deed = proptest::prop_oneof![3 => deed(), 2 => more];
    prop::collection::vec(deed, 1..80)
}

fn deed() -> impl Strategy<Value = Deed> {
    let kind = kinds();
    proptest::prop_oneof![
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
    ]
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
        Deed::Begin { lag } => begin(world, lag),
        Deed::Say => say(world),
        Deed::Complete(kind) => complete(world, kind),
        Deed::Fail => {
            if let Some((id, _, _)) = world.running.take() {
                let _ = world.leftovers.insert(id, (world.hour, Ended::Over));
            }
        }
        Deed::Misplace(number) => {
            let named = |id| {
                world
                    .backups
                    .values()
                    .any(|one| one.refers_to.contains(&id))
            };
            if let Some(id) = pick(world, number).filter(|id| !named(*id)) {
                let lost = (world.hour, Ended::ManifestLost);
                let _ = (world.backups.remove(&id), world.made.remove(&id));
                let _ = world.leftovers.insert(id, lost);
            }
        }
        Deed::Clock(ahead) => world.ahead = ahead,
        Deed::Ask => {
            if world.asked.is_none() {
                world.asked = plan(&world.stored()).sweep(events::SweepId(uuid::Uuid::nil()));
            }
        }
        Deed::Carry { steps } => watched(world, |world| world.carry_out(steps)),
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

/// A standby's restart point may lie far back, and where the backup begins is not known yet.
fn begin(world: &mut World, lag: u64) {
    let fork = world.lines[&world.current].fork;
    let start = world.position().saturating_sub(lag).max(fork);
    if world.running.is_none() {
        world.running = Some((world.next_id(), start, false));
        // It fails where its WAL is gone already.
        let there = (start / 4..world.position() / 4).all(|number| {
            let key = (world.current, number);
            world.files.get(&key) == world.ever.get(&key)
        });
        world.running = world.running.filter(|_| there);
    }
}

/// The server has said where it begins; in what a worker was asked to delete it fails.
fn say(world: &mut World) {
    let Some((id, start, _)) = world.running else {
        return;
    };
    let current = world.current;
    let swept = world.asked.iter().flat_map(|sweep| &sweep.wal);
    let mut in_it = swept.filter(|wal| wal.timeline.0 == current && wal.to_lsn > lsn(start));
    let fails = in_it.next().is_some();
    world.running = Some((id, start, true)).filter(|_| !fails);
}

fn complete(world: &mut World, kind: Kind) {
    say(world);
    if let Some((id, start, _)) = world.running.take() {
        let _ = world.complete((id, start), "b", (kind.keep, kind.wal), kind.quarters);
        world.change(id, |backup| backup.damaged = kind.damaged);
    }
}

fn round(world: &mut World, steps: usize) {
    let (backups, files) = (world.backups.len(), world.files.clone());
    let stored = world.stored();
    let plan = plan(&stored);
    assert_eq!(plan, retention::plan(&stored), "it is deterministic");
    watched(world, |world| world.apply(&plan, steps));
    if world.reading {
        assert_eq!((backups, &files), (world.backups.len(), &world.files));
    }
    let alone = world.leftovers.is_empty() && world.running.is_none() && !world.wrong;
    if steps == usize::MAX && alone {
        carried_out(world, &plan);
    }
}

/// What is relied on, and the sound ways to what is promised, are there afterwards.
fn watched(world: &mut World, deed: impl FnOnce(&mut World)) {
    let relied_on = oracle::relied_on(world);
    let ways = oracle::ways_relied_on(world, &world.files);
    let before = world.clone();
    deed(world);
    for id in relied_on {
        assert!(world.backups.contains_key(&id), "{id:?} was relied on");
    }
    assert_eq!(oracle::ways_relied_on(world, &world.files), ways);
    oracle::check_sound_ways(&before, world);
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

/// Everything at once. What a worker was asked for is judged again whenever something has happened.
fn live_wildly(deeds: &[Deed]) {
    let mut world = World::new();
    for deed in deeds {
        // A promotion ends a backup that runs; a hold of what is being deleted is refused.
        match deed {
            Deed::Promote { .. } | Deed::Tear { .. } => world.running = None,
            // One sweep at a time, one backup at a time.
            Deed::Hold(_) | Deed::Undelete(_) | Deed::Round { .. } if world.asked.is_some() => {
                continue;
            }
            Deed::Backup(_) if world.running.is_some() => continue,
            _ => {}
        }
        let lost = world.leftovers.clone();
        act(&mut world, *deed);
        let plan = plan(&world.stored());
        let stands = world.asked.take();
        world.asked = stands.filter(|sweep| plan.lets_go(sweep));
        oracle::check_kept(&world);
        for (id, (_, ended)) in lost {
            assert!(ended == Ended::Over || world.leftovers.contains_key(&id));
        }
    }
}

proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig { cases: 300, failure_persistence: None, ..proptest::prelude::ProptestConfig::default() })]

    /// What is promised can be restored, what is needed is there, what is relied on stays; at every step.
    #[test]
    fn what_is_promised_is_there(deeds in deeds()) {
        let _ = live(&deeds);
    }

    /// The same, with backups that run, what they leave over, what is found between a plan and what is done by it, and a
    /// source whose clock is wrong.
    #[test]
    fn what_is_promised_is_there_whatever_happens_between_a_plan_and_its_sweep(deeds in all_deeds()) {
        live_wildly(&deeds);
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
