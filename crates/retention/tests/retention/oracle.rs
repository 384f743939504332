//! What can be restored and what is needed, quarter by quarter of a segment, from the world as it came to be. Uses
//! nothing of the planner and no history file's arithmetic.

use std::collections::BTreeSet;

use events::BackupId;
use retention::Backup;

use crate::world::{Files, World, at, lsn};

/// A stretch of the way to a timeline.
struct Stretch {
    timeline: u32,
    begin: u64,
    end: u64,
}

/// The way to a timeline, newest first.
fn way(world: &World, to: u32) -> Vec<Stretch> {
    let mut way = Vec::new();
    let (mut next, mut end) = (Some(to), u64::MAX);
    while let Some(timeline) = next {
        let line = world.lines[&timeline];
        if line.fork < end {
            way.push(Stretch {
                timeline,
                begin: line.fork,
                end,
            });
            end = line.fork;
        }
        next = line.parent;
    }
    way
}

fn quarter(position: pg_format::Lsn) -> u64 {
    (0..).find(|quarter| lsn(*quarter) >= position).unwrap()
}

/// Where a backup begins and ends, in quarters.
fn ends(backup: &Backup) -> (u64, u64) {
    (quarter(backup.start_lsn), quarter(backup.stop_lsn))
}

pub(crate) fn leads_to(world: &World, backup: &Backup, to: u32) -> bool {
    let (_, stop) = ends(backup);
    let way = way(world, to);
    let mut stretches = way.iter();
    stretches.any(|stretch| stretch.timeline == backup.timeline.0 && stop <= stretch.end)
}

/// The file that holds a quarter on the way, if it is there.
fn holders(way: &[Stretch], at: u64) -> impl Iterator<Item = u32> {
    let holds = move |stretch: &&Stretch| stretch.begin / 4 <= at / 4 && at < stretch.end;
    way.iter().filter(holds).map(|stretch| stretch.timeline)
}

/// The first missing quarter after a backup's start on the way to a timeline.
fn reach(world: &World, files: &Files, backup: &Backup, to: u32) -> u64 {
    let way = way(world, to);
    let is_there = |at: u64| {
        holders(&way, at).any(|timeline| {
            let quarters = files.get(&(timeline, at / 4)).copied().unwrap_or(0);
            at % 4 < quarters
        })
    };
    let (start, _) = ends(backup);
    (start..).find(|at| !is_there(*at)).unwrap()
}

fn reachable<'a>(world: &'a World, backup: &'a Backup) -> impl Iterator<Item = u32> {
    let all = world.lines.keys().copied();
    all.filter(|to| leads_to(world, backup, *to))
}

/// Whether it can be restored at all.
fn is_whole(world: &World, files: &Files, backup: &Backup) -> bool {
    let (_, stop) = ends(backup);
    reachable(world, backup).any(|to| reach(world, files, backup, to) >= stop)
}

fn newest<'a>(
    world: &World,
    of: impl Iterator<Item = &'a Backup>,
    is_meant: impl Fn(&Backup) -> bool,
) -> Option<BackupId> {
    let usable = of.filter(|one| !one.damaged && is_whole(world, &world.ever, one));
    let found = usable
        .filter(|one| is_meant(one))
        // As they were made, whatever the source's clock said.
        .max_by_key(|one| one.id);
    found.map(|one| one.id)
}

/// What a live branch relies on: the newest, and the newest that leads to where it is now. What is found damaged
/// later may have let an older one go before.
pub(crate) fn relied_on(world: &World) -> Vec<BackupId> {
    if !world.live {
        return Vec::new();
    }
    let newest_of_all = newest(world, world.backups.values(), |_| true);
    // Of backups of which none leads to the other only stamps say which is newer.
    let newest_of_all = newest_of_all.filter(|_| !world.wrong);
    let here = newest(world, world.backups.values(), |one| {
        leads_to(world, one, world.current)
    });
    newest_of_all.into_iter().chain(here).collect()
}

/// How far each way goes that leads from what is relied on.
pub(crate) fn ways_relied_on(world: &World, files: &Files) -> Vec<(BackupId, u32, u64)> {
    let mut ways = Vec::new();
    for id in relied_on(world) {
        if let Some(backup) = world.backups.get(&id) {
            let reached = reachable(world, backup);
            ways.extend(reached.map(|to| (id, to, reach(world, files, backup, to))));
        }
    }
    ways
}

fn is_open(world: &World, backup: &Backup, relied_on: &[BackupId]) -> bool {
    let promised = backup.wal_until.is_none_or(|until| at(world.hour) < until);
    promised || relied_on.contains(&backup.id)
}

/// Everything that was promised and not taken back in due form is there.
pub(crate) fn check_kept(world: &World) {
    for (id, backup) in &world.made {
        let may_be_gone = world.backups.contains_key(id) || may_be_gone(world, backup);
        assert!(may_be_gone, "{backup:?} at {}", at(world.hour));
    }
    for backup in world.backups.values() {
        for name in &backup.refers_to {
            assert!(world.backups.contains_key(name), "packs of {backup:?}");
        }
        if is_whole(world, &world.ever, backup) {
            assert!(is_whole(world, &world.files, backup), "{backup:?}");
        }
        // What became relied on after its window was over is watched at each round.
        if !is_open(world, backup, &[]) {
            continue;
        }
        for to in reachable(world, backup) {
            let ever = reach(world, &world.ever, backup, to);
            let now = reach(world, &world.files, backup, to);
            assert_eq!(now, ever, "{backup:?} on the way to {to}");
            assert!(to == 1 || world.histories.contains(&to), "history {to}");
        }
    }
}

/// How far sound backups lead beyond the end of a backup on the way to a timeline; itself, if it is one, included.
fn by_sound_ways(world: &World, promised: &Backup, to: u32) -> Option<u64> {
    let (_, begin) = ends(promised);
    let sound = world.backups.values().filter(|one| !one.damaged);
    let before = sound.filter(|one| ends(one).1 <= begin && leads_to(world, one, to));
    let reached = before.map(|one| reach(world, &world.files, one, to));
    reached.filter(|end| *end >= begin).max()
}

/// What a backup promises that is there before a round and after it could be restored from sound ones, and can be.
pub(crate) fn check_sound_ways(before: &World, after: &World) {
    for backup in after.backups.values() {
        if !is_open(after, backup, &[]) {
            continue;
        }
        for to in reachable(after, backup) {
            let was = by_sound_ways(before, backup, to);
            let is = by_sound_ways(after, backup, to);
            assert_eq!(is, was, "{backup:?} on the way to {to}");
        }
    }
}

/// The nearest sound ones that lead to damaged ones which promise something still.
fn stand_ins(world: &World) -> BTreeSet<BackupId> {
    let mut found = BTreeSet::new();
    let damaged = world.backups.values().filter(|one| one.damaged);
    for backup in damaged.filter(|one| is_open(world, one, &[])) {
        let (to, (_, stop)) = (backup.timeline.0, ends(backup));
        let older = world.backups.values().filter(|one| {
            let is_older = (one.backed_up_at, one.id) < (backup.backed_up_at, backup.id);
            is_older && !one.damaged && ends(one).1 <= stop && leads_to(world, one, to)
        });
        // Its last segment may be there as the first of what comes after only.
        let older = older.filter(|one| {
            let mut ways = reachable(world, backup);
            ways.any(|to| reach(world, &world.files, one, to) >= stop)
        });
        let nearest = older.max_by_key(|one| (one.start_lsn, one.backed_up_at));
        found.extend(nearest.map(|one| one.id));
    }
    found
}

/// It was marked for the whole time of grace, by somebody or because its retention was over.
fn may_be_gone(world: &World, backup: &Backup) -> bool {
    let now = at(world.hour);
    let marked = backup.deletion.is_some_and(|mark| {
        mark.delete_after <= now
            && mark.delete_after
                >= mark.asked_at + chrono::TimeDelta::hours(crate::world::GRACE as i64)
    });
    let by_user = backup
        .deletion
        .is_some_and(|mark| mark.by == events::mark::DeletedBy::User);
    let expired = backup.expires_at.is_some_and(|end| end <= now);
    marked && (by_user || expired) && backup.hold.is_none()
}

/// Nothing is there that nobody needs.
pub(crate) fn check_spare(world: &World) {
    let relied_on = relied_on(world);
    let restorable = newest(world, world.backups.values(), |_| true).is_some();
    if world.live && !restorable {
        return;
    }
    let stand_ins = stand_ins(world);
    let open: Vec<_> = relied_on.iter().chain(&stand_ins).copied().collect();
    for backup in world.backups.values() {
        let wanted = backup.hold.is_some()
            || open.contains(&backup.id)
            || (backup.expires_at.is_none() && backup.deletion.is_none())
            || world
                .backups
                .values()
                .any(|one| one.refers_to.contains(&backup.id));
        assert!(wanted, "{backup:?} at {}", at(world.hour));
    }
    let here = world
        .backups
        .values()
        .any(|one| relied_on.contains(&one.id) && leads_to(world, one, world.current));
    for (timeline, number) in world.files.keys() {
        let leads_here = way(world, world.current)
            .iter()
            .any(|stretch| stretch.timeline == *timeline);
        if world.live && !here && leads_here {
            continue;
        }
        let mut backups = world.backups.values();
        let needed =
            backups.any(|one| needs(world, one, is_open(world, one, &open), *timeline, *number));
        assert!(needed, "segment {number} of timeline {timeline}");
    }
    for timeline in &world.histories {
        let comes_from_it = |to: u32| {
            let mut next = Some(to);
            while let Some(at) = next.filter(|at| at != timeline) {
                next = world.lines[&at].parent;
            }
            next.is_some()
        };
        let files = world.files.keys().map(|(timeline, _)| *timeline);
        let mut ends: Vec<u32> = files.collect();
        ends.extend(world.live.then_some(world.current));
        for backup in world.backups.values() {
            ends.push(backup.timeline.0);
            if is_open(world, backup, &open) {
                ends.extend(reachable(world, backup));
            }
        }
        assert!(ends.into_iter().any(comes_from_it), "history {timeline}");
    }
}

/// Whether some way of a backup leads over a segment.
fn needs(world: &World, backup: &Backup, open: bool, timeline: u32, number: u64) -> bool {
    let (start, stop) = ends(backup);
    let mut ways = reachable(world, backup);
    ways.any(|to| {
        let end = if open { u64::MAX } else { stop };
        let way = way(world, to);
        let mut quarters = (number * 4..number * 4 + 4).filter(|at| (start..end).contains(at));
        quarters.any(|at| holders(&way, at).any(|holder| holder == timeline))
    })
}
