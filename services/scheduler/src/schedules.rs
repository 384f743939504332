//! Answers "which schedules are there, and when do they fire?".

use bus::{BusError, QueryError};
use events::document::{Branch, Schedule};
use events::schedules::{ScheduleAnswer, SchedulesAnswer, SchedulesQuestion};
use events::{InstanceDocument, Timestamp, subject};
use tokio_util::sync::CancellationToken;

use crate::commands::{World, default_wal_keep};
use crate::fires::Fires;

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

async fn answer(world: &World, question: SchedulesQuestion) -> Result<SchedulesAnswer, QueryError> {
    let document = world.bus.instances().get(&question.instance).await;
    let document = document.map_err(|error| {
        QueryError::new("unavailable", error.to_string(), "Try again in a moment.")
    })?;
    let Some((document, _)) = document else {
        return Err(QueryError::new(
            "not_found",
            format!("there is no instance {}", question.instance),
            "See `zektor instance list`.",
        ));
    };
    let now = world.clock.now();
    let schedules = document
        .schedules
        .iter()
        .map(|schedule| describe(&document, schedule, now))
        .collect();
    Ok(SchedulesAnswer { schedules })
}

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
