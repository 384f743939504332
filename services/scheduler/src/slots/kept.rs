//! For how long a backup that is asked for will be kept, and its WAL: what decides whether one is taken in place of
//! another. Pure.

use std::cmp::Ordering;

use events::event::BackupRequested;
use events::{Retention, WalKeep};

/// How long something is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Length {
    NotAtAll,
    For(Retention),
    UntilDeleted,
}

impl Length {
    fn compare(self, other: Self) -> Ordering {
        let rank = |length| match length {
            Length::NotAtAll => 0,
            Length::For(_) => 1,
            Length::UntilDeleted => 2,
        };
        match (self, other) {
            (Length::For(one), Length::For(other)) => retention::compare_retentions(one, other),
            _ => rank(self).cmp(&rank(other)),
        }
    }
}

/// For how long a backup is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    itself: Length,
    wal: Length,
}

impl Kept {
    /// Of a backup with this retention (until deleted when absent).
    pub(crate) fn new(retention: Option<Retention>, wal: WalKeep) -> Self {
        let itself = retention.map_or(Length::UntilDeleted, Length::For);
        let wal = match wal {
            WalKeep::AsLongAsBackup => itself,
            WalKeep::For(wal) if Length::For(wal).compare(itself).is_lt() => Length::For(wal),
            WalKeep::For(_) => itself,
            WalKeep::Standalone => Length::NotAtAll,
        };
        Kept { itself, wal }
    }

    pub(crate) fn of(request: &BackupRequested) -> Self {
        Kept::new(request.retention, request.wal)
    }

    /// Whether it is there whenever the other would be, and its WAL too.
    pub(crate) fn covers(self, other: Self) -> bool {
        self.itself.compare(other.itself).is_ge() && self.wal.compare(other.wal).is_ge()
    }

    /// An order in which what covers another comes first.
    pub(crate) fn longest_first(self, other: Self) -> Ordering {
        let by_itself = other.itself.compare(self.itself);
        by_itself.then_with(|| other.wal.compare(self.wal))
    }
}

#[cfg(test)]
mod tests {
    use events::{Retention, WalKeep};

    use super::Kept;

    fn kept(retention: Option<&str>, wal: WalKeep) -> Kept {
        Kept::new(retention.map(|text| text.parse().unwrap()), wal)
    }

    #[test]
    fn what_is_kept_as_long_with_its_wal_covers() {
        let week = WalKeep::For(Retention::SEVEN_DAYS);
        let yearly = kept(Some("1y"), week);
        let daily = kept(Some("7d"), WalKeep::AsLongAsBackup);
        let hourly = kept(Some("12h"), week);
        let alone = kept(None, WalKeep::Standalone);
        for (one, other, covers) in [
            (daily, daily, true),
            (yearly, daily, true),
            (daily, yearly, false),
            (daily, hourly, true),
            // The WAL of one that is kept for 12 hours is kept no longer.
            (hourly, daily, false),
            (hourly, kept(Some("12h"), WalKeep::AsLongAsBackup), true),
            // Of these neither does.
            (alone, daily, false),
            (daily, alone, false),
            (kept(None, WalKeep::AsLongAsBackup), yearly, true),
        ] {
            assert_eq!(one.covers(other), covers, "{one:?} {other:?}");
            if covers {
                assert!(one.longest_first(other).is_le(), "{one:?} {other:?}");
            }
        }
    }
}
