//! Which backup is newer.
//!
//! Their ends are by the source's clock, which may have been set. On one way through the timelines WAL tells better: what
//! ends at a higher LSN there is newer, whatever its stamp says. So a backup counts as no older than any that leads to it;
//! stamps decide between those of which none leads to the other.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use events::Timestamp;
use pg_format::{Lsn, TimelineId};

use crate::stored::Backup;
use crate::tree::Tree;

/// The backups, newest first.
pub(super) fn newest_first<'a>(backups: &'a [Backup], tree: &Tree) -> Vec<&'a Backup> {
    let mut of_timelines: BTreeMap<TimelineId, Vec<&Backup>> = BTreeMap::new();
    for backup in backups {
        let of_one = of_timelines.entry(backup.timeline).or_default();
        of_one.push(backup);
    }
    let mut ways = Ways(BTreeMap::new());
    let mut ordered = Vec::with_capacity(backups.len());
    // An ancestor has the smaller number, as far as histories make sense.
    for (timeline, mut of_one) in of_timelines {
        of_one.sort_unstable_by_key(|one| (one.stop_lsn, one.backed_up_at, one.id));
        let mut latest = ways.latest_before(timeline, tree);
        let mut ends = Vec::with_capacity(of_one.len());
        for one in of_one {
            let end = latest.map_or(one.backed_up_at, |latest| latest.max(one.backed_up_at));
            latest = Some(end);
            ends.push((one.stop_lsn, end));
            ordered.push((end, one));
        }
        let _ = ways.0.insert(timeline, ends);
    }
    ordered.sort_by_key(|(end, one)| {
        Reverse((*end, one.timeline, one.stop_lsn, one.backed_up_at, one.id))
    });
    ordered.into_iter().map(|(_, one)| one).collect()
}

/// Of each timeline the ends of its backups by LSN, with the latest stamp up to there.
struct Ways(BTreeMap<TimelineId, Vec<(Lsn, Timestamp)>>);

impl Ways {
    /// The latest stamp of the backups on a timeline's ancestors that lead to it.
    fn latest_before(&self, timeline: TimelineId, tree: &Tree) -> Option<Timestamp> {
        if !tree.is_known(timeline) {
            // It may have come from anywhere, so all that is older by number may lead there.
            let older = self.0.range(..timeline);
            return older.filter_map(|(_, ends)| Some(ends.last()?.1)).max();
        }
        let path = tree.path(timeline);
        let ancestors = path.iter().filter(|range| range.timeline < timeline);
        let latest = ancestors.filter_map(|range| {
            let ends = self.0.get(&range.timeline)?;
            let left_at = range.end.unwrap_or(Lsn(u64::MAX));
            let leading = ends.partition_point(|(stop, _)| *stop <= left_at);
            Some(ends.get(leading.checked_sub(1)?)?.1)
        });
        latest.max()
    }
}
