//! One connection to a branch's server, from login to the loss of it: identify, slot, history files,
//! start point, then stream timeline after timeline.

mod closer_look;
mod findings;
mod refusals;

use std::collections::BTreeSet;
use std::sync::Arc;

use events::document::ActiveBranch;
use events::event::GapCause;
use pg_format::{Lsn, SegmentName, TimelineHistory, TimelineId};
use pg_replication::{ConnectionSettings, PgError, ReplicationConnection};
use repository::{GapProof, WalGap};
use service::Clock;
use service::seal::{ExposeSecret, MasterKey, dsn_context};
use tokio_util::sync::CancellationToken;

use findings::{Findings, archive_histories, known_beginning, look, segment_before};
pub(crate) use refusals::{refuse_if_set_back, refuse_old_primary};

use crate::announcer::Announcer;
use crate::config::ArchiverConfig;
use crate::error::ArchiveError;
use crate::index::{ArchiveTurn, IndexDesk};
use crate::known_beginning::KnownBeginning;
use crate::position::PositionKeeper;
use crate::receiver::{Receiver, ReceiverEnd};
use crate::start_point::{
    ArchivePosition, Evidence, Fork, StartPoint, after_gap, history_of, start_point,
};
use crate::status::{BranchKey, BranchStatus, ChainEnd};
use crate::uploader::{ReadBack, Uploader};

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
    /// What is said to the keeper of the index.
    pub(crate) index: IndexDesk,
    /// Whose turn it is to read the archive, over all branches.
    pub(crate) archive_turn: ArchiveTurn,
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
    /// What became of the slot, if it had to be made again.
    pub(crate) slot_loss: Option<GapCause>,
    /// The slot is there, but the server does not stream over it any more.
    pub(crate) slot_is_invalid: bool,
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
    let mut findings = look(branch, &settings, &mut connection, trouble.slot_is_invalid).await?;
    trouble.slot_is_invalid = false;
    trouble.slot_loss = trouble.slot_loss.or(findings.slot_loss);
    let start = begin(branch, &mut findings, trouble).await?;
    let stored = findings.position.clone();
    let mut position = PositionKeeper::new(branch, stored, &start, &findings.history);
    position.record_start(start.reason).await?;
    branch.announcer.announce_gaps(&branch.key);
    branch.status.window_news.notify_one();
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
        branch.status.relations.want_all();
        let own_history = history_of(&history, timeline).ok_or(ArchiveError::NotInHistory {
            timeline,
            server: history.timeline(),
        })?;
        let known = known_beginning(branch, &findings, timeline, lsn).await?;
        let before = segment_before(branch, &findings, &own_history, lsn, start.chain_first);
        let opening = Opening {
            settings: &settings,
            timeline,
            start: lsn,
            before: before.await?,
            own_history,
            partials: &findings.partials,
            archived: &findings.archived,
            known,
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
                position.follow(timeline, switch_lsn);
                position.record_now().await?;
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
    /// The segment that ends at `start`, if the chain has it.
    pub(crate) before: Option<ReadBack>,
    /// The history of `timeline`.
    pub(crate) own_history: TimelineHistory,
    /// The `.partial` objects there are.
    pub(crate) partials: &'a BTreeSet<SegmentName>,
    /// The complete segments there are.
    pub(crate) archived: &'a BTreeSet<SegmentName>,
    /// What is stored of the first segment, if it is not complete.
    pub(crate) known: Option<KnownBeginning>,
}

/// How to reach the branch's server.
///
/// # Errors
/// The connection URI cannot be opened or understood.
pub(crate) fn connection_settings(
    branch: &BranchContext,
) -> Result<ConnectionSettings, ArchiveError> {
    let context = dsn_context(&branch.key.instance, &branch.key.branch);
    let dsn = branch.master_key.open(&branch.branch.dsn, &context)?;
    let settings = ConnectionSettings::parse(dsn.expose_secret())?;
    Ok(settings.with_application_name(APPLICATION_NAME))
}

/// Where to begin. A gap before it is recorded, unless what the server lacks is in the archive after all.
async fn begin(
    branch: &BranchContext,
    findings: &mut Findings,
    trouble: &mut Trouble,
) -> Result<StartPoint, ArchiveError> {
    if let Some(missing) = trouble.missing
        && closer_look::is_archived(branch, findings, missing).await?
    {
        trouble.missing = None;
    }
    let (start, gap) = begin_at(branch, findings, *trouble);
    if let Some(gap) = gap {
        // First of all: once the new chain is recorded, nothing else remembers it.
        branch.uploader.record_gap(gap).await?;
    }
    Ok(start)
}

/// Where to begin, and the gap before it if the session before met one.
fn begin_at(
    branch: &BranchContext,
    findings: &Findings,
    trouble: Trouble,
) -> (StartPoint, Option<WalGap>) {
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
        partials: &findings.partials,
        position,
        fork: fork.map(|origin| Fork {
            lsn: origin.fork_lsn,
            timeline: branch.branch.timeline,
        }),
        slot_restart: findings.slot_restart,
        unpushed: None,
        server_flush: findings.identity.flush_lsn,
    };
    let Some(Missing { timeline, from }) = trouble.missing else {
        return (start_point(&evidence), None);
    };
    let Some(start) = after_gap(&evidence, from) else {
        return (start_point(&evidence), None);
    };
    // What is stored of the segment that could not be streamed again is not missing.
    let stored = position.filter(|position| {
        position.timeline == timeline && size.floor(position.lsn) == size.floor(from)
    });
    let from = stored.map_or(from, |position| from.max(position.lsn));
    // A slot holds what was not confirmed: one that begins behind that is another one, or was advanced.
    let elsewhere = findings.slot_restart.filter(|restart| *restart > from);
    let cause = trouble
        .slot_loss
        .or(elsewhere.map(|_| GapCause::SlotLost))
        .unwrap_or(GapCause::RemovedByServer);
    let proven = findings.position.as_ref();
    tracing::error!(
        from_lsn = %from, to_lsn = %start.lsn, ?cause,
        "wal is missing for good; targets after the gap need a new base backup"
    );
    let gap = WalGap {
        timeline,
        from_lsn: from,
        to_lsn: start.lsn,
        cause,
        detected_at: branch.clock.now(),
        proven: proven.and_then(|position| GapProof::of(position, timeline, from)),
    };
    (start, Some(gap))
}

/// The server's "requested WAL segment has already been removed".
#[must_use]
pub(crate) fn is_removed(error: &PgError) -> bool {
    error.sqlstate() == Some(SQLSTATE_UNDEFINED_FILE)
}
