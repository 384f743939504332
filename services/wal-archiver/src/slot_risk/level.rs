//! How great the risk is: pure.

use events::event::SlotRiskLevel;

use super::measure::Measured;

/// A level is left only this many percents below where it began, so that it is not told again and again.
const HYSTERESIS: u64 = 10;

/// Where the levels begin, in percents of the limit.
#[derive(Clone, Copy, Debug)]
pub(super) struct Percents {
    pub(super) warning: u32,
    pub(super) alert: u32,
    pub(super) release: u32,
}

/// What happens when it is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Limit {
    /// The server invalidates the slot: `max_slot_wal_keep_size`, in bytes.
    Server(u64),
    /// The source's disk is full, and the database stops: what is known of it, in bytes.
    Disk(u64),
}

impl Limit {
    pub(super) fn bytes(self) -> u64 {
        match self {
            Limit::Server(bytes) | Limit::Disk(bytes) => bytes,
        }
    }
}

/// What was seen of a branch's slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SlotSeen {
    /// WAL that it holds back, in bytes.
    pub(crate) held_bytes: u64,
    /// How much it may hold back, if that is known.
    pub(crate) limit_bytes: Option<u64>,
    /// How much there is to fear.
    pub(crate) level: SlotRiskLevel,
}

/// How near the nearer of the two limits is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Risk {
    pub(super) held_bytes: u64,
    pub(super) limit: Option<Limit>,
    /// Of that limit.
    percent: u64,
    /// Of the disk, by WAL that goes away with the slot.
    releasable_percent: u64,
    endangered: bool,
}

impl Risk {
    pub(super) fn of(measured: &Measured, disk_bytes: Option<u64>) -> Self {
        let held = measured.held.unwrap_or(0);
        // What else is in `pg_wal` counts only if it is there because of the slot.
        let in_pg_wal = measured.pg_wal.filter(|pg_wal| held >= pg_wal / 2);
        let used = in_pg_wal.map_or(held, |pg_wal| pg_wal.max(held));
        let server = measured
            .keep_limit
            .map(|limit| (percent(held, limit), Limit::Server(limit)));
        let disk = disk_bytes.map(|limit| (percent(used, limit), Limit::Disk(limit)));
        let nearest = server.into_iter().chain(disk).max_by_key(|(at, _)| *at);
        let alone = measured.held.is_some() && measured.held_by_others < held / 2;
        Risk {
            held_bytes: held,
            limit: nearest.map(|(_, limit)| limit),
            percent: nearest.map_or(0, |(at, _)| at),
            releasable_percent: disk.filter(|_| alone).map_or(0, |(at, _)| at),
            endangered: measured.endangered,
        }
    }

    /// The level now; `before` it was this one.
    pub(super) fn level(&self, before: Option<SlotRiskLevel>, percents: Percents) -> SlotRiskLevel {
        let reached = |level, begins: u32| {
            let within = matches!(before, Some(before @ (SlotRiskLevel::Warning | SlotRiskLevel::Alert)) if before >= level);
            let ends = u64::from(begins).saturating_sub(HYSTERESIS);
            self.percent >= if within { ends } else { begins.into() }
        };
        if self.endangered || reached(SlotRiskLevel::Alert, percents.alert) {
            SlotRiskLevel::Alert
        } else if reached(SlotRiskLevel::Warning, percents.warning) {
            SlotRiskLevel::Warning
        } else {
            SlotRiskLevel::Low
        }
    }

    /// Whether the source's disk is about to be full, and releasing the slot would help.
    pub(super) fn must_release(&self, percents: Percents) -> bool {
        self.releasable_percent >= u64::from(percents.release)
    }

    /// One sentence: why, and what can be done.
    pub(super) fn message(
        &self,
        level: SlotRiskLevel,
        in_the_way: Option<&str>,
        may_release: bool,
    ) -> String {
        let held = size(self.held_bytes);
        match level {
            SlotRiskLevel::Released => {
                return "the slot was released so that the source's disk does not fill up: wal is missing from the \
                        archive; archiving begins anew, with a base backup, as soon as the repository takes wal again"
                    .to_owned();
            }
            SlotRiskLevel::Low => {
                return format!("the slot holds back {held} of wal: nothing to fear");
            }
            _ => {}
        }
        let of = self.limit.map_or(String::new(), |limit| {
            format!(" of the {} that it may", size(limit.bytes()))
        });
        let then = match self.limit {
            Some(Limit::Disk(_)) if may_release => {
                "; shortly before the disk is full the slot is released, and wal will be missing"
            }
            Some(Limit::Disk(_)) => "; when the disk is full the database stops",
            Some(Limit::Server(_)) => {
                "; beyond that the server invalidates it, and wal will be missing"
            }
            None => "; the server is about to invalidate it, and wal will be missing",
        };
        let why = in_the_way.map_or_else(
            || "wal comes faster than it is archived".to_owned(),
            |error| format!("it is not archived: {error}"),
        );
        format!("the slot holds back {held} of wal{of}{then}; {why}")
    }
}

fn percent(part: u64, whole: u64) -> u64 {
    let percent = u128::from(part) * 100 / u128::from(whole.max(1));
    u64::try_from(percent).unwrap_or(u64::MAX)
}

fn size(bytes: u64) -> String {
    if bytes >= 10 << 30 {
        format!("{} GiB", bytes >> 30)
    } else if bytes >= 10 << 20 {
        format!("{} MiB", bytes >> 20)
    } else {
        format!("{} KiB", bytes >> 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use SlotRiskLevel::{Alert, Low, Warning};

    const PERCENTS: Percents = Percents {
        warning: 50,
        alert: 80,
        release: 95,
    };

    fn held(held: u64) -> Measured {
        Measured {
            held: Some(held),
            ..Measured::default()
        }
    }

    #[test]
    fn levels_rise_at_once_and_fall_late() {
        let mut level = None;
        for (percent, expected) in [
            (49, Low),
            (50, Warning),
            (41, Warning),
            (39, Low),
            (81, Alert),
            (71, Alert),
            (69, Warning),
            (79, Warning),
            (0, Low),
        ] {
            let now = Risk::of(&held(percent), Some(100)).level(level, PERCENTS);
            assert_eq!(now, expected, "{percent}");
            level = Some(now);
        }
        let anew = Risk::of(&held(75), Some(100)).level(Some(SlotRiskLevel::Released), PERCENTS);
        assert_eq!(anew, Warning, "what was before the release does not count");
    }

    #[test]
    fn the_nearer_limit_counts_and_without_one_there_is_nothing_to_fear() {
        let measured = Measured {
            keep_limit: Some(200),
            ..held(60)
        };
        let risk = |disk| Risk::of(&measured, disk);
        assert_eq!(risk(Some(100)).limit, Some(Limit::Disk(100)));
        assert_eq!(risk(Some(1000)).limit, Some(Limit::Server(200)));
        assert_eq!(Risk::of(&held(u64::MAX), None).level(None, PERCENTS), Low);
        let endangered = Measured {
            endangered: true,
            ..held(1)
        };
        assert_eq!(Risk::of(&endangered, None).level(None, PERCENTS), Alert);
    }

    #[test]
    fn a_slot_is_released_only_if_its_own_wal_fills_a_disk_of_known_size() {
        let check = |measured: Measured, disk, expected| {
            let risk = Risk::of(&measured, disk);
            assert_eq!(risk.must_release(PERCENTS), expected, "{measured:?}");
        };
        check(held(95), Some(100), true);
        check(held(94), Some(100), false);
        check(held(1000), None, false);
        let limited = Measured {
            keep_limit: Some(10),
            ..held(94)
        };
        check(limited, Some(100), false);
        let shared = Measured {
            held_by_others: 50,
            ..held(99)
        };
        check(shared, Some(100), false);
        let pg_wal = |held_bytes| Measured {
            pg_wal: Some(96),
            ..held(held_bytes)
        };
        check(pg_wal(70), Some(100), true);
        check(pg_wal(20), Some(100), false);
        check(Measured::default(), Some(100), false);
    }

    #[test]
    fn the_message_says_why_and_what_happens() {
        let risk = Risk::of(&held(60 << 20), Some(100 << 20));
        let message = risk.message(Warning, Some("the store is away"), false);
        assert_eq!(
            message,
            "the slot holds back 60 MiB of wal of the 100 MiB that it may; when the disk is full the database stops; \
             it is not archived: the store is away"
        );
    }
}
