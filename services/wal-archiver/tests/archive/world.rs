//! A real NATS server, a local-directory repository, and archivers as real processes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bus::{Bus, BusConfig, Decision};
use events::command::BranchOrigin;
use events::document::{ActiveBranch, Branch, slot_name};
use events::event::Event;
use events::position::{ArchiverPosition, PositionQuestion};
use events::{BranchName, CommandId, InstanceDocument, InstanceName, subject};
use futures::StreamExt;
use pg_format::{Lsn, SegmentName, TimelineId, WalSegmentSize};
use repository::{BranchReader, Repository, RetryPolicy, WalObjectKind, WalPosition};
use service::seal::{MasterKey, dsn_context};
use service::{Clock, SystemClock};
use tempfile::TempDir;
use testkit::nats::NatsServer;
use testkit::postgres::Postgres;
use testkit::process::Service;
use testkit::wait_until;
use tokio_util::sync::CancellationToken;
use wal_archiver::{Archiver, ArchiverConfig};

/// Long enough for a busy machine; every wait ends when its fact is true.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

pub(crate) struct World {
    pub(crate) nats: NatsServer,
    pub(crate) bus: Bus,
    pub(crate) repository: Repository,
    key: MasterKey,
    place: TempDir,
}

/// An archiver in this process.
pub(crate) struct Inside {
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Inside {
    pub(crate) async fn end(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

/// A registered branch of a server.
pub(crate) struct Registered {
    pub(crate) instance: InstanceName,
    pub(crate) branch: BranchName,
    pub(crate) size: WalSegmentSize,
    pub(crate) reader: BranchReader,
}

impl World {
    pub(crate) async fn new() -> World {
        let nats = NatsServer::start().await.unwrap();
        let bus = Bus::connect(BusConfig::new(nats.url(), "test"))
            .await
            .unwrap();
        bus.apply_topology().await.unwrap();
        let place = tempfile::tempdir().unwrap();
        let key = MasterKey::generate_file(&place.path().join("master.key")).unwrap();
        let url = format!("file://{}", place.path().join("repository").display());
        let repository = Repository::open(&url, RetryPolicy::default()).unwrap();
        World {
            nats,
            bus,
            repository,
            key,
            place,
        }
    }

    pub(crate) fn repository_directory(&self) -> PathBuf {
        self.place.path().join("repository")
    }

    /// An archiver that has not been started.
    pub(crate) fn builder(&self, name: &str) -> testkit::process::Builder {
        let home = self.place.path();
        let mut builder = Service::builder("zektor-wal-archiver");
        for (variable, value) in [
            ("ZEKTOR_NATS_URL", self.nats.url()),
            (
                "ZEKTOR_REPOSITORY_URL",
                format!("file://{}", self.repository_directory().display()),
            ),
            (
                "ZEKTOR_MASTER_KEY_FILE",
                home.join("master.key").display().to_string(),
            ),
            ("ZEKTOR_HOME", home.display().to_string()),
            ("ZEKTOR_WORKER_NAME", name.to_owned()),
            ("ZEKTOR_WAL_FLUSH_INTERVAL", "300ms".to_owned()),
            ("ZEKTOR_POSITION_INTERVAL", "500ms".to_owned()),
            ("ZEKTOR_WAL_LONGEST_BACKOFF", "1s".to_owned()),
            ("ZEKTOR_WAL_RESCAN_INTERVAL", "2s".to_owned()),
            ("ZEKTOR_LEASE_TTL", "3s".to_owned()),
            ("RUST_LOG", "info,wal_archiver=debug".to_owned()),
        ] {
            builder = builder.env(variable, value);
        }
        builder
    }

    pub(crate) async fn archiver(&self, name: &str) -> Service {
        self.builder(name).start().await.unwrap()
    }

    /// An archiver in this process, over another view of the repository.
    pub(crate) async fn archiver_over(&self, repository: Repository) -> Inside {
        let home = self.place.path();
        let config = BusConfig::new(self.nats.url(), "inside");
        let archiver = Archiver {
            config: ArchiverConfig {
                wal_flush_interval: Duration::from_millis(300),
                position_interval: Duration::from_millis(500),
                wal_longest_backoff: Duration::from_secs(1),
                wal_rescan_interval: Duration::from_secs(2),
                lease_ttl: Duration::from_secs(3),
                ..ArchiverConfig::default()
            },
            name: "inside".to_owned(),
            spool_directory: home.join("spool"),
            bus: Bus::connect(config).await.unwrap(),
            repository,
            master_key: Arc::new(MasterKey::load(&home.join("master.key")).unwrap()),
            clock: Arc::new(SystemClock),
        };
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(archiver.run(shutdown.clone()));
        Inside { shutdown, task }
    }

    /// Writes the instance document, as the scheduler does, and makes the slot.
    pub(crate) async fn register(&self, name: &str, server: &Postgres) -> Registered {
        let registered = self.registered(name, server).await;
        let slot = slot_name(&registered.instance, &registered.branch);
        let make = format!("SELECT pg_create_physical_replication_slot('{slot}', true)");
        let _ = server.psql(&make).await.unwrap();
        registered
    }

    /// A branch that was restored from another one and left it at `fork_lsn`, on timeline 2.
    pub(crate) async fn register_restored(
        &self,
        name: &str,
        server: &Postgres,
        fork_lsn: Lsn,
    ) -> Registered {
        let registered = self.register(name, server).await;
        let (mut document, _) = self
            .bus
            .instances()
            .get(&registered.instance)
            .await
            .unwrap()
            .unwrap();
        for state in document.branches.values_mut() {
            if let Branch::Active(active) = state {
                active.timeline = TimelineId(2);
                active.origin = Some(BranchOrigin {
                    branch: BranchName::new("elsewhere").unwrap(),
                    restore_id: "0192d6a0-0000-7000-8000-000000000002".parse().unwrap(),
                    backup_id: "0192d6a0-0000-7000-8000-000000000003".parse().unwrap(),
                    fork_timeline: TimelineId(1),
                    fork_lsn,
                    holder: None,
                });
            }
        }
        self.put(document).await;
        registered
    }

    /// The same; the archiver reaches the server through another port.
    pub(crate) async fn register_behind(
        &self,
        name: &str,
        server: &Postgres,
        port: u16,
    ) -> Registered {
        let registered = self.register(name, server).await;
        let dsn = server
            .dsn()
            .replace(&format!(":{}/", server.port()), &format!(":{port}/"));
        let (mut document, _) = self
            .bus
            .instances()
            .get(&registered.instance)
            .await
            .unwrap()
            .unwrap();
        for (branch, state) in &mut document.branches {
            if let Branch::Active(active) = state {
                let context = dsn_context(&registered.instance, branch);
                active.dsn = self.key.seal(&dsn, &context).unwrap();
            }
        }
        self.put(document).await;
        registered
    }

    /// The branch's connection URI leads to another server from now on.
    pub(crate) async fn moves_to(&self, registered: &Registered, server: &Postgres) {
        self.moves_to_dsn(registered, &server.dsn()).await;
    }

    /// The same by its URI.
    pub(crate) async fn moves_to_dsn(&self, registered: &Registered, dsn: &str) {
        let context = dsn_context(&registered.instance, &registered.branch);
        let seal = || self.key.seal(dsn, &context).unwrap();
        self.change(registered, |active| active.dsn = seal()).await;
    }

    /// Changes the branch's part of the instance document.
    pub(crate) async fn change(&self, registered: &Registered, change: impl Fn(&mut ActiveBranch)) {
        let instances = self.bus.instances();
        let (mut document, _) = instances.get(&registered.instance).await.unwrap().unwrap();
        for state in document.branches.values_mut() {
            if let Branch::Active(active) = state {
                change(active);
            }
        }
        self.put(document).await;
    }

    /// The same without a slot.
    pub(crate) async fn registered(&self, name: &str, server: &Postgres) -> Registered {
        let instance = InstanceName::new(name).unwrap();
        let branch = BranchName::new("main").unwrap();
        let size = server.psql("SELECT setting FROM pg_settings WHERE name = 'wal_segment_size'");
        let size = WalSegmentSize::new(size.await.unwrap().parse().unwrap()).unwrap();
        let document = self.document(&instance, &branch, server, size).await;
        self.put(document).await;
        let reader = self.repository.reader(&instance, &branch);
        Registered {
            instance,
            branch,
            size,
            reader,
        }
    }

    pub(crate) async fn put(&self, document: InstanceDocument) {
        self.repository.put_instance(&document).await.unwrap();
        let put = |_: Option<&InstanceDocument>| Decision::Put(Box::new(document.clone()), ());
        self.bus
            .instances()
            .update(&document.instance, put)
            .await
            .unwrap();
    }

    async fn document(
        &self,
        instance: &InstanceName,
        branch: &BranchName,
        server: &Postgres,
        wal_segment_size: WalSegmentSize,
    ) -> InstanceDocument {
        let ask = "SELECT system_identifier FROM pg_control_system()";
        let system_identifier = server.psql(ask).await.unwrap().parse().unwrap();
        let version = server
            .psql("SHOW server_version_num")
            .await
            .unwrap()
            .parse()
            .unwrap();
        let created_at = SystemClock.now();
        let active = ActiveBranch {
            dsn: self
                .key
                .seal(&server.dsn(), &dsn_context(instance, branch))
                .unwrap(),
            system_identifier,
            timeline: TimelineId(1),
            server_version: version,
            wal_segment_size,
            origin: None,
            size: None,
            created_at,
            archive_mode: events::ArchiveMode::default(),
            disk_risk: events::DiskRiskPolicy::default(),
        };
        InstanceDocument {
            branches: BTreeMap::from([(branch.clone(), Branch::Active(active))]),
            schedules: Vec::new(),
            ..InstanceDocument::new(
                instance.clone(),
                "0192d6a0-0000-7000-8000-000000000001"
                    .parse::<CommandId>()
                    .unwrap(),
                created_at,
            )
        }
    }

    pub(crate) async fn ask(&self, registered: &Registered) -> Option<ArchiverPosition> {
        let subject = subject::archiver_position(&registered.instance, &registered.branch);
        let wait = Duration::from_secs(2);
        self.bus
            .request(&subject, &PositionQuestion::default(), wait)
            .await
            .ok()
    }

    /// Every WAL event of the branch so far.
    pub(crate) async fn events(&self, registered: &Registered) -> Vec<Event> {
        let filter = "zektor.wal.>".to_owned();
        let state = self.bus.stream_state("WAL").await.unwrap();
        let mut events = Vec::new();
        let mut stream = self.bus.follow(vec![filter], bus::From::Start, "WAL");
        for _ in 0..state.messages {
            let stored = stream.next().await.unwrap().unwrap();
            let event: Event = stored.envelope.message;
            if event.address()
                == [
                    registered.instance.to_string(),
                    registered.branch.to_string(),
                ]
            {
                events.push(event);
            }
        }
        events
    }

    /// Waits until the announcements name every complete segment of the listing, in order.
    pub(crate) async fn all_announced(&self, registered: &Registered) -> Vec<String> {
        let mut announced = Vec::new();
        wait_until("every segment to be announced", PATIENCE, async || {
            announced = names(&self.events(registered).await);
            registered
                .segments()
                .await
                .iter()
                .all(|name| announced.contains(&name.to_string()))
        })
        .await
        .unwrap();
        announced
    }
}

pub(crate) fn names(events: &[Event]) -> Vec<String> {
    let archived = events.iter().filter_map(|event| match event {
        Event::WalSegmentArchived(archived) => Some(archived.segment.clone()),
        _ => None,
    });
    archived.collect()
}

impl Registered {
    pub(crate) async fn segments(&self) -> Vec<SegmentName> {
        let objects = self.reader.list_wal(self.size).await.unwrap();
        let segment = |kind| match kind {
            WalObjectKind::Segment(name) => Some(name),
            _ => None,
        };
        objects
            .into_iter()
            .filter_map(|object| segment(object.kind))
            .collect()
    }

    pub(crate) async fn position(&self) -> Option<WalPosition> {
        self.reader.wal_position().await.ok()
    }

    /// Waits until the archive is complete up to where the server's WAL is now.
    pub(crate) async fn caught_up(&self, server: &Postgres) -> Lsn {
        let lsn: Lsn = flush_lsn(server).await;
        let mut last = None;
        let caught_up = wait_until("the archive to reach the server", PATIENCE, async || {
            last = self.position().await;
            last.as_ref().is_some_and(|position| position.lsn >= lsn)
        });
        if let Err(error) = caught_up.await {
            panic!("{error}: server at {lsn}, archive at {last:?}");
        }
        lsn
    }

    /// The archived chain from `position.first_segment` to `to`: every file once, byte for byte as in
    /// `pg_wal`, and readable by `pg_waldump` from end to end.
    pub(crate) async fn check_chain(&self, server: &Postgres, timeline: TimelineId, to: Lsn) {
        let position = self.position().await.unwrap();
        let first = SegmentName::parse(&position.first_segment, self.size).unwrap();
        let directory = server.directory("archived").unwrap();
        let pg_wal = server.data_directory().join("pg_wal");
        for number in first.number(self.size)..=self.size.segment_ending_at(to) {
            let name = SegmentName::new(timeline, number, self.size);
            let bytes = match self.reader.get_segment(name).await {
                Ok(bytes) => bytes,
                Err(error) if error.is_absent() => self.reader.get_partial(name).await.unwrap(),
                Err(error) => panic!("{error}"),
            };
            let original = std::fs::read(pg_wal.join(name.to_string())).unwrap();
            let complete = bytes.len() as u64 == self.size.bytes();
            assert!(
                complete || number == self.size.segment_ending_at(to),
                "{name} is cut"
            );
            assert!(
                original[..bytes.len()] == bytes[..],
                "{name} differs from the server's"
            );
            let mut padded = bytes.to_vec();
            padded.resize(original.len(), 0);
            let path = directory.join(name.to_string());
            std::fs::write(&path, padded).unwrap();
        }
        waldump(server, &directory, timeline, first.start(self.size), to);
    }
}

/// Reads the chain with PostgreSQL's own eyes.
fn waldump(
    server: &Postgres,
    directory: &std::path::Path,
    timeline: TimelineId,
    from: Lsn,
    to: Lsn,
) {
    // PostgreSQL 14 is tested without its pg_waldump; the bytes were compared with the server's own.
    let Ok(program) = server.bin("pg_waldump") else {
        return;
    };
    let mut command = std::process::Command::new(program);
    let output = command
        .args(["--quiet", "--timeline", &timeline.to_string(), "--path"])
        .arg(directory)
        .args(["--start", &from.to_string(), "--end", &to.to_string()])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

pub(crate) async fn flush_lsn(server: &Postgres) -> Lsn {
    server
        .psql("SELECT pg_current_wal_flush_lsn()")
        .await
        .unwrap()
        .parse()
        .unwrap()
}

/// Writes without pause until it is told to stop; rows that were refused do not count.
pub(crate) struct Writer {
    stop: Arc<std::sync::atomic::AtomicBool>,
    task: tokio::task::JoinHandle<u64>,
}

impl Writer {
    pub(crate) async fn start(server: &Arc<tokio::sync::RwLock<Postgres>>) -> Writer {
        let table = "CREATE TABLE load (id bigint GENERATED ALWAYS AS IDENTITY, filler text)";
        let _ = server.read().await.psql(table).await.unwrap();
        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let (server, ended) = (Arc::clone(server), Arc::clone(&stop));
        let task = tokio::spawn(async move {
            let mut transactions = 0;
            let insert = "INSERT INTO load (filler) \
                          SELECT repeat(md5(random()::text), 8) FROM generate_series(1, 400)";
            while !ended.load(std::sync::atomic::Ordering::Relaxed) {
                let written = server.read().await.psql(insert).await;
                transactions += u64::from(written.is_ok());
            }
            transactions
        });
        Writer { stop, task }
    }

    /// Ends it; the number of transactions.
    pub(crate) async fn end(self) -> u64 {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        self.task.await.unwrap()
    }
}
