//! Turns due schedules into requested backups.
//!
//! Any number of schedulers may run this: a scheduled backup's id comes from schedule and fire time, and its
//! request expects nothing on the backup's fence, so that a fire has one effect however many replicas
//! publish it, and whenever. What fires next is known from a heap ([`plan`]) that is fed by the changes of the
//! documents, and by all of them every few minutes.
//!
//! Replicas take what is due at once in orders of their own and leave out what another one was heard to have
//! published ([`told`]): they share the work, and nobody relies on it.

mod plan;
mod told;

use std::collections::hash_map::RandomState;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::hash::BuildHasher as _;
use std::sync::Arc;
use std::time::Duration;

use bus::{InstanceChange, Listing};
use chrono::TimeDelta;
use events::envelope::rfc3339;
use events::event::BackupRequested;
use events::topology::{EVENTS, INSTANCES};
use events::{BackupType, InstanceName, Timestamp, Trigger};
use futures::StreamExt as _;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::commands::World;
use crate::firing::plan::{Fire, Plan};
use crate::firing::told::Told;
use crate::metrics;
use crate::recall::{has_forgotten, recall_documents};
use crate::refusal::Unfinished;
use crate::slots::{Kept, Life, WhenBusy};

/// The longest time without a look at the clock, which may have been set.
const TICK: Duration = Duration::from_secs(1);
/// How often all documents are read, so that a missed change is a delay and nothing more.
const RELOAD_EVERY: Duration = Duration::from_secs(300);
/// How often it is looked whether the bucket of the documents is still the same one.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Fires published at once.
const CONCURRENT_FIRES: usize = 64;
/// Changes that wait to be heard; the watch waits when there are more.
const CHANGES: usize = 1024;
/// A fire that is older was probably published before, by another replica or before a restart.
const LATE: TimeDelta = TimeDelta::seconds(60);
/// A clock that goes back by less is being adjusted, not set.
const CLOCK_NOISE: TimeDelta = TimeDelta::milliseconds(500);

/// Publishes due backups until shutdown.
pub(crate) async fn run(world: World, shutdown: CancellationToken) {
    let mut firing = Firing {
        order: Some(RandomState::new()),
        ..Firing::default()
    };
    let (told, bus) = (Arc::clone(&firing.told), world.bus.clone());
    let listening = shutdown.clone();
    let listening = listening.run_until_cancelled_owned(async move { told.listen(bus).await });
    let listening = tokio::spawn(listening);
    let (heard, mut changes) = mpsc::channel(CHANGES);
    let watch = world.bus.instances().watch();
    let watching = shutdown.clone().run_until_cancelled_owned(async move {
        let mut watch = watch;
        while let Some(change) = watch.next().await {
            if heard.send(change).await.is_err() {
                return;
            }
        }
    });
    let watching = tokio::spawn(watching);
    let mut failed = 0;
    loop {
        let pause = firing.pause(world.clock.now(), failed);
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(change) = changes.recv() => {
                firing.hear(change, world.clock.now());
                while let Ok(change) = changes.try_recv() {
                    firing.hear(change, world.clock.now());
                }
            }
            () = tokio::time::sleep(pause) => {}
        }
        failed = firing.fire_due(&world).await;
        firing.look(&world).await;
    }
    // They end with the shutdown.
    let _ended = tokio::join!(watching, listening);
}

/// The documents that are there, and what fires next.
#[derive(Default)]
pub(crate) struct Firing {
    plan: Plan,
    /// Every instance that is known, and whether it is being removed.
    known: BTreeMap<InstanceName, bool>,
    /// Whether the mirror was looked at since the start.
    recalled: bool,
    /// The bucket that was read, by its birth; none while it is to be read.
    bucket: Option<Timestamp>,
    /// The stream of events, by its birth.
    events: Option<Timestamp>,
    read_at: Option<Instant>,
    looked_at: Option<Instant>,
    last_now: Option<Timestamp>,
    /// What others were heard to have published.
    told: Arc<Told>,
    /// In which order this replica takes what is due at once; none for that of the names.
    order: Option<RandomState>,
}

impl Firing {
    /// How long nothing is to be done.
    fn pause(&self, now: Timestamp, failed: usize) -> Duration {
        if failed > 0 {
            return TICK;
        }
        let next = self.plan.next_at().map(|next| next - now);
        // `to_std` fails on a negative distance: it is due.
        next.map_or(TICK, |left| left.to_std().unwrap_or_default().min(TICK))
    }

    /// Reads all documents when they may have been lost, or it is long ago.
    pub(crate) async fn look(&mut self, world: &World) {
        let now = Instant::now();
        let passed = |since: Option<Instant>, least| since.is_none_or(|at| now - at >= least);
        if !passed(self.looked_at, LOOK_EVERY) {
            return;
        }
        self.looked_at = Some(now);
        self.look_at_events(world).await;
        let bucket = world.bus.stream_state(&format!("KV_{INSTANCES}")).await;
        let bucket = bucket.map(|state| state.created).ok();
        if bucket.is_some() && bucket == self.bucket && !passed(self.read_at, RELOAD_EVERY) {
            return;
        }
        match self.reload(world).await {
            Ok(()) => (self.bucket, self.read_at) = (bucket, Some(now)),
            Err(error) => {
                tracing::warn!(error = %error, "the instance documents cannot be read; firing from memory");
                if let Err(error) = world.bus.apply_topology().await {
                    tracing::debug!(error = %error, "the topology of the bus cannot be applied");
                }
            }
        }
    }

    /// Where the stream of events is another one, all that fires have led to was lost: what fires is computed anew from
    /// the documents, so that the fires of the last day are asked for again.
    async fn look_at_events(&mut self, world: &World) {
        let Ok(state) = world.bus.stream_state(EVENTS).await else {
            return;
        };
        let before = self.events.replace(state.created);
        if before.is_some_and(|before| before != state.created) {
            tracing::warn!(
                "the stream of events was lost; the fires of the last day are asked for again"
            );
            // First: nothing that was heard on the lost one settles a fire.
            self.told.forget();
            self.plan = Plan::default();
            self.bucket = None;
        }
    }

    /// Reads the documents. Where one is gone that was there, and at the start, the mirror is asked: NATS may
    /// have been lost. What cannot be read now is not gone: what was known of it goes on.
    pub(crate) async fn reload(&mut self, world: &World) -> Result<(), Unfinished> {
        let mut listing = world.bus.instances().listing().await?;
        let there = names(&listing);
        let some_gone = self.known.keys().any(|known| !there.contains(known));
        let recalled = if some_gone || !self.recalled {
            world.bus.apply_topology().await?;
            let recalled = recall_documents(world).await;
            listing = world.bus.instances().listing().await?;
            recalled
        } else {
            Ok(())
        };
        self.recalled = recalled.is_ok();
        let now = world.clock.now();
        if recalled.is_ok() {
            let there = names(&listing);
            self.known.retain(|known, _| there.contains(known));
            self.plan.retain(|instance| there.contains(instance));
        }
        let documents = &listing.documents;
        let pools: BTreeSet<_> = documents.iter().filter_map(|d| d.pool.as_ref()).collect();
        for pool in pools {
            world.make_pool(Some(pool)).await?;
        }
        for document in documents {
            let _before = self
                .known
                .insert(document.instance.clone(), document.removing);
            self.plan.put(document, now);
        }
        recalled
    }

    /// Takes note of a change. One that vanished without having been removed may have been lost: all are read.
    fn hear(&mut self, change: InstanceChange, now: Timestamp) {
        match change.document {
            Some(document) => {
                self.plan.put(&document, now);
                let _before = self.known.insert(change.instance, document.removing);
            }
            None => match self.known.get(&change.instance) {
                Some(false) => (self.bucket, self.looked_at) = (None, None),
                Some(true) => {
                    let _removing = self.known.remove(&change.instance);
                    self.plan.retain(|instance| *instance != change.instance);
                }
                None => {}
            },
        }
    }

    /// Publishes what is due; how many could not be, and will be tried again.
    pub(crate) async fn fire_due(&mut self, world: &World) -> usize {
        let now = world.clock.now();
        let before = self.last_now.replace(now);
        if before.is_some_and(|before| now < before - CLOCK_NOISE) {
            tracing::warn!(before = ?before, %now, "the clock was set back; what fires next is computed anew");
            self.plan.rewind(now);
        }
        let mut due = by_branch(self.plan.take_due(now));
        if let Some(order) = &self.order {
            due.sort_by_cached_key(|fires| {
                fires.first().map(|fire| order.hash_one(fire.backup_id()))
            });
        }
        let told = Arc::clone(&self.told);
        let told = &*told;
        let mut published = futures::stream::iter(due)
            .map(async |of_branch| {
                let mut asked = Vec::new();
                for fire in of_branch {
                    let done = match told.of(fire.backup_id()) {
                        true => Ok(()),
                        false => ask(world, &fire, now).await,
                    };
                    asked.push((done, fire));
                }
                futures::stream::iter(asked)
            })
            .buffer_unordered(CONCURRENT_FIRES)
            .flatten();
        let mut failed = 0;
        while let Some((asked, fire)) = published.next().await {
            match asked {
                Ok(()) => self.plan.settle(&fire),
                Err(error) => {
                    failed += 1;
                    tracing::warn!(
                        instance = %fire.instance, schedule = fire.schedule.name, error = %error,
                        "a due backup could not be requested; trying again"
                    );
                    self.plan.put_back(&fire);
                }
            }
        }
        failed
    }
}

/// All instances that are there.
fn names(listing: &Listing) -> HashSet<InstanceName> {
    let read = listing.documents.iter().map(|document| &document.instance);
    read.chain(&listing.unreadable).cloned().collect()
}

/// The fires of each branch, the one that is kept longest first: it is the backup of the others too.
fn by_branch(due: Vec<Fire>) -> Vec<Vec<Fire>> {
    let mut branches: BTreeMap<_, Vec<Fire>> = BTreeMap::new();
    for fire in due {
        let branch = (fire.instance.clone(), fire.schedule.branch.clone());
        branches.entry(branch).or_default().push(fire);
    }
    let kept = |fire: &Fire| Kept::new(Some(fire.schedule.retention), fire.wal);
    for fires in branches.values_mut() {
        fires.sort_by(|one, other| kept(one).longest_first(kept(other)));
    }
    branches.into_values().collect()
}

#[tracing::instrument(skip_all, fields(instance = %fire.instance, schedule = fire.schedule.name, fire_at = %fire.at))]
async fn ask(world: &World, fire: &Fire, now: Timestamp) -> Result<(), Unfinished> {
    let schedule = &fire.schedule;
    let request = BackupRequested {
        backup_id: fire.backup_id(),
        instance: fire.instance.clone(),
        branch: schedule.branch.clone(),
        name: format!("{} {}", schedule.name, rfc3339(fire.at)),
        backup_type: BackupType::Auto,
        trigger: Trigger::Schedule,
        schedule_id: Some(schedule.id),
        retention: Some(schedule.retention),
        wal: fire.wal,
        pool: fire.pool.clone(),
        requested_at: now,
    };
    if now - fire.at > LATE {
        let last = world.last_of(&request).await?;
        if Life::of(last.as_ref()) != Life::Unborn || has_forgotten(world, fire.at).await? {
            return Ok(());
        }
    }
    let (instance, branch) = (&request.instance, &request.branch);
    if world.is_stopped(instance, branch).await? {
        let reason = format!("the server of branch {branch} is stopped");
        return world.skip(request, fire.at, None, reason).await;
    }
    let busy = WhenBusy::Skip { due_at: fire.at };
    let asked = world.ask_for_backup(request, None, busy).await?;
    metrics::fired(asked, world.clock.now() - fire.at);
    Ok(())
}
