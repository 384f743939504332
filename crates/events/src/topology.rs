//! Streams, consumers and buckets, as data. The bus applies them at start and refuses drift it cannot apply.

use std::time::Duration;

use crate::subject::{ROOT, commands, events_of};

/// How a stream lets go of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamRetention {
    /// Until the limits.
    Limits,
    /// Until its one consumer acknowledged.
    WorkQueue,
}

/// A stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSpec {
    /// Its name.
    pub name: &'static str,
    /// What it captures.
    pub subjects: Vec<String>,
    /// How it lets go.
    pub retention: StreamRetention,
    /// The longest a message is kept.
    pub max_age: Duration,
    /// Window of `Nats-Msg-Id` de-duplication.
    pub duplicate_window: Duration,
}

/// A durable pull consumer. Its name is the service that reads it; replicas share it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConsumerSpec {
    /// Its durable name.
    pub name: &'static str,
    /// The stream it reads.
    pub stream: &'static str,
    /// The subjects it wants.
    pub filters: Vec<String>,
    /// Redelivered when there was neither an ending nor a progress ack for so long.
    pub ack_wait: Duration,
    /// After so many deliveries an advisory goes to the dead letters; [`UNLIMITED`] for never.
    pub max_deliver: i64,
    /// Deliveries without an ending, over all replicas; 1 keeps the order.
    pub max_ack_pending: i64,
}

/// A key-value bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketSpec {
    /// Its name.
    pub name: &'static str,
    /// Revisions kept of a key.
    pub history: i64,
    /// Whether a key may be given a time to live.
    pub expiring_keys: bool,
}

/// Commands, as a work queue.
pub const COMMANDS: &str = "COMMANDS";
/// Facts about everything but WAL.
pub const EVENTS: &str = "EVENTS";
/// Facts about WAL.
pub const WAL: &str = "WAL";
/// What nobody could handle.
pub const DEAD_LETTERS: &str = "DEAD_LETTERS";
/// Bucket of the instance documents.
pub const INSTANCES: &str = "zektor-instances";
/// Bucket of the archivers' leases on branches.
pub const LEASES: &str = "zektor-leases";

const DAY: Duration = Duration::from_secs(24 * 3600);
const TWO_MINUTES: Duration = Duration::from_secs(120);
/// Short enough that a killed worker's job goes on soon, long enough that a busy machine is not taken
/// for a dead one: the heartbeat comes every third of it.
const ACK_WAIT: Duration = Duration::from_secs(30);
const MAX_DELIVER: i64 = 5;
/// For what must always have an outcome: an answer to a command, a document kept true. Each redelivery waits
/// for the delay that the handler named, so an outage of hours costs little.
pub const UNLIMITED: i64 = -1;
/// A limit on everything: jobs in hand over all workers together.
const JOBS_IN_HAND: i64 = 1000;

/// The streams.
#[must_use]
pub fn streams() -> Vec<StreamSpec> {
    let spec = |name, subjects: &[&str], retention, days: u32| StreamSpec {
        name,
        subjects: subjects
            .iter()
            .map(|subject| format!("{ROOT}.{subject}"))
            .collect(),
        retention,
        max_age: DAY * days,
        duplicate_window: TWO_MINUTES,
    };
    let nouns = [
        "instance.>",
        "branch.>",
        "schedule.>",
        "backup.>",
        "restore.>",
        "drill.>",
    ];
    let mut dead_letters = spec(DEAD_LETTERS, &["dlq.>"], StreamRetention::Limits, 365);
    for advisory in ["MAX_DELIVERIES", "MSG_TERMINATED"] {
        dead_letters
            .subjects
            .push(format!("$JS.EVENT.ADVISORY.CONSUMER.{advisory}.>"));
    }
    vec![
        spec(COMMANDS, &["command.>"], StreamRetention::WorkQueue, 30),
        spec(EVENTS, &nouns, StreamRetention::Limits, 365),
        spec(WAL, &["wal.>"], StreamRetention::Limits, 30),
        dead_letters,
    ]
}

/// The buckets.
#[must_use]
pub fn buckets() -> Vec<BucketSpec> {
    vec![
        BucketSpec {
            name: INSTANCES,
            history: 16,
            expiring_keys: false,
        },
        // History 1: with more, expiry markers were seen to come late.
        BucketSpec {
            name: LEASES,
            history: 1,
            expiring_keys: true,
        },
    ]
}

fn consumer(name: &'static str, stream: &'static str, filters: Vec<String>) -> ConsumerSpec {
    ConsumerSpec {
        name,
        stream,
        filters,
        ack_wait: ACK_WAIT,
        max_deliver: MAX_DELIVER,
        max_ack_pending: JOBS_IN_HAND,
    }
}

fn without_limit(spec: ConsumerSpec) -> ConsumerSpec {
    ConsumerSpec {
        max_deliver: UNLIMITED,
        ..spec
    }
}

/// The scheduler's commands.
#[must_use]
pub fn scheduler_commands() -> ConsumerSpec {
    let types = [
        "instance.add",
        "instance.remove",
        "backup.create",
        "restore.create",
        "branch.register",
        "branch.delete",
    ];
    without_limit(consumer("scheduler", COMMANDS, commands(&types)))
}

/// What the scheduler must hear of to keep the instance documents true.
#[must_use]
pub fn scheduler_events() -> ConsumerSpec {
    let types = ["restore.failed", "restore.refused", "branch.deleted"];
    without_limit(consumer(
        "scheduler-events",
        EVENTS,
        types.map(events_of).to_vec(),
    ))
}

/// Gaps in an archive: the scheduler answers each with a new base backup.
#[must_use]
pub fn scheduler_gaps() -> ConsumerSpec {
    without_limit(consumer(
        "scheduler-gaps",
        WAL,
        vec![events_of("wal.gap.detected")],
    ))
}

/// The backup workers' jobs.
#[must_use]
pub fn backup_jobs() -> ConsumerSpec {
    consumer("backup-worker", EVENTS, vec![events_of("backup.requested")])
}

/// The restorers' jobs.
#[must_use]
pub fn restore_jobs() -> ConsumerSpec {
    consumer("restorer", EVENTS, vec![events_of("restore.requested")])
}

/// Branches to remove. Without a limit: a deletion waits for the restorer that holds the branch.
#[must_use]
pub fn restorer_deletions() -> ConsumerSpec {
    without_limit(consumer(
        "restorer-deletions",
        EVENTS,
        vec![events_of("branch.deletion_requested")],
    ))
}

/// The restorers' commands.
#[must_use]
pub fn restorer_commands() -> ConsumerSpec {
    without_limit(consumer(
        "restorer-commands",
        COMMANDS,
        commands(&["branch.stop", "branch.start", "extensions.reinstall"]),
    ))
}

/// The jobs that were delivered as often as they may be: the scheduler says that they have failed.
#[must_use]
pub fn exhausted() -> ConsumerSpec {
    let of = |spec: &ConsumerSpec| {
        let (stream, consumer) = (spec.stream, spec.name);
        format!("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{stream}.{consumer}")
    };
    let jobs = [backup_jobs(), restore_jobs()];
    without_limit(consumer(
        "exhausted",
        DEAD_LETTERS,
        jobs.iter().map(of).collect(),
    ))
}

/// Every consumer that must exist before anything is published, so that nothing is missed.
#[must_use]
pub fn consumers() -> Vec<ConsumerSpec> {
    vec![
        scheduler_commands(),
        scheduler_events(),
        scheduler_gaps(),
        backup_jobs(),
        restore_jobs(),
        restorer_deletions(),
        restorer_commands(),
        exhausted(),
    ]
}
