//! One connection to a branch's server, from login to the loss of it: identify, slot, history files,
//! start point, then stream timeline after timeline.

use std::collections::BTreeSet;
use std::sync::Arc;

use events::document::{ActiveBranch, slot_name};
use events::event::{GapCause, WalGapDetected};
use pg_format::{Lsn, SegmentName, TimelineHistory, TimelineId, WalSegmentSize};
use pg_replication::{
    ConnectionSettings, PgError, ReplicationConnection, ReserveWal, SystemIdentity,
};
use repository::{
    BranchRecord, OpenSegment, ParentBranch, RepositoryError, WalObject, WalObjectKind, WalPosition,
};
use service::Clock;
use service::seal::{ExposeSecret, MasterKey, dsn_context};
use tokio_util::sync::CancellationToken;

use crate::announcer::Announcer;
use crate::config::ArchiverConfig;
use crate::error::ArchiveError;
use crate::position::PositionKeeper;
use crate::receiver::{Receiver, ReceiverEnd};
use crate::start_point::{
    ArchivePosition, Evidence, Fork, StartPoint, after_gap, history_of, start_point,
};
use crate::status::{BranchKey, BranchStatus, ChainEnd};
use crate::uploader::Uploader;

const SQLSTATE_UNDEFINED_FILE: &str = "58P01";
const APPLICATION_NAME: &str = "zektor-wal-archiver";

/// Everything that archiving one branch needs.
#[derive(Clone)]
pub(crate) struct BranchContext {
    /// The branch.
    pub(crate) key: BranchKey,
    /// Its part of the instance document.
    pub(crate) branch: ActiveBranch,
    /// Settings.
    pub(crate) config: Arc<ArchiverConfig>,
    /// Where the open segment rests.
    pub(crate) spool_directory: Arc<std::path::PathBuf>,
    /// Opens the connection URI.
    pub(crate) master_key: Arc<MasterKey>,
    /// Our clock.
    pub(crate) clock: Arc<dyn Clock>,
    /// What is seen of the branch.
    pub(crate) status: Arc<BranchStatus>,
    /// Stores.
    pub(crate) uploader: Uploader,
    /// Tells the others.
    pub(crate) announcer: Announcer,
}

/// WAL that the server had removed when the session before asked for it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Missing {
    /// The timeline.
    pub(crate) timeline: TimelineId,
    /// The first byte that is missing.
    pub(crate) from: Lsn,
}

/// What went wrong before, until it is dealt with.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Trouble {
    /// WAL that could not be had.
    pub(crate) missing: Option<Missing>,
    /// The slot was gone, and had to be made again.
    pub(crate) slot_was_lost: bool,
}

/// What the repository and the server said at the beginning.
struct Findings {
    identity: SystemIdentity,
    history: TimelineHistory,
    archived: BTreeSet<SegmentName>,
    partials: BTreeSet<SegmentName>,
    position: Option<WalPosition>,
    slot_restart: Option<Lsn>,
    slot_was_lost: bool,
}

/// Archives until cancelled. What is `missing` is taken away once the gap is recorded.
///
/// # Errors
/// Whatever ended it; a new session goes on where this one was durable.
pub(crate) async fn run(
    branch: &BranchContext,
    trouble: &mut Trouble,
    cancel: &CancellationToken,
) -> Result<(), ArchiveError> {
    let settings = connection_settings(branch)?;
    let mut connection = ReplicationConnection::connect(&settings).await?;
    let findings = look(branch, &mut connection).await?;
    trouble.slot_was_lost |= findings.slot_was_lost;
    let start = begin_at(branch, &findings, *trouble);
    let mut position = PositionKeeper::new(branch, findings.position.clone(), &start);
    position
        .record_start(start.lsn, start.timeline, start.reason)
        .await?;
    // Recorded: streaming now begins beyond it, after a crash too.
    trouble.missing = None;
    let (mut timeline, mut lsn) = (start.timeline, start.lsn);
    let mut history = findings.history.clone();
    tracing::info!(%timeline, %lsn, reason = ?start.reason, "archiving begins");
    loop {
        branch.status.update(|seen| {
            seen.timeline = Some(timeline);
            seen.server_lsn = seen.server_lsn.max(Some(findings.identity.flush_lsn));
            seen.chain_end = Some(ChainEnd { timeline, lsn });
        });
        branch.announcer.announce(&branch.key);
        let own_history = history_of(&history, timeline).ok_or(ArchiveError::NotInHistory {
            timeline,
            server: history.timeline(),
        })?;
        let opening = Opening {
            settings: &settings,
            timeline,
            start: lsn,
            own_history,
            partials: &findings.partials,
            archived: &findings.archived,
            stored_partial: stored_partial(branch, &findings, timeline, lsn).await?,
        };
        let receiver = Box::pin(Receiver::start(branch, connection, opening, &mut position));
        match Box::pin(receiver.await?.run(cancel)).await? {
            ReceiverEnd::Cancelled => return Ok(()),
            ReceiverEnd::EndOfTimeline {
                next_timeline,
                switch_lsn,
                connection: given_back,
            } => {
                tracing::info!(%timeline, %next_timeline, %switch_lsn, "the timeline has ended");
                connection = *given_back;
                let identity = connection.identify_system().await?;
                history = archive_histories(branch, &mut connection, identity.timeline).await?;
                timeline = next_timeline;
                lsn = branch.branch.wal_segment_size.floor(switch_lsn);
                position.follow(timeline, lsn);
            }
        }
    }
}

/// What a receiver begins with.
pub(crate) struct Opening<'a> {
    /// For the second connection.
    pub(crate) settings: &'a ConnectionSettings,
    /// The timeline to stream.
    pub(crate) timeline: TimelineId,
    /// The beginning of a segment.
    pub(crate) start: Lsn,
    /// The history of `timeline`.
    pub(crate) own_history: TimelineHistory,
    /// The `.partial` objects there are.
    pub(crate) partials: &'a BTreeSet<SegmentName>,
    /// The complete segments there are.
    pub(crate) archived: &'a BTreeSet<SegmentName>,
    /// What is stored of the first segment.
    pub(crate) stored_partial: Option<OpenSegment>,
}

fn connection_settings(branch: &BranchContext) -> Result<ConnectionSettings, ArchiveError> {
    let context = dsn_context(&branch.key.instance, &branch.key.branch);
    let dsn = branch.master_key.open(&branch.branch.dsn, &context)?;
    let settings = ConnectionSettings::parse(dsn.expose_secret())?;
    Ok(settings.with_application_name(APPLICATION_NAME))
}

async fn look(
    branch: &BranchContext,
    connection: &mut ReplicationConnection,
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
    let (slot_restart, slot_was_lost) = ensure_slot(branch, connection).await?;
    let objects = uploader
        .patiently(|| uploader.writer().list_wal(size))
        .await?;
    let position = stored_position(uploader).await?;
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
        slot_was_lost,
    })
}

/// Where to begin, after the announcement of a gap if the session before met one.
fn begin_at(branch: &BranchContext, findings: &Findings, trouble: Trouble) -> StartPoint {
    let size = branch.branch.wal_segment_size;
    let position = findings.position.as_ref().and_then(|position| {
        let first_segment = SegmentName::parse(&position.first_segment, size).ok()?;
        Some(ArchivePosition {
            timeline: position.timeline,
            lsn: position.lsn,
            first_segment,
        })
    });
    let fork = branch.branch.origin.as_ref();
    let evidence = Evidence {
        segment_size: size,
        history: &findings.history,
        archived: &findings.archived,
        position,
        fork: fork.map(|origin| Fork {
            lsn: origin.fork_lsn,
            timeline: branch.branch.timeline,
        }),
        slot_restart: findings.slot_restart,
        server_flush: findings.identity.flush_lsn,
    };
    let Some(Missing { timeline, from }) = trouble.missing else {
        return start_point(&evidence);
    };
    let Some(start) = after_gap(&evidence, from) else {
        return start_point(&evidence);
    };
    let cause = if trouble.slot_was_lost {
        GapCause::SlotLost
    } else {
        GapCause::RemovedByServer
    };
    tracing::error!(
        from_lsn = %from, to_lsn = %start.lsn, ?cause,
        "wal is missing for good; targets after the gap need a new base backup"
    );
    branch.announcer.announce_gap(WalGapDetected {
        instance: branch.key.instance.clone(),
        branch: branch.key.branch.clone(),
        timeline,
        from_lsn: from,
        to_lsn: start.lsn,
        cause,
        detected_at: branch.clock.now(),
    });
    start
}

/// Where the slot holds WAL back, and whether it had to be made again.
async fn ensure_slot(
    branch: &BranchContext,
    connection: &mut ReplicationConnection,
) -> Result<(Option<Lsn>, bool), ArchiveError> {
    let slot = slot_name(&branch.key.instance, &branch.key.branch);
    let found = match connection.read_slot(&slot).await {
        Ok(found) => found,
        Err(PgError::Unsupported { .. }) => {
            let _ = connection
                .create_physical_slot(&slot, ReserveWal::Now)
                .await?;
            return Ok((None, false));
        }
        Err(error) => return Err(error.into()),
    };
    match found {
        Some(state) if state.restart_lsn.is_some() => return Ok((state.restart_lsn, false)),
        Some(_) => {
            tracing::warn!(
                slot,
                "the slot holds nothing or was invalidated; it is made again"
            );
            let _ = connection.drop_slot(&slot).await?;
        }
        None => tracing::warn!(slot, "the slot does not exist; it is made now"),
    }
    let _ = connection
        .create_physical_slot(&slot, ReserveWal::Now)
        .await?;
    let made = connection.read_slot(&slot).await?;
    Ok((made.and_then(|state| state.restart_lsn), true))
}

/// Stores the history files that lead to `timeline`, and gives back its history.
///
/// An ancestor's own file may be gone from the server; the newest one tells all that recovery needs.
async fn archive_histories(
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

/// How much of the segment that streaming begins with is stored: it is never replaced by less.
async fn stored_partial(
    branch: &BranchContext,
    findings: &Findings,
    timeline: TimelineId,
    start: Lsn,
) -> Result<Option<OpenSegment>, ArchiveError> {
    let name = SegmentName::containing(timeline, start, branch.branch.wal_segment_size);
    if !findings.partials.contains(&name) {
        return Ok(None);
    }
    let uploader = &branch.uploader;
    let call =
        || async { RepositoryError::absent_as_none(uploader.writer().open_segment(name).await) };
    Ok(uploader.patiently(call).await?)
}

/// The stored position. A damaged one is as good as none: the segments themselves are still there.
async fn stored_position(uploader: &Uploader) -> Result<Option<WalPosition>, ArchiveError> {
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

fn sort_objects(objects: &[WalObject]) -> (BTreeSet<SegmentName>, BTreeSet<SegmentName>) {
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

/// The server's "requested WAL segment has already been removed".
#[must_use]
pub(crate) fn is_removed(error: &PgError) -> bool {
    error.sqlstate() == Some(SQLSTATE_UNDEFINED_FILE)
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
