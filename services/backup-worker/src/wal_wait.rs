//! A backup is restorable once the archive has its WAL, from start to stop: until then it is not committed.

use std::time::Duration;

use pg_format::{Lsn, SegmentName, TimelineHistory, TimelineId, WalSegmentSize};
use repository::{BranchReader, RepositoryError, WalCoverage};

use crate::failure::AttemptError;

/// How often the archive's position is read.
const POLL: Duration = Duration::from_millis(250);
/// Pause before all of the archive is listed again because a segment was not there.
const LIST_AGAIN: Duration = Duration::from_secs(10);

/// The WAL that makes a backup consistent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeededWal {
    pub(crate) timeline: TimelineId,
    pub(crate) segment_size: WalSegmentSize,
    pub(crate) start: Lsn,
    pub(crate) stop: Lsn,
}

/// How far the archive was when it was looked at last.
#[derive(Clone, Copy)]
enum Seen {
    UpTo(Lsn),
    Without(SegmentName),
}

/// Waits until the archive is past the stop LSN and every segment is there.
///
/// The position is small to read and says *how far*; the listing says *whether all*. A position on an older
/// timeline is that of the old primary, whose LSNs say nothing about the new one's WAL. A listing may trail
/// behind the position, so what it lacks is looked for again.
pub(crate) async fn wait(
    branch: &BranchReader,
    needed: NeededWal,
    timeout: Duration,
) -> Result<(), AttemptError> {
    let mut seen = Seen::UpTo(Lsn::INVALID);
    let arrived = async {
        loop {
            let position = RepositoryError::absent_as_none(branch.wal_position().await)?;
            let position = position.filter(|position| position.timeline >= needed.timeline);
            let mut pause = POLL;
            if let Some(position) = position {
                seen = Seen::UpTo(position.lsn);
                if position.lsn >= needed.stop {
                    match coverage(branch, needed).await? {
                        WalCoverage::Complete => return Ok::<(), RepositoryError>(()),
                        WalCoverage::Missing { first } => seen = Seen::Without(first),
                    }
                    pause = LIST_AGAIN;
                }
            }
            tokio::time::sleep(pause).await;
        }
    };
    match tokio::time::timeout(timeout, arrived).await {
        Ok(result) => Ok(result?),
        Err(_elapsed) => Err(match seen {
            Seen::UpTo(reached) => AttemptError::WalNotArchived {
                stop: needed.stop,
                reached,
                after: timeout,
            },
            Seen::Without(segment) => AttemptError::WalMissing {
                segment,
                after: timeout,
            },
        }),
    }
}

/// Looks once more whether every segment is there: those that were may have been let go since.
pub(crate) async fn check(branch: &BranchReader, needed: NeededWal) -> Result<(), AttemptError> {
    match coverage(branch, needed).await? {
        WalCoverage::Complete => Ok(()),
        WalCoverage::Missing { first } => Err(AttemptError::WalGone { segment: first }),
    }
}

async fn coverage(
    branch: &BranchReader,
    needed: NeededWal,
) -> Result<WalCoverage, RepositoryError> {
    // Start and stop lie on one timeline, so its ancestors do not matter.
    let history = TimelineHistory::root(needed.timeline);
    let NeededWal {
        segment_size,
        start,
        stop,
        ..
    } = needed;
    branch
        .wal_coverage(&history, segment_size, start, stop)
        .await
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use events::{BranchName, InstanceName, example};
    use pg_format::{Lsn, SegmentName, TimelineId, WalSegmentSize};
    use repository::{BranchWriter, Repository, RetryPolicy, WalPosition};

    use super::{Duration, NeededWal, wait};
    use crate::failure::{AttemptError, Verdict};

    const TIMEOUT: Duration = Duration::from_secs(60);

    fn size() -> WalSegmentSize {
        WalSegmentSize::new(1 << 20).unwrap()
    }

    fn segment(timeline: u32) -> SegmentName {
        SegmentName::new(TimelineId(timeline), 3, size())
    }

    /// A few bytes of the new primary's segment 3.
    fn needed() -> NeededWal {
        NeededWal {
            timeline: TimelineId(2),
            segment_size: size(),
            start: Lsn((3 << 20) + 40),
            stop: Lsn((3 << 20) + 312),
        }
    }

    fn branch() -> BranchWriter {
        Repository::open("memory://", RetryPolicy::default())
            .unwrap()
            .writer(&InstanceName::new("orders").unwrap(), &BranchName::main())
    }

    async fn archive_is_at(branch: &BranchWriter, timeline: u32, lsn: Lsn) {
        let position = WalPosition {
            timeline: TimelineId(timeline),
            lsn,
            proven_at: example::at(0),
            first_segment: segment(timeline).to_string(),
            updated: example::at(0),
        };
        branch.put_wal_position(&position).await.unwrap();
    }

    async fn put(branch: &BranchWriter, timeline: u32) {
        let raw = Bytes::from(vec![0; 1 << 20]);
        let _ = branch.put_segment(segment(timeline), raw).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn the_old_primarys_position_is_not_the_new_ones() {
        let branch = branch();
        archive_is_at(&branch, 1, Lsn(9 << 20)).await;
        let later = async {
            tokio::time::sleep(TIMEOUT / 2).await;
            put(&branch, 2).await;
            archive_is_at(&branch, 2, Lsn(4 << 20)).await;
        };
        let (waited, ()) = tokio::join!(wait(&branch, needed(), TIMEOUT), later);
        waited.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_listing_that_trails_is_waited_for() {
        let branch = branch();
        archive_is_at(&branch, 2, Lsn(4 << 20)).await;
        let later = async {
            tokio::time::sleep(TIMEOUT / 2).await;
            put(&branch, 2).await;
        };
        let (waited, ()) = tokio::join!(wait(&branch, needed(), TIMEOUT), later);
        waited.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn what_stays_missing_is_named_and_not_copied_again() {
        let branch = branch();
        put(&branch, 1).await;
        archive_is_at(&branch, 2, Lsn(4 << 20)).await;
        let error = wait(&branch, needed(), TIMEOUT).await.unwrap_err();
        assert_eq!(error.verdict(), Verdict::GiveUp);
        let AttemptError::WalMissing { segment: named, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!(named, segment(2));
    }
}
