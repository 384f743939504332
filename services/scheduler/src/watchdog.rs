//! No backup is "in progress" for ever, none waits for ever, and a slot that nobody freed is freed.
//!
//! Every replica looks at every slot, each [`ROUND`]. What it finds stuck it ends under the backup's fence, after the
//! last event it knows: an attempt that speaks meanwhile goes on, one that speaks later is refused. Silence is measured
//! by this process's own monotonic clock, from what it saw itself, so that clocks that differ or are set end nothing.

mod judge;
mod retry;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use bus::{FenceError, Outgoing, Sequence, Stored};
use chrono::TimeDelta;
use events::event::FailureCause;
use events::slot::BackupSlot;
use events::{BackupId, BranchName, Event, InstanceName, MessageId, PoolName, Timestamp, subject};
use futures::StreamExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::commands::World;
use crate::exhausted::Ending;
use crate::refusal::Unfinished;
use crate::slots::Life;
use crate::watchdog::judge::{Limits, Observed, Stage, Stuck};

/// How often every slot is looked at.
const ROUND: Duration = Duration::from_secs(15);
/// Slots looked at at once.
const CONCURRENT_LOOKS: usize = 16;
/// A claim that nobody has used for so long is freed.
const UNUSED: Duration = Duration::from_secs(60);
/// The wall clock was set when it moved so much more or less than the monotonic one between two rounds.
const CLOCK_SET: TimeDelta = TimeDelta::minutes(1);

/// Looks at all slots, until shutdown.
pub(crate) async fn run(world: World, shutdown: CancellationToken) {
    let mut watchdog = Watchdog::default();
    let mut rounds = tokio::time::interval(ROUND);
    rounds.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = rounds.tick() => {}
        }
        if let Err(error) = watchdog.round(&world).await {
            tracing::warn!(%error, "the slots of backups cannot be looked at; trying again");
        }
    }
}

/// A slot, and the last event of its backup.
struct Look {
    instance: InstanceName,
    branch: BranchName,
    slot: BackupSlot,
    last: Option<Stored<Event>>,
}

/// What this process saw of a backup.
#[derive(Debug, Clone)]
struct Seen {
    last: Sequence,
    changed: Instant,
    first: Instant,
    /// While it waits for a worker: those of which pool.
    waits_for: Option<Option<PoolName>>,
}

/// What this process saw so far.
#[derive(Default)]
pub(crate) struct Watchdog {
    seen: HashMap<BackupId, Seen>,
    /// When a worker of the pool was last seen to begin a backup: those behind it wait for their turn.
    begun: HashMap<Option<PoolName>, Instant>,
    last_round: Option<(Timestamp, Instant)>,
}

impl Watchdog {
    pub(crate) async fn round(&mut self, world: &World) -> Result<(), Unfinished> {
        world.recover_slots().await?;
        let looks = looks(world).await?;
        self.notice_set_clock(world.clock.now());
        for look in &looks {
            self.observe(look);
        }
        let there: HashSet<BackupId> = looks.iter().map(|look| look.slot.backup_id).collect();
        self.seen.retain(|id, _| there.contains(id));
        let endings: Vec<_> = looks
            .iter()
            .map(|look| self.end_if_over(world, look))
            .collect();
        let mut endings = futures::stream::iter(endings).buffer_unordered(CONCURRENT_LOOKS);
        let mut first_error = None;
        while let Some(ended) = endings.next().await {
            first_error = first_error.or(ended.err());
        }
        drop(endings);
        let taken = looks.into_iter().map(|look| (look.instance, look.branch));
        start_waiting(world, &taken.collect()).await?;
        world.retry_due().await?;
        first_error.map_or(Ok(()), Err)
    }

    /// What was counted by the wall clock is not to be relied on for a while.
    fn notice_set_clock(&mut self, wall: Timestamp) {
        let now = Instant::now();
        if let Some((wall_before, before)) = self.last_round.replace((wall, now)) {
            let passed = TimeDelta::from_std(now - before).unwrap_or(TimeDelta::MAX);
            if ((wall - wall_before) - passed).abs() > CLOCK_SET {
                self.seen.values_mut().for_each(|seen| seen.first = now);
            }
        }
    }

    fn observe(&mut self, look: &Look) {
        let now = Instant::now();
        let last = look
            .last
            .as_ref()
            .map_or(Sequence::NONE, |last| last.sequence);
        let waits_for = match look.last.as_ref().map(|last| &last.envelope.message) {
            Some(Event::BackupRequested(requested)) => Some(requested.pool.clone()),
            _ => None,
        };
        let seen = self
            .seen
            .entry(look.slot.backup_id)
            .or_insert_with(|| Seen {
                last,
                changed: now,
                first: now,
                waits_for: waits_for.clone(),
            });
        if seen.last != last {
            if let (Some(pool), None) = (&seen.waits_for, &waits_for) {
                let _before = self.begun.insert(pool.clone(), now);
            }
            (seen.last, seen.changed, seen.waits_for) = (last, now, waits_for);
        }
    }

    /// Frees the slot of a backup that has ended, and ends one that is stuck.
    async fn end_if_over(&self, world: &World, look: &Look) -> Result<(), Unfinished> {
        let id = look.slot.backup_id;
        let (instance, branch) = (&look.instance, &look.branch);
        let Some(seen) = self.seen.get(&id) else {
            return Ok(());
        };
        let stage = match (Life::of(look.last.as_ref()), &seen.waits_for) {
            (Life::Ended, _) => return world.free_slot(instance, branch, id).await,
            (Life::Unborn | Life::Queued, _) if seen.changed.elapsed() >= UNUSED => {
                return world.free_slot(instance, branch, id).await;
            }
            (Life::Unborn | Life::Queued, _) => return Ok(()),
            (Life::Running, Some(_)) => Stage::Waiting,
            (Life::Running, None) => Stage::Working,
        };
        let begun = seen
            .waits_for
            .as_ref()
            .and_then(|pool| self.begun.get(pool));
        let moved = begun.map_or(seen.changed, |begun| seen.changed.max(*begun));
        let observed = Observed {
            stage,
            unchanged: moved.elapsed(),
            watched: seen.first.elapsed(),
            age: world.clock.now() - look.slot.claimed_at,
        };
        match judge::stuck(&observed, &Limits::of(&world.config)) {
            Some(stuck) => end(world, look, &stuck).await,
            None => Ok(()),
        }
    }
}

/// Every slot with the last event of its backup.
async fn looks(world: &World) -> Result<Vec<Look>, Unfinished> {
    let slots = world.slots_bucket().under("backup").await?;
    let slots = slots.into_iter().filter_map(|entry| {
        let (instance, branch) = entry.key.strip_prefix("backup.")?.split_once('.')?;
        let slot = serde_json::from_slice::<BackupSlot>(&entry.value?).ok()?;
        Some((instance.parse().ok()?, branch.parse().ok()?, slot))
    });
    let mut looks = futures::stream::iter(slots)
        .map(
            async |(instance, branch, slot): (InstanceName, BranchName, BackupSlot)| {
                let fence = subject::backup_fence(&instance, &branch, slot.backup_id);
                let last = world.bus.last_on(&fence).await?;
                Ok::<_, Unfinished>(Look {
                    instance,
                    branch,
                    slot,
                    last,
                })
            },
        )
        .buffer_unordered(CONCURRENT_LOOKS);
    let mut done = Vec::new();
    while let Some(look) = looks.next().await {
        done.push(look?);
    }
    Ok(done)
}

/// Ends a backup that is stuck, under its fence, and frees its slot.
async fn end(world: &World, look: &Look, stuck: &Stuck) -> Result<(), Unfinished> {
    let (instance, branch, id) = (&look.instance, &look.branch, look.slot.backup_id);
    let Some(last) = &look.last else {
        return Ok(());
    };
    let ending = Ending {
        instance,
        branch,
        backup_id: id,
        cause: FailureCause::Internal,
        message: stuck.message(),
        hint: stuck.hint().to_owned(),
    };
    // A manifest that cannot be read now is asked for again in the next round.
    let event = world.ending_of(ending, true).await?;
    tracing::error!(%instance, %branch, backup = %id, outcome = event.type_name(), reason = stuck.message(), "a backup was stuck; its end is announced");
    let message_id = MessageId::new(format!("watchdog:{id}:{}", last.sequence));
    let outgoing = Outgoing::new(event, message_id, world.clock.now())
        .correlated(id)
        .caused_by(&last.envelope.id);
    let fence = subject::backup_fence(instance, branch, id);
    match world
        .bus
        .publish_expecting(outgoing, &fence, last.sequence)
        .await
    {
        Ok(_sequence) => world.free_slot(instance, branch, id).await,
        Err(FenceError::Lost { .. }) => Ok(()),
        Err(FenceError::Bus(error)) => Err(error.into()),
    }
}

/// Asks for what waits where no slot is taken: whoever freed it died before it could.
async fn start_waiting(
    world: &World,
    taken: &HashSet<(InstanceName, BranchName)>,
) -> Result<(), Unfinished> {
    let waiting = world.slots_bucket().under("queue").await?;
    let branches = waiting.iter().filter_map(|entry| {
        let wish = crate::slots::waiting(entry)?;
        Some((wish.request.instance, wish.request.branch))
    });
    let free: BTreeSet<_> = branches.filter(|branch| !taken.contains(branch)).collect();
    for (instance, branch) in free {
        world.start_next(&instance, &branch).await?;
    }
    Ok(())
}
