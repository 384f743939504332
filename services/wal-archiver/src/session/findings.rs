//! What the repository and the server say when a session begins.

use std::collections::BTreeSet;

use events::document::slot_name;
use events::event::GapCause;
use pg_format::{Lsn, SegmentName, TimelineHistory, TimelineId, WalSegmentSize};
use pg_replication::{
    ConnectionSettings, PgError, ReplicationConnection, ReserveWal, SqlConnection, SystemIdentity,
    quote_literal,
};
use repository::{
    BranchRecord, ParentBranch, RepositoryError, WalObject, WalObjectKind, WalPosition,
};

use super::closer_look::settled_position;
use super::refusals::{refuse_if_set_back, refuse_old_primary};
use super::{BranchContext, SQLSTATE_UNDEFINED_FILE};
use crate::error::ArchiveError;
use crate::known_beginning::KnownBeginning;
use crate::start_point::archived_under;
use crate::uploader::{ReadBack, Uploader};

/// What the repository and the server said at the beginning.
pub(super) struct Findings {
    pub(super) identity: SystemIdentity,
    pub(super) history: TimelineHistory,
    pub(super) archived: BTreeSet<SegmentName>,
    pub(super) partials: BTreeSet<SegmentName>,
    pub(super) position: Option<WalPosition>,
    pub(super) slot_restart: Option<Lsn>,
    /// What became of the slot, if it had to be made again.
    pub(super) slot_loss: Option<GapCause>,
}

/// Looks: refuses another cluster, makes sure of record, slot and history files.
pub(super) async fn look(
    branch: &BranchContext,
    settings: &ConnectionSettings,
    connection: &mut ReplicationConnection,
    slot_is_invalid: bool,
) -> Result<Findings, ArchiveError> {
    let identity = connection.identify_system().await?;
    let expected = branch.branch.system_identifier;
    if identity.system_identifier != expected {
        let found = identity.system_identifier;
        return Err(ArchiveError::ForeignSystem { found, expected });
    }
    let size = branch.branch.wal_segment_size;
    let shown = connection.show("wal_segment_size").await?;
    if parse_size(&shown) != Some(size.bytes()) {
        return Err(ArchiveError::SegmentSize {
            found: shown,
            expected: size,
        });
    }
    let uploader = &branch.uploader;
    let record = branch_record(branch);
    let _ = uploader
        .patiently(|| uploader.writer().claim_branch(&record))
        .await?;
    let objects = uploader
        .patiently(|| uploader.writer().list_wal(size))
        .await?;
    let position = settled_position(uploader, !objects.is_empty()).await?;
    // After the archive was looked at, which another archiver may have carried on until just now.
    let identity = connection.identify_system().await?;
    let objects_seen = objects
        .iter()
        .filter(|object| object.kind != WalObjectKind::History);
    let newest = objects_seen.map(|object| object.timeline).max();
    refuse_old_primary(identity.timeline, newest, position.as_ref())?;
    let (timeline, flush_lsn) = (identity.timeline, identity.flush_lsn);
    if let Err(set_back) = refuse_if_set_back(timeline, flush_lsn, position.as_ref())
        && connection.show("in_hot_standby").await? != "on"
    {
        return Err(set_back);
    }
    // A server that is refused has no slot made, and one whose archive is away holds nothing back anew.
    let (slot_restart, slot_loss) =
        ensure_slot(branch, settings, connection, slot_is_invalid).await?;
    let history = archive_histories(branch, connection, identity.timeline).await?;
    let (archived, partials) = sort_objects(&objects);
    for superseded in partials.intersection(&archived) {
        uploader.delete_partial(*superseded).await;
    }
    Ok(Findings {
        identity,
        history,
        archived,
        partials,
        position,
        slot_restart,
        slot_loss,
    })
}

/// Where the slot holds WAL back, and what became of it if it had to be made again.
async fn ensure_slot(
    branch: &BranchContext,
    settings: &ConnectionSettings,
    connection: &mut ReplicationConnection,
    slot_is_invalid: bool,
) -> Result<(Option<Lsn>, Option<GapCause>), ArchiveError> {
    let slot = slot_name(&branch.key.instance, &branch.key.branch);
    let loss = match connection.read_slot(&slot).await? {
        Some(state) if state.restart_lsn.is_some() && !slot_is_invalid => {
            return Ok((state.restart_lsn, None));
        }
        Some(_) => {
            let loss = if slot_is_invalid || was_invalidated(settings, &slot).await {
                GapCause::SlotInvalidated
            } else {
                GapCause::SlotLost
            };
            tracing::warn!(slot, ?loss, "the slot holds nothing; it is made again");
            let _ = connection.drop_slot(&slot).await?;
            loss
        }
        None => {
            tracing::warn!(slot, "the slot does not exist; it is made now");
            GapCause::SlotLost
        }
    };
    let _ = connection
        .create_physical_slot(&slot, ReserveWal::Now)
        .await?;
    let made = connection.read_slot(&slot).await?;
    Ok((made.and_then(|state| state.restart_lsn), Some(loss)))
}

/// Whether a slot without a position was invalidated, or made by somebody without holding anything. The replication
/// protocol does not say; of a server that may not be asked in SQL the former is believed.
async fn was_invalidated(settings: &ConnectionSettings, slot: &str) -> bool {
    let ask = format!(
        "SELECT wal_status = 'lost' FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        quote_literal(slot)
    );
    let answer = async {
        let mut connection = SqlConnection::connect(settings).await?;
        let rows = connection.query(&ask).await?;
        connection.close().await;
        Ok::<_, PgError>(rows.first().is_some_and(|row| row.get(0) == Some("t")))
    };
    match answer.await {
        Ok(lost) => lost,
        Err(error) => {
            tracing::debug!(%error, "what became of the slot cannot be asked");
            true
        }
    }
}

/// Stores the history files that lead to `timeline`, and gives back its history.
///
/// An ancestor's own file may be gone from the server; the newest one tells all that recovery needs.
pub(super) async fn archive_histories(
    branch: &BranchContext,
    connection: &mut ReplicationConnection,
    timeline: TimelineId,
) -> Result<TimelineHistory, ArchiveError> {
    if timeline == TimelineId(1) {
        return Ok(TimelineHistory::root(timeline));
    }
    let file = connection.timeline_history(timeline).await?;
    let text = String::from_utf8_lossy(&file.content).into_owned();
    let history = TimelineHistory::parse(timeline, &text)
        .map_err(|source| ArchiveError::History { timeline, source })?;
    for ancestor in history.switches().iter().map(|switch| switch.timeline) {
        if ancestor == TimelineId(1) {
            continue;
        }
        match connection.timeline_history(ancestor).await {
            Ok(file) => branch.uploader.history(ancestor, file.content).await?,
            Err(error) if error.sqlstate() == Some(SQLSTATE_UNDEFINED_FILE) => {
                tracing::warn!(timeline = %ancestor, "the server has no history file of an ancestor");
            }
            Err(error) => return Err(error.into()),
        }
    }
    branch.uploader.history(timeline, file.content).await?;
    Ok(history)
}

/// The archived segment before `start`, of the chain that begins with `chain_first`: what is streamed must
/// go on where it ends.
pub(super) async fn segment_before(
    branch: &BranchContext,
    findings: &Findings,
    history: &TimelineHistory,
    start: Lsn,
    chain_first: SegmentName,
) -> Result<Option<ReadBack>, ArchiveError> {
    let size = branch.branch.wal_segment_size;
    let first = chain_first.number(size);
    let Some(number) = size
        .segment_of(start)
        .checked_sub(1)
        .filter(|n| *n >= first)
    else {
        return Ok(None);
    };
    let name = SegmentName::new(archived_under(history, number, size), number, size);
    if !findings.archived.contains(&name) {
        return Ok(None);
    }
    match branch.uploader.read_back(name, size).await {
        Err(error @ RepositoryError::Corrupt { .. }) => {
            tracing::error!(segment = %name, %error, "archiving goes on after a damaged segment");
            Ok(None)
        }
        segment => Ok(segment?),
    }
}

/// What is stored of the segment that streaming begins with. A damaged beginning is worth nothing.
pub(super) async fn known_beginning(
    branch: &BranchContext,
    findings: &Findings,
    timeline: TimelineId,
    start: Lsn,
) -> Result<Option<KnownBeginning>, ArchiveError> {
    let size = branch.branch.wal_segment_size;
    let name = SegmentName::containing(timeline, start, size);
    if !findings.partials.contains(&name) {
        return Ok(None);
    }
    match branch.uploader.read_back_partial(name, size).await {
        Err(error @ RepositoryError::Corrupt { .. }) => {
            tracing::error!(segment = %name, %error, "what is stored of the open segment is damaged; it is stored again");
            Ok(None)
        }
        stored => Ok(stored?.map(|stored| KnownBeginning::new(name, &stored.bytes))),
    }
}

/// The stored position. A damaged one is as good as none: the segments themselves are still there.
pub(super) async fn stored_position(
    uploader: &Uploader,
) -> Result<Option<WalPosition>, ArchiveError> {
    let position = uploader
        .patiently(|| uploader.writer().wal_position())
        .await;
    match RepositoryError::absent_as_none(position) {
        Err(error @ RepositoryError::Corrupt { .. }) => {
            tracing::error!(%error, "the position is worked out from the segments");
            Ok(None)
        }
        position => Ok(position?),
    }
}

pub(super) fn sort_objects(
    objects: &[WalObject],
) -> (BTreeSet<SegmentName>, BTreeSet<SegmentName>) {
    let (mut segments, mut partials) = (BTreeSet::new(), BTreeSet::new());
    for object in objects {
        let _ = match object.kind {
            WalObjectKind::Segment(name) => segments.insert(name),
            WalObjectKind::Partial(name) => partials.insert(name),
            WalObjectKind::History => false,
        };
    }
    (segments, partials)
}

fn branch_record(branch: &BranchContext) -> BranchRecord {
    let active = &branch.branch;
    BranchRecord {
        instance: branch.key.instance.clone(),
        branch: branch.key.branch.clone(),
        system_identifier: active.system_identifier,
        server_version: active.server_version,
        wal_segment_size: active.wal_segment_size,
        parent: active.origin.as_ref().map(|origin| ParentBranch {
            branch: origin.branch.clone(),
            backup_id: origin.backup_id,
            fork_timeline: origin.fork_timeline,
            fork_lsn: origin.fork_lsn,
        }),
        created_at: active.created_at,
    }
}

/// `16MB`, `1GB`: as `SHOW` prints a size.
fn parse_size(shown: &str) -> Option<u64> {
    let digits = shown.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match &shown[digits.len()..] {
        "B" | "" => 0,
        "kB" => 10,
        "MB" => 20,
        "GB" => 30,
        _ => return None,
    };
    let bytes = digits.parse::<u64>().ok()?.checked_shl(shift)?;
    WalSegmentSize::new(bytes).ok().map(WalSegmentSize::bytes)
}

#[cfg(test)]
mod tests {
    use super::parse_size;

    #[test]
    fn sizes_are_read_as_the_server_prints_them() {
        for (shown, bytes) in [("16MB", 16 << 20), ("1MB", 1 << 20), ("1GB", 1 << 30)] {
            assert_eq!(parse_size(shown), Some(bytes));
        }
        for shown in ["", "MB", "3MB", "16TB", "99999999999999999999MB"] {
            assert_eq!(parse_size(shown), None);
        }
    }
}
