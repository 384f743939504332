//! Builds a branch: files, recovery, credentials, opening. Every step may be cut short; the next attempt begins
//! with empty directories.

mod source_files;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use events::RestoreSummary;
use events::command::{BranchOrigin, BranchRegister};
use events::event::{ExtensionCheck, RestorePhase, RestoreRequested};
use events::plan::PlanCheck;
use pg_format::ControlFile;
use repository::{BranchRecord, Manifest, ParentBranch, Target};
use service::seal::dsn_context;
use tokio::time::Instant;

use crate::collations;
use crate::compute::{ComputeError, Stopping, server_log_end};
use crate::control::Minimums;
use crate::error::RestoreError;
use crate::extensions::{self, Depth};
use crate::fetch::{self, Cluster, WalService};
use crate::hazards;
use crate::opening::{self, Fork, OldPasswords};
use crate::outcome::{self, FinishedBranch};
use crate::plan::StoredPlan;
use crate::recovery::{Recovered, Recovery};
use crate::restorer::{Prepared, Restorer};
use crate::server_sql::{self, Door};
use crate::settings::{self, Server, carried};
use crate::site::Site;
use crate::voice::Voice;

/// A fast answer after a start.
const READY: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(500);
const CONTROL_READS: u32 = 4;
const PORTS_TRIED: u32 = 3;

/// One branch being built.
pub(super) struct Build<'a> {
    pub(super) restorer: &'a Restorer,
    pub(super) request: &'a RestoreRequested,
    pub(super) site: &'a Site,
    pub(super) prepared: &'a Prepared,
}

/// What the locked server told before it was opened.
struct Readied {
    superuser: String,
    password: String,
    database: String,
    fork: Fork,
    extensions: Vec<ExtensionCheck>,
    checks: Vec<PlanCheck>,
    prepared_locks: u64,
}

impl Build<'_> {
    /// Builds it. A port that somebody else took before the server had it is no reason to give up: nothing is claimed
    /// before the server listens, so building begins anew with another one.
    pub(super) async fn run(&self, voice: &mut Voice<'_>) -> Result<FinishedBranch, RestoreError> {
        for _ in 1..PORTS_TRIED {
            match self.build(voice).await {
                Err(RestoreError::Compute(error)) if error.port_was_taken() => {
                    tracing::warn!(%error, "the port was taken meanwhile; another one is tried");
                }
                built_or_failed => return built_or_failed,
            }
        }
        self.build(voice).await
    }

    async fn build(&self, voice: &mut Voice<'_>) -> Result<FinishedBranch, RestoreError> {
        let begin = Instant::now();
        let mut phases = BTreeMap::new();
        let compute = &*self.restorer.compute;
        compute.remove(self.site).await?;
        compute.create(self.site).await?;
        let stored = StoredPlan::new(self.request.restore_id, &self.prepared.plan);
        outcome::store_plan(self.site, &stored)?;

        self.materialise(voice).await?;
        let port = compute.free_port(&self.taken_ports().await?).await?;
        let carried = self.carried().await?;
        let minimums = self.minimums().await?;
        self.prepare_files().await?;
        let _ = phases.insert("materialise".to_owned(), millis(begin));

        let recovering = Instant::now();
        let server = Server {
            site: self.site,
            major: self.prepared.programs.version.major(),
            port,
            minimums: &minimums,
            carried: &carried.settings,
            size: self.request.size,
            listen: &compute.address().listen,
            prepared_locks: 0,
        };
        let recovered = self.recover(server, voice).await?;
        let _ = phases.insert("recover".to_owned(), millis(recovering));

        let opening = Instant::now();
        voice.progressed(RestorePhase::Open, 0, 0).await?;
        let fork = opening::fork(&self.site.data(), self.prepared.plan.history.timeline())?;
        if !recovered.at_target {
            self.has_replayed_all(&fork, voice).await?;
        }
        let last_commit_at = recovered.prove(&self.prepared.plan, fork.at)?;
        let mut readied = self.ready(port, fork).await?;
        readied.checks.extend(carried.checks());
        // The source may have raised its settings since the backup, and what it prepared must still fit.
        let minimums = self.minimums().await?;
        let server = Server {
            minimums: &minimums,
            prepared_locks: readied.prepared_locks,
            ..server
        };
        self.open(&server, &readied, voice).await?;
        self.claim(&readied.fork).await?;
        let _ = phases.insert("open".to_owned(), millis(opening));

        let summary = RestoreSummary {
            source_branch: self.request.source_branch.clone(),
            target: self.request.target.clone(),
            backup_id: self.prepared.plan.backup.backup_id,
            size: self.request.size,
            stop_lsn: readied.fork.at,
            fork_timeline: readied.fork.from,
            timeline: readied.fork.to,
            last_commit_at,
            host: compute.address().advertise.clone(),
            port,
            duration_ms: millis(begin),
            phases,
            extensions: readied.extensions.clone(),
            checks: readied.checks.clone(),
            completed_at: self.restorer.clock.now(),
        };
        self.finish(summary, port, &readied)
    }

    async fn materialise(&self, voice: &mut Voice<'_>) -> Result<(), RestoreError> {
        let request = self.request;
        let repository = &self.restorer.repository;
        let reader = repository.reader(&request.instance, &request.source_branch);
        let manifest = reader.manifest(self.prepared.plan.backup.backup_id).await?;
        let done = AtomicU64::new(0);
        let total = manifest.totals.logical_bytes;
        let mut work = Box::pin(self.write_files(&reader, &manifest, &done));
        loop {
            voice
                .progressed(
                    RestorePhase::Materialise,
                    done.load(Ordering::Relaxed),
                    total,
                )
                .await?;
            tokio::select! {
                written = &mut work => return written,
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    async fn write_files(
        &self,
        reader: &repository::BranchReader,
        manifest: &Manifest,
        done: &AtomicU64,
    ) -> Result<(), RestoreError> {
        let target = Target {
            data_directory: self.site.data(),
            tablespaces: BTreeMap::new(),
            other_tablespaces: Some(self.site.tablespaces()),
            owner: self.restorer.compute.owner(),
        };
        let progress =
            |progress: repository::Progress| done.store(progress.bytes, Ordering::Relaxed);
        let parallelism = self.restorer.parallelism;
        let written = reader.materialise(manifest, &target, parallelism, &progress);
        let _ = written.await?;
        Ok(())
    }

    /// Ports of the other branches here, those of stopped ones too.
    async fn taken_ports(&self) -> Result<BTreeSet<u16>, RestoreError> {
        let mut taken = BTreeSet::new();
        for site in self.restorer.compute.sites().await? {
            taken.extend(FinishedBranch::at(&site)?.map(|finished| finished.port));
        }
        Ok(taken)
    }

    /// From `pg_control`. The server may be writing it at this moment: a torn one is read again.
    async fn minimums(&self) -> Result<Minimums, RestoreError> {
        let path = self.site.data().join("global/pg_control");
        for _ in 1..CONTROL_READS {
            let bytes = fs::read(&path).map_err(ComputeError::file("read", &path))?;
            if let Ok(control) = ControlFile::parse(&bytes) {
                return Ok(Minimums::of(&control));
            }
            tokio::time::sleep(LOOK).await;
        }
        let bytes = fs::read(&path).map_err(ComputeError::file("read", &path))?;
        match ControlFile::parse(&bytes) {
            Ok(control) => Ok(Minimums::of(&control)),
            Err(error) => Err(RestoreError::Recovery(format!(
                "the restored pg_control is not sound: {error}"
            ))),
        }
    }

    async fn recover(
        &self,
        server: Server<'_>,
        voice: &mut Voice<'_>,
    ) -> Result<Recovered, RestoreError> {
        let (request, restorer) = (self.request, self.restorer);
        let reader = restorer
            .repository
            .reader(&request.instance, &request.source_branch);
        let served = self.prepared.plan.served();
        let cluster = Cluster::of(&self.prepared.plan.backup);
        let owner = restorer.compute.owner();
        let service = WalService::new(reader, served, cluster, self.site.spool(), owner);
        let recovery = Recovery {
            compute: &*restorer.compute,
            site: self.site,
            programs: &self.prepared.programs,
            plan: &self.prepared.plan,
            names: &self.prepared.names,
            server,
        };
        recovery.run(service, voice).await
    }

    /// Without a target, the server has taken the first record that it could not read for the end of the WAL; that
    /// has to be where the archive's records end.
    async fn has_replayed_all(&self, fork: &Fork, voice: &Voice<'_>) -> Result<(), RestoreError> {
        let (request, plan) = (self.request, &self.prepared.plan);
        let reader = self
            .restorer
            .repository
            .reader(&request.instance, &request.source_branch);
        let served = plan.served();
        let end = fetch::last_record_end(&reader, &served, Cluster::of(&plan.backup)).await?;
        voice.alive();
        match end {
            Some(end) if fork.at < end => Err(RestoreError::Recovery(format!(
                "recovery ended at {}, where it could not read on, but the archived wal goes on to {end}; \
                 the wal at {} is damaged",
                fork.at, fork.at
            ))),
            Some(_) => Ok(()),
            None => {
                tracing::warn!(fork = %fork.at, "the end of the archived wal cannot be judged");
                Ok(())
            }
        }
    }

    /// Everything that is done while nobody else can connect.
    async fn ready(&self, port: u16, fork: Fork) -> Result<Readied, RestoreError> {
        let names = &self.prepared.names;
        let (mut connection, superuser) =
            server_sql::superuser(self.site, port, names, READY).await?;
        let slot = events::document::slot_name(&self.request.instance, &self.request.branch);
        opening::create_slot(&mut connection, &slot).await?;
        let password = opening::new_password();
        let old = match self.request.keep_passwords {
            true => OldPasswords::KeepApplications,
            false => OldPasswords::Drop,
        };
        let mut checks =
            vec![opening::replace_passwords(&mut connection, &superuser, &password, old).await?];
        let bin = &self.prepared.programs.bin;
        let exists = |library: &str| carried::library_exists(bin, library);
        let door = Door::Locked {
            site: self.site,
            port,
            superuser: &superuser,
        };
        let found = hazards::neutralise(&mut connection, &door, exists);
        checks.extend(Box::pin(found).await?);
        let depth = Depth::Files(&exists);
        let extensions = Box::pin(extensions::check(&mut connection, &door, depth)).await?;
        let major = self.prepared.programs.version.major();
        checks.push(collations::check(&mut connection, &door, major).await?);
        let prepared_locks = opening::prepared_locks(&mut connection).await?;
        checks.extend(opening::prepared(&mut connection).await?);
        let wanted = pg_replication::quote_literal(&names.database);
        let there = format!(
            "SELECT 1 FROM pg_catalog.pg_database WHERE datallowconn AND datname = {wanted}"
        );
        // At the restored moment the source's database may not have existed yet.
        let there = !connection.query(&there).await?.is_empty();
        let database = if there {
            names.database.clone()
        } else {
            "postgres".to_owned()
        };
        connection.close().await;
        Ok(Readied {
            superuser,
            password,
            database,
            fork,
            extensions,
            checks,
            prepared_locks,
        })
    }

    /// Starts it again with its own limits and for everybody who has the new password.
    async fn open(
        &self,
        server: &Server<'_>,
        readied: &Readied,
        voice: &Voice<'_>,
    ) -> Result<(), RestoreError> {
        let (site, compute) = (self.site, &*self.restorer.compute);
        compute.stop(site, Stopping::Fast).await?;
        voice.alive();
        compute
            .write(&site.config_file(), settings::open(server).as_bytes())
            .await?;
        compute
            .write(
                &site.hba_file(),
                settings::open_hba(server.listen).as_bytes(),
            )
            .await?;
        forget(&site.fetch_script())?;
        let spool = site.spool();
        fs::remove_dir_all(&spool).map_err(ComputeError::file("remove", &spool))?;
        self.restorer
            .start_server(site, &self.prepared.programs, server.port)
            .await?;
        // By the socket: whether others reach the advertised address is not seen from here.
        let uri = self.uri(server.port, readied);
        let door = Door::Open {
            site,
            uri: &uri,
            major: server.major,
        };
        let mut connection = door.enter(&readied.database).await?;
        let rows = connection.query("SELECT pg_is_in_recovery()").await?;
        connection.close().await;
        if rows.first().and_then(|row| row.get(0)) == Some("f") {
            return Ok(());
        }
        let log = server_log_end(site);
        Err(ComputeError::ServerEnded {
            during: "opening",
            log,
        }
        .into())
    }

    /// From here on the branch's prefix of the repository is this cluster's. Last, because it cannot be undone.
    async fn claim(&self, fork: &Fork) -> Result<(), RestoreError> {
        let (request, backup) = (self.request, &self.prepared.plan.backup);
        let record = BranchRecord {
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            system_identifier: backup.system_identifier,
            server_version: self.prepared.programs.version.0,
            wal_segment_size: backup.wal_segment_size,
            parent: Some(ParentBranch {
                branch: request.source_branch.clone(),
                backup_id: backup.backup_id,
                fork_timeline: fork.from,
                fork_lsn: fork.at,
            }),
            created_at: self.restorer.clock.now(),
        };
        let writer = self
            .restorer
            .repository
            .writer(&request.instance, &request.branch);
        let _ = writer.claim_branch(&record).await?;
        Ok(())
    }

    fn finish(
        &self,
        summary: RestoreSummary,
        port: u16,
        readied: &Readied,
    ) -> Result<FinishedBranch, RestoreError> {
        let (request, backup) = (self.request, &self.prepared.plan.backup);
        let context = dsn_context(&request.instance, &request.branch);
        let dsn = self.restorer.key.seal(&self.uri(port, readied), &context)?;
        let register = BranchRegister {
            instance: request.instance.clone(),
            branch: request.branch.clone(),
            origin: BranchOrigin {
                branch: request.source_branch.clone(),
                restore_id: request.restore_id,
                backup_id: backup.backup_id,
                fork_timeline: readied.fork.from,
                fork_lsn: readied.fork.at,
                holder: Some(self.restorer.compute.holder()?),
            },
            timeline: readied.fork.to,
            system_identifier: backup.system_identifier,
            server_version: self.prepared.programs.version.0,
            wal_segment_size: backup.wal_segment_size,
            size: request.size,
            dsn,
            created_at: summary.completed_at,
        };
        let finished = FinishedBranch {
            restore_id: request.restore_id,
            major: self.prepared.programs.version.major(),
            port,
            summary,
            register,
            registered: false,
        };
        finished.store(self.site)?;
        // The outcome counts from here on; the plan is of no more use.
        forget(&self.site.plan_file())?;
        Ok(finished)
    }

    fn uri(&self, port: u16, readied: &Readied) -> String {
        let encoded = server_sql::percent_encoded;
        format!(
            "postgres://{}:{}@{}:{port}/{}",
            encoded(&readied.superuser),
            encoded(&readied.password),
            self.restorer.compute.address().advertise,
            encoded(&readied.database)
        )
    }
}

fn forget(path: &Path) -> Result<(), ComputeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ComputeError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
