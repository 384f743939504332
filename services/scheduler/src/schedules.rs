//! Answers "which schedules are there, and when do they fire?".

use bus::{BusError, QueryError};
use events::document::Schedule;
use events::schedules::{ScheduleAnswer, SchedulesAnswer, SchedulesQuestion};
use events::{Timestamp, subject};
use tokio_util::sync::CancellationToken;

use crate::commands::World;
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
        .map(|schedule| describe(schedule, now))
        .collect();
    Ok(SchedulesAnswer { schedules })
}

fn describe(schedule: &Schedule, now: Timestamp) -> ScheduleAnswer {
    let fires = Fires::of(schedule).ok();
    ScheduleAnswer {
        id: schedule.id,
        name: schedule.name.clone(),
        cron: schedule.cron.clone(),
        timezone: schedule.timezone.clone(),
        retention: schedule.retention,
        branch: schedule.branch.clone(),
        paused: schedule.paused,
        wal: schedule.wal.unwrap_or_default(),
        next_at: fires.as_ref().and_then(|fires| fires.next(now)),
        last_at: fires.as_ref().and_then(|fires| fires.due(now)),
    }
}
