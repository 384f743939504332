//! Which server may not carry the archive on: pure, and the same whether WAL is streamed or pushed.

use pg_format::{Lsn, TimelineId};
use repository::WalPosition;

use crate::error::ArchiveError;

/// Refuses a server that is on an older timeline than the archive: new timelines have higher numbers, so it does not
/// know the promotion that the archive has followed, and what it writes leads nowhere. A standby of the new primary
/// is on its way to the newer timeline, and has nothing yet that is not archived.
///
/// The position says what was followed. Other WAL of a newer timeline, up to `newest`, may be a stray clone's: it counts
/// only where there is no position.
pub(crate) fn refuse_old_primary(
    server: TimelineId,
    newest: Option<TimelineId>,
    position: Option<&WalPosition>,
) -> Result<(), ArchiveError> {
    let followed = position.map(|position| position.timeline);
    match followed.or(newest) {
        Some(archived) if archived > server => Err(ArchiveError::OldPrimary { server, archived }),
        _ => {
            if let Some(stray) = newest.filter(|newest| *newest > server) {
                tracing::warn!(
                    %server, %stray,
                    "the archive has wal of a newer timeline that was never followed: a copy of this server pushed it, perhaps"
                );
            }
            Ok(())
        }
    }
}

/// Refuses a server whose WAL ends before what is archived of its timeline: what it writes next is not what
/// follows there. Not so a standby, which may just not have received it again yet: that is for the caller to ask.
pub(crate) fn refuse_if_set_back(
    timeline: TimelineId,
    server: Lsn,
    position: Option<&WalPosition>,
) -> Result<(), ArchiveError> {
    match position.filter(|position| position.timeline == timeline && server < position.lsn) {
        Some(position) => Err(ArchiveError::SetBack {
            timeline,
            server,
            archived: position.lsn,
        }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use events::Timestamp;

    use super::*;

    fn at(timeline: u32, lsn: u64) -> WalPosition {
        WalPosition {
            timeline: TimelineId(timeline),
            lsn: Lsn(lsn),
            proven_at: Timestamp::UNIX_EPOCH,
            first_segment: String::new(),
            updated: Timestamp::UNIX_EPOCH,
        }
    }

    #[test]
    fn what_was_followed_decides_and_not_what_lies_there() {
        let refused = |newest: Option<u32>, position: Option<u32>| {
            let position = position.map(|timeline| at(timeline, 7));
            refuse_old_primary(TimelineId(2), newest.map(TimelineId), position.as_ref()).is_err()
        };
        assert!(refused(None, Some(3)) && refused(Some(1), Some(3)));
        assert!(!refused(Some(3), Some(2)), "a stray clone's");
        assert!(refused(Some(3), None), "nobody knows");
        assert!(!refused(None, None) && !refused(Some(2), Some(1)));
    }

    #[test]
    fn wal_that_ends_before_the_position_of_its_timeline_is_refused() {
        let refused = |timeline, server| {
            refuse_if_set_back(TimelineId(timeline), Lsn(server), Some(&at(2, 7))).is_err()
        };
        assert!(refused(2, 6) && !refused(2, 7) && !refused(3, 6));
    }
}
