//! Deliveries: shared, kept, given again, given up.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use events::topology::{self, COMMANDS, ConsumerSpec, DEAD_LETTERS, EVENTS};
use events::{Command, Event, MessageId, example};
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;

use super::{Backup, consume, consumer, in_time, scenarios};
use crate::follow::Follower;
use crate::transport::{RawMessage, RawStored, Start, Topology};
use crate::{Bus, Delivery, Outcome, Outgoing, Places};

scenarios!(
    two_consumers_share,
    a_retry_comes_after_its_delay,
    what_a_dead_worker_held_is_delivered_again,
    a_superseded_worker_leaves_the_message_to_its_successor,
    a_heartbeat_keeps_a_long_job,
    a_job_without_progress_is_given_up,
    the_last_failure_shows_in_the_dead_letters,
    what_cannot_be_read_goes_to_the_dead_letters,
    a_rejection_goes_to_the_dead_letters,
    a_panic_is_a_retry,
    shutdown_waits_for_what_is_in_hand,
    shutdown_gives_back_what_does_not_end,
    places_of_workers_are_counted_while_they_are_free,
    a_command_is_gone_when_it_is_done,
    causes_travel,
);

const SECOND: Duration = Duration::from_secs(1);

async fn request(bus: &Bus) -> Backup {
    let backup = Backup::new();
    let _ = bus.publish(backup.says("backup.requested")).await.unwrap();
    backup
}

fn retry(after: Duration) -> Outcome {
    Outcome::Retry {
        after,
        reason: "a test".to_owned(),
    }
}

async fn two_consumers_share(bus: Bus) {
    const MESSAGES: usize = 40;
    let spec = consumer(30 * SECOND, 5);
    let (seen, mut handled) = mpsc::channel(MESSAGES * 2);
    let worker = |worker: usize| {
        let seen = seen.clone();
        consume(&bus, &spec, 2, move |delivery: Delivery<Event>| {
            let seen = seen.clone();
            async move {
                seen.send((worker, delivery.sequence)).await.unwrap();
                tokio::task::yield_now().await;
                Outcome::Done
            }
        })
    };
    let workers = [worker(0), worker(1)];
    for _ in 0..MESSAGES {
        let _ = request(&bus).await;
    }
    let mut sequences = BTreeSet::new();
    for _ in 0..MESSAGES {
        let (_, sequence) = in_time("a message", handled.recv()).await.unwrap();
        assert!(sequences.insert(sequence), "{sequence} was handled twice");
    }
    for worker in workers {
        worker.shut_down().await.unwrap();
    }
    assert!(handled.try_recv().is_err(), "nothing is handled twice");
}

async fn a_retry_comes_after_its_delay(bus: Bus) {
    let spec = consumer(30 * SECOND, 5);
    let (seen, mut handled) = mpsc::channel(10);
    let _worker = consume(&bus, &spec, 1, move |delivery: Delivery<Event>| {
        let seen = seen.clone();
        async move {
            seen.send((delivery.attempt, Instant::now())).await.unwrap();
            if delivery.attempt == 1 {
                retry(SECOND)
            } else {
                Outcome::Done
            }
        }
    });
    let _ = request(&bus).await;
    let (first, began) = in_time("a delivery", handled.recv()).await.unwrap();
    let (second, again) = in_time("a redelivery", handled.recv()).await.unwrap();
    assert_eq!((first, second), (1, 2));
    let pause = again - began;
    assert!(
        pause > SECOND * 9 / 10 && pause < 10 * SECOND,
        "after {pause:?}"
    );
}

async fn what_a_dead_worker_held_is_delivered_again(bus: Bus) {
    let spec = consumer(SECOND, 5);
    let (seen, mut handled) = mpsc::channel(10);
    let hangs = {
        let seen = seen.clone();
        move |delivery: Delivery<Event>| {
            let seen = seen.clone();
            async move {
                seen.send(delivery.attempt).await.unwrap();
                std::future::pending().await
            }
        }
    };
    let dead = consume(&bus, &spec, 1, hangs);
    let _ = request(&bus).await;
    assert_eq!(in_time("a delivery", handled.recv()).await, Some(1));
    drop(dead);
    let _alive = consume(&bus, &spec, 1, move |delivery: Delivery<Event>| {
        let seen = seen.clone();
        async move {
            seen.send(delivery.attempt).await.unwrap();
            Outcome::Done
        }
    });
    assert_eq!(in_time("a redelivery", handled.recv()).await, Some(2));
}

/// The first worker is cut off longer than the ack wait, the second has the message and dies with it.
async fn a_superseded_worker_leaves_the_message_to_its_successor(bus: Bus) {
    let spec = consumer(SECOND, 5);
    let only = Topology {
        streams: Vec::new(),
        consumers: vec![spec.clone()],
        buckets: Vec::new(),
    };
    bus.transport.apply(&only).await.unwrap();
    // Its heartbeats come too late for the server's ack wait.
    let cut_off = consumer(60 * SECOND, 5);
    let (seen, mut handled) = mpsc::channel(10);
    let superseded = Arc::new(Notify::new());
    let first = {
        let (seen, superseded) = (seen.clone(), Arc::clone(&superseded));
        consume(&bus, &cut_off, 1, move |delivery: Delivery<Event>| {
            let (seen, superseded) = (seen.clone(), Arc::clone(&superseded));
            async move {
                seen.send(delivery.attempt).await.unwrap();
                superseded.notified().await;
                Outcome::Leave {
                    reason: "superseded".to_owned(),
                }
            }
        })
    };
    let _ = request(&bus).await;
    assert_eq!(in_time("a delivery", handled.recv()).await, Some(1));
    let hangs = {
        let seen = seen.clone();
        move |delivery: Delivery<Event>| {
            let seen = seen.clone();
            async move {
                seen.send(delivery.attempt).await.unwrap();
                std::future::pending().await
            }
        }
    };
    let second = consume(&bus, &spec, 1, hangs.clone());
    assert_eq!(in_time("the successor's", handled.recv()).await, Some(2));
    superseded.notify_one();
    first.shut_down().await.unwrap();
    drop(second);
    let _third = consume(&bus, &spec, 1, hangs);
    assert_eq!(in_time("a redelivery", handled.recv()).await, Some(3));
}

async fn a_heartbeat_keeps_a_long_job(bus: Bus) {
    let spec = consumer(SECOND, 5);
    let (seen, mut handled) = mpsc::channel(10);
    let worker = |_: usize| {
        let seen = seen.clone();
        consume(&bus, &spec, 1, move |delivery: Delivery<Event>| {
            let seen = seen.clone();
            async move {
                tokio::time::sleep(4 * SECOND).await;
                seen.send((delivery.attempt, delivery.last_attempt))
                    .await
                    .unwrap();
                Outcome::Done
            }
        })
    };
    let workers = [worker(0), worker(1)];
    let _ = request(&bus).await;
    assert_eq!(in_time("the job", handled.recv()).await, Some((1, false)));
    for worker in workers {
        worker.shut_down().await.unwrap();
    }
    assert!(handled.try_recv().is_err(), "it was done once");
}

async fn a_job_without_progress_is_given_up(bus: Bus) {
    let spec = consumer(SECOND / 4, 5);
    let (seen, mut handled) = mpsc::channel(10);
    let _worker = consume(&bus, &spec, 1, move |delivery: Delivery<Event>| {
        let seen = seen.clone();
        async move {
            seen.send((delivery.attempt, Instant::now())).await.unwrap();
            if delivery.attempt > 1 {
                return Outcome::Done;
            }
            // Progress, then none any more.
            tokio::time::sleep(SECOND * 2).await;
            delivery.progress.advance();
            std::future::pending().await
        }
    });
    let _ = request(&bus).await;
    let (_, began) = in_time("a delivery", handled.recv()).await.unwrap();
    let (attempt, again) = in_time("a redelivery", handled.recv()).await.unwrap();
    assert_eq!(attempt, 2);
    // Two seconds of work and ten ack waits.
    assert!(again - began > SECOND * 4, "after {:?}", again - began);
}

/// The dead letters whose subject begins with `prefix`.
async fn dead_letter(bus: &Bus, prefix: &str) -> RawStored {
    let mut letters = Follower::new(bus, DEAD_LETTERS, Vec::new(), Start::Beginning);
    in_time("a dead letter", async {
        loop {
            let letter = letters.next().await.unwrap();
            if letter.message.subject.starts_with(prefix) {
                return letter;
            }
        }
    })
    .await
}

async fn the_last_failure_shows_in_the_dead_letters(bus: Bus) {
    let spec = consumer(SECOND, 2);
    let (seen, mut handled) = mpsc::channel(10);
    let _worker = consume(&bus, &spec, 1, move |delivery: Delivery<Event>| {
        let seen = seen.clone();
        async move {
            let told = (delivery.attempt, delivery.last_attempt);
            seen.send(told).await.unwrap();
            retry(Duration::ZERO)
        }
    });
    let backup = request(&bus).await;
    let advisory = dead_letter(
        &bus,
        "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.EVENTS.conformance",
    )
    .await;
    let told: serde_json::Value = serde_json::from_slice(&advisory.message.payload).unwrap();
    let last = bus.last_on(&backup.fence()).await.unwrap().unwrap();
    assert_eq!(told["stream_seq"], last.sequence.0, "it is still there");
    assert_eq!(handled.recv().await, Some((1, false)));
    assert_eq!(handled.recv().await, Some((2, true)));
    assert!(handled.try_recv().is_err());
}

async fn what_cannot_be_read_goes_to_the_dead_letters(bus: Bus) {
    let spec = consumer(30 * SECOND, 5);
    let subject = "zektor.backup.requested.orders.main.1";
    let foreign = RawMessage {
        subject: subject.to_owned(),
        headers: [(
            "ce-type".to_owned(),
            "io.zektor.backup.requested.v9".to_owned(),
        )]
        .into(),
        payload: "from the future".into(),
    };
    let published = bus.transport.publish(&foreign).await.unwrap();
    let touched = Arc::new(AtomicBool::new(false));
    let worker = {
        let touched = Arc::clone(&touched);
        consume(&bus, &spec, 1, move |_: Delivery<Event>| {
            touched.store(true, Ordering::SeqCst);
            async { Outcome::Done }
        })
    };
    let letter = dead_letter(&bus, "zektor.dlq.conformance").await.message;
    assert_eq!(letter.payload, foreign.payload);
    let header = |name| letter.header(name).unwrap_or_default().to_owned();
    assert_eq!(header("zektor-dlq-subject"), subject);
    assert_eq!(header("zektor-dlq-stream"), EVENTS);
    assert_eq!(
        header("zektor-dlq-sequence"),
        published.sequence.to_string()
    );
    assert!(header("zektor-dlq-reason").contains("not known"));
    assert_eq!(header("ce-type"), "io.zektor.backup.requested.v9");
    let _terminated = dead_letter(&bus, "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED").await;
    worker.shut_down().await.unwrap();
    assert!(!touched.load(Ordering::SeqCst));
}

async fn a_rejection_goes_to_the_dead_letters(bus: Bus) {
    let spec = consumer(30 * SECOND, 5);
    let _worker = consume(&bus, &spec, 1, |_: Delivery<Event>| async {
        Outcome::Reject {
            reason: "no such\r\nbranch".to_owned(),
        }
    });
    let backup = Backup::new();
    // A copy must not obey the fence a second time.
    let asked = backup.says("backup.requested");
    let _ = bus
        .publish_expecting(asked, &backup.fence(), crate::Sequence::NONE)
        .await
        .unwrap();
    let letter = dead_letter(&bus, "zektor.dlq.conformance").await.message;
    let reason = letter.header("zektor-dlq-reason").unwrap();
    assert!(reason.starts_with("no such"), "{reason}");
    let _terminated = dead_letter(&bus, "$JS.EVENT.ADVISORY.CONSUMER.MSG_TERMINATED").await;
}

async fn a_panic_is_a_retry(bus: Bus) {
    let spec = consumer(30 * SECOND, 5);
    let (seen, mut handled) = mpsc::channel(10);
    let _worker = consume(&bus, &spec, 1, move |delivery: Delivery<Event>| {
        let seen = seen.clone();
        async move {
            assert!(delivery.attempt > 1, "on purpose");
            seen.send(delivery.attempt).await.unwrap();
            Outcome::Done
        }
    });
    let _ = request(&bus).await;
    assert_eq!(in_time("a redelivery", handled.recv()).await, Some(2));
}

async fn shutdown_waits_for_what_is_in_hand(bus: Bus) {
    let spec = consumer(SECOND, 5);
    let (seen, mut handled) = mpsc::channel(10);
    let worker = consume(&bus, &spec, 1, move |delivery: Delivery<Event>| {
        let seen = seen.clone();
        async move {
            seen.send(delivery.attempt).await.unwrap();
            tokio::time::sleep(2 * SECOND).await;
            seen.send(delivery.attempt + 100).await.unwrap();
            Outcome::Done
        }
    });
    let _ = request(&bus).await;
    assert_eq!(in_time("a delivery", handled.recv()).await, Some(1));
    worker.shut_down().await.unwrap();
    assert_eq!(handled.recv().await, Some(101));
}

async fn shutdown_gives_back_what_does_not_end(mut bus: Bus) {
    bus.drain_deadline = SECOND / 10;
    let spec = consumer(600 * SECOND, 5);
    let (seen, mut handled) = mpsc::channel(10);
    let handle = move |delivery: Delivery<Event>| {
        let seen = seen.clone();
        async move {
            seen.send(delivery.attempt).await.unwrap();
            if delivery.attempt == 1 {
                std::future::pending::<()>().await;
            }
            Outcome::Done
        }
    };
    let worker = consume(&bus, &spec, 1, handle.clone());
    let _ = request(&bus).await;
    assert_eq!(in_time("a delivery", handled.recv()).await, Some(1));
    worker.shut_down().await.unwrap();
    let _other = consume(&bus, &spec, 1, handle);
    // Long before the ack wait.
    assert_eq!(in_time("a redelivery", handled.recv()).await, Some(2));
}

async fn a_command_is_gone_when_it_is_done(bus: Bus) {
    let (seen, mut handled) = mpsc::channel(20);
    let commands = example::commands();
    let wanted = topology::scheduler_commands();
    for (number, command) in commands.iter().cloned().enumerate() {
        let id = MessageId::new(format!("command-{number}"));
        let command = Outgoing::new(command, id, example::at(0));
        let _ = bus.send(command.clone()).await.unwrap();
        // Sent twice, stored once.
        let _ = bus.send(command).await.unwrap();
    }
    let before = bus.stream_state(COMMANDS).await.unwrap();
    assert_eq!(before.messages, commands.len() as u64);
    let worker = consume(&bus, &wanted, 4, move |delivery: Delivery<Command>| {
        let seen = seen.clone();
        async move {
            let name = delivery.envelope.message.type_name();
            seen.send(name).await.unwrap();
            Outcome::Done
        }
    });
    let theirs = |command: &&Command| {
        let subject = format!("zektor.command.{}.*", command.type_name());
        wanted.filters.contains(&subject)
    };
    let for_the_scheduler = commands.iter().filter(theirs).count();
    for _ in 0..for_the_scheduler {
        let name = in_time("a command", handled.recv()).await.unwrap();
        let of_the_restorer = ["extensions.reinstall", "branch.stop", "branch.start"];
        assert!(!of_the_restorer.contains(&name));
    }
    worker.shut_down().await.unwrap();
    let after = bus.stream_state(COMMANDS).await.unwrap();
    let left = (commands.len() - for_the_scheduler) as u64;
    assert_eq!(after.messages, left, "the restorer's are left");
}

async fn causes_travel(bus: Bus) {
    let spec = consumer(30 * SECOND, 5);
    let (seen, mut handled) = mpsc::channel(10);
    let bus = bus.named("scheduler");
    let _worker = consume(&bus, &spec, 1, move |delivery: Delivery<Event>| {
        let seen = seen.clone();
        async move {
            seen.send(delivery.envelope).await.unwrap();
            Outcome::Done
        }
    });
    let backup = Backup::new();
    let said = backup.says("backup.requested").caused_by("command-1");
    let _ = bus.publish(said.clone()).await.unwrap();
    let heard = in_time("a delivery", handled.recv()).await.unwrap();
    assert_eq!(heard.source, "scheduler");
    assert_eq!(heard.id, said.id);
    assert_eq!(heard.time, said.time);
    assert_eq!(heard.correlation, Some(backup.0.to_string()));
    assert_eq!(heard.causation.as_deref(), Some("command-1"));
    assert_eq!(heard.message, said.message);
}

async fn places_of_workers_are_counted_while_they_are_free(bus: Bus) {
    let spec = ConsumerSpec {
        max_ack_pending: 1,
        ..consumer(Duration::from_secs(30), 5)
    };
    let jobs = Topology {
        streams: Vec::new(),
        consumers: vec![spec.clone()],
        buckets: Vec::new(),
    };
    let none = Places::default();
    assert_eq!(bus.places(&spec).await.unwrap(), none, "no consumer");
    bus.transport.apply(&jobs).await.unwrap();
    assert_eq!(bus.places(&spec).await.unwrap(), none, "no worker");
    let until = async |free: usize, in_hand: usize, at_limit: bool| {
        let wanted = Places {
            free,
            in_hand,
            at_limit,
        };
        let looks = async {
            while bus.places(&spec).await.unwrap() != wanted {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        in_time("places", looks).await;
    };
    let end = Arc::new(Notify::new());
    let ends = Arc::clone(&end);
    let _worker = consume(&bus, &spec, 2, move |_: Delivery<Event>| {
        let ends = Arc::clone(&ends);
        async move {
            ends.notified().await;
            Outcome::Done
        }
    });
    until(1, 0, false).await;
    for _ in 0..2 {
        let _ = bus.publish(Backup::new().says("backup.requested")).await;
    }
    // The second one waits, though a place is free.
    until(1, 1, true).await;
    end.notify_one();
    until(1, 1, true).await;
    end.notify_one();
    until(1, 0, false).await;
}
