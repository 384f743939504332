//! Before a gap is believed: the archive is looked at again, and what a listing leaves out is asked for by name.
//!
//! A store may list an object late, and a proxy before it may answer "not there" for a while. The server has removed what
//! it lacks, so a gap is for good; there is time to look twice.

use std::time::Duration;

use pg_format::{SegmentName, WalSegmentSize};
use repository::{RepositoryError, WalPosition};

use super::findings::{Findings, sort_objects, stored_position};
use super::{BranchContext, Missing};
use crate::error::ArchiveError;
use crate::start_point::archived_under;
use crate::uploader::Uploader;

const LOOKS: u32 = 4;
const PAUSE: Duration = Duration::from_secs(1);

/// Looks for the WAL that the server does not have; true if it was found, and the findings were completed.
pub(super) async fn is_archived(
    branch: &BranchContext,
    findings: &mut Findings,
    missing: Missing,
) -> Result<bool, ArchiveError> {
    let (uploader, size) = (&branch.uploader, branch.branch.wal_segment_size);
    let first = size.segment_of(missing.from);
    let name = |number| {
        let timeline = archived_under(&findings.history, number, size);
        SegmentName::new(timeline, number, size)
    };
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(PAUSE).await;
        }
        let listed = uploader.patiently(|| uploader.writer().list_wal(size));
        let (mut archived, mut partials) = sort_objects(&listed.await?);
        let mut number = first;
        while archived.contains(&name(number)) || is_there(uploader, name(number), size).await? {
            let _ = archived.insert(name(number));
            number += 1;
        }
        if number > first {
            tracing::warn!(
                from = %name(first), before = %name(number),
                "the server has removed wal that is in the archive, though it was not found there at first"
            );
            findings.archived.append(&mut archived);
            findings.partials.append(&mut partials);
            findings.position = settled_position(uploader, true).await?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// The stored position. It is written before the first segment: one that is not there though segments are is asked for
/// again, for without it nobody knows where the chain begins.
pub(super) async fn settled_position(
    uploader: &Uploader,
    has_segments: bool,
) -> Result<Option<WalPosition>, ArchiveError> {
    for _ in 1..LOOKS {
        let position = stored_position(uploader).await?;
        if position.is_some() || !has_segments {
            return Ok(position);
        }
        tracing::warn!(
            "segments are archived, but how far the archive goes is not there; it is asked for again"
        );
        tokio::time::sleep(PAUSE).await;
    }
    stored_position(uploader).await
}

/// Whether the segment can be read, listed or not. A damaged one is as good as none.
async fn is_there(
    uploader: &Uploader,
    name: SegmentName,
    size: WalSegmentSize,
) -> Result<bool, ArchiveError> {
    match uploader.read_back(name, size).await {
        Ok(segment) => Ok(segment.is_some()),
        Err(RepositoryError::Corrupt { .. }) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
