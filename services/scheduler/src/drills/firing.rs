//! Which drills are due. What is known of the instances is memory; what was done is on the fences and in the documents.

use std::collections::{BTreeMap, BTreeSet};

use bus::Listing;
use calendar::Calendar;
use chrono::TimeDelta;
use events::document::{DrillSettings, RunningDrill};
use events::envelope::rfc3339;
use events::event::DrillSkipped;
use events::{DrillId, InstanceDocument, InstanceName, Timestamp, Trigger};
use futures::StreamExt as _;

use crate::commands::World;
use crate::drills::Asked;
use crate::fires::counts;
use crate::recall::has_forgotten;
use crate::refusal::Unfinished;

/// A fire that is older is not caught up: what became of it is no longer known.
const CAUGHT_UP: TimeDelta = TimeDelta::days(360);
/// Instances that are looked after at the same time.
const AT_ONCE: usize = 16;

/// The instances that have drills, or one that runs.
#[derive(Default)]
pub(super) struct Firing {
    known: BTreeMap<InstanceName, Drilled>,
}

/// What is known of one instance.
struct Drilled {
    settings: Option<(DrillSettings, Calendar)>,
    running: Option<RunningDrill>,
    /// The last fire that has had its effect.
    settled: Option<Timestamp>,
}

impl Drilled {
    /// The latest fire, if it counts and has had no effect that we know of. After downtime that is one catch-up.
    fn due(&self, now: Timestamp) -> Option<(&DrillSettings, Timestamp)> {
        let (settings, calendar) = self.settings.as_ref()?;
        let fire = calendar.latest_at_or_before(now)?;
        let counts = counts(fire, settings.created_at, now);
        (counts && self.settled != Some(fire)).then_some((settings, fire))
    }
}

impl Firing {
    /// Takes a document, or that there is none any more.
    pub(super) fn learn(&mut self, instance: InstanceName, document: Option<InstanceDocument>) {
        let document = document.filter(|document| !document.removing);
        let drilled = document.and_then(|document| {
            let settled = self.known.get(&instance).and_then(|known| known.settled);
            let settings = document.drills.and_then(|settings| {
                let cron = settings.cron.as_deref()?;
                match Calendar::parse(cron, &settings.timezone) {
                    Ok(calendar) => Some((settings, calendar)),
                    Err(error) => {
                        let error = &error as &dyn std::error::Error;
                        tracing::error!(%instance, error, "its drills have no calendar");
                        None
                    }
                }
            });
            let running = document.running_drill;
            (settings.is_some() || running.is_some()).then_some(Drilled {
                settings,
                running,
                settled,
            })
        });
        let _ = match drilled {
            Some(drilled) => self.known.insert(instance, drilled),
            None => self.known.remove(&instance),
        };
    }

    /// Takes all documents. Of an instance whose document cannot be read, what was known stays true.
    pub(super) fn relearn(&mut self, listing: Listing) {
        let Listing {
            documents,
            unreadable,
        } = listing;
        let there: BTreeSet<&InstanceName> = documents.iter().map(|one| &one.instance).collect();
        self.known
            .retain(|instance, _| there.contains(instance) || unreadable.contains(instance));
        for document in documents {
            self.learn(document.instance.clone(), Some(document));
        }
    }

    /// Asks for what is due, and looks after what runs.
    pub(super) async fn round(&mut self, world: &World) {
        let now = world.clock.now();
        let looks = self.known.iter().map(|(instance, drilled)| async move {
            let settled = look_after(world, instance, drilled, now).await;
            let settled = settled.inspect_err(|error| {
                tracing::warn!(%instance, %error, "its drills are looked after later");
            });
            (instance.clone(), settled.ok().flatten())
        });
        let looked: Vec<_> = futures::stream::iter(looks)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for (instance, settled) in looked {
            if let (Some(settled), Some(drilled)) = (settled, self.known.get_mut(&instance)) {
                drilled.settled = Some(settled);
            }
        }
    }
}

/// The fire that has had its effect by now.
async fn look_after(
    world: &World,
    instance: &InstanceName,
    drilled: &Drilled,
    now: Timestamp,
) -> Result<Option<Timestamp>, Unfinished> {
    if let Some(running) = &drilled.running {
        world.tend_drill(instance, running).await?;
    }
    let Some((settings, fire)) = drilled.due(now) else {
        return Ok(None);
    };
    if now - fire > CAUGHT_UP || has_forgotten(world, fire).await? {
        return Ok(Some(fire));
    }
    let drill_id = DrillId::scheduled(instance, fire);
    let branch = &settings.branch;
    let asked = world.ask_for_drill(instance, branch, (drill_id, Trigger::Schedule));
    match asked.await? {
        Asked::Yes => tracing::debug!(%instance, drill = %drill_id, "a drill was due"),
        // A branch that comes back has the fires from then on.
        Asked::NoBranch => return Ok(None),
        Asked::Busy { running, since } => {
            let skipped = DrillSkipped {
                drill_id,
                instance: instance.clone(),
                branch: branch.clone(),
                due_at: fire,
                reason: format!("drill {running} is running since {}", rfc3339(since)),
            };
            world.skip_drill(skipped).await?;
        }
    }
    Ok(Some(fire))
}
