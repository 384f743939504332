//! Whose WAL may be pushed: only of a branch that is archived by its server, and only what leads on from what is archived.
//!
//! What must stay true: a promoted copy that kept its primary's archive_command stores nothing beside the way that the
//! archive went. There is no bus to ask here; the repository's mirror of the instance and the position are what is known.

use events::ArchiveMode;
use pg_format::wal::{WalBlockSize, WalReader, WalReaderConfig};
use pg_format::{Lsn, SegmentName, TimelineHistory, TimelineId, WalSegmentSize};
use repository::{BranchRecord, BranchWriter, ErrorClass, Repository, RepositoryError};

use super::archive::{archived_under, store_failure};
use crate::failure::{Ending, Failure};

/// What is read of the archive to see whether a promoted server lacks any of it; one that lacks more is another way.
const MOST_SEGMENTS: u64 = 8;

/// Refuses WAL of a branch that is not archived by its server's archive_command.
pub(super) async fn by_command(
    repository: &Repository,
    record: &BranchRecord,
    file: &str,
) -> Result<(), Failure> {
    let (instance, branch) = (&record.instance, &record.branch);
    let mirrored = repository.instance(instance).await;
    let mirrored = match RepositoryError::absent_as_none(mirrored) {
        // WAL is not held up by what only says how it is to come, nor by credentials that do not reach that.
        Err(error) if matches!(error.class(), ErrorClass::Corrupt | ErrorClass::Denied) => {
            return Ok(());
        }
        mirrored => mirrored,
    };
    let mirrored =
        mirrored.map_err(|error| store_failure(&format!("{file} is not archived"), &error))?;
    let state = mirrored
        .as_ref()
        .and_then(|found| found.branches.get(branch));
    let mode = state
        .and_then(|state| state.active())
        .map(|active| active.archive_mode);
    let why = match mode {
        Some(ArchiveMode::Command) => return Ok(()),
        Some(ArchiveMode::Stream) => format!(
            "the wal of branch {branch} of {instance} is streamed over its slot and not pushed: take this \
             archive_command out; if this server is a copy of {instance}, register it under its own name"
        ),
        None => format!(
            "branch {branch} of {instance} is not archived (any more): take this archive_command out, or register \
             the server with `zektor instance add {instance} --archive-mode command --dsn ...`"
        ),
    };
    let message = format!("{file} is refused: {why}");
    Err(Failure::new(
        Ending::Refused,
        "not_pushed_here",
        message,
        "",
    ))
}

/// Whether WAL of a timeline, or a whole `segment` of it, leads on from what is archived.
pub(super) async fn admitted(
    writer: &BranchWriter,
    record: &BranchRecord,
    history: &TimelineHistory,
    segment: Option<SegmentName>,
) -> Result<Result<(), OtherWay>, RepositoryError> {
    let Some(followed) = Followed::read(writer).await? else {
        return Ok(Ok(()));
    };
    if let Err(way) = followed.leads_to(history) {
        let lacks_nothing = match way.fork {
            Some(fork) => followed.lacks_nothing(fork, writer, record).await?,
            None => false,
        };
        return Ok(if lacks_nothing { Ok(()) } else { Err(way) });
    }
    let size = record.wal_segment_size;
    Ok(segment.map_or(Ok(()), |name| followed.leads_to_segment(name, size)))
}

/// The way that the archive was followed, and how far.
#[derive(Debug)]
struct Followed {
    history: TimelineHistory,
    lsn: Lsn,
}

/// WAL leads away from what is archived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct OtherWay {
    /// What is archived.
    archived: (TimelineId, Lsn),
    /// Of the WAL that was pushed.
    pushed: TimelineId,
    /// Where the two part, if they have a timeline in common.
    fork: Option<Lsn>,
}

impl Followed {
    /// What the archiver has followed; `None` while it has not followed anything, or what it wrote is damaged.
    async fn read(writer: &BranchWriter) -> Result<Option<Followed>, RepositoryError> {
        let position = match RepositoryError::absent_as_none(writer.wal_position().await) {
            Ok(Some(position)) => position,
            Ok(None) => return Ok(None),
            Err(error) if error.class() == ErrorClass::Corrupt => return Ok(None),
            Err(error) => return Err(error),
        };
        let timeline = position.timeline;
        let history = match timeline {
            TimelineId(1) => Some(TimelineHistory::root(timeline)),
            _ => {
                let text = RepositoryError::absent_as_none(writer.get_history(timeline).await)?;
                let text = text.as_deref().map(String::from_utf8_lossy);
                text.and_then(|text| TimelineHistory::parse(timeline, &text).ok())
            }
        };
        let lsn = position.lsn;
        Ok(history.map(|history| Followed { history, lsn }))
    }

    /// Whether a timeline goes on from what is archived, or lies on the way there.
    fn leads_to(&self, pushed: &TimelineHistory) -> Result<(), OtherWay> {
        let archived = self.history.timeline();
        let fork = pushed.switch_point(archived);
        let goes_on = pushed.timeline() == archived || fork.is_some_and(|fork| fork >= self.lsn);
        if goes_on || self.history.contains(pushed.timeline()) {
            return Ok(());
        }
        Err(self.other_way(pushed.timeline(), fork))
    }

    /// The same for a whole segment of a timeline: none that reaches beyond where the timeline was left.
    fn leads_to_segment(&self, name: SegmentName, size: WalSegmentSize) -> Result<(), OtherWay> {
        match self.history.switch_point(name.timeline) {
            Some(left) if size.start_of(name.number(size) + 1) > left => {
                Err(self.other_way(name.timeline, Some(left)))
            }
            _ => Ok(()),
        }
    }

    /// Whether no transaction ends in what is archived beyond `fork`: then a server that was promoted there lacks nothing.
    /// A segment may end within a record that its primary did not live to send, or with a switch.
    async fn lacks_nothing(
        &self,
        fork: Lsn,
        writer: &BranchWriter,
        record: &BranchRecord,
    ) -> Result<bool, RepositoryError> {
        let size = record.wal_segment_size;
        let (first, last) = (size.segment_of(fork), size.segment_ending_at(self.lsn));
        if last.saturating_sub(first) >= MOST_SEGMENTS {
            return Ok(false);
        }
        let reader = WalReader::new(WalReaderConfig {
            start: size.start_of(first),
            history: self.history.clone(),
            system_identifier: record.system_identifier,
            segment_size: size,
            block_size: WalBlockSize::DEFAULT,
            server_major: record.server_version / 10_000,
        });
        let Ok(mut reader) = reader else {
            return Ok(false);
        };
        for number in first..=last {
            let name = archived_under(&self.history, number, size);
            let bytes = RepositoryError::absent_as_none(writer.get_segment(name).await)?;
            let mut ended = false;
            let read = bytes.map(|bytes| {
                reader.feed_each(&bytes, |record| {
                    ended |= record.start >= fork && !matches!(record.transaction_end(), Ok(None));
                })
            });
            if ended || !matches!(read, Some(Ok(()))) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn other_way(&self, pushed: TimelineId, fork: Option<Lsn>) -> OtherWay {
        let archived = (self.history.timeline(), self.lsn);
        OtherWay {
            archived,
            pushed,
            fork,
        }
    }
}

/// What to do about WAL that leads elsewhere.
pub(super) fn another_way(record: &BranchRecord, file: &str, way: OtherWay) -> Failure {
    let (instance, branch) = (&record.instance, &record.branch);
    let OtherWay {
        archived: (timeline, lsn),
        pushed,
        fork,
    } = way;
    let place = fork.map_or_else(String::new, |fork| format!(" at {fork}"));
    let message = format!(
        "{file} is refused: the archive of branch {branch} of {instance} follows timeline {timeline} up to {lsn}, and timeline \
         {pushed} parts from that{place}: if this server is a copy, or an old primary after a failover, take this \
         archive_command out; if it is the new primary and lacks what is archived beyond, register it under another name \
         (zektor instance add --archive-mode command) and back it up"
    );
    Failure::new(Ending::Refused, "another_way", message, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    fn size() -> WalSegmentSize {
        WalSegmentSize::new(MIB).unwrap()
    }

    fn root() -> TimelineHistory {
        TimelineHistory::root(TimelineId(1))
    }

    fn fork(of: &TimelineHistory, timeline: u32, at: u64) -> TimelineHistory {
        of.fork(TimelineId(timeline), Lsn(at), "test").unwrap()
    }

    fn followed(history: TimelineHistory, lsn: u64) -> Followed {
        let lsn = Lsn(lsn);
        Followed { history, lsn }
    }

    #[test]
    fn a_promotion_goes_on_only_from_the_end_of_what_is_archived() {
        let archive = followed(root(), 5 * MIB);
        assert_eq!(archive.leads_to(&root()), Ok(()));
        assert_eq!(archive.leads_to(&fork(&root(), 2, 5 * MIB)), Ok(()));
        assert_eq!(archive.leads_to(&fork(&root(), 2, 5 * MIB + 9)), Ok(()));
        let clone = fork(&root(), 2, 5 * MIB - 9);
        let parts = archive.leads_to(&clone).unwrap_err();
        assert_eq!(parts.fork, Some(Lsn(5 * MIB - 9)));
        // Two promotions later.
        let later = fork(&fork(&root(), 2, 5 * MIB + 9), 3, 7 * MIB);
        assert_eq!(archive.leads_to(&later), Ok(()));
        assert!(archive.leads_to(&fork(&clone, 3, 7 * MIB)).is_err());
    }

    #[test]
    fn an_old_primary_adds_nothing_beyond_where_it_was_left() {
        let archive = followed(fork(&root(), 2, 5 * MIB + 9), 8 * MIB);
        let name = |number| SegmentName::new(TimelineId(1), number, size());
        let segment = |number| archive.leads_to_segment(name(number), size());
        assert_eq!(segment(4), Ok(()), "late");
        assert!(segment(5).is_err() && segment(6).is_err());
        assert_eq!(archive.leads_to(&root()), Ok(()), "its .partial");
        assert!(
            archive.leads_to(&fork(&root(), 3, 9 * MIB)).is_err(),
            "a sibling"
        );
        assert_eq!(
            archive.leads_to(&fork(&archive.history, 3, 9 * MIB)),
            Ok(())
        );
        // Left at the end of a segment.
        let archive = followed(fork(&root(), 2, 6 * MIB), 8 * MIB);
        assert_eq!(archive.leads_to_segment(name(5), size()), Ok(()));
    }
}
