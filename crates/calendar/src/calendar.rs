//! From wall-clock minutes to moments: gaps and folds.
//!
//! The one rule: a fire is the first moment at which the clock has reached the minute that is meant. The
//! clock's *reach* at a moment is what makes that cheap: every minute before it has been fired for, every
//! other has not. Usually it is what the clock shows; in the second run of a fold it stays where the first
//! run ended.

use chrono::{DateTime, LocalResult, NaiveDateTime, Offset, TimeDelta, TimeZone};
use chrono_tz::{GapInfo, Tz};

use crate::{Expression, ExpressionError, Timestamp, UnknownZone, Zone};

/// When a schedule fires: an expression on the clock of a zone.
///
/// Fires are whole minutes of the wall clock. Reading costs far more than asking: keep it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Calendar {
    expression: Expression,
    zone: Zone,
}

/// The stored texts of a schedule make no calendar.
#[derive(Debug, thiserror::Error)]
pub enum CalendarError {
    /// The expression.
    #[error(transparent)]
    Expression(#[from] ExpressionError),
    /// The time zone.
    #[error(transparent)]
    Zone(#[from] UnknownZone),
}

impl Calendar {
    /// `expression` on the clock of `zone`.
    #[must_use]
    pub fn new(expression: Expression, zone: Zone) -> Self {
        Calendar { expression, zone }
    }

    /// Reads what an instance document has: five fields and the name of a zone.
    pub fn parse(cron: &str, timezone: &str) -> Result<Self, CalendarError> {
        Ok(Calendar::new(cron.parse()?, timezone.parse()?))
    }

    /// Which minutes are meant.
    #[must_use]
    pub fn expression(&self) -> &Expression {
        &self.expression
    }

    /// On which clock.
    #[must_use]
    pub fn zone(&self) -> Zone {
        self.zone
    }

    /// The first fire after `at`; none after the year 2100.
    #[must_use]
    pub fn next_after(&self, at: Timestamp) -> Option<Timestamp> {
        let tz = self.zone.tz();
        let meant = self.expression.first_from(reach(tz, at)?)?;
        first_reached(tz, meant)
    }

    /// The last fire that is not after `at`; none before the year 1970.
    #[must_use]
    pub fn latest_at_or_before(&self, at: Timestamp) -> Option<Timestamp> {
        let tz = self.zone.tz();
        let meant = self.expression.last_before(reach(tz, at)?)?;
        first_reached(tz, meant)
    }

    /// The first `count` fires after `at`.
    #[must_use]
    pub fn upcoming(&self, at: Timestamp, count: usize) -> Vec<Timestamp> {
        std::iter::successors(self.next_after(at), |fire| self.next_after(*fire))
            .take(count)
            .collect()
    }

    /// Whether `fire` is not at a minute that is meant, but right after a gap of the clock that has one.
    #[must_use]
    pub fn is_after_gap(&self, fire: Timestamp) -> bool {
        let local = self.zone.local(fire).naive_local();
        self.expression.first_from(local) != Some(local)
    }

    /// Whether the clock shows the time of `fire` twice.
    #[must_use]
    pub fn is_shown_twice(&self, fire: Timestamp) -> bool {
        let local = self.zone.local(fire).naive_local();
        let readings = self.zone.tz().offset_from_local_datetime(&local);
        matches!(readings, LocalResult::Ambiguous(..))
    }
}

/// The wall-clock minutes before this (in whole seconds) have been reached at `at`, the others have not.
fn reach(tz: Tz, at: Timestamp) -> Option<NaiveDateTime> {
    let at = DateTime::from_timestamp(at.timestamp(), 0)?;
    let offset = tz.offset_from_utc_datetime(&at.naive_utc()).fix();
    let local = at.naive_utc().checked_add_offset(offset)?;
    if let LocalResult::Ambiguous(first, second) = tz.offset_from_local_datetime(&local) {
        let (first, second) = (first.fix(), second.fix());
        if offset == second {
            let turned = fold(tz, at, first.local_minus_utc() - second.local_minus_utc());
            return turned.naive_utc().checked_add_offset(first);
        }
    }
    local.checked_add_signed(TimeDelta::seconds(1))
}

/// When the clock was turned back by `seconds`, given a moment of the second run.
fn fold(tz: Tz, at: Timestamp, seconds: i32) -> Timestamp {
    let offset = |at: Timestamp| tz.offset_from_utc_datetime(&at.naive_utc()).fix();
    // One whole fold ago the first run was on.
    let mut first_run = at - TimeDelta::seconds(i64::from(seconds));
    let mut second_run = at;
    let before = offset(first_run);
    while second_run - first_run > TimeDelta::seconds(1) {
        let middle = first_run + TimeDelta::seconds((second_run - first_run).num_seconds() / 2);
        if offset(middle) == before {
            first_run = middle;
        } else {
            second_run = middle;
        }
    }
    second_run
}

/// The first moment at which the clock has reached `local`.
fn first_reached(tz: Tz, local: NaiveDateTime) -> Option<Timestamp> {
    let (local, offset) = match tz.offset_from_local_datetime(&local) {
        LocalResult::Single(offset) | LocalResult::Ambiguous(offset, _) => (local, offset),
        // The gap's begin, by the clock before it, is also its end.
        LocalResult::None => GapInfo::new(&local, &tz)?.begin?,
    };
    Some(local.checked_sub_offset(offset.fix())?.and_utc())
}

#[cfg(test)]
mod tests;
