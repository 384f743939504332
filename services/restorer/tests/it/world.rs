//! What a restore needs around it.

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bus::{Bus, Decision, Progress, Sequence};
use events::document::{ActiveBranch, Branch};
use events::event::{BackupSummary, Event, RestoreRequested};
use events::{
    BranchName, ClusterSize, CommandId, InstanceDocument, InstanceName, RestoreId, RestoreTarget,
};
use object_store::memory::InMemory;
use provision::account;
use repository::faulty::{Fault, FaultyStore, Operation};
use repository::{BranchWriter, Repository, RetryPolicy, WalPosition};
use restorer::attempt::Ending;
use restorer::compute::{Compute, LocalCompute, compute_account};
use restorer::outcome::FinishedBranch;
use restorer::plan::Policy;
use restorer::restorer::{Memory, Restorer};
use restorer::site::Site;
use restorer::voice;
use service::seal::{ExposeSecret as _, dsn_context};
use service::{Clock, MasterKey, SystemClock};
use testkit::postgres::{Builder, PgVersion, Postgres};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{copy, scheduler};

/// Long enough for a restore on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// Faults of the object store.
#[derive(Debug, Default)]
pub(crate) struct Faults {
    /// Reads of whole segments fail after the first that recovery is given.
    pub(crate) wal: AtomicBool,
    /// Packs cannot be read.
    pub(crate) packs: AtomicBool,
    /// There once a restore to the branch `b` has begun; what the planner reads before never fails.
    begun: OnceLock<PathBuf>,
    segment_reads: AtomicU64,
    /// Calls that failed.
    pub(crate) failed: AtomicU64,
}

pub(crate) struct World {
    pub(crate) source: Postgres,
    pub(crate) restorer: Arc<Restorer>,
    pub(crate) compute: Arc<LocalCompute>,
    pub(crate) writer: BranchWriter,
    pub(crate) faults: Arc<Faults>,
    /// Everything that is stored, without faults.
    pub(crate) stored: Arc<InMemory>,
    pub(crate) drain: CancellationToken,
    /// Cancelled when the test is over.
    pub(crate) over: CancellationToken,
    pub(crate) place: tempfile::TempDir,
}

pub(crate) fn instance() -> InstanceName {
    InstanceName::new("orders").expect("a name")
}

impl World {
    /// A source with rows 1 to 10 in `t`, kept WAL, a tablespace and a role with a password.
    pub(crate) async fn new(version: PgVersion) -> Result<World> {
        let world = Self::without_tablespace(version).await?;
        let space = world.source.directory("space")?;
        let create = format!("CREATE TABLESPACE space LOCATION '{}'", space.display());
        let _ = world.source.psql(&create).await?;
        let _ = world
            .source
            .psql("ALTER TABLE elsewhere SET TABLESPACE space")
            .await?;
        Ok(world)
    }

    /// The same, with everything in the data directory.
    pub(crate) async fn without_tablespace(version: PgVersion) -> Result<World> {
        Self::of(Postgres::builder().version(version)).await
    }

    /// The same, with room for prepared transactions.
    pub(crate) async fn prepared(version: PgVersion) -> Result<World> {
        let source = Postgres::builder().version(version);
        Self::of(source.setting("max_prepared_transactions", "100")).await
    }

    async fn of(source: Builder) -> Result<World> {
        let source = source
            .setting("wal_keep_size", "1GB")
            .setting("timezone", "Europe/Berlin")
            .start()
            .await?;
        let _ = source
            .psql(
                "CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE elsewhere (id int);
                 CREATE ROLE alice LOGIN PASSWORD 'old'",
            )
            .await?;
        let place = testkit::temporary_directory()?;
        let faults = Arc::new(Faults::default());
        let plan = Arc::clone(&faults);
        let stored = Arc::new(InMemory::new());
        let within = Arc::clone(&stored) as Arc<dyn object_store::ObjectStore>;
        let store = FaultyStore::new(within, move |operation, path| {
            plan.decide(operation, path.as_ref())
        });
        let retry = RetryPolicy {
            attempts: 2,
            ..RetryPolicy::default()
        };
        let repository = Repository::with_store(Arc::new(store), "", retry);
        let account = compute_account("postgres")?;
        let compute = LocalCompute::new(place.path().join("compute"), account, Vec::new());
        let compute = Arc::new(compute);
        let site = compute.site(&instance(), &BranchName::new("b")?);
        let _ = faults.begun.set(site.plan_file());
        let drain = CancellationToken::new();
        let restorer = Restorer {
            bus: Bus::in_memory(),
            repository: repository.clone(),
            compute: Arc::clone(&compute) as Arc<dyn Compute>,
            key: Arc::new(MasterKey::from_bytes(&[7; 32])),
            clock: Arc::new(SystemClock),
            policy: Policy {
                min_target_age: Duration::ZERO,
                room_bytes: 64 << 20,
            },
            name: "test".to_owned(),
            parallelism: 4,
            drain: drain.clone(),
            memory: Memory::default(),
        };
        let writer = repository.writer(&instance(), &BranchName::main());
        let restorer = Arc::new(restorer);
        let world = World {
            source,
            restorer,
            compute,
            writer,
            faults,
            stored,
            drain,
            over: CancellationToken::new(),
            place,
        };
        world.rows(1..=10).await?;
        world.describe_source(&world.restorer.bus).await?;
        scheduler::play(&world.restorer.bus, &world.over);
        Ok(world)
    }

    /// Writes the instance's document.
    pub(crate) async fn describe_source(&self, bus: &Bus) -> Result<()> {
        let now = SystemClock.now();
        let dsn = self.source.dsn();
        let dsn = self
            .restorer
            .key
            .seal(&dsn, &dsn_context(&instance(), &BranchName::main()))?;
        let main = ActiveBranch {
            dsn,
            system_identifier: pg_format::SystemIdentifier(1),
            timeline: pg_format::TimelineId(1),
            server_version: 150_000,
            wal_segment_size: pg_format::WalSegmentSize::DEFAULT,
            origin: None,
            size: None,
            created_at: now,
            archive_mode: events::ArchiveMode::default(),
            disk_risk: events::DiskRiskPolicy::default(),
        };
        let document = InstanceDocument {
            branches: [(BranchName::main(), Branch::Active(main))].into(),
            schedules: Vec::new(),
            ..InstanceDocument::new(instance(), CommandId(Uuid::now_v7()), now)
        };
        let put = |_: Option<&InstanceDocument>| Decision::Put(Box::new(document.clone()), ());
        Ok(bus.instances().update(&instance(), put).await?)
    }

    /// A restorer of another compute directory below `place`, on the same bus.
    pub(crate) fn another(&self, place: &str, bin: Vec<PathBuf>) -> Result<Restorer> {
        let account = compute_account("postgres")?;
        let compute = LocalCompute::new(self.place.path().join(place), account, bin);
        let restorer = &self.restorer;
        Ok(Restorer {
            bus: restorer.bus.clone(),
            repository: restorer.repository.clone(),
            compute: Arc::new(compute),
            key: Arc::clone(&restorer.key),
            clock: Arc::clone(&restorer.clock),
            policy: restorer.policy,
            name: place.to_owned(),
            parallelism: 4,
            memory: Memory::default(),
            drain: self.drain.clone(),
        })
    }

    /// Inserts rows, each in a transaction of its own.
    pub(crate) async fn rows(&self, ids: std::ops::RangeInclusive<i32>) -> Result<()> {
        let inserts: Vec<String> = ids
            .map(|id| format!("INSERT INTO t VALUES ({id}); INSERT INTO elsewhere VALUES ({id});"))
            .collect();
        self.source.psql(&inserts.join("\n")).await.map(drop)
    }

    pub(crate) async fn back_up(&self) -> Result<BackupSummary> {
        copy::back_up(&self.source, &self.writer).await
    }

    pub(crate) async fn archive(&self) -> Result<WalPosition> {
        copy::archive(&self.source, &self.writer).await
    }

    pub(crate) fn request(&self, branch: &str, target: RestoreTarget) -> RestoreRequested {
        RestoreRequested {
            restore_id: RestoreId(Uuid::now_v7()),
            instance: instance(),
            branch: BranchName::new(branch).expect("a name"),
            source_branch: BranchName::main(),
            target,
            size: ClusterSize::Dev,
            keep_passwords: false,
            requested_at: SystemClock.now(),
        }
    }

    /// Publishes the request as the scheduler does.
    pub(crate) async fn publish(&self, request: &RestoreRequested) -> Result<()> {
        scheduler::claim(&self.restorer.bus, &request.branch, request.restore_id).await?;
        let event = Event::RestoreRequested(request.clone());
        let event = voice::outgoing(request, event, SystemClock.now());
        let fence = voice::fence_of(request);
        let _ = self
            .restorer
            .bus
            .publish_expecting(event, &fence, Sequence::NONE)
            .await?;
        Ok(())
    }

    /// Requests and handles a restore; the last event on its fence.
    pub(crate) async fn run(&self, request: &RestoreRequested) -> Result<Event> {
        self.publish(request).await?;
        let progress = Progress::default();
        let ending = self.restorer.handle(request, &progress, true);
        let ending = tokio::time::timeout(PATIENCE, Box::pin(ending)).await?;
        anyhow::ensure!(ending == Ending::Done, "{ending:?}");
        let last = self.last(request).await?;
        if !matches!(last, Event::RestoreCompleted(_)) {
            let (bus, branch) = (&self.restorer.bus, &request.branch);
            let claim = Some(Branch::Restoring {
                restore_id: request.restore_id,
                source: None,
            });
            if scheduler::branch_of(bus, branch).await? == claim {
                scheduler::forget(bus, branch).await?;
            }
        }
        Ok(last)
    }

    pub(crate) async fn last(&self, request: &RestoreRequested) -> Result<Event> {
        let last = self.restorer.bus.last_on(&voice::fence_of(request)).await?;
        Ok(last.context("nothing was said")?.envelope.message)
    }

    /// Restores to a branch that must come to be.
    pub(crate) async fn restore(
        &self,
        branch: &str,
        target: RestoreTarget,
    ) -> Result<FinishedBranch> {
        let request = self.request(branch, target);
        match self.run(&request).await? {
            Event::RestoreCompleted(completed) => {
                let finished = self.finished(branch)?;
                anyhow::ensure!(finished.summary == completed.summary);
                Ok(finished)
            }
            other => bail!("{other:?}"),
        }
    }

    pub(crate) fn finished(&self, branch: &str) -> Result<FinishedBranch> {
        FinishedBranch::at(&self.site(branch))?.context("no outcome")
    }

    pub(crate) fn site(&self, branch: &str) -> Site {
        self.compute
            .site(&instance(), &BranchName::new(branch).expect("a name"))
    }

    /// The branch's connection URI.
    pub(crate) fn uri(&self, finished: &FinishedBranch) -> Result<String> {
        let register = &finished.register;
        let context = dsn_context(&register.instance, &register.branch);
        Ok(self
            .restorer
            .key
            .open(&register.dsn, &context)?
            .expose_secret()
            .to_owned())
    }

    /// Asks the branch over TCP with its new credentials.
    pub(crate) async fn ask(&self, finished: &FinishedBranch, sql: &str) -> Result<String> {
        self.source.psql_as(&self.uri(finished)?, sql).await
    }

    /// The rows of both tables, which must be the same and without holes.
    pub(crate) async fn count(&self, finished: &FinishedBranch) -> Result<i32> {
        let sql = "SELECT count(*) || ' ' || coalesce(max(id), 0) FROM t UNION ALL \
                   SELECT count(*) || ' ' || coalesce(max(id), 0) FROM elsewhere";
        let rows = self.ask(finished, sql).await?;
        let lines: Vec<&str> = rows.lines().collect();
        let (count, max) = lines[0].split_once(' ').context("no count")?;
        anyhow::ensure!(lines[0] == lines[1] && count == max, "{rows}");
        Ok(count.parse()?)
    }

    pub(crate) async fn remove(&self, branch: &str) -> Result<()> {
        scheduler::forget(&self.restorer.bus, &BranchName::new(branch)?).await?;
        Ok(self.compute.remove(&self.site(branch)).await?)
    }

    pub(crate) fn postmaster(&self, branch: &str) -> Option<u32> {
        let file = self.site(branch).data().join("postmaster.pid");
        std::fs::read_to_string(file)
            .ok()?
            .lines()
            .next()?
            .parse()
            .ok()
    }

    pub(crate) fn root_of(&self, branch: &str) -> PathBuf {
        self.site(branch).root().to_owned()
    }
}

impl Faults {
    fn decide(&self, operation: Operation, path: &str) -> Fault {
        if path.contains("/packs/") && self.packs.load(Ordering::Relaxed) {
            let _ = self.failed.fetch_add(1, Ordering::Relaxed);
            return Fault::Fail;
        }
        let segment =
            path.contains("/wal/") && path.rsplit('/').next().is_some_and(|n| n.len() == 24);
        if operation != Operation::Get || !segment || !self.wal.load(Ordering::Relaxed) {
            return Fault::Pass;
        }
        if !self.begun.get().is_some_and(|plan| plan.exists()) {
            return Fault::Pass;
        }
        if self.segment_reads.fetch_add(1, Ordering::Relaxed) == 0 {
            return Fault::Pass;
        }
        let _ = self.failed.fetch_add(1, Ordering::Relaxed);
        Fault::Fail
    }
}

impl Drop for World {
    /// Servers outlive the restorer by design; they must not outlive their test.
    fn drop(&mut self) {
        self.over.cancel();
        let compute = Arc::clone(&self.compute);
        let stopped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                for site in compute.sites().await? {
                    compute.remove(&site).await?;
                }
                anyhow::Ok(())
            })
        });
        let _ = stopped.join();
    }
}

/// Whether a process exists.
pub(crate) fn alive(pid: u32) -> bool {
    std::fs::read_link(format!("/proc/{pid}/exe")).is_ok()
}

/// Used where the user matters.
pub(crate) fn server_user() -> Option<u32> {
    provision::is_root()
        .then(|| account("postgres").map(|account| account.uid))
        .flatten()
}
