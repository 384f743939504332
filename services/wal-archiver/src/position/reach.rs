//! How far the archive goes along the server's own history: pure.
//!
//! What must stay true: it never goes back along that history, whatever a reconnect streams again, in
//! which order uploads end, and on whichever of two timelines a shared segment is stored.

use pg_format::{Lsn, TimelineHistory, TimelineId};

/// A place on a timeline.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) timeline: TimelineId,
    pub(super) lsn: Lsn,
}

impl Place {
    pub(super) fn new(timeline: TimelineId, lsn: Lsn) -> Self {
        Place { timeline, lsn }
    }

    /// Whether a server with this history went through here; an old primary, or one that was recovered to
    /// an earlier moment, may have gone on beyond the point where its timeline was left.
    pub(super) fn is_on_the_way_of(self, history: &TimelineHistory) -> bool {
        let left = history.switch_point(self.timeline);
        history.contains(self.timeline) && left.is_none_or(|left| self.lsn <= left)
    }

    /// The farther of two places of one history; of two timelines that meet there, the newer.
    fn farther(self, other: Place) -> Place {
        if (other.lsn, other.timeline) > (self.lsn, self.timeline) {
            other
        } else {
            self
        }
    }
}

/// How far the archive goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reach {
    /// What is streamed, and how far that is durable.
    streamed: Place,
    /// The farthest place known to be durable; `streamed` may be behind it after a reconnect.
    end: Place,
}

impl Reach {
    /// Everything before `start` is stored, and everything up to `stored`, a place of the same history.
    pub(super) fn new(start: Place, stored: Option<Place>) -> Self {
        Reach {
            streamed: start,
            end: stored.map_or(start, |stored| stored.farther(start)),
        }
    }

    /// What is streamed is durable up to `lsn`.
    pub(super) fn durable(&mut self, lsn: Lsn) {
        self.streamed.lsn = self.streamed.lsn.max(lsn);
        self.end = self.end.farther(self.streamed);
    }

    /// Streaming goes on with `timeline`, which begins at `switch_lsn`; everything before is stored.
    pub(super) fn follow(&mut self, timeline: TimelineId, switch_lsn: Lsn) {
        self.streamed = Place::new(timeline, switch_lsn);
        self.end = self.end.farther(self.streamed);
    }

    /// How far what is streamed is durable.
    pub(super) fn durable_end(&self) -> Lsn {
        self.streamed.lsn
    }

    /// The farthest place that is durable.
    pub(super) fn end(&self) -> Place {
        self.end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(timeline: u32, lsn: u64) -> Place {
        Place::new(TimelineId(timeline), Lsn(lsn))
    }

    /// Timeline 2 left timeline 1 at 550.
    fn promoted() -> TimelineHistory {
        TimelineHistory::root(TimelineId(1))
            .fork(TimelineId(2), Lsn(550), "test")
            .unwrap()
    }

    #[test]
    fn an_upload_that_ends_late_does_not_take_it_back() {
        let mut reach = Reach::new(place(1, 300), None);
        reach.durable(Lsn(350));
        reach.durable(Lsn(300));
        assert_eq!(reach.end(), place(1, 350));
        reach.durable(Lsn(460));
        assert_eq!(reach.end(), place(1, 460));
    }

    #[test]
    fn a_reconnect_while_the_segment_of_a_switch_is_open_does_not_take_it_back() {
        let mut reach = Reach::new(place(1, 500), Some(place(2, 580)));
        assert_eq!(
            reach.end(),
            place(2, 580),
            "streamed again from its beginning"
        );
        reach.durable(Lsn(550));
        assert_eq!(reach.end(), place(2, 580));
        reach.follow(TimelineId(2), Lsn(550));
        assert_eq!(reach.end(), place(2, 580));
        reach.durable(Lsn(500));
        assert_eq!(reach.end(), place(2, 580));
        reach.durable(Lsn(590));
        assert_eq!(reach.end(), place(2, 590));
    }

    #[test]
    fn a_switch_is_followed_from_where_it_is() {
        let mut reach = Reach::new(place(1, 500), Some(place(1, 520)));
        reach.durable(Lsn(550));
        reach.follow(TimelineId(2), Lsn(550));
        assert_eq!(reach.end(), place(2, 550));
        reach.durable(Lsn(500));
        assert_eq!(reach.end(), place(2, 550));
    }

    #[test]
    fn what_lies_beyond_the_switch_is_not_on_the_way() {
        let history = promoted();
        for (place, expected) in [
            (place(1, 550), true),
            (place(1, 551), false),
            (place(2, 9999), true),
            (place(3, 10), false),
        ] {
            assert_eq!(place.is_on_the_way_of(&history), expected, "{place:?}");
        }
    }
}
