//! Timeline history files: on which timeline each stretch of WAL of a branch of time lies.
//!
//! A promotion ends one timeline and starts the next; the `.history` file of the new one lists the
//! ancestors with the position where each was left (`src/backend/access/transam/timeline.c`).

use std::fmt;

use crate::{Lsn, TimelineId};

/// The ancestry of one timeline, as its history file tells it. Timeline 1 has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: TimelineId,
    switches: Vec<TimelineSwitch>,
}

/// One line of a history file: where an ancestor was left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineSwitch {
    /// The ancestor.
    pub timeline: TimelineId,
    /// First byte that no longer belongs to the ancestor.
    pub switch_point: Lsn,
    /// What the server noted, such as `no recovery target specified`.
    pub reason: String,
}

/// A stretch of WAL on one timeline of a path, from `start` up to but without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimelineRange {
    /// The timeline whose files hold these bytes.
    pub timeline: TimelineId,
    /// First byte; zero for the oldest.
    pub start: Lsn,
    /// First byte of the next timeline; `None` for the timeline the path leads to.
    pub end: Option<Lsn>,
}

impl TimelineHistory {
    /// A timeline without ancestors: timeline 1, which has no history file.
    #[must_use]
    pub fn root(timeline: TimelineId) -> Self {
        TimelineHistory {
            timeline,
            switches: Vec::new(),
        }
    }

    /// Parses the text of `timeline`'s history file. Blank lines and `#` comments are skipped.
    ///
    /// Fails, as the server does, when a line has no timeline or no switch point, or when the
    /// timelines do not increase up to `timeline`.
    pub fn parse(timeline: TimelineId, text: &str) -> Result<Self, HistoryError> {
        let mut switches: Vec<TimelineSwitch> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim_start();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let switch = parse_line(line).ok_or(HistoryError::Line { number: index + 1 })?;
            let after = switches.last().map_or(TimelineId(0), |last| last.timeline);
            if switch.timeline <= after || switch.timeline >= timeline {
                let found = switch.timeline;
                return Err(HistoryError::Order {
                    number: index + 1,
                    found,
                    after,
                    timeline,
                });
            }
            switches.push(switch);
        }
        Ok(TimelineHistory { timeline, switches })
    }

    /// The timeline this is the history of.
    #[must_use]
    pub fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The ancestors, oldest first.
    #[must_use]
    pub fn switches(&self) -> &[TimelineSwitch] {
        &self.switches
    }

    /// The history of a timeline that leaves this one at `switch_point`.
    pub fn fork(
        &self,
        child: TimelineId,
        switch_point: Lsn,
        reason: &str,
    ) -> Result<Self, HistoryError> {
        if child <= self.timeline {
            let (found, after) = (self.timeline, self.timeline);
            return Err(HistoryError::Order {
                number: 0,
                found,
                after,
                timeline: child,
            });
        }
        let mut switches = self.switches.clone();
        let reason = reason.lines().next().unwrap_or_default().trim().to_owned();
        switches.push(TimelineSwitch {
            timeline: self.timeline,
            switch_point,
            reason,
        });
        Ok(TimelineHistory {
            timeline: child,
            switches,
        })
    }

    /// True for the timeline itself and every ancestor listed.
    #[must_use]
    pub fn contains(&self, timeline: TimelineId) -> bool {
        timeline == self.timeline || self.switch_point(timeline).is_some()
    }

    /// Where `timeline` was left; `None` if it is not an ancestor.
    #[must_use]
    pub fn switch_point(&self, timeline: TimelineId) -> Option<Lsn> {
        let found = self
            .switches
            .iter()
            .find(|switch| switch.timeline == timeline);
        found.map(|switch| switch.switch_point)
    }

    /// The timeline that the byte at `lsn` was written on (`tliOfPointInHistory`).
    #[must_use]
    pub fn timeline_at(&self, lsn: Lsn) -> TimelineId {
        let mut holder = self.timeline;
        for switch in self.switches.iter().rev() {
            if lsn >= switch.switch_point {
                break;
            }
            holder = switch.timeline;
        }
        holder
    }

    /// The stretches of WAL from the beginning of time to this timeline, oldest first.
    ///
    /// An ancestor that contributes nothing is left out: a server told to recover along timeline 2
    /// but stopped before 2 began still names 2 as the parent.
    #[must_use]
    pub fn path(&self) -> Vec<TimelineRange> {
        let mut ranges = Vec::with_capacity(self.switches.len() + 1);
        let mut end = None;
        let mut timeline = self.timeline;
        for switch in self.switches.iter().rev() {
            let start = switch.switch_point;
            if end.is_none_or(|end| start < end) {
                ranges.push(TimelineRange {
                    timeline,
                    start,
                    end,
                });
                end = Some(start);
            }
            timeline = switch.timeline;
        }
        if end.is_none_or(|end| end > Lsn(0)) {
            ranges.push(TimelineRange {
                timeline,
                start: Lsn(0),
                end,
            });
        }
        ranges.reverse();
        ranges
    }
}

/// `1<whitespace>0/3000148<whitespace>reason to the end of the line`
fn parse_line(line: &str) -> Option<TimelineSwitch> {
    let (timeline, rest) = line.split_once(char::is_whitespace)?;
    let rest = rest.trim_start();
    let (lsn, reason) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let timeline: u32 = timeline.parse().ok().filter(|number| *number > 0)?;
    Some(TimelineSwitch {
        timeline: TimelineId(timeline),
        switch_point: lsn.parse().ok()?,
        reason: reason.trim().to_owned(),
    })
}

/// The lines of a history file, one for each ancestor.
impl fmt::Display for TimelineHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for TimelineSwitch {
            timeline,
            switch_point,
            reason,
        } in &self.switches
        {
            writeln!(f, "{timeline}\t{switch_point}\t{reason}")?;
        }
        Ok(())
    }
}

/// The text is not a timeline history file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HistoryError {
    /// A line that is neither blank, a comment, nor timeline and switch point.
    #[error("line {number} of the history file is not a timeline and a switch point")]
    Line {
        /// Counted from one.
        number: usize,
    },
    /// Timelines must increase and stay below the timeline of the file.
    #[error(
        "line {number} of the history of timeline {timeline} names timeline {found} after {after}; \
         timelines must increase and stay below {timeline}"
    )]
    Order {
        /// Counted from one; zero when the history was made, not parsed.
        number: usize,
        /// The timeline of the line.
        found: TimelineId,
        /// The one before it.
        after: TimelineId,
        /// The timeline the file belongs to.
        timeline: TimelineId,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{any, prop, prop_assert, prop_assert_eq, proptest};

    use super::{TimelineHistory, TimelineRange};
    use crate::{Lsn, TimelineId};

    const THREE: &str = "1\t0/3000148\tno recovery target specified\n\n# by hand\n\
                         2  0/05000000\tbefore 2026-01-01 00:00:00+00\n";

    fn three() -> TimelineHistory {
        TimelineHistory::parse(TimelineId(3), THREE).unwrap()
    }

    #[test]
    fn finds_the_timeline_of_a_position() {
        let at = |lsn: &str| three().timeline_at(lsn.parse().unwrap()).0;
        assert_eq!(at("0/0"), 1);
        assert_eq!(at("0/3000147"), 1);
        assert_eq!(at("0/3000148"), 2);
        assert_eq!(at("0/4FFFFFF"), 2);
        assert_eq!(at("0/5000000"), 3);
        assert_eq!(at("FFFFFFFF/FFFFFFFF"), 3);
        assert_eq!(
            TimelineHistory::root(TimelineId(1)).timeline_at(Lsn(9)).0,
            1
        );
    }

    #[test]
    fn knows_its_ancestors() {
        let history = three();
        assert!(history.contains(TimelineId(3)) && history.contains(TimelineId(1)));
        assert!(!history.contains(TimelineId(4)) && !history.contains(TimelineId(0)));
        assert_eq!(history.switch_point(TimelineId(2)), Some(Lsn(0x500_0000)));
        assert_eq!(history.switch_point(TimelineId(3)), None);
        assert_eq!(history.switches()[0].reason, "no recovery target specified");
    }

    #[test]
    fn a_parent_that_contributed_nothing_is_not_on_the_path() {
        let text = "1\t0/5000000\t-\n2\t0/4000000\t-\n";
        let history = TimelineHistory::parse(TimelineId(3), text).unwrap();
        let range = |timeline, start, end| TimelineRange {
            timeline: TimelineId(timeline),
            start: Lsn(start),
            end,
        };
        let switch = Lsn(0x400_0000);
        assert_eq!(
            history.path(),
            [range(1, 0, Some(switch)), range(3, switch.0, None)]
        );
        assert_eq!(history.timeline_at(Lsn(0x3FF_FFFF)), TimelineId(1));
        assert_eq!(history.timeline_at(Lsn(0x480_0000)), TimelineId(3));
    }

    #[test]
    fn refuses_what_the_server_refuses() {
        let refuse = |timeline: u32, text: &str| {
            assert!(
                TimelineHistory::parse(TimelineId(timeline), text).is_err(),
                "{text:?}"
            );
        };
        refuse(2, "x\t0/1\t-\n");
        refuse(2, "1\n");
        refuse(2, "1\t0-1\t-\n");
        refuse(2, "0\t0/1\t-\n");
        refuse(2, "2\t0/1\t-\n");
        refuse(4, "2\t0/1\t-\n1\t0/2\t-\n");
    }

    proptest! {
        #[test]
        fn never_panics(timeline: u32, text: String) {
            let _ = TimelineHistory::parse(TimelineId(timeline), &text);
        }

        #[test]
        fn text_round_trips_and_path_agrees(
            points in prop::collection::vec(any::<u64>(), 0..6), lsn: u64,
        ) {
            let mut history = TimelineHistory::root(TimelineId(1));
            for (child, point) in (2..).zip(&points) {
                history = history.fork(TimelineId(child), Lsn(*point), "by hand").unwrap();
            }
            let parsed = TimelineHistory::parse(history.timeline(), &history.to_string()).unwrap();
            prop_assert_eq!(&parsed, &history);
            let path = history.path();
            prop_assert!(path.windows(2).all(|pair| pair[0].end == Some(pair[1].start)));
            let holder = path
                .iter()
                .find(|range| Lsn(lsn) >= range.start && range.end.is_none_or(|end| Lsn(lsn) < end));
            prop_assert_eq!(holder.map(|range| range.timeline), Some(history.timeline_at(Lsn(lsn))));
        }
    }
}
