//! No backup is "in progress" for ever, none waits for ever, and a slot that nobody freed is freed.
//!
//! Every replica looks at every slot, each [`ROUND`]. What it finds stuck it ends under the backup's fence, after the
//! last event it knows: an attempt that speaks meanwhile goes on, one that speaks later is refused. Silence is measured
//! by this process's own monotonic clock, from what it saw itself, so that clocks that differ or are set end nothing, and
//! counts only while it looked: after an outage of the bus, in which nobody could speak, it begins anew. Where the workers of
//! a pool speak of other backups, those of which nothing is heard wait for their turn: but a begun one only while no
//! worker of its pool has a place free ([`places`]).

mod judge;
mod places;
mod retry;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::time::Duration;

use bus::{FenceError, Outgoing, Sequence, Stored};
use chrono::TimeDelta;
use events::event::FailureCause;
use events::slot::{self, BackupSlot};
use events::{BackupId, BranchName, Event, InstanceName, MessageId, PoolName, Timestamp, subject};
use futures::StreamExt as _;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::commands::World;
use crate::exhausted::Ending;
use crate::refusal::Unfinished;
use crate::slots::Life;
use crate::watchdog::judge::{Limits, Observed, Stage, Stuck};
use crate::watchdog::places::Places;

/// How often every slot is looked at.
const ROUND: Duration = Duration::from_secs(15);
/// Slots looked at at once.
const CONCURRENT_LOOKS: usize = 16;
/// A claim that nobody has used for so long is freed.
const UNUSED: Duration = Duration::from_secs(60);
/// When the slots were not looked at for longer, what was said meanwhile may have been lost, and is waited for anew.
const NOT_LOOKED: Duration = ROUND.saturating_mul(5);
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
    /// The request that counts.
    request: Option<String>,
    pool: Pool,
}

/// Which workers were asked for a backup; none while that is not known.
type Pool = Option<Option<PoolName>>;

/// What this process saw of a backup.
#[derive(Debug, Clone)]
struct Seen {
    last: Sequence,
    changed: Instant,
    first: Instant,
    /// The request that counted then, and which workers it was for.
    request: Option<String>,
    pool: Pool,
}

/// What this process saw so far.
#[derive(Default)]
pub(crate) struct Watchdog {
    seen: HashMap<BackupId, Seen>,
    /// When workers of the pool were last seen to speak.
    spoke: HashMap<Option<PoolName>, Instant>,
    places: Places,
    last_round: Option<(Timestamp, Instant)>,
}

impl Watchdog {
    pub(crate) async fn round(&mut self, world: &World) -> Result<(), Unfinished> {
        let begun = Instant::now();
        world.recover_slots().await?;
        let looks = self.looks(world).await?;
        self.notice_set_clock(world.clock.now(), begun);
        for look in &looks {
            self.observe(look);
        }
        let there: HashSet<BackupId> = looks.iter().map(|look| look.slot.backup_id).collect();
        self.seen.retain(|id, _| there.contains(id));
        let silent = self.pools_with_silence(&looks, &Limits::of(&world.config));
        self.places.look(world, silent).await?;
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

    /// The pools of the backups of which nothing is heard.
    fn pools_with_silence(&self, looks: &[Look], limits: &Limits) -> HashSet<Option<PoolName>> {
        let silent = looks.iter().filter_map(|look| {
            let last = look.last.as_ref()?;
            let begun = is_said_by_worker(&last.envelope.message);
            let limit = if begun { limits.silence } else { limits.start };
            let seen = self.seen.get(&look.slot.backup_id)?;
            (seen.changed.elapsed() >= limit).then(|| seen.pool.clone())?
        });
        silent.collect()
    }

    /// Every slot with the last event of its backup.
    async fn looks(&self, world: &World) -> Result<Vec<Look>, Unfinished> {
        let slots = world.slots_bucket().under("backup").await?;
        let slots = slots.into_iter().filter_map(|entry| {
            let (instance, branch) = entry.key.strip_prefix("backup.")?.split_once('.')?;
            let slot = serde_json::from_slice::<BackupSlot>(&entry.value?).ok()?;
            Some((instance.parse().ok()?, branch.parse().ok()?, slot))
        });
        let looks: Vec<_> = slots
            .map(|(instance, branch, slot)| async move {
                let key = slot::backup_slot(&instance, &branch);
                (key, self.look(world, instance, branch, slot).await)
            })
            .collect();
        let mut looks = futures::stream::iter(looks).buffer_unordered(CONCURRENT_LOOKS);
        let mut done = Vec::new();
        while let Some((key, look)) = looks.next().await {
            done.extend(unless_of_all(&key, look)?);
        }
        Ok(done)
    }

    async fn look(
        &self,
        world: &World,
        instance: InstanceName,
        branch: BranchName,
        slot: BackupSlot,
    ) -> Result<Look, Unfinished> {
        let fence = subject::backup_fence(&instance, &branch, slot.backup_id);
        let last = world.bus.last_on(&fence).await?;
        let request = last
            .as_ref()
            .and_then(|last| last.envelope.backup_request());
        let request = request.map(str::to_owned);
        // What is known of another request says nothing of this one.
        let known = self.seen.get(&slot.backup_id);
        let known = known.filter(|seen| request.is_none() || seen.request == request);
        let known = known.and_then(|seen| seen.pool.clone());
        let pool = match last.as_ref().map(|last| &last.envelope.message) {
            Some(Event::BackupRequested(requested)) => Some(requested.pool.clone()),
            Some(said) if known.is_none() && is_said_by_worker(said) => {
                let asked = world.asked_last(&instance, &branch, slot.backup_id).await?;
                asked.map(|asked| asked.pool)
            }
            _ => known,
        };
        Ok(Look {
            instance,
            branch,
            slot,
            last,
            request,
            pool,
        })
    }

    /// What was counted by the wall clock is not to be relied on for a while after it was set, nor is a silence in which
    /// this process could not hear.
    fn notice_set_clock(&mut self, wall: Timestamp, begun: Instant) {
        let now = Instant::now();
        let Some((wall_before, before)) = self.last_round.replace((wall, now)) else {
            return;
        };
        let passed = TimeDelta::from_std(now - before).unwrap_or(TimeDelta::MAX);
        if ((wall - wall_before) - passed).abs() > CLOCK_SET {
            self.seen.values_mut().for_each(|seen| seen.first = now);
        }
        if begun - before > NOT_LOOKED {
            let anew = |seen: &mut Seen| (seen.first, seen.changed) = (now, now);
            self.seen.values_mut().for_each(anew);
            self.places = Places::default();
        }
    }

    fn observe(&mut self, look: &Look) {
        let now = Instant::now();
        let last = look.last.as_ref();
        let sequence = last.map_or(Sequence::NONE, |last| last.sequence);
        let before = self.seen.get(&look.slot.backup_id);
        if before.is_some_and(|before| before.last == sequence) {
            return;
        }
        let by_worker = last.is_some_and(|last| is_said_by_worker(&last.envelope.message));
        if let (true, Some(pool)) = (by_worker, &look.pool) {
            let _before = self.spoke.insert(pool.clone(), now);
        }
        let seen = Seen {
            last: sequence,
            changed: now,
            first: before.map_or(now, |before| before.first),
            request: look.request.clone(),
            pool: look.pool.clone(),
        };
        let _before = self.seen.insert(look.slot.backup_id, seen);
    }

    /// Frees the slot of a backup that has ended, and ends one that is stuck.
    async fn end_if_over(&self, world: &World, look: &Look) -> Result<(), Unfinished> {
        let id = look.slot.backup_id;
        let (instance, branch) = (&look.instance, &look.branch);
        let Some(seen) = self.seen.get(&id) else {
            return Ok(());
        };
        let message = look.last.as_ref().map(|last| &last.envelope.message);
        let stage = match Life::of(look.last.as_ref()) {
            Life::Ended => return world.free_slot(instance, branch, id).await,
            Life::Unborn | Life::Queued if seen.changed.elapsed() >= UNUSED => {
                return world.free_slot(instance, branch, id).await;
            }
            Life::Unborn | Life::Queued => return Ok(()),
            Life::Running if message.is_some_and(is_said_by_worker) => Stage::Working,
            // It was being asked for while its instance was given another pool.
            Life::Running if world.move_request(instance, branch, id).await? => return Ok(()),
            Life::Running => Stage::Waiting,
        };
        let spoke = seen.pool.as_ref().and_then(|pool| self.spoke.get(pool));
        let moved = spoke.map_or(seen.changed, |spoke| seen.changed.max(*spoke));
        let waits_for_none = seen
            .pool
            .as_ref()
            .is_some_and(|pool| self.places.are_free(pool, stage));
        let unchanged = if waits_for_none { seen.changed } else { moved };
        let observed = Observed {
            stage,
            unchanged: unchanged.elapsed(),
            watched: seen.first.elapsed(),
            age: world.clock.now() - look.slot.claimed_at,
        };
        match judge::stuck(&observed, &Limits::of(&world.config)) {
            Some(stuck) => end(world, look, &stuck).await,
            None => Ok(()),
        }
    }
}

/// Whether only a worker that has the backup says this.
fn is_said_by_worker(event: &Event) -> bool {
    matches!(
        event,
        Event::BackupStarted(_) | Event::BackupProgressed(_) | Event::BackupCompleted(_)
    )
}

/// The pool that was asked, if that is known: one without a name is the default one.
fn asked_of(pool: &Pool) -> Option<PoolName> {
    let named = pool.as_ref()?.clone();
    named.or_else(|| PoolName::new(PoolName::DEFAULT).ok())
}

/// What fails for one key alone, however often, keeps nobody else from being looked at; without a bus nothing is.
fn unless_of_all<T>(key: &str, result: Result<T, Unfinished>) -> Result<Option<T>, Unfinished> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(Unfinished::Bus(error)) if error.is_transient() => Err(error.into()),
        Err(error) => {
            tracing::warn!(key, %error, "this slot, or wish, cannot be dealt with; trying again");
            Ok(None)
        }
    }
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
        hint: stuck.hint(asked_of(&look.pool).as_ref()),
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
        let key = slot::backup_slot(&instance, &branch);
        let _done = unless_of_all(&key, world.start_next(&instance, &branch).await)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use bus::BusError;

    use super::unless_of_all;
    use crate::refusal::Unfinished;

    #[test]
    fn one_key_stops_no_round_but_a_bus_that_is_away_does() {
        let alone = Unfinished::NotYet("only this one".to_owned());
        assert!(matches!(unless_of_all::<()>("key", Err(alone)), Ok(None)));
        let away = Unfinished::Bus(BusError::Disconnected);
        assert!(unless_of_all::<()>("key", Err(away)).is_err());
    }
}
