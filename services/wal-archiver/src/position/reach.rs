//! How far the archive goes along the server's own history, and what that proves: pure.
//!
//! What must stay true: it never goes back along that history, whatever a reconnect streams again, in
//! which order uploads end, and on whichever of two timelines a shared segment is stored. A moment that was
//! proven is forgotten with the WAL that proved it: when the server was recovered to an earlier place, or a
//! new chain begins.

use events::Timestamp;
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
    fn is_on_the_way_of(self, history: &TimelineHistory) -> bool {
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
    /// What was committed by then lies before `end`.
    proven_at: Timestamp,
}

impl Reach {
    /// A chain begins at `start`; nothing is proven.
    pub(super) fn begin(start: Place) -> Self {
        Reach {
            streamed: start,
            end: start,
            proven_at: Timestamp::UNIX_EPOCH,
        }
    }

    /// The chain is stored up to `stored`, which proves `proven_at`, and is streamed again from `start` on;
    /// `None` if a server with this `history` did not go that way.
    pub(super) fn resume(
        start: Place,
        stored: Place,
        proven_at: Timestamp,
        history: &TimelineHistory,
    ) -> Option<Self> {
        stored.is_on_the_way_of(history).then(|| Reach {
            streamed: start,
            end: stored.farther(start),
            proven_at,
        })
    }

    /// The archive is complete as of this moment.
    pub(super) fn proves(&mut self, at: Timestamp) {
        self.proven_at = self.proven_at.max(at);
    }

    /// As of which moment the archive is complete.
    pub(super) fn proven_at(&self) -> Timestamp {
        self.proven_at
    }

    /// What is streamed is durable up to `lsn`.
    pub(super) fn durable(&mut self, lsn: Lsn) {
        self.streamed.lsn = self.streamed.lsn.max(lsn);
        self.end = self.end.farther(self.streamed);
    }

    /// Streaming goes on with `timeline`, which begins at `switch_lsn`; everything before is stored. False
    /// if the archive had gone beyond: then it begins again there, and nothing is proven.
    pub(super) fn follow(&mut self, timeline: TimelineId, switch_lsn: Lsn) -> bool {
        let next = Place::new(timeline, switch_lsn);
        if self.end.timeline == self.streamed.timeline && self.end.lsn > switch_lsn {
            *self = Reach::begin(next);
            return false;
        }
        self.streamed = next;
        self.end = self.end.farther(next);
        true
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

    fn moment() -> Timestamp {
        Timestamp::from_timestamp_micros(77).unwrap()
    }

    fn resume(start: Place, stored: Place) -> Option<Reach> {
        Reach::resume(start, stored, moment(), &promoted())
    }

    #[test]
    fn an_upload_that_ends_late_does_not_take_it_back() {
        let mut reach = Reach::begin(place(1, 300));
        reach.durable(Lsn(350));
        reach.durable(Lsn(300));
        assert_eq!(reach.end(), place(1, 350));
        reach.durable(Lsn(460));
        assert_eq!(reach.end(), place(1, 460));
    }

    #[test]
    fn a_reconnect_while_the_segment_of_a_switch_is_open_does_not_take_it_back() {
        let mut reach = resume(place(1, 500), place(2, 580)).unwrap();
        assert_eq!(
            reach.end(),
            place(2, 580),
            "streamed again from its beginning"
        );
        reach.durable(Lsn(550));
        assert_eq!(reach.end(), place(2, 580));
        assert!(reach.follow(TimelineId(2), Lsn(550)));
        assert_eq!(reach.end(), place(2, 580));
        reach.durable(Lsn(500));
        assert_eq!(reach.end(), place(2, 580));
        reach.durable(Lsn(590));
        assert_eq!(reach.end(), place(2, 590));
    }

    #[test]
    fn a_switch_is_followed_from_where_it_is() {
        let mut reach = resume(place(1, 500), place(1, 520)).unwrap();
        reach.durable(Lsn(550));
        assert!(reach.follow(TimelineId(2), Lsn(550)));
        assert_eq!(reach.end(), place(2, 550));
        reach.durable(Lsn(500));
        assert_eq!(reach.end(), place(2, 550));
    }

    #[test]
    fn a_moment_is_kept_only_with_the_wal_that_proved_it() {
        let proven = |stored| resume(place(1, 500), stored).map(|reach| reach.proven_at());
        assert_eq!(proven(place(1, 550)), Some(moment()));
        assert_eq!(proven(place(2, 9999)), Some(moment()));
        assert_eq!(
            proven(place(1, 551)),
            None,
            "recovered to an earlier moment"
        );
        assert_eq!(
            proven(place(3, 10)),
            None,
            "on a timeline of another server"
        );
    }

    #[test]
    fn a_switch_behind_what_is_archived_proves_nothing() {
        let root = TimelineHistory::root(TimelineId(1));
        let mut reach = Reach::resume(place(1, 500), place(1, 560), moment(), &root).unwrap();
        assert!(!reach.follow(TimelineId(2), Lsn(550)));
        assert_eq!(reach.end(), place(2, 550));
        assert_eq!(reach.proven_at(), Timestamp::UNIX_EPOCH);
    }
}
