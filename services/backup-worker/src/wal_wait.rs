//! A backup is restorable once the archive has its WAL, from start to stop: until then it is not committed.

use std::time::Duration;

use pg_format::{Lsn, TimelineHistory, TimelineId, WalSegmentSize};
use repository::{BranchReader, RepositoryError, WalCoverage};

use crate::failure::AttemptError;
use crate::voice::Voice;

/// How often the archive's position is read.
const POLL: Duration = Duration::from_millis(250);

/// The WAL that makes a backup consistent.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NeededWal {
    pub(crate) timeline: TimelineId,
    pub(crate) segment_size: WalSegmentSize,
    pub(crate) start: Lsn,
    pub(crate) stop: Lsn,
}

/// Waits until the archive is past the stop LSN, then proves that every segment is there.
///
/// The position is small to read and says *how far*; the listing is read once and says *whether all*.
pub(crate) async fn wait(
    branch: &BranchReader,
    needed: NeededWal,
    timeout: Duration,
    voice: &Voice<'_>,
) -> Result<(), AttemptError> {
    let mut reached = Lsn::INVALID;
    let arrived = async {
        loop {
            let position = RepositoryError::absent_as_none(branch.wal_position().await)?;
            if let Some(position) = position {
                reached = position.lsn;
                if position.lsn >= needed.stop {
                    return Ok::<(), RepositoryError>(());
                }
            }
            voice.beat();
            tokio::time::sleep(POLL).await;
        }
    };
    match tokio::time::timeout(timeout, arrived).await {
        Ok(result) => result?,
        Err(_elapsed) => {
            let stop = needed.stop;
            return Err(AttemptError::WalNotArchived {
                stop,
                reached,
                after: timeout,
            });
        }
    }
    prove(branch, needed).await
}

async fn prove(branch: &BranchReader, needed: NeededWal) -> Result<(), AttemptError> {
    // Start and stop lie on one timeline, so its ancestors do not matter.
    let history = TimelineHistory::root(needed.timeline);
    let NeededWal {
        segment_size,
        start,
        stop,
        ..
    } = needed;
    match branch
        .wal_coverage(&history, segment_size, start, stop)
        .await?
    {
        WalCoverage::Complete => Ok(()),
        WalCoverage::Missing { first } => Err(AttemptError::WalMissing { segment: first }),
    }
}
