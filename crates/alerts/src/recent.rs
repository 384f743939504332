//! The newest of a kind of fact, a bounded number of them.

use events::Timestamp;

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
