//! The timelines of a branch: from where which of them can be reached.

use std::collections::{BTreeMap, BTreeSet};

use pg_format::{Lsn, TimelineHistory, TimelineId, TimelineRange};

use crate::segments::Segments;
use crate::stored::Stored;

/// The timelines of a branch.
pub(crate) struct Tree {
    histories: BTreeMap<TimelineId, TimelineHistory>,
    onward: BTreeMap<TimelineId, Vec<Onward>>,
    /// The timeline that is archived now.
    pub(crate) current: Option<TimelineId>,
}

/// A timeline that recovery can get to from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Onward {
    pub(crate) timeline: TimelineId,
    /// From everything that ends up to here on the other one.
    pub(crate) left_at: Lsn,
    /// Where it begins.
    pub(crate) from: Lsn,
}

impl Tree {
    pub(crate) fn of(stored: &Stored, segments: &Segments) -> Self {
        let mut all: BTreeSet<TimelineId> = segments.timelines().collect();
        all.extend(stored.backups.iter().map(|backup| backup.timeline));
        all.extend(stored.history_files.iter().map(|file| file.timeline));
        let running = stored.running.iter().filter_map(|running| running.start);
        all.extend(running.map(|(timeline, _)| timeline));
        all.extend(stored.archived_timeline);
        let current = stored.archived_timeline.or(all.last().copied());
        let mut histories = BTreeMap::new();
        if all.contains(&TimelineId(1)) {
            let _ = histories.insert(TimelineId(1), TimelineHistory::root(TimelineId(1)));
        }
        for file in &stored.history_files {
            let own = |history: &&TimelineHistory| history.timeline() == file.timeline;
            if let Some(history) = file.history.as_ref().filter(own) {
                let _ = histories.insert(file.timeline, history.clone());
            }
        }
        let mut tree = Tree {
            histories,
            onward: BTreeMap::new(),
            current,
        };
        tree.connect(&all);
        tree
    }

    fn connect(&mut self, all: &BTreeSet<TimelineId>) {
        let mut onward: BTreeMap<TimelineId, Vec<Onward>> = BTreeMap::new();
        for &timeline in all {
            let Some(history) = self.histories.get(&timeline) else {
                // It may have come from anywhere.
                for &other in all.range(..timeline) {
                    onward.entry(other).or_default().push(Onward {
                        timeline,
                        left_at: Lsn(u64::MAX),
                        from: Lsn(0),
                    });
                }
                continue;
            };
            let path = history.path();
            let Some((own, ancestors)) = path.split_last() else {
                continue;
            };
            for ancestor in ancestors {
                onward.entry(ancestor.timeline).or_default().push(Onward {
                    timeline,
                    left_at: ancestor.end.unwrap_or(Lsn(u64::MAX)),
                    from: own.start,
                });
            }
        }
        self.onward = onward;
    }

    /// The other timelines that can be reached from what ends at `stop` on `timeline`.
    pub(crate) fn onward(&self, timeline: TimelineId, stop: Lsn) -> impl Iterator<Item = &Onward> {
        let all = self.onward.get(&timeline).into_iter().flatten();
        all.filter(move |onward| onward.left_at >= stop)
    }

    /// Whether `to` can be reached from what ends at `stop` on `timeline`, or is the same.
    pub(crate) fn leads_to(&self, timeline: TimelineId, stop: Lsn, to: TimelineId) -> bool {
        timeline == to
            || self
                .onward(timeline, stop)
                .any(|found| found.timeline == to)
    }

    /// Whether it is known where a timeline came from.
    pub(crate) fn is_known(&self, timeline: TimelineId) -> bool {
        self.histories.contains_key(&timeline)
    }

    /// The stretches of a timeline and its ancestors, as far as they are known.
    pub(crate) fn path(&self, timeline: TimelineId) -> Vec<TimelineRange> {
        match self.histories.get(&timeline) {
            Some(history) => history.path(),
            None => TimelineHistory::root(timeline).path(),
        }
    }

    /// A timeline and all that its history names.
    pub(crate) fn line(&self, timeline: TimelineId) -> Vec<TimelineId> {
        let history = self.histories.get(&timeline);
        let switches = history.map_or(&[][..], TimelineHistory::switches);
        let ancestors = switches.iter().map(|switch| switch.timeline);
        ancestors.chain([timeline]).collect()
    }
}
