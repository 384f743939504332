//! Workers of pools as real processes on a real NATS: who takes what, how much of it at once, and what they say of it.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use bus::{Bus, BusConfig, Decision, Outgoing};
use events::document::{ActiveBranch, Branch};
use events::event::{BackupFailed, BackupRequested, FailureCause};
use events::{
    BackupId, BranchName, CommandId, Event, InstanceDocument, InstanceName, MessageId, PoolName,
    example, subject, topology,
};
use pg_format::{SystemIdentifier, TimelineId, WalSegmentSize};
use service::MasterKey;
use service::seal::dsn_context;
use testkit::nats::NatsServer;
use testkit::port::Port;
use testkit::process::Service;
use testkit::wait_until;

const DEADLINE: Duration = Duration::from_secs(60);

struct Place {
    bus: Bus,
    nats: NatsServer,
    directory: tempfile::TempDir,
    key: MasterKey,
}

impl Place {
    async fn new() -> Self {
        let nats = NatsServer::start().await.unwrap();
        let bus = Bus::connect(BusConfig::new(nats.url(), "test"));
        let bus = bus.await.unwrap();
        bus.apply_topology().await.unwrap();
        let directory = testkit::temporary_directory().unwrap();
        let key = MasterKey::generate_file(&directory.path().join("key")).unwrap();
        Place {
            bus,
            nats,
            directory,
            key,
        }
    }

    async fn worker(&self, name: &str, pools: &str, settings: &[(&str, &str)]) -> Service {
        let port = Port::reserve().unwrap();
        let address = format!("127.0.0.1:{}", port.number());
        let place = self.directory.path();
        let repository = format!("file://{}", place.join("repository").display());
        let mut builder = Service::builder("zektor-backup-worker")
            .env("ZEKTOR_NATS_URL", self.nats.url())
            .env("ZEKTOR_REPOSITORY_URL", repository)
            .env(
                "ZEKTOR_MASTER_KEY_FILE",
                place.join("key").display().to_string(),
            )
            .env("ZEKTOR_HOME", place.display().to_string())
            .env("ZEKTOR_WORKER_NAME", name)
            .env("ZEKTOR_WORKER_POOLS", pools)
            .env("ZEKTOR_HTTP_LISTEN", &address)
            .health(&address);
        for (setting, value) in settings {
            builder = builder.env(*setting, *value);
        }
        builder.start().await.unwrap()
    }

    /// As the scheduler does: the pool's consumer is there before its first request.
    async fn make_pool(&self, pool: &str) {
        let spec = topology::backup_jobs_of(&PoolName::new(pool).unwrap());
        self.bus.apply_consumer(&spec).await.unwrap();
    }

    async fn ask(&self, number: u128, pool: &str) -> BackupRequested {
        let pool = PoolName::new(pool).unwrap();
        let of_type = |event: &Event| matches!(event, Event::BackupRequested(_));
        let Some(Event::BackupRequested(example)) = example::events().into_iter().find(of_type)
        else {
            panic!("there is an example of every type");
        };
        let request = BackupRequested {
            backup_id: BackupId(uuid::Uuid::from_u128(number)),
            instance: InstanceName::new(format!("shop-{number}")).unwrap(),
            branch: BranchName::main(),
            pool: Some(pool).filter(|pool| pool.as_str() != PoolName::DEFAULT),
            ..example
        };
        let event = Event::BackupRequested(request.clone());
        let id = MessageId::new(uuid::Uuid::now_v7().to_string());
        let _sequence = self
            .bus
            .publish(Outgoing::new(event, id, example::at(0)))
            .await
            .unwrap();
        request
    }

    /// As the scheduler does when the instance is given another pool: published after the request that it replaces.
    async fn move_to(&self, request: &BackupRequested, pool: &str) -> BackupRequested {
        let pool = PoolName::new(pool).unwrap();
        let moved = BackupRequested {
            pool: Some(pool).filter(|pool| pool.as_str() != PoolName::DEFAULT),
            ..request.clone()
        };
        let fence = subject::backup_fence(&moved.instance, &moved.branch, moved.backup_id);
        let last = self.bus.last_on(&fence).await.unwrap().unwrap();
        let id = MessageId::new(format!("{}:{}", moved.backup_id, last.sequence));
        let event = Event::BackupRequested(moved.clone());
        let outgoing = Outgoing::new(event, id, example::at(0));
        let said = self.bus.publish_expecting(outgoing, &fence, last.sequence);
        let _sequence = said.await.unwrap();
        moved
    }

    /// The last that was said of a backup.
    async fn last(&self, request: &BackupRequested) -> Event {
        let fence = subject::backup_fence(&request.instance, &request.branch, request.backup_id);
        let last = self.bus.last_on(&fence).await.unwrap();
        last.unwrap().envelope.message
    }

    async fn is_untouched(&self, request: &BackupRequested) -> bool {
        matches!(self.last(request).await, Event::BackupRequested(_))
    }

    /// How many of them a worker has begun.
    async fn begun(&self, requests: &[BackupRequested]) -> usize {
        let mut begun = 0;
        for request in requests {
            begun += usize::from(!self.is_untouched(request).await);
        }
        begun
    }

    async fn until_begun(&self, requests: &[BackupRequested], count: usize) {
        wait_until("workers begin", DEADLINE, async || {
            self.begun(requests).await >= count
        })
        .await
        .unwrap();
    }

    /// The workers that began this.
    async fn workers_of(&self, request: &BackupRequested) -> Vec<String> {
        use futures::StreamExt as _;
        let fence = subject::backup_fence(&request.instance, &request.branch, request.backup_id);
        let said = self
            .bus
            .history(vec![fence], bus::Sequence::NONE, topology::EVENTS);
        let said = said.await.unwrap();
        let begun = said.filter_map(async |stored| match stored.unwrap().envelope.message {
            Event::BackupStarted(started) => Some(started.worker),
            _ => None,
        });
        begun.collect().await
    }

    /// Registers the instance with a server that takes connections and says nothing.
    async fn register(&self, instance: &InstanceName, port: u16) {
        let branch = BranchName::main();
        let dsn = format!("postgresql://nobody@127.0.0.1:{port}/postgres?sslmode=disable");
        let active = ActiveBranch {
            dsn: self
                .key
                .seal(&dsn, &dsn_context(instance, &branch))
                .unwrap(),
            system_identifier: SystemIdentifier(1),
            timeline: TimelineId(1),
            server_version: 180_000,
            wal_segment_size: WalSegmentSize::DEFAULT,
            origin: None,
            size: None,
            created_at: example::at(0),
            archive_mode: events::ArchiveMode::default(),
            disk_risk: events::DiskRiskPolicy::default(),
        };
        let document = InstanceDocument {
            branches: [(branch, Branch::Active(active))].into(),
            ..InstanceDocument::new(
                instance.clone(),
                CommandId(uuid::Uuid::nil()),
                example::at(0),
            )
        };
        let put = |_: Option<&InstanceDocument>| Decision::Put(document.clone().into(), ());
        self.bus.instances().update(instance, put).await.unwrap();
    }

    /// So many backups of this pool, which last until the test ends.
    async fn ask_for_long_ones(
        &self,
        numbers: std::ops::Range<u128>,
        pool: &str,
        port: u16,
    ) -> Vec<BackupRequested> {
        let mut requests = Vec::new();
        for number in numbers {
            let instance = InstanceName::new(format!("shop-{number}")).unwrap();
            self.register(&instance, port).await;
            requests.push(self.ask(number, pool).await);
        }
        requests
    }
}

/// Accepts connections, and keeps them.
async fn silent_server() -> u16 {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0));
    let listener = listener.await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(tokio::spawn(async move {
        let mut held = Vec::new();
        while let Ok((connection, _)) = listener.accept().await {
            held.push(connection);
        }
    }));
    port
}

/// The instances are not registered, so that whoever takes a request is done with it at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_taken_by_the_workers_of_its_pool_alone() {
    let place = Place::new().await;
    place.make_pool("eu").await;
    place.make_pool("us").await;
    let mut of_eu = place.worker("eu-1", "eu", &[]).await;
    let _of_default = place.worker("default-1", "default", &[]).await;
    let (mut eu, mut default, mut us) = (Vec::new(), Vec::new(), Vec::new());
    for number in 0..15_u128 {
        match number % 3 {
            0 => eu.push(place.ask(number, "eu").await),
            1 => default.push(place.ask(number, "default").await),
            _ => us.push(place.ask(number, "us").await),
        }
    }
    place.until_begun(&eu, 5).await;
    place.until_begun(&default, 5).await;
    for (requests, worker) in [(&eu, "eu-1"), (&default, "default-1")] {
        for request in requests {
            assert_eq!(place.workers_of(request).await, [worker]);
        }
    }
    assert_eq!(place.begun(&us).await, 0, "nobody serves that pool");

    // With its workers gone, what is asked of a pool waits for them, and for no others.
    let ended = of_eu.terminate().await.unwrap();
    assert_eq!(ended.code(), Some(0));
    let left = place.ask(100, "eu").await;
    let after = place.ask(101, "default").await;
    place.until_begun(&[after], 1).await;
    assert!(place.is_untouched(&left).await);
    let _of_both = place.worker("us-and-eu", "us, eu", &[]).await;
    place.until_begun(&us, 5).await;
    place.until_begun(std::slice::from_ref(&left), 1).await;
    for request in us.iter().chain([&left]) {
        assert_eq!(place.workers_of(request).await, ["us-and-eu"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_pool_of_a_worker_has_places_of_its_own() {
    let place = Place::new().await;
    let settings = [("ZEKTOR_BACKUP_CONCURRENCY", "2")];
    let _worker = place.worker("one", "eu, us, default", &settings).await;
    let port = silent_server().await;
    let eu = place.ask_for_long_ones(0..4, "eu", port).await;
    place.until_begun(&eu, 2).await;
    // A pool whose places are taken keeps nobody of another one waiting.
    let us = place.ask_for_long_ones(10..14, "us", port).await;
    place.until_begun(&us, 2).await;
    let last = place.ask_for_long_ones(20..21, "default", port).await;
    place.until_begun(&last, 1).await;
    assert_eq!((place.begun(&eu).await, place.begun(&us).await), (2, 2));
}

/// The requests stand in the old pool's consumer for as long as nobody serves it.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_moved_or_cancelled_is_begun_by_no_worker_of_its_old_pool() {
    let place = Place::new().await;
    place.make_pool("eu").await;
    let port = silent_server().await;
    let requests = place.ask_for_long_ones(0..4, "eu", port).await;
    let mut moved = Vec::new();
    for request in &requests[..3] {
        moved.push(place.move_to(request, "default").await);
    }
    // One of them goes back: it was asked of the workers of `eu` twice.
    let back = place.move_to(&moved[2], "eu").await;
    let cancelled = Event::BackupFailed(BackupFailed {
        backup_id: requests[3].backup_id,
        instance: requests[3].instance.clone(),
        branch: requests[3].branch.clone(),
        cause: FailureCause::Cancelled,
        transient: Some(false),
        message: "cancelled before a worker had begun it".to_owned(),
        hint: String::new(),
        failed_at: example::at(0),
    });
    let id = MessageId::new("cancelled");
    let outgoing = Outgoing::new(cancelled, id, example::at(0));
    let _sequence = place.bus.publish(outgoing).await.unwrap();

    // One of the two that are left is begun before the old pool has a worker, and one after.
    let _of_default = place.worker("default-1", "default", &[]).await;
    place.until_begun(&moved[..1], 1).await;
    let two_places = [("ZEKTOR_BACKUP_CONCURRENCY", "2")];
    let _of_eu = place.worker("eu-1", "eu", &two_places).await;
    place.until_begun(std::slice::from_ref(&back), 1).await;
    let eu = topology::backup_jobs_of(&PoolName::new("eu").unwrap());
    wait_until(
        "all of the pool's requests were looked at",
        DEADLINE,
        async || {
            let places = place.bus.places(&eu).await.unwrap();
            (places.free, places.in_hand) == (1, 1)
        },
    )
    .await
    .unwrap();
    assert_eq!(place.workers_of(&moved[0]).await, ["default-1"]);
    assert!(
        place.is_untouched(&moved[1]).await,
        "its pool has one place"
    );
    assert_eq!(place.workers_of(&back).await, ["eu-1"]);
    assert!(matches!(
        place.last(&requests[3]).await,
        Event::BackupFailed(_)
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn why_an_attempt_came_to_nothing_is_told_before_the_next_one_begins() {
    use futures::StreamExt as _;
    let place = Place::new().await;
    // Nobody listens there.
    let port = Port::reserve().unwrap();
    let requests = place
        .ask_for_long_ones(0..1, "default", port.number())
        .await;
    let _worker = place.worker("one", "default", &[]).await;
    wait_until("it is tried again", DEADLINE, async || {
        place.workers_of(&requests[0]).await.len() >= 2
    })
    .await
    .unwrap();
    let request = &requests[0];
    let fence = subject::backup_fence(&request.instance, &request.branch, request.backup_id);
    let said = place
        .bus
        .history(vec![fence], bus::Sequence::NONE, topology::EVENTS);
    let said: Vec<_> = said.await.unwrap().collect().await;
    let said = said
        .into_iter()
        .map(|stored| stored.unwrap().envelope.message);
    let until_second = said
        .skip(2)
        .take_while(|event| !matches!(event, Event::BackupStarted(_)));
    let problems: Vec<_> = until_second
        .filter_map(|event| match event {
            Event::BackupProgressed(progressed) => progressed.problem,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains("cannot connect"), "{problems:?}");
}
