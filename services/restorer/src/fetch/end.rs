//! Where the records of a plan's WAL end, read from the archive and not from the server that replayed it.
//!
//! PostgreSQL takes any record that it cannot read for the end of WAL. A recovery that was to replay everything has
//! done so only if it went on to here.

use pg_format::{Lsn, SegmentNumber};
use repository::BranchReader;

use super::{Cluster, FetchError, fetch};
use crate::served::ServedWal;

/// The end of the last record before the plan's end. `None` for WAL that cannot be judged: of a version without known
/// formats, or without any record that begins in it.
///
/// The last segment is read by itself. Only if no record ends in it that begins in it is the one before read as well,
/// and so on.
///
/// # Errors
/// A segment cannot be read, or the WAL of those segments is not valid.
pub async fn last_record_end(
    reader: &BranchReader,
    served: &ServedWal,
    cluster: Cluster,
) -> Result<Option<Lsn>, FetchError> {
    if !cluster.is_known() {
        return Ok(None);
    }
    for first in (served.first()..=served.last()).rev() {
        let end = end_from(reader, served, cluster, first).await?;
        if end > served.size().start_of(first) {
            return Ok(Some(end));
        }
    }
    Ok(None)
}

/// The end of the last record that begins in segment `first` or later; the segment's start if there is none.
async fn end_from(
    reader: &BranchReader,
    served: &ServedWal,
    cluster: Cluster,
    first: SegmentNumber,
) -> Result<Lsn, FetchError> {
    let start = served.size().start_of(first);
    let mut wal = None;
    for number in first..=served.last() {
        let mut given = None;
        for name in served.segments(number) {
            if let Some(bytes) = fetch(reader, served, &name.to_string()).await? {
                given = Some((name, bytes));
                break;
            }
        }
        let Some((name, bytes)) = given else {
            return Ok(start);
        };
        let valid = usize::try_from(served.valid_bytes(name)).unwrap_or(usize::MAX);
        let bytes = &bytes[..valid.min(bytes.len())];
        let invalid = |reason: String| FetchError::Invalid {
            file: name.to_string(),
            reason,
        };
        let wal = match &mut wal {
            Some(wal) => wal,
            none => none.insert(
                cluster
                    .reader(served, start, bytes)
                    .ok_or_else(|| invalid("it does not begin with a wal page".to_owned()))?,
            ),
        };
        wal.feed(bytes)
            .map_err(|error| invalid(error.to_string()))?;
    }
    Ok(wal.map_or(start, |wal| wal.validated_end()))
}
