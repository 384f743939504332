//! What only a real server has: versions, credentials, restarts, drift.

use std::collections::BTreeSet;
use std::time::Duration;

use async_nats::jetstream::stream;
use events::topology::{self, ConsumerSpec, EVENTS, INSTANCES};
use events::{Event, subject};
use futures::StreamExt as _;
use serde_json::json;
use testkit::nats::NatsServer;
use testkit::port::Port;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{NatsTransport, check_version};
use crate::conformance::{Backup, config, consume, consumer, in_time, nats};
use crate::{
    Bus, BusConfig, BusError, Class, Credentials, Delivery, From, Outcome, QueryError, Sequence,
};

#[test]
fn versions() {
    for good in ["2.12.0", "2.15.1", "3.0.0", "2.12.0-RC.1", "v2.14.0"] {
        assert!(check_version(good).is_ok(), "{good}");
    }
    for bad in ["2.9.10", "2.11.9", "1.20.0", "", "new", "2"] {
        assert!(check_version(bad).is_err(), "{bad}");
    }
}

/// A server that says it is Debian's, and answers pings.
async fn old_server() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            drop(tokio::spawn(async move {
                let info = json!({
                    "server_id": "old", "server_name": "old", "version": "2.9.10", "go": "go1.19",
                    "host": "127.0.0.1", "port": address.port(), "headers": true, "proto": 1,
                    "max_payload": 1_048_576, "jetstream": true, "client_id": 1,
                });
                let greeting = format!("INFO {info}\r\n");
                let mut said = vec![0; 4096];
                let mut written = socket.write_all(greeting.as_bytes()).await;
                while let (Ok(()), Ok(count @ 1..)) = (written, socket.read(&mut said).await) {
                    let pings = said[..count].windows(4).filter(|four| four == b"PING");
                    written = socket.write_all(&b"PONG\r\n".repeat(pings.count())).await;
                }
            }));
        }
    }));
    format!("nats://{address}")
}

#[tokio::test]
async fn an_old_server_is_refused() {
    let url = old_server().await;
    let refused = Bus::connect(BusConfig::new(&url, "test")).await;
    let Err(BusError::ServerTooOld { version }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!(version, "2.9.10");

    let bus = Bus::connect_lazily(BusConfig::new(&url, "test"));
    let state = in_time("the old server", async {
        loop {
            match bus.state() {
                Err(BusError::NeverConnected { .. }) => {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                state => return state,
            }
        }
    })
    .await;
    assert!(matches!(state, Err(BusError::ServerTooOld { .. })));
    assert!(!bus.is_connected());
    let refused = bus.publish(Backup::new().says("backup.requested")).await;
    let error = refused.unwrap_err();
    assert_eq!(error.class(), Class::Refused);
    assert!(error.to_string().contains("2.12 or newer"), "{error}");
}

#[tokio::test]
async fn a_server_that_is_not_there_is_waited_for_and_then_named() {
    let port = Port::reserve().unwrap();
    let url = format!("nats://secret@127.0.0.1:{}", port.number());
    let config = BusConfig {
        connect_deadline: Duration::from_millis(300),
        ..BusConfig::new(url, "test")
    };
    let error = Bus::connect(config).await.unwrap_err();
    assert!(matches!(error, BusError::Unreachable { .. }), "{error:?}");
    assert!(error.is_transient());
    assert!(!error.to_string().contains("secret"), "{error}");
}

#[tokio::test]
async fn connect_waits_for_a_server_that_comes_late() {
    let mut server = NatsServer::start().await.unwrap();
    server.stop().await.unwrap();
    let connecting = tokio::spawn(Bus::connect(config(&server)));
    server.start_again().await.unwrap();
    let bus = in_time("the connection", connecting)
        .await
        .unwrap()
        .unwrap();
    bus.apply_topology().await.unwrap();
}

#[tokio::test]
async fn a_lazy_bus_fails_at_once_and_works_later() {
    let mut server = NatsServer::start().await.unwrap();
    server.stop().await.unwrap();
    let bus = Bus::connect_lazily(config(&server));
    let backup = Backup::new();
    let request = backup.says("backup.requested");
    let at_once = tokio::time::timeout(Duration::from_secs(1), bus.publish(request.clone()));
    let error = at_once.await.unwrap().unwrap_err();
    assert!(
        matches!(error, BusError::NeverConnected { .. }),
        "{error:?}"
    );
    assert!(error.is_transient());
    // These wait.
    let (seen, mut handled) = mpsc::channel(10);
    let _consuming = consume(
        &bus,
        &consumer(Duration::from_secs(5), 5),
        1,
        move |delivery: Delivery<Event>| {
            let seen = seen.clone();
            async move {
                seen.send(delivery.envelope.id).await.unwrap();
                Outcome::Done
            }
        },
    );
    let mut watch = bus.bucket(INSTANCES).watch();

    server.start_again().await.unwrap();
    in_time("the connection", async {
        while !bus.is_connected() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    bus.apply_topology().await.unwrap();
    let _ = bus.publish(request.clone()).await.unwrap();
    assert_eq!(in_time("it", handled.recv()).await, Some(request.id));
    let _ = bus.bucket(INSTANCES).create("orders", "1").await.unwrap();
    assert_eq!(
        in_time("a change", watch.next()).await.unwrap().key,
        "orders"
    );
}

#[tokio::test]
async fn credentials() {
    let server = NatsServer::builder()
        .user("zektor", "s3cret")
        .start()
        .await
        .unwrap();
    let bus = Bus::connect(config(&server)).await.unwrap();
    bus.apply_topology().await.unwrap();
    let url = format!("nats://{}", server.address());
    let with = |credentials| BusConfig {
        credentials,
        ..BusConfig::new(&url, "test")
    };
    let user = |password: &str| Credentials::User {
        name: "zektor".to_owned(),
        password: password.to_owned(),
    };
    let _ = Bus::connect(with(Some(user("s3cret")))).await.unwrap();
    for wrong in [None, Some(user("wrong"))] {
        let refused = Bus::connect(with(wrong)).await;
        assert!(
            matches!(refused, Err(BusError::Unauthorized { .. })),
            "{refused:?}"
        );
    }
    let server = NatsServer::builder().token("s3cret").start().await.unwrap();
    let _ = Bus::connect(config(&server)).await.unwrap();
    let url = format!("nats://{}", server.address());
    let refused = Bus::connect(BusConfig::new(url, "test")).await;
    assert!(matches!(refused, Err(BusError::Unauthorized { .. })));
}

#[tokio::test]
async fn five_services_apply_the_topology_at_once() {
    let server = NatsServer::start().await.unwrap();
    let applying = (0..5).map(|_| {
        let config = config(&server);
        tokio::spawn(async move { Bus::connect(config).await?.apply_topology().await })
    });
    for applied in applying.collect::<Vec<_>>() {
        applied.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn drift_is_mended_or_refused() {
    let server = NatsServer::start().await.unwrap();
    let bus = Bus::connect(config(&server)).await.unwrap();
    let raw = NatsTransport::connect(config(&server)).await.unwrap();
    let make = async |config: stream::Config| {
        let _: stream::Info = raw
            .api(&format!("STREAM.CREATE.{}", config.name), &config)
            .await
            .unwrap();
    };
    make(stream::Config {
        name: topology::WAL.to_owned(),
        subjects: vec!["zektor.wal.old".to_owned()],
        max_age: Duration::from_secs(60),
        ..Default::default()
    })
    .await;
    bus.apply_topology().await.unwrap();
    let mended = raw.stream_info(topology::WAL).await.unwrap().config;
    assert_eq!(mended.subjects, ["zektor.wal.>"]);
    assert!(mended.deny_purge);

    let _: serde_json::Value = raw.api("STREAM.DELETE.EVENTS", &json!({})).await.unwrap();
    make(stream::Config {
        name: EVENTS.to_owned(),
        subjects: vec!["zektor.backup.>".to_owned()],
        storage: stream::StorageType::Memory,
        ..Default::default()
    })
    .await;
    let refused = bus.apply_topology().await;
    let Err(BusError::Drift { name, .. }) = &refused else {
        panic!("{refused:?}");
    };
    assert_eq!(name, EVENTS);
}

#[tokio::test]
async fn a_limit_that_was_set_is_left_alone_by_all_others() {
    let server = NatsServer::start().await.unwrap();
    let bus = Bus::connect(config(&server)).await.unwrap();
    let raw = NatsTransport::connect(config(&server)).await.unwrap();
    bus.apply_topology().await.unwrap();
    let jobs = topology::backup_jobs();
    let limit = async |spec: &ConsumerSpec| {
        let found = raw.consumer_info(spec.stream, &spec.name).await.unwrap();
        found.config.max_ack_pending
    };
    let unlimited = limit(&jobs).await;
    for at_once in [3, 7] {
        let limited = topology::limited(jobs.clone(), Some(at_once));
        bus.apply_consumer(&limited).await.unwrap();
        bus.apply_topology().await.unwrap();
        bus.apply_consumer(&jobs).await.unwrap();
        assert_eq!(limit(&jobs).await, i64::from(at_once));
    }
    // What else differs is mended all the same.
    let drifted = ConsumerSpec {
        max_deliver: 9,
        ..topology::limited(jobs.clone(), Some(7))
    };
    bus.apply_consumer(&drifted).await.unwrap();
    bus.apply_topology().await.unwrap();
    let found = raw.consumer_info(jobs.stream, &jobs.name).await.unwrap();
    assert_eq!(found.config.max_deliver, jobs.max_deliver);
    assert_eq!(found.config.max_ack_pending, 7);
    // One that is lost is made anew while its limit is applied, in whatever order.
    for _ in 0..20 {
        let lost = format!("CONSUMER.DELETE.{}.{}", jobs.stream, jobs.name);
        let _: serde_json::Value = raw.api(&lost, &json!({})).await.unwrap();
        let limited = topology::limited(jobs.clone(), Some(3));
        let (applied, others, more) = tokio::join!(
            bus.apply_consumer(&limited),
            bus.apply_consumer(&jobs),
            bus.apply_consumer(&jobs),
        );
        applied.unwrap();
        others.unwrap();
        more.unwrap();
        assert_eq!(limit(&jobs).await, 3);
    }
    bus.apply_consumer(&topology::limited(jobs.clone(), None))
        .await
        .unwrap();
    assert_eq!(limit(&jobs).await, unlimited);
}

#[tokio::test]
async fn a_restart_in_the_middle_loses_nothing() {
    const MESSAGES: usize = 120;
    let (mut server, bus) = nats().await;
    let (seen, mut handled) = mpsc::channel(MESSAGES * 4);
    let spec = consumer(Duration::from_secs(2), 50);
    let worker = consume(&bus, &spec, 4, move |delivery: Delivery<Event>| {
        let seen = seen.clone();
        async move {
            tokio::time::sleep(Duration::from_millis(3)).await;
            seen.send(delivery.sequence).await.unwrap();
            Outcome::Done
        }
    });
    let publisher = {
        let bus = bus.clone();
        tokio::spawn(async move {
            let mut sequences = BTreeSet::new();
            for _ in 0..MESSAGES {
                let request = Backup::new().says("backup.requested");
                let _ = sequences.insert(bus.publish(request).await.unwrap());
            }
            sequences
        })
    };
    let mut done = BTreeSet::new();
    for kills in 1..=2 {
        while done.len() < MESSAGES * kills / 3 {
            let _ = done.insert(in_time("a message", handled.recv()).await.unwrap());
        }
        server.kill().await.unwrap();
        server.start_again().await.unwrap();
    }
    let published = in_time("the publisher", publisher).await.unwrap();
    assert_eq!(published.len(), MESSAGES);
    while !published.is_subset(&done) {
        let _ = done.insert(in_time("the rest", handled.recv()).await.unwrap());
    }
    assert_eq!(done, published, "a publish that was retried is stored once");
    worker.shut_down().await.unwrap();
}

#[tokio::test]
async fn followers_watchers_and_services_survive_a_restart() {
    let (mut server, bus) = nats().await;
    let shutdown = CancellationToken::new();
    let service = tokio::spawn({
        let (bus, shutdown) = (bus.clone(), shutdown.clone());
        async move {
            let handler =
                |_: String, question: u32| async move { Ok::<_, QueryError>(question + 1) };
            bus.serve("zektor.query.test", "test", handler, shutdown)
                .await
        }
    });
    let mut follow = bus.follow(
        vec![subject::events_of("backup.requested")],
        From::New,
        EVENTS,
    );
    let mut watch = bus.bucket(INSTANCES).watch();
    let bucket = bus.bucket(INSTANCES);
    let mut published = Vec::new();
    let mut followed = Vec::new();
    // A follower begins with its first poll.
    let begun = tokio::time::timeout(Duration::from_millis(300), follow.next()).await;
    assert!(begun.is_err());
    for round in 0..3 {
        for _ in 0..5 {
            let request = Backup::new().says("backup.requested");
            published.push(bus.publish(request).await.unwrap());
        }
        let key = format!("key-{round}");
        let _ = bucket.create(&key, "1").await.unwrap();
        for _ in 0..3 {
            let next = in_time("an event", follow.next()).await.unwrap();
            followed.push(next.unwrap().sequence);
        }
        let change = in_time("a change", watch.next()).await.unwrap();
        assert_eq!(change.key, key);
        server.kill().await.unwrap();
        server.start_again().await.unwrap();
    }
    while followed.len() < published.len() {
        let next = in_time("an event", follow.next()).await.unwrap();
        followed.push(next.unwrap().sequence);
    }
    assert_eq!(followed, published);
    let answer = in_time("the service", async {
        loop {
            let asked = bus.request::<u32, u32>("zektor.query.test", &1, Duration::from_secs(5));
            if let Ok(answer) = asked.await {
                return answer;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    assert_eq!(answer.await, 2);
    shutdown.cancel();
    service.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_lost_stream_is_made_again_and_followers_are_told() {
    let (server, bus) = nats().await;
    let (seen, mut handled) = mpsc::channel(10);
    let spec = consumer(Duration::from_secs(5), 5);
    let _worker = consume(&bus, &spec, 1, move |delivery: Delivery<Event>| {
        let seen = seen.clone();
        async move {
            seen.send(delivery.sequence).await.unwrap();
            Outcome::Done
        }
    });
    let all = vec![subject::events_of("backup.requested")];
    let mut follow = bus.follow(all, From::Start, EVENTS);
    let request = || bus.publish(Backup::new().says("backup.requested"));
    for expected in 1..=2 {
        assert_eq!(request().await.unwrap(), Sequence(expected));
        let handled = in_time("it", handled.recv()).await;
        assert_eq!(handled, Some(Sequence(expected)));
        let followed = in_time("it", follow.next()).await.unwrap().unwrap();
        assert_eq!(followed.sequence, Sequence(expected));
    }
    let before = bus.stream_state(EVENTS).await.unwrap();
    let raw = NatsTransport::connect(config(&server)).await.unwrap();
    let _: serde_json::Value = raw.api("STREAM.DELETE.EVENTS", &json!({})).await.unwrap();
    // The consumer's owner makes it again, so that publishing goes on.
    assert_eq!(in_time("the stream", request()).await.unwrap(), Sequence(1));
    assert_eq!(in_time("it", handled.recv()).await, Some(Sequence(1)));
    let told = in_time("the follower", follow.next()).await.unwrap();
    assert!(
        matches!(told, Err(BusError::StreamRecreated { .. })),
        "{told:?}"
    );
    assert!(follow.next().await.is_none());
    assert_ne!(
        bus.stream_state(EVENTS).await.unwrap().created,
        before.created
    );
}
