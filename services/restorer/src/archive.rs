//! Reads what the repository says of a branch, for the planner.

use std::collections::BTreeMap;

use pg_format::{TimelineHistory, TimelineId};
use repository::{BranchReader, RepositoryError, WalObjectKind};

use crate::plan::Archive;

/// Everything the planner needs. The position is read first: what it proves is in the later listing.
///
/// # Errors
/// A manifest or history is damaged, or the store failed.
pub async fn read(branch: &BranchReader) -> Result<Archive, RepositoryError> {
    let position = RepositoryError::absent_as_none(branch.wal_position().await)?;
    let manifests = branch.manifests().await?;
    let backups: Vec<_> = manifests
        .into_iter()
        .map(|manifest| manifest.summary)
        .collect();
    let mut archive = Archive {
        backups,
        position,
        ..Archive::default()
    };
    let Some(size) = archive
        .backups
        .first()
        .map(|backup| backup.wal_segment_size)
    else {
        return Ok(archive);
    };
    archive.objects = branch.list_wal(size).await?;
    for object in &archive.objects {
        match object.kind {
            WalObjectKind::Segment(_) => {}
            WalObjectKind::Partial(name) => {
                // One that was completed since the listing is no partial any more.
                let open = RepositoryError::absent_as_none(branch.open_segment(name).await)?;
                archive.open.extend(open);
            }
            WalObjectKind::History => {}
        }
    }
    let timelines = archive
        .objects
        .iter()
        .filter(|object| object.kind == WalObjectKind::History);
    archive.histories = histories(branch, timelines.map(|object| object.timeline)).await?;
    Ok(archive)
}

async fn histories(
    branch: &BranchReader,
    timelines: impl Iterator<Item = TimelineId>,
) -> Result<BTreeMap<TimelineId, TimelineHistory>, RepositoryError> {
    let mut histories = BTreeMap::new();
    for timeline in timelines {
        let text = branch.get_history(timeline).await?;
        match TimelineHistory::parse(timeline, &String::from_utf8_lossy(&text)) {
            Ok(history) => drop(histories.insert(timeline, history)),
            // The planner refuses what would lead over it.
            Err(error) => tracing::warn!(%timeline, %error, "a timeline history is not understood"),
        }
    }
    Ok(histories)
}
