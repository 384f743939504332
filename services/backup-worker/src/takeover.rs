//! What a delivered request calls for, from what has happened to the backup so far. Pure.

use bus::Sequence;
use events::{BackupId, Envelope, Event, MessageId};

/// What to do with a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Takeover {
    /// The backup has ended; there is nothing left to do.
    Ended,
    /// Nobody ended it: begin, or take over, expecting this to be the last event on the fence.
    Attempt {
        /// Sequence of the last event on the fence.
        last: Sequence,
    },
}

/// Decides from the last event on the backup's fence.
///
/// The request itself stands on the fence, so there always is one; a stream that was lost and made
/// anew may have forgotten it, and then the request's own delivery is all there is.
pub(crate) fn decide(last: Option<(Sequence, &Event)>) -> Takeover {
    match last {
        None => Takeover::Attempt {
            last: Sequence::NONE,
        },
        Some((
            sequence,
            Event::BackupQueued(_)
            | Event::BackupRequested(_)
            | Event::BackupStarted(_)
            | Event::BackupProgressed(_),
        )) => Takeover::Attempt { last: sequence },
        // It has ended, or was even held, marked or deleted since.
        Some(_) => Takeover::Ended,
    }
}

/// Whether the backup was asked for anew, for the workers of another pool, so that the request with this id is nobody's
/// any more: by the last event on the fence.
pub(crate) fn is_replaced(request: &MessageId, last: &Envelope<Event>) -> bool {
    let counts = last.backup_request();
    counts.is_some_and(|counts| counts != request.as_str())
}

/// The name of an attempt: its own prefix in the repository, never used by another.
pub(crate) fn attempt_name(backup_id: BackupId, random: u64) -> String {
    let head = backup_id.0.as_u128() >> 96;
    format!("{head:08x}-{random:016x}")
}
