//! When a schedule fires. Pure: the time is an argument.
//!
//! An [`Expression`] says which *wall-clock* minutes are meant, a [`Zone`] says what clock hangs on the wall,
//! and a [`Calendar`] is both: it turns wall-clock minutes into moments. What must stay true:
//!
//! - **A fire is the first moment at which the clock has reached the time that is meant.** So a time that a
//!   clock skips fires once, right after the gap (all that were meant inside one gap are one fire), and a
//!   time that a clock shows twice fires once, the first time.
//! - The same expression, zone and moment give the same fires on every replica and after every restart:
//!   a fire's moment is part of a backup's id.
//! - [`Calendar::latest_at_or_before`] and [`Calendar::next_after`] speak of the same set of fires.
//!
//! The `cron` crate computes the wall-clock minutes of one normal form, as if the wall-clock were UTC; day of
//! month *or* day of week, the last day of a month, gaps and folds are ours. It knows the years to 2100: a
//! schedule has no fire after that. docs/schedules.md tells users the rules.

mod calendar;
mod every;
mod expression;
mod spread;
mod zone;

pub use calendar::{Calendar, CalendarError};
pub use every::{Every, EveryError};
pub use expression::{Expression, ExpressionError, FieldError};
pub use spread::nightly;
pub use zone::{UnknownZone, Zone};

/// A moment; the same type as `events::Timestamp`.
pub type Timestamp = chrono::DateTime<chrono::Utc>;
