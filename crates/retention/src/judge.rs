//! What becomes of each backup.
//!
//! The newest come first, everywhere here: a backup that names another's packs is newer than it, so when the other is
//! looked at, it is decided already whether its packs are named by anything that stays. What stands
//! in for a damaged one is older than that, too.

mod order;
mod stand_in;

use std::collections::BTreeMap;

use chrono::TimeDelta;
use events::{BackupId, Timestamp};
use pg_format::{Lsn, SegmentNumber, TimelineId};

use self::stand_in::Promises;
use crate::plan::{Class, Decision};
use crate::reason::Reason;
use crate::segments::Segments;
use crate::stored::{Backup, Stored};
use crate::tree::Tree;

/// So many backups are named where a reason names some.
const MOST_NAMED: usize = 10;

/// Everything of a branch, with what follows from it.
pub(crate) struct Branch<'a> {
    pub(crate) stored: &'a Stored,
    pub(crate) segments: Segments,
    pub(crate) tree: Tree,
    /// Newest first.
    backups: Vec<&'a Backup>,
    /// The newest that can be restored; of a live branch only.
    newest: Option<BackupId>,
    /// The newest that leads to the timeline that is archived now; of a live branch only.
    leads_here: Option<BackupId>,
    /// The backups whose own WAL is there.
    whole: Vec<bool>,
    /// The damaged backups that each backup stands in for.
    stands_in_for: BTreeMap<BackupId, Vec<BackupId>>,
}

/// WAL on the way to a position.
#[derive(Clone, Copy)]
struct Span {
    start: Lsn,
    stop: Lsn,
    /// Of the stop.
    timeline: TimelineId,
}

impl Span {
    /// The WAL that makes a backup consistent.
    fn of(backup: &Backup) -> Self {
        Span {
            start: backup.start_lsn,
            stop: backup.stop_lsn,
            timeline: backup.timeline,
        }
    }
}

/// One backup, decided.
#[derive(Debug)]
pub(crate) struct Judged<'a> {
    pub(crate) backup: &'a Backup,
    pub(crate) whole: bool,
    pub(crate) class: Class,
    pub(crate) decision: Decision,
}

impl Judged<'_> {
    pub(crate) fn stays(&self) -> bool {
        self.decision != Decision::Delete
    }

    pub(crate) fn is_pitr(&self) -> bool {
        matches!(self.class, Class::Pitr { .. })
    }

    /// When it goes, if nothing changes; `None` when that is not known.
    pub(crate) fn goes_at(&self, grace: TimeDelta) -> Option<Timestamp> {
        match &self.decision {
            Decision::Keep { until, .. } => until.map(|until| later(until, grace)),
            Decision::Mark { delete_after, .. } => Some(*delete_after),
            Decision::Grace { until } => Some(*until),
            Decision::Delete | Decision::Postponed { .. } => None,
        }
    }

    /// When the WAL after it is no longer kept because of it, if nothing changes; `None` when that is not known.
    pub(crate) fn onward_until(&self, grace: TimeDelta) -> Option<Timestamp> {
        let until = match self.class {
            Class::Pitr { until } => until,
            Class::Standalone => None,
        };
        until.into_iter().chain(self.goes_at(grace)).min()
    }
}

/// `from` and the time of grace.
pub(crate) fn later(from: Timestamp, grace: TimeDelta) -> Timestamp {
    from.checked_add_signed(grace.max(TimeDelta::zero()))
        .unwrap_or(Timestamp::MAX_UTC)
}

impl<'a> Branch<'a> {
    pub(crate) fn of(stored: &'a Stored) -> Self {
        let segments = Segments::of(&stored.wal, stored.segment_size);
        let tree = Tree::of(stored, &segments);
        let backups = order::newest_first(&stored.backups, &tree);
        let mut branch = Branch {
            stored,
            segments,
            tree,
            backups,
            newest: None,
            leads_here: None,
            whole: Vec::new(),
            stands_in_for: BTreeMap::new(),
        };
        let own = branch.backups.iter().map(|backup| Span::of(backup));
        branch.whole = own.map(|own| branch.is_there(own)).collect();
        if stored.live {
            let current = branch.tree.current;
            branch.newest = branch.newest_that(|_| true);
            branch.leads_here = branch.newest_that(|backup| {
                current.is_none_or(|current| {
                    let tree = &branch.tree;
                    tree.leads_to(backup.timeline, backup.stop_lsn, current)
                })
            });
        }
        branch.stands_in_for = branch.find_stand_ins();
        branch
    }

    fn newest_that(&self, is_meant: impl Fn(&Backup) -> bool) -> Option<BackupId> {
        let all = self.backups.iter().zip(&self.whole);
        let mut usable = all.filter(|(backup, whole)| **whole && !backup.damaged);
        let found = usable.find(|(backup, _)| is_meant(backup));
        found.map(|(backup, _)| backup.id)
    }

    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &'a Backup> {
        self.backups.iter().copied()
    }

    /// The branch is live and could not be restored at all.
    pub(crate) fn nothing_restorable(&self) -> bool {
        self.stored.live && self.newest.is_none()
    }

    /// The timeline that is archived, if backups can be restored and none leads to it. Only of a live branch.
    pub(crate) fn unreached(&self) -> Option<TimelineId> {
        let unreached = self.newest.is_some() && self.leads_here.is_none();
        self.tree.current.filter(|_| unreached)
    }

    /// The segments that make a backup consistent.
    pub(crate) fn own_wal(
        &self,
        backup: &Backup,
    ) -> Vec<(TimelineId, SegmentNumber, SegmentNumber)> {
        self.segments_of(Span::of(backup))
    }

    fn segments_of(&self, span: Span) -> Vec<(TimelineId, SegmentNumber, SegmentNumber)> {
        let size = self.stored.segment_size;
        let (start, stop) = (span.start, span.stop.max(span.start));
        let mut parts = Vec::with_capacity(1);
        for range in self.tree.path(span.timeline) {
            let last = range.timeline == span.timeline;
            // Its own timeline to the stop, though that should be an ancestor's.
            let end = match range.end {
                Some(end) if !last => end.min(stop),
                _ => stop,
            };
            if end > range.start.max(start) || last {
                let first = size.segment_of(range.start.max(start));
                let last = size.segment_ending_at(end).max(first);
                parts.push((range.timeline, first, last));
            }
        }
        let last = size.segment_ending_at(stop);
        if !self.segments.are_complete(span.timeline, last, last) {
            // The first segment of a timeline holds what came before it.
            let onward = self.tree.onward(span.timeline, stop);
            let here = onward.filter(|onward| size.segment_of(onward.from) == last);
            parts.extend(here.map(|onward| (onward.timeline, last, last)));
        }
        parts
    }

    fn is_there(&self, span: Span) -> bool {
        let size = self.stored.segment_size;
        let (start, stop) = (span.start, span.stop);
        let (first, last) = (size.segment_of(start), size.segment_ending_at(stop));
        if last < first {
            return false;
        }
        let complete = self.segments.are_complete(span.timeline, first, last);
        let path = self.tree.path(span.timeline);
        let begun = path.last().is_none_or(|own| own.start <= start);
        if complete && begun {
            return true;
        }
        let parts = self.segments_of(span);
        (first..=last).all(|number| {
            let end = stop.min(size.start_of(number.saturating_add(1)));
            parts.iter().any(|(timeline, first, last)| {
                let found = self.segments.end_of(*timeline, number);
                let left = path.iter().find(|range| range.timeline == *timeline);
                let left = left.and_then(|range| range.end).unwrap_or(Lsn(u64::MAX));
                (*first..=*last).contains(&number) && found.is_some_and(|to| to.min(left) >= end)
            })
        })
    }

    /// Why a backup stays whatever its retention, and marks, say; the backups that name its packs, and the damaged ones
    /// that it stands in for, aside.
    pub(crate) fn guards(&self, backup: &Backup) -> Vec<Reason> {
        let mut guards = Vec::new();
        if let Some(hold) = &backup.hold {
            guards.push(Reason::Held {
                reason: hold.reason.clone(),
                since: hold.since,
            });
        }
        if self.nothing_restorable() {
            guards.push(Reason::NothingRestorable);
        }
        if self.newest == Some(backup.id) {
            guards.push(Reason::NewestRestorable);
        } else if self.leads_here == Some(backup.id) {
            let current = self.tree.current;
            guards.extend(current.map(|timeline| Reason::NewestThatLeadsHere { timeline }));
        }
        guards
    }

    /// Every backup, newest first.
    pub(crate) fn judge(&self) -> Vec<Judged<'a>> {
        let mut named: BTreeMap<BackupId, (Vec<BackupId>, usize)> = BTreeMap::new();
        // Of what is not newer than what it names nothing is known yet: it counts as staying.
        let mut undecided: BTreeMap<BackupId, usize> = BTreeMap::new();
        let references = |backup: &Backup| backup.refers_to.clone().into_iter();
        for name in self.backups.iter().flat_map(|backup| references(backup)) {
            *undecided.entry(name).or_default() += 1;
        }
        let mut promises = Promises::default();
        let mut judged = Vec::with_capacity(self.backups.len());
        for (backup, whole) in self.backups.iter().zip(&self.whole) {
            let mut guards = self.guards(backup);
            let (by, count) = named.get(&backup.id).cloned().unwrap_or_default();
            let count = count + undecided.get(&backup.id).copied().unwrap_or(0);
            if count > 0 {
                let backups = by;
                guards.push(Reason::NamedByOthers { backups, count });
            }
            let damaged = self.stands_in_for.get(&backup.id);
            guards.extend(damaged.and_then(|damaged| promises.guard(damaged)));
            let class = self.class(backup, &guards);
            let decision = self.decide(backup, guards);
            for name in references(backup) {
                if let Some(left) = undecided.get_mut(&name) {
                    *left = left.saturating_sub(1);
                }
                if decision != Decision::Delete {
                    let (by, count) = named.entry(name).or_default();
                    *count += 1;
                    if by.len() < MOST_NAMED {
                        by.push(backup.id);
                    }
                }
            }
            let one = Judged {
                backup,
                whole: *whole,
                class,
                decision,
            };
            promises.add(&one, one.onward_until(self.stored.grace));
            judged.push(one);
        }
        judged
    }

    fn decide(&self, backup: &Backup, guards: Vec<Reason>) -> Decision {
        let now = self.stored.now;
        let retention = match backup.expires_at {
            None => Some(Reason::NoRetention),
            Some(until) if now < until => Some(Reason::RetentionNotOver { until }),
            Some(_) => None,
        };
        match (&backup.deletion, backup.expires_at) {
            (Some(deletion), _) => {
                let due = backup.due(deletion);
                let not_before = due.unwrap_or(deletion.delete_after);
                let mut why = guards;
                if deletion.by == events::mark::DeletedBy::Retention {
                    why.extend(retention);
                }
                if why.is_empty() && now < not_before {
                    return Decision::Grace { until: not_before };
                }
                why.extend(self.readers());
                match why.is_empty() {
                    true => Decision::Delete,
                    false => Decision::Postponed { why, not_before },
                }
            }
            (None, Some(expired_at)) if retention.is_none() && guards.is_empty() => {
                Decision::Mark {
                    expired_at,
                    delete_after: later(now, self.stored.grace),
                }
            }
            (None, expires_at) => Decision::Keep {
                until: expires_at.and_then(|end| {
                    let mut ends = guards.iter().map(Reason::ends_at);
                    ends.try_fold(end, |last, end| Some(last.max(end?)))
                }),
                reasons: retention.into_iter().chain(guards).collect(),
            },
        }
    }

    pub(crate) fn readers(&self) -> impl Iterator<Item = Reason> {
        let readers = self.stored.readers.iter().take(MOST_NAMED);
        readers.map(|reader| Reason::Reading {
            what: reader.what.clone(),
        })
    }

    /// What a backup promises, or stands in for.
    fn class(&self, backup: &Backup, guards: &[Reason]) -> Class {
        let instead = guards.iter().find_map(|guard| match guard {
            Reason::StandsIn { until, .. } => Some(*until),
            _ => None,
        });
        match (self.own_class(backup), instead) {
            (own, None) => own,
            (Class::Standalone, Some(until)) => Class::Pitr { until },
            (Class::Pitr { until }, Some(instead)) => Class::Pitr {
                until: until.zip(instead).map(|(own, instead)| own.max(instead)),
            },
        }
    }

    fn own_class(&self, backup: &Backup) -> Class {
        let relied_on = [self.newest, self.leads_here].contains(&Some(backup.id));
        // WAL has no mark: the time of grace comes after what was promised, so that a clock that is ahead takes nothing
        // that is promised unless it is ahead by more.
        let until = backup.wal_until;
        match until.map(|until| later(until, self.stored.grace)) {
            _ if relied_on => Class::Pitr { until: None },
            Some(until) if until <= self.stored.now => Class::Standalone,
            until => Class::Pitr { until },
        }
    }

    /// Why nothing goes at the moment, of WAL or at all.
    pub(crate) fn in_the_way(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        if self.nothing_restorable() {
            reasons.push(Reason::NothingRestorable);
        }
        let running = self.stored.running.iter().take(MOST_NAMED);
        let unknown = running.filter(|running| running.start.is_none());
        reasons.extend(unknown.map(|running| Reason::BackupRunning {
            backup_id: running.id,
        }));
        reasons.extend(self.readers());
        reasons
    }

    /// Why no packs without a manifest go at the moment.
    pub(crate) fn in_the_way_of_leftovers(&self) -> Vec<Reason> {
        let mut reasons = Vec::new();
        // A listing that lacks the manifests of all backups must not cost their packs.
        if self.nothing_restorable() {
            reasons.push(Reason::NothingRestorable);
        }
        // What it names is known when it is committed.
        let running = self.stored.running.iter().take(MOST_NAMED);
        reasons.extend(running.map(|running| Reason::MayBeNamed { by: running.id }));
        reasons.extend(self.readers());
        reasons
    }
}
