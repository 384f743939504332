//! Answers "which schedules are there, and when do they fire?".

use bus::{BusError, QueryError};
use events::document::{Branch, Schedule};
use events::schedules::{ScheduleAnswer, SchedulesAnswer, SchedulesQuestion};
use events::{BackupId, Event, InstanceDocument, Timestamp, subject};
use tokio_util::sync::CancellationToken;

use crate::commands::{World, default_wal_keep};
use crate::fires::Fires;
use crate::slots::Life;

/// Serves the question until shutdown.
pub(crate) async fn serve(world: &World, shutdown: CancellationToken) -> Result<(), BusError> {
    let answering = world.clone();
    world
        .bus
        .serve(
            &subject::scheduler_schedules(),
            "scheduler",
            move |_subject, question: SchedulesQuestion| {
                let world = answering.clone();
                async move { answer(&world, question).await }
            },
            shutdown,
        )
        .await
}

pub(crate) async fn answer(
    world: &World,
    question: SchedulesQuestion,
) -> Result<SchedulesAnswer, QueryError> {
    let unavailable = |error: BusError| {
        QueryError::new("unavailable", error.to_string(), "Try again in a moment.")
    };
    let document = world.bus.instances().get(&question.instance).await;
    let document = document.map_err(unavailable)?;
    let Some((document, _)) = document else {
        return Err(QueryError::new(
            "not_found",
            format!("there is no instance {}", question.instance),
            "See `zektor instance list`.",
        ));
    };
    let now = world.clock.now();
    let mut schedules = Vec::new();
    for schedule in &document.schedules {
        let mut described = describe(&document, schedule, now);
        if let Some(due) = described.last_at
            && !was_asked(world, &document, (schedule, due))
                .await
                .map_err(unavailable)?
        {
            described.last_at = None;
        }
        schedules.push(described);
    }
    Ok(SchedulesAnswer { schedules })
}

/// Whether a fire has led to a backup, as far as the bus remembers: it may have been skipped, or not have come yet.
async fn was_asked(
    world: &World,
    document: &InstanceDocument,
    (schedule, due): (&Schedule, Timestamp),
) -> Result<bool, BusError> {
    let id = BackupId::scheduled(schedule.id, due);
    let fence = subject::backup_fence(&document.instance, &schedule.branch, id);
    let last = world.bus.last_on(&fence).await?;
    Ok(match Life::of(last.as_ref()) {
        Life::Unborn | Life::Queued => false,
        Life::Running => true,
        Life::Ended => {
            !last.is_some_and(|last| matches!(last.envelope.message, Event::BackupSkipped(_)))
        }
    })
}

/// With the latest fire that was due, whatever has come of it.
fn describe(document: &InstanceDocument, schedule: &Schedule, now: Timestamp) -> ScheduleAnswer {
    let branch = document.branches.get(&schedule.branch);
    let is_on = !schedule.paused && branch.and_then(Branch::active).is_some();
    // What would be due while it is paused, or its branch is going away, is no fire.
    let fires = Fires::of(schedule).ok().filter(|_| is_on);
    let default_wal = || default_wal_keep(document, &schedule.branch, Some(schedule.retention));
    ScheduleAnswer {
        id: schedule.id,
        name: schedule.name.clone(),
        cron: schedule.cron.clone(),
        timezone: schedule.timezone.clone(),
        retention: schedule.retention,
        branch: schedule.branch.clone(),
        paused: schedule.paused,
        wal: schedule.wal.unwrap_or_else(default_wal),
        next_at: fires.as_ref().and_then(|fires| fires.next(now)),
        last_at: fires.as_ref().and_then(|fires| fires.due(now)),
    }
}
