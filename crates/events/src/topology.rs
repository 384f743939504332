//! Streams, consumers and buckets, as data. The bus applies them at start and refuses drift it cannot apply.

use std::borrow::Cow;
use std::time::Duration;

use crate::PoolName;
use crate::subject::{self, ROOT, commands, events_of};

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
    pub name: Cow<'static, str>,
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
    /// Whether one that exists keeps the `max_ack_pending` that it has: somebody has that limit as a setting.
    pub keeps_limit: bool,
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
/// Bucket of what the schedulers agree on while backups run (see [`crate::slot`]).
pub const SLOTS: &str = "zektor-slots";
/// Bucket of the state of alerts.
pub const ALERTS: &str = "zektor-alerts";
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
        "alert.>",
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
        BucketSpec {
            name: SLOTS,
            history: 1,
            expiring_keys: true,
        },
        BucketSpec {
            name: ALERTS,
            history: 1,
            expiring_keys: false,
        },
    ]
}

fn consumer(name: &'static str, stream: &'static str, filters: Vec<String>) -> ConsumerSpec {
    ConsumerSpec {
        name: Cow::Borrowed(name),
        stream,
        filters,
        ack_wait: ACK_WAIT,
        max_deliver: MAX_DELIVER,
        max_ack_pending: JOBS_IN_HAND,
        keeps_limit: false,
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
        "instance.update",
        "schedule.create",
        "schedule.update",
        "schedule.delete",
        "backup.create",
        "backup.update",
        "backup.hold",
        "backup.release",
        "backup.delete",
        "backup.undelete",
        "backup.retry",
        "drill.run",
        "restore.create",
        "branch.register",
        "branch.delete",
    ];
    without_limit(consumer("scheduler", COMMANDS, commands(&types)))
}

/// What the scheduler must hear of to keep the instance documents true.
#[must_use]
pub fn scheduler_events() -> ConsumerSpec {
    let types = [
        "restore.failed",
        "restore.refused",
        "branch.deleted",
        "branch.swept",
        "backup.completed",
        "backup.failed",
        "backup.refused",
        "backup.verified",
        "backup.expired",
        "drill.completed",
        "drill.failed",
        "drill.refused",
    ];
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

/// The backup workers' jobs. How many are in hand at once is the schedulers' setting ([`limited`]).
#[must_use]
pub fn backup_jobs() -> ConsumerSpec {
    ConsumerSpec {
        keeps_limit: true,
        ..consumer("backup-worker", EVENTS, vec![events_of("backup.requested")])
    }
}

/// A consumer that is to have this limit of jobs in hand, whatever it had; the ordinary one when there is none.
#[must_use]
pub fn limited(spec: ConsumerSpec, limit: Option<u32>) -> ConsumerSpec {
    ConsumerSpec {
        max_ack_pending: limit.map_or(JOBS_IN_HAND, i64::from),
        keeps_limit: false,
        ..spec
    }
}

/// The jobs of the workers of one pool.
///
/// No other consumer of the workers has `_` behind their name: whatever a pool is called, it has one of its own.
#[must_use]
pub fn backup_jobs_of(pool: &PoolName) -> ConsumerSpec {
    if pool.as_str() == PoolName::DEFAULT {
        return backup_jobs();
    }
    ConsumerSpec {
        name: Cow::Owned(format!("backup-worker_pool_{pool}")),
        filters: vec![events_of(&subject::backup_requested(Some(pool)))],
        ..backup_jobs()
    }
}

/// What the backup workers delete.
#[must_use]
pub fn sweep_jobs() -> ConsumerSpec {
    without_limit(consumer(
        "backup-worker-sweeps",
        EVENTS,
        vec![events_of("branch.sweep_requested")],
    ))
}

/// The backup workers' commands.
#[must_use]
pub fn worker_commands() -> ConsumerSpec {
    without_limit(consumer(
        "backup-worker-commands",
        COMMANDS,
        commands(&["backup.verify"]),
    ))
}

/// The restorers' drills.
#[must_use]
pub fn drill_jobs() -> ConsumerSpec {
    consumer(
        "restorer-drills",
        EVENTS,
        vec![events_of("drill.requested")],
    )
}

/// What the rules of alerts listen to on the events' stream.
#[must_use]
pub fn alert_events() -> ConsumerSpec {
    let types = [
        "backup.completed",
        "backup.failed",
        "backup.skipped",
        "backup.updated",
        "backup.verified",
        "backup.expired",
        "branch.started",
        "branch.stopped",
        "branch.window_changed",
        "branch.sweep_requested",
        "branch.swept",
        "branch.deleted",
        "instance.registered",
        "instance.removed",
        "drill.completed",
        "drill.failed",
    ];
    let filters = types.map(events_of).to_vec();
    without_limit(consumer("scheduler-alerts", EVENTS, filters))
}

/// What the rules of alerts listen to on the stream of the WAL.
#[must_use]
pub fn alert_wal_events() -> ConsumerSpec {
    let types = ["wal.gap.detected", "wal.slot.risk_changed"];
    let filters = types.map(events_of).to_vec();
    without_limit(consumer("scheduler-alerts-wal", WAL, filters))
}

/// Alerts, for one channel of notification. It exists only where the channel is configured.
#[must_use]
pub fn notifications(channel: &str) -> ConsumerSpec {
    ConsumerSpec {
        name: Cow::Owned(format!("notify-{channel}")),
        ..without_limit(consumer("notify", EVENTS, vec![format!("{ROOT}.alert.>")]))
    }
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
    // Consumers of pools have names of their own; those without a limit never end here.
    let filters = vec![format!(
        "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.{EVENTS}.>"
    )];
    without_limit(consumer("exhausted", DEAD_LETTERS, filters))
}

/// Every consumer that must exist before anything is published, so that nothing is missed.
#[must_use]
pub fn consumers() -> Vec<ConsumerSpec> {
    vec![
        scheduler_commands(),
        scheduler_events(),
        scheduler_gaps(),
        backup_jobs(),
        sweep_jobs(),
        worker_commands(),
        restore_jobs(),
        drill_jobs(),
        alert_events(),
        alert_wal_events(),
        restorer_deletions(),
        restorer_commands(),
        exhausted(),
    ]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::{backup_jobs, backup_jobs_of, consumers, notifications};
    use crate::PoolName;

    #[test]
    fn a_pool_has_a_consumer_of_its_own_whatever_it_is_called() {
        let mut names: BTreeSet<_> = consumers().into_iter().map(|spec| spec.name).collect();
        assert_eq!(names.len(), consumers().len());
        assert!(names.insert(notifications("email").name));
        for pool in [
            "sweeps", "commands", "worker", "email", "pool_a", "a", "eu-1",
        ] {
            let pool = PoolName::new(pool).unwrap();
            assert!(names.insert(backup_jobs_of(&pool).name), "{pool}");
        }
        let default = PoolName::new(PoolName::DEFAULT).unwrap();
        assert_eq!(backup_jobs_of(&default), backup_jobs());
    }
}
