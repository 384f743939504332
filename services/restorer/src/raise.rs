//! Raises a server from a plan: files, recovery with its proof, and everything that is done before anybody may
//! come in. A restore makes a branch of it; a drill looks at it and throws it away.
//!
//! What must stay true: both go the same way, so that what a drill has shown is what a restore will do.

mod source_files;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use events::event::{ExtensionCheck, RestorePhase};
use events::plan::PlanCheck;
use events::{BranchName, ClusterSize, CommandId, InstanceName, Timestamp};
use pg_format::ControlFile;
use repository::{Manifest, RepositoryError, Target};
use tokio::time::Instant;

use crate::collations;
use crate::compute::{ComputeError, Stopping, server_log_end};
use crate::control::Minimums;
use crate::error::RestoreError;
use crate::extensions::{self, Depth};
use crate::fetch::{self, Cluster, FetchError, WalService};
use crate::hazards;
use crate::opening::{self, Fork, OldPasswords};
use crate::outcome::FinishedBranch;
use crate::recovery::{Recovered, Recovery};
use crate::restorer::{Prepared, Restorer};
use crate::server_sql::{self, Door};
use crate::settings::{self, Server, carried};
use crate::site::Site;
use crate::voice::Listener;

/// A fast answer after a start.
const READY: Duration = Duration::from_secs(120);
const LOOK: Duration = Duration::from_millis(500);
const CONTROL_READS: u32 = 4;

/// The phases by which the time is told.
pub(crate) const MATERIALISE: &str = "materialise";
pub(crate) const RECOVER: &str = "recover";
pub(crate) const OPEN: &str = "open";

/// What a server is raised for.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Purpose<'a> {
    /// To be a branch.
    Branch {
        /// The archiver's slot.
        slot: &'a str,
        /// What becomes of the source's passwords.
        old_passwords: OldPasswords,
    },
    /// To be looked at by ourselves. It listens on its Unix socket only, in a directory that only its user may enter.
    Sandbox {
        /// What one question may sort and hash on disk, if the operator says.
        temp_bytes: Option<u64>,
    },
}

/// One server being raised, in a site that is empty.
pub(crate) struct Raise<'a> {
    pub(crate) restorer: &'a Restorer,
    /// The restore or drill.
    pub(crate) by: CommandId,
    pub(crate) instance: &'a InstanceName,
    pub(crate) source: &'a BranchName,
    pub(crate) site: &'a Site,
    pub(crate) prepared: &'a Prepared,
    pub(crate) size: ClusterSize,
    /// Reads of packs at once.
    pub(crate) parallelism: usize,
    pub(crate) purpose: Purpose<'a>,
}

/// A server that is open.
pub(crate) struct Raised {
    pub(crate) superuser: String,
    /// The source's database, or one that is there.
    pub(crate) database: String,
    pub(crate) uri: String,
    pub(crate) port: u16,
    pub(crate) fork: Fork,
    /// The time of the last commit in it, as it was proven.
    pub(crate) last_commit_at: Option<Timestamp>,
    pub(crate) extensions: Vec<ExtensionCheck>,
    pub(crate) checks: Vec<PlanCheck>,
}

/// What the locked server told before it was opened.
struct Readied {
    superuser: String,
    password: String,
    database: String,
    extensions: Vec<ExtensionCheck>,
    checks: Vec<PlanCheck>,
    prepared_locks: u64,
}

impl Raise<'_> {
    /// Raises it; `phases` has the milliseconds of every phase that was passed.
    pub(crate) async fn run(
        &self,
        listener: &mut dyn Listener,
        phases: &mut BTreeMap<String, u64>,
    ) -> Result<Raised, RestoreError> {
        let begin = Instant::now();
        self.materialise(listener).await?;
        let compute = &*self.restorer.compute;
        let port = compute.free_port(&self.taken_ports().await?).await?;
        let carried = self.carried().await?;
        let minimums = self.minimums().await?;
        self.prepare_files().await?;
        let _ = phases.insert(MATERIALISE.to_owned(), millis(begin));

        let recovering = Instant::now();
        let server = Server {
            site: self.site,
            major: self.prepared.programs.version.major(),
            port,
            minimums: &minimums,
            carried: &carried.settings,
            size: self.size,
            listen: match self.purpose {
                Purpose::Branch { .. } => &compute.address().listen,
                Purpose::Sandbox { .. } => "",
            },
            prepared_locks: 0,
        };
        let recovered = match self.recover(server, listener).await {
            Err(RestoreError::Fetch(FetchError::Archive { file, source })) => {
                let reader = self.restorer.repository.reader(self.instance, self.source);
                let size = self.prepared.plan.backup.wal_segment_size;
                self.restorer.tell_damaged_wal(&reader, size, &source).await;
                return Err(FetchError::Archive { file, source }.into());
            }
            recovered => recovered?,
        };
        let recover_ms = millis(recovering);

        let opening = Instant::now();
        listener.progressed(RestorePhase::Open, 0, 0).await?;
        let fork = opening::fork(&self.site.data(), self.prepared.plan.history.timeline())?;
        if !recovered.at_target {
            self.has_replayed_all(&fork, listener).await?;
        }
        let last_commit_at = recovered.prove(&self.prepared.plan, fork.at)?;
        let _ = phases.insert(RECOVER.to_owned(), recover_ms);
        let mut readied = self.ready(port).await?;
        readied.checks.extend(carried.checks());
        // The source may have raised its settings since the backup, and what it prepared must still fit.
        let minimums = self.minimums().await?;
        let server = Server {
            minimums: &minimums,
            prepared_locks: readied.prepared_locks,
            ..server
        };
        self.open(&server, &readied, listener).await?;
        let _ = phases.insert(OPEN.to_owned(), millis(opening));
        Ok(Raised {
            uri: self.uri(port, &readied),
            superuser: readied.superuser,
            database: readied.database,
            port,
            fork,
            last_commit_at,
            extensions: readied.extensions,
            checks: readied.checks,
        })
    }

    async fn materialise(&self, listener: &mut dyn Listener) -> Result<(), RestoreError> {
        let repository = &self.restorer.repository;
        let reader = repository.reader(self.instance, self.source);
        let manifest = reader.manifest(self.prepared.plan.backup.backup_id).await?;
        let done = AtomicU64::new(0);
        let total = manifest.totals.logical_bytes;
        let mut work = Box::pin(self.write_files(&reader, &manifest, &done));
        loop {
            listener
                .progressed(
                    RestorePhase::Materialise,
                    done.load(Ordering::Relaxed),
                    total,
                )
                .await?;
            tokio::select! {
                written = &mut work => match written {
                    Ok(()) => return Ok(()),
                    Err(error) => return Err(self.judged(&manifest, error, listener).await),
                },
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }

    /// Whether files could not be written because the backup is damaged; if so, it is known from now on.
    async fn judged(
        &self,
        manifest: &Manifest,
        error: RepositoryError,
        listener: &dyn Listener,
    ) -> RestoreError {
        let mut judged = Box::pin(self.restorer.judged(self.by, manifest, error));
        loop {
            tokio::select! {
                error = &mut judged => return error,
                () = tokio::time::sleep(LOOK) => listener.alive(),
            }
        }
    }

    async fn write_files(
        &self,
        reader: &repository::BranchReader,
        manifest: &Manifest,
        done: &AtomicU64,
    ) -> Result<(), RepositoryError> {
        let target = Target {
            data_directory: self.site.data(),
            tablespaces: BTreeMap::new(),
            other_tablespaces: Some(self.site.tablespaces()),
            owner: self.restorer.compute.owner(),
        };
        let progress =
            |progress: repository::Progress| done.store(progress.bytes, Ordering::Relaxed);
        let written = reader.materialise(manifest, &target, self.parallelism, &progress);
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
        listener: &mut dyn Listener,
    ) -> Result<Recovered, RestoreError> {
        let restorer = self.restorer;
        let reader = restorer.repository.reader(self.instance, self.source);
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
        recovery.run(service, listener).await
    }

    /// Without a target, the server has taken the first record that it could not read for the end of the WAL; that
    /// has to be where the archive's records end.
    async fn has_replayed_all(
        &self,
        fork: &Fork,
        listener: &dyn Listener,
    ) -> Result<(), RestoreError> {
        let (plan, repository) = (&self.prepared.plan, &self.restorer.repository);
        let reader = repository.reader(self.instance, self.source);
        let served = plan.served();
        let end = fetch::last_record_end(&reader, &served, Cluster::of(&plan.backup)).await?;
        listener.alive();
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
    async fn ready(&self, port: u16) -> Result<Readied, RestoreError> {
        let names = &self.prepared.names;
        let (mut connection, superuser) =
            server_sql::superuser(self.site, port, names, READY).await?;
        let old = match self.purpose {
            Purpose::Branch {
                slot,
                old_passwords,
            } => {
                opening::create_slot(&mut connection, slot).await?;
                old_passwords
            }
            Purpose::Sandbox { .. } => OldPasswords::Drop,
        };
        let password = opening::new_password();
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
        listener: &dyn Listener,
    ) -> Result<(), RestoreError> {
        let (site, compute) = (self.site, &*self.restorer.compute);
        compute.stop(site, Stopping::Fast).await?;
        listener.alive();
        let (conf, hba) = match self.purpose {
            Purpose::Branch { .. } => (settings::open(server), settings::open_hba(server.listen)),
            Purpose::Sandbox { temp_bytes } => {
                let room = self.restorer.policy.room_bytes;
                let free = compute.free_bytes().await;
                let temp = temp_bytes.unwrap_or_else(|| settings::temp_bytes(room, free));
                (settings::sandbox(server, temp), settings::LOCKED_HBA)
            }
        };
        compute.write(&site.config_file(), conf.as_bytes()).await?;
        compute.write(&site.hba_file(), hba.as_bytes()).await?;
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

pub(crate) fn forget(path: &Path) -> Result<(), ComputeError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(ComputeError::file("remove", path)(error))
        }
        _ => Ok(()),
    }
}

pub(crate) fn millis(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}
