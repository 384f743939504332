//! The process: what all branches share, put together.

use std::path::PathBuf;
use std::sync::Arc;

use bus::Bus;
use repository::Repository;
use service::Clock;
use service::seal::MasterKey;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::announcer::{Announced, Announcer};
use crate::assignments::{Assignments, MakeContext};
use crate::config::ArchiverConfig;
use crate::index::{ArchiveTurn, IndexDesk};
use crate::session::BranchContext;
use crate::status::{BranchKey, Statuses};
use crate::uploader::{UploadMemory, Uploader};
use crate::{metrics, slot_risk, window};

/// An archiver.
pub struct Archiver {
    /// Settings.
    pub config: ArchiverConfig,
    /// Our name on leases.
    pub name: String,
    /// Where open segments rest.
    pub spool_directory: PathBuf,
    /// The bus; it need not be reachable.
    pub bus: Bus,
    /// The repository.
    pub repository: Repository,
    /// Opens connection URIs.
    pub master_key: Arc<MasterKey>,
    /// Our clock.
    pub clock: Arc<dyn Clock>,
}

impl Archiver {
    /// Archives until `shutdown`.
    pub async fn run(self, shutdown: CancellationToken) {
        let statuses = Statuses::default();
        let announcer = Announcer::default();
        let sizes = KnownBranches::default();
        metrics::observe(&statuses, &self.clock);
        slot_risk::observe(&statuses);
        let announcing = tokio::spawn(announcer.clone().run(
            self.bus.clone(),
            statuses.clone(),
            Arc::clone(&self.clock),
            sizes.places(self.repository.clone()),
            shutdown.clone(),
        ));
        let hearing = window::hear(self.bus.clone(), statuses.clone(), shutdown.clone());
        let hearing = tokio::spawn(hearing);
        let assignments = Assignments {
            bus: self.bus.clone(),
            repository: self.repository.clone(),
            holder: self.name.clone(),
            lease_ttl: self.config.lease_ttl,
            rescan_interval: self.config.wal_rescan_interval,
            limit: self.config.wal_branches_limit,
            statuses: statuses.clone(),
            make_context: self.make_context(statuses, announcer, sizes),
        };
        assignments.run(shutdown).await;
        for task in [announcing, hearing] {
            if let Err(error) = task.await {
                tracing::error!(%error, "a task for all branches ended abnormally");
            }
        }
    }

    fn make_context(
        &self,
        statuses: Statuses,
        announcer: Announcer,
        known: KnownBranches,
    ) -> MakeContext {
        let config = Arc::new(self.config.clone());
        let memory = UploadMemory::new(config.wal_upload_memory_mib);
        let spool_directory = Arc::new(self.spool_directory.clone());
        let (master_key, clock) = (Arc::clone(&self.master_key), Arc::clone(&self.clock));
        let repository = self.repository.clone();
        let archive_turn = ArchiveTurn::new(Semaphore::new(1));
        Arc::new(move |key, branch| {
            known.remember(&key, branch.wal_segment_size);
            let status = statuses.of(&key);
            let writer = repository.writer(&key.instance, &key.branch);
            BranchContext {
                uploader: Uploader::new(writer, memory.clone(), Arc::clone(&status)),
                key,
                branch,
                config: Arc::clone(&config),
                spool_directory: Arc::clone(&spool_directory),
                master_key: Arc::clone(&master_key),
                clock: Arc::clone(&clock),
                status,
                announcer: announcer.clone(),
                index: IndexDesk::default(),
                archive_turn: Arc::clone(&archive_turn),
            }
        })
    }
}

/// Segment sizes of the branches, for the announcer's listings.
#[derive(Clone, Debug, Default)]
struct KnownBranches(
    Arc<std::sync::Mutex<std::collections::BTreeMap<BranchKey, pg_format::WalSegmentSize>>>,
);

impl KnownBranches {
    fn remember(&self, key: &BranchKey, size: pg_format::WalSegmentSize) {
        let _ = self.lock().insert(key.clone(), size);
    }

    fn places(&self, repository: Repository) -> impl Fn(&BranchKey) -> Option<Announced> + use<> {
        let known = self.clone();
        move |key| {
            let size = *known.lock().get(key)?;
            Some(Announced {
                reader: repository.reader(&key.instance, &key.branch),
                size,
            })
        }
    }

    fn lock(
        &self,
    ) -> std::sync::MutexGuard<'_, std::collections::BTreeMap<BranchKey, pg_format::WalSegmentSize>>
    {
        self.0
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
