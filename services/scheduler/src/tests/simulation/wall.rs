//! Clocks on walls in 2026, written down by hand: so that what is expected of a schedule does not come from the tables
//! that it is computed with.

use chrono::{NaiveDateTime, TimeDelta};
use events::Timestamp;

use super::fleet::Chance;

/// A zone's minutes ahead of UTC: some from one moment of the year to another, and others outside of that.
#[derive(Clone, Copy)]
pub(super) struct Wall {
    pub(super) name: &'static str,
    outside: i64,
    /// From, until, and what then.
    inside: Option<(&'static str, &'static str, i64)>,
}

const WALLS: [Wall; 5] = [
    Wall::UTC,
    Wall {
        name: "Europe/Berlin",
        outside: 60,
        inside: Some(("2026-03-29T01:00:00Z", "2026-10-25T01:00:00Z", 120)),
    },
    Wall {
        name: "America/New_York",
        outside: -300,
        inside: Some(("2026-03-08T07:00:00Z", "2026-11-01T06:00:00Z", -240)),
    },
    // Summer is at the turn of the year.
    Wall {
        name: "Australia/Sydney",
        outside: 660,
        inside: Some(("2026-04-04T16:00:00Z", "2026-10-03T16:00:00Z", 600)),
    },
    Wall {
        name: "Asia/Kolkata",
        outside: 330,
        inside: None,
    },
];

impl Wall {
    pub(super) const UTC: Wall = Wall {
        name: "UTC",
        outside: 0,
        inside: None,
    };

    pub(super) fn any(chance: &mut Chance) -> Self {
        WALLS[usize::try_from(chance.below(5)).unwrap()]
    }

    /// The moments at which clocks are put on, each with its zone.
    pub(super) fn changes() -> impl Iterator<Item = (&'static str, Timestamp)> {
        WALLS.iter().filter_map(|wall| {
            let (from, until, inside) = wall.inside?;
            let on = if inside > wall.outside { from } else { until };
            Some((wall.name, on.parse().unwrap()))
        })
    }

    fn ahead(&self, at: Timestamp) -> TimeDelta {
        let moment = |text: &str| text.parse::<Timestamp>().unwrap();
        let minutes = match self.inside {
            Some((from, until, inside)) if at >= moment(from) && at < moment(until) => inside,
            _ => self.outside,
        };
        TimeDelta::minutes(minutes)
    }

    /// What the clock shows.
    pub(super) fn shown(&self, at: Timestamp) -> NaiveDateTime {
        at.naive_utc() + self.ahead(at)
    }

    /// When it shows this: the first time, if it does so twice; when it is put on, if it does so never.
    pub(super) fn at(&self, shown: NaiveDateTime) -> Timestamp {
        let others = self.inside.iter().map(|(_, _, inside)| *inside);
        let mut candidates: Vec<Timestamp> = others
            .chain([self.outside])
            .map(|minutes| (shown - TimeDelta::minutes(minutes)).and_utc())
            .collect();
        candidates.sort_unstable();
        let real = |at: &Timestamp| self.shown(*at) == shown;
        if let Some(first) = candidates.iter().copied().find(real) {
            return first;
        }
        let mut changes = Wall::changes().filter(|(zone, _)| *zone == self.name);
        changes.next().unwrap().1
    }
}

#[test]
fn what_walls_show() {
    let check = |zone: usize, shown: &str, expected: &str| {
        let at = WALLS[zone].at(shown.parse().unwrap());
        assert_eq!(at, expected.parse::<Timestamp>().unwrap(), "{shown}");
    };
    check(1, "2026-03-29T01:59:00", "2026-03-29T00:59:00Z");
    check(1, "2026-03-29T02:30:00", "2026-03-29T01:00:00Z");
    check(1, "2026-03-29T03:00:00", "2026-03-29T01:00:00Z");
    check(1, "2026-10-25T02:30:00", "2026-10-25T00:30:00Z");
    check(2, "2026-11-01T01:30:00", "2026-11-01T05:30:00Z");
    check(3, "2026-10-04T02:30:00", "2026-10-03T16:00:00Z");
    check(3, "2026-04-05T02:30:00", "2026-04-04T15:30:00Z");
    check(4, "2026-07-01T02:30:00", "2026-06-30T21:00:00Z");
}
