//! The newest of a kind of fact, a bounded number of them; and what a clock that was ahead has said.

use chrono::TimeDelta;
use events::Timestamp;

/// Clocks differ by so much, and nobody needs to mind.
const SKEW: TimeDelta = TimeDelta::minutes(5);

/// Whether only a clock that was ahead can have said so.
pub(crate) fn is_ahead(at: Timestamp, now: Timestamp) -> bool {
    at > now + SKEW
}

/// When it was, at the latest: what is known now has happened, whatever its clock said.
pub(crate) fn past(at: Timestamp, now: Timestamp) -> Timestamp {
    if is_ahead(at, now) {
        now - TimeDelta::milliseconds(1)
    } else {
        at
    }
}

/// Something that happened, with what tells it from another of the same moment.
pub(crate) trait Dated {
    /// Its place among the others; never the same for two.
    fn place(&self) -> (Timestamp, String);
}

/// Puts `item` in its place. False, and nothing is changed, when it is there already or is older than everything of a
/// full list: it may have been there before.
pub(crate) fn insert<T: Dated>(list: &mut Vec<T>, item: T, limit: usize) -> bool {
    let place = item.place();
    let index = match list.binary_search_by(|other| other.place().cmp(&place)) {
        Ok(_) => return false,
        Err(0) if list.len() >= limit => return false,
        Err(index) => index,
    };
    list.insert(index, item);
    if list.len() > limit {
        drop(list.remove(0));
    }
    true
}
