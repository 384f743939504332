//! One attempt at one backup: from the server's data directory to a manifest in the repository.

use std::sync::Arc;
use std::time::Duration;

use bus::Bus;
use events::document::{ActiveBranch, Branch, WalStretch, slot_name};
use events::event::{BackupPhase, BackupRequested, WalPoint};
use events::{ArchiveMode, BackupSummary, BackupType, Timestamp};
use pg_format::{SystemIdentifier, TimelineId};
use pg_replication::{
    BackupStart, BaseBackupOptions, ConnectionSettings, PgError, ReplicationConnection, ReserveWal,
    SqlConnection,
};
use repository::{BackupOptions, CommitOutcome, Repository, RepositoryError, StoredBackup};
use secrecy::ExposeSecret;
use service::clock::Clock;
use service::seal::{MasterKey, dsn_context};

use crate::config::WorkerConfig;
use crate::copy::{Copied, Copy};
use crate::failure::AttemptError;
use crate::rate::Rates;
use crate::voice::Voice;
use crate::wal_wait::{self, NeededWal};

/// A spread checkpoint takes most of `checkpoint_timeout`, which is five minutes unless it was changed.
const LONGEST_CHECKPOINT: Duration = Duration::from_secs(3600);
/// For what is left to store at the end of a copy.
const LONGEST_STORING: Duration = Duration::from_secs(3600);

/// What an attempt needs of the world.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) bus: Bus,
    pub(crate) repository: Repository,
    pub(crate) master_key: Arc<MasterKey>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) config: WorkerConfig,
    pub(crate) rates: Rates,
    /// This worker's name in events.
    pub(crate) worker: String,
}

/// A copied cluster, not a backup yet.
struct Taken {
    start: BackupStart,
    copied: Copied,
    backed_up_at: Timestamp,
    /// The same moment by this worker's clock.
    ended_at: Timestamp,
    server_version: u32,
    stored: StoredBackup,
}

impl Taken {
    fn needed_wal(&self, branch: &ActiveBranch) -> NeededWal {
        NeededWal {
            timeline: self.start.timeline,
            segment_size: branch.wal_segment_size,
            start: self.start.start_lsn,
            stop: self.copied.end.stop_lsn,
        }
    }
}

/// An attempt under way.
pub(crate) struct Attempt<'a> {
    pub(crate) world: &'a World,
    pub(crate) request: &'a BackupRequested,
    pub(crate) name: String,
    pub(crate) started_at: Timestamp,
    pub(crate) voice: Voice<'a>,
}

impl Attempt<'_> {
    /// Takes the backup. When this returns, the manifest stands and holds the summary.
    #[tracing::instrument(skip_all, fields(backup = %self.request.backup_id, attempt = %self.name))]
    pub(crate) async fn run(&mut self) -> Result<BackupSummary, AttemptError> {
        let (branch, dsn) = self.source().await?;
        let taken = Box::pin(self.take(&branch, &dsn)).await?;
        self.await_wal(&branch, &taken).await?;
        let summary = self.summarise(&branch, &taken);
        // Whoever was taken over while it waited commits nothing: its successor may have given up, and what was stored
        // may be gone.
        let bytes = summary.logical_bytes;
        self.voice
            .assured(BackupPhase::WaitingForWal, bytes, bytes)
            .await?;
        // If it stood still, or the slots were lost, its WAL may have been let go since it was waited for.
        self.look_again(&branch, &taken).await?;
        let commit = Box::pin(taken.stored.commit(summary));
        let committed = storing(&mut self.voice, commit).await?;
        if let CommitOutcome::AlreadyCommitted(other) = &committed {
            let attempt = &other.summary.attempt;
            tracing::info!(attempt, "another attempt was first; its backup stands");
        }
        let summary = committed.manifest().summary.clone();
        let cleaned = clean_up(self.world, &summary);
        let _cleaned = self.voice.beating(LONGEST_STORING, cleaned).await;
        Ok(summary)
    }

    /// Copies the cluster. The slot is made first: from then on the server keeps the WAL that the backup
    /// needs, whether or not an archiver runs.
    async fn take(
        &mut self,
        branch: &ActiveBranch,
        dsn: &ConnectionSettings,
    ) -> Result<Taken, AttemptError> {
        let (request, config) = (self.request, &self.world.config);
        let mut connection = ReplicationConnection::connect(dsn).await?;
        let timeline = check_cluster(&mut connection, branch.system_identifier).await?;
        // A server that pushes its WAL keeps it until it is pushed.
        if branch.archive_mode == ArchiveMode::Stream {
            let slot = slot_name(&request.instance, &request.branch);
            let _slot = connection
                .create_physical_slot(&slot, ReserveWal::Now)
                .await?;
        }
        let server_version = connection.server_version().0;

        self.voice.enter(BackupPhase::Checkpoint, 0, 0).await?;
        let asked = BaseBackupOptions {
            fast_checkpoint: config.backup_fast_checkpoint,
            max_rate_kib: Some(config.backup_max_rate_kib).filter(|rate| *rate > 0),
            ..BaseBackupOptions::new(format!("zektor {}", request.backup_id))
        };
        let begun = connection.base_backup(asked);
        let begun = self.voice.beating(LONGEST_CHECKPOINT, begun).await?;
        let mut stream = begun.ok_or(AttemptError::Stalled {
            after: LONGEST_CHECKPOINT,
        })??;
        let start = stream.start().clone();
        let total_bytes = start.tablespaces.iter().filter_map(|t| t.size_bytes).sum();
        let begins = WalPoint {
            timeline: start.timeline,
            lsn: start.start_lsn,
        };
        self.voice.begun(begins, total_bytes).await?;
        self.refuse_swept(begins).await?;
        let options = BackupOptions {
            compression_level: config.backup_compression_level,
            ..BackupOptions::default()
        };
        let writer = self
            .world
            .repository
            .writer(&request.instance, &request.branch);
        let mut pieces = writer.begin_backup(request.backup_id, &self.name, options)?;
        let rates = &self.world.rates;
        let copy = Copy::new(&mut pieces, &mut self.voice, rates, total_bytes);
        let copied = match copy.run(&mut stream).await {
            Ok(copied) => copied,
            Err(error) => return Err(unless_promoted(dsn, timeline, error).await),
        };
        let timelines = [start.timeline, copied.end.timeline];
        if let Some(after) = timelines.into_iter().find(|found| *found != timeline) {
            let (before, said) = (timeline, None);
            return Err(AttemptError::Promoted {
                before,
                after,
                said,
            });
        }
        let backed_up_at = server_clock(dsn).await?;
        let ended_at = self.world.clock.now();
        let stored = storing(&mut self.voice, pieces.finish()).await?;
        Ok(Taken {
            start,
            copied,
            backed_up_at,
            ended_at,
            server_version,
            stored,
        })
    }

    /// A lagging standby's backup may begin in WAL that is being deleted. A sweep that is claimed later sees that this
    /// backup runs; one that was over before is seen by the wait for the WAL.
    async fn refuse_swept(&self, begins: WalPoint) -> Result<(), AttemptError> {
        let (instance, branch) = (&self.request.instance, &self.request.branch);
        let document = self.world.bus.instances().get(instance).await?;
        let sweep = document.and_then(|(mut document, _)| document.sweeps.remove(branch));
        let needed = |stretch: &WalStretch| {
            stretch.timeline == begins.timeline && stretch.to_lsn > begins.lsn
        };
        match sweep.filter(|sweep| sweep.wal.iter().any(needed)) {
            Some(sweep) => Err(AttemptError::Swept {
                lsn: begins.lsn,
                sweep: sweep.sweep_id,
            }),
            None => Ok(()),
        }
    }

    async fn await_wal(
        &mut self,
        branch: &ActiveBranch,
        taken: &Taken,
    ) -> Result<(), AttemptError> {
        let (request, world) = (self.request, self.world);
        let bytes = taken.stored.totals.logical_bytes;
        self.voice
            .enter(BackupPhase::WaitingForWal, bytes, bytes)
            .await?;
        let needed = taken.needed_wal(branch);
        // Not waited for but for speed: without an archiver the wait below says what is wrong.
        let _position = world
            .bus
            .prove_archived(&request.instance, &request.branch)
            .await;
        let reader = world.repository.reader(&request.instance, &request.branch);
        let timeout = world.config.backup_wal_timeout;
        let waited = wal_wait::wait(&reader, needed, timeout);
        // The wait has its own limit, which comes first.
        let longest = timeout + LONGEST_STORING;
        let waited = self.voice.beating(longest, waited).await?;
        waited.ok_or(AttemptError::StoreStalled { after: longest })?
    }

    /// Fails if WAL that makes the backup consistent is not there any more.
    async fn look_again(
        &mut self,
        branch: &ActiveBranch,
        taken: &Taken,
    ) -> Result<(), AttemptError> {
        let request = self.request;
        let reader = self
            .world
            .repository
            .reader(&request.instance, &request.branch);
        let looked = wal_wait::check(&reader, taken.needed_wal(branch));
        let looked = self.voice.beating(LONGEST_STORING, looked).await?;
        let after = LONGEST_STORING;
        looked.ok_or(AttemptError::StoreStalled { after })?
    }

    fn summarise(&self, branch: &ActiveBranch, taken: &Taken) -> BackupSummary {
        let (request, totals) = (self.request, &taken.stored.totals);
        let mut summary = BackupSummary {
            backup_id: request.backup_id,
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            name: request.name.clone(),
            backup_type: BackupType::Full,
            trigger: request.trigger,
            schedule_id: request.schedule_id,
            requested_at: request.requested_at,
            started_at: self.started_at,
            backed_up_at: taken.backed_up_at,
            ended_at: Some(taken.ended_at),
            expires_at: None,
            wal_until: None,
            start_lsn: taken.start.start_lsn,
            stop_lsn: taken.copied.end.stop_lsn,
            timeline: taken.start.timeline,
            system_identifier: branch.system_identifier,
            server_version: taken.server_version,
            wal_segment_size: branch.wal_segment_size,
            logical_bytes: totals.logical_bytes,
            stored_bytes: totals.stored_bytes,
            files: totals.files,
            attempt: self.name.clone(),
            damaged_pages: taken.copied.damaged_pages.clone(),
        };
        let from = summary.kept_from();
        summary.expires_at = request
            .retention
            .map(|retention| retention.expires_at(from));
        summary.wal_until = request.wal.until(from);
        if let Some(ahead) = summary.clocks_differ_by() {
            tracing::warn!(
                server = %summary.backed_up_at, worker = %taken.ended_at, ahead_seconds = ahead.num_seconds(),
                "the server's clock and this worker's differ; the backup is kept by the later of them"
            );
        }
        summary
    }

    async fn source(&self) -> Result<(ActiveBranch, ConnectionSettings), AttemptError> {
        let (instance, branch) = (&self.request.instance, &self.request.branch);
        let document = self.world.bus.instances().get(instance).await?;
        let registered = document.filter(|(document, _)| !document.removing);
        let (document, _) = registered.ok_or(AttemptError::NotRegistered)?;
        let active = document.branches.get(branch).and_then(Branch::active);
        let active = active.ok_or_else(|| AttemptError::BranchGone(branch.clone()))?;
        let dsn = self
            .world
            .master_key
            .open(&active.dsn, &dsn_context(instance, branch))?;
        let dsn = ConnectionSettings::parse(dsn.expose_secret())?
            .with_application_name("zektor-backup-worker");
        Ok((active.clone(), dsn))
    }
}

/// Waits for the store, which has its own retries.
async fn storing<T>(
    voice: &mut Voice<'_>,
    stored: impl Future<Output = Result<T, RepositoryError>>,
) -> Result<T, AttemptError> {
    let after = LONGEST_STORING;
    let stored = voice.beating(after, stored).await?;
    Ok(stored.ok_or(AttemptError::StoreStalled { after })??)
}

/// What killed attempts left behind is of no use to anyone; not being able to remove it now does no harm.
async fn clean_up(world: &World, summary: &BackupSummary) {
    let writer = world.repository.writer(&summary.instance, &summary.branch);
    if let Err(error) = writer
        .delete_attempts_except(summary.backup_id, &summary.attempt)
        .await
    {
        tracing::warn!(error = %error, "objects of other attempts were not removed");
    }
}

async fn check_cluster(
    connection: &mut ReplicationConnection,
    expected: SystemIdentifier,
) -> Result<TimelineId, AttemptError> {
    let identity = connection.identify_system().await?;
    if identity.system_identifier != expected {
        let (found, expected) = (identity.system_identifier.0, expected.0);
        return Err(AttemptError::ForeignCluster { found, expected });
    }
    Ok(identity.timeline)
}

/// A server that is promoted refuses to end the base backup that it began as a standby. Its code (55000) says that
/// of other things too and its text is in its language, so it is asked for its timeline.
async fn unless_promoted(
    dsn: &ConnectionSettings,
    before: TimelineId,
    error: AttemptError,
) -> AttemptError {
    let AttemptError::Source(said @ PgError::Server(_)) = error else {
        return error;
    };
    match timeline(dsn).await {
        Ok(after) if after != before => AttemptError::Promoted {
            before,
            after,
            said: Some(said),
        },
        // What the server said first is the better answer.
        _ => AttemptError::Source(said),
    }
}

async fn timeline(dsn: &ConnectionSettings) -> Result<TimelineId, PgError> {
    let mut connection = ReplicationConnection::connect(dsn).await?;
    Ok(connection.identify_system().await?.timeline)
}

/// The server's clock, asked after the backup ended: nothing that was committed later is in the backup.
async fn server_clock(dsn: &ConnectionSettings) -> Result<Timestamp, AttemptError> {
    let mut connection = SqlConnection::connect(dsn).await?;
    let sql = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let rows = connection.query(sql).await?;
    connection.close().await;
    rows.first()
        .and_then(|row| row.get(0))
        .and_then(|micros| micros.parse().ok())
        .and_then(Timestamp::from_timestamp_micros)
        .ok_or(AttemptError::ServerClock)
}

#[cfg(test)]
mod tests;
