//! One attempt at a drill, from the drawn moment to the last look.

use std::collections::BTreeMap;

use bus::{Progress, Sequence};
use events::document::DrillCheck;
use events::event::{DrillCheckResult, DrillRequested, DrillStep, DrillSummary, RefusalCode};
use events::{ClusterSize, CommandId, RestoreTarget, Timestamp};
use repository::archive::Archive;
use tokio::time::Instant;
use wal_index::IndexSettings;

use crate::compute::SiteLock;
use crate::drill::amcheck::{self, Sandbox, skipped};
use crate::drill::moment::{Unavailable, draw};
use crate::drill::statements::Reader;
use crate::drill::voice::DrillVoice;
use crate::drill::{DrillError, Drills, claims};
use crate::error::RestoreError;
use crate::plan::{Plan, Refusal};
use crate::preflight;
use crate::raise::{MATERIALISE, OPEN, Purpose, Raise, Raised, millis};
use crate::restorer::{Prepared, Restorer};
use crate::server_sql::Door;

const PLAN: &str = "plan";
const AMCHECK: &str = "amcheck";
const CHECKS: &str = "checks";
/// A window may lose a moment between being told and being planned with.
const DRAWS: u32 = 3;

/// What an attempt knows so far.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) target: Option<Timestamp>,
    pub(super) plan: Option<Plan>,
    pub(super) phases: BTreeMap<String, u64>,
    pub(super) checks: Vec<DrillCheckResult>,
    restore_ms: Option<u64>,
}

impl Seen {
    /// The step that is not done yet. A phase is only known once it was passed.
    pub(super) fn step(&self) -> DrillStep {
        let steps = [
            (PLAN, DrillStep::Plan),
            (MATERIALISE, DrillStep::Materialise),
            (OPEN, DrillStep::Recover),
            (AMCHECK, DrillStep::Amcheck),
            (CHECKS, DrillStep::Checks),
        ];
        let missing = steps
            .into_iter()
            .find(|(phase, _)| !self.phases.contains_key(*phase));
        missing.map_or(DrillStep::TearDown, |(_, step)| step)
    }

    pub(super) fn summary(self, begun: Instant, now: Timestamp) -> Option<DrillSummary> {
        let plan = self.plan?;
        Some(DrillSummary {
            target: self.target?,
            backup_id: plan.backup.backup_id,
            last_commit: plan.prediction.and_then(|known| known.last_commit),
            checks: self.checks,
            logical_bytes: plan.backup.logical_bytes,
            restore_ms: self.restore_ms?,
            duration_ms: millis(begun),
            phases: self.phases,
            completed_at: now,
        })
    }
}

/// One attempt, and what it must leave to whoever tears it down.
pub(super) struct Rehearsal<'a> {
    pub(super) drills: &'a Drills,
    pub(super) request: &'a DrillRequested,
    pub(super) token: Sequence,
    pub(super) begun: Instant,
    pub(super) seen: Seen,
    pub(super) voice: Option<DrillVoice<'a>>,
    pub(super) lock: Option<SiteLock>,
}

impl<'a> Rehearsal<'a> {
    /// Does it. `drawn` is the moment of an attempt before.
    pub(super) async fn run(
        &mut self,
        drawn: Option<Timestamp>,
        progress: &Progress,
    ) -> Result<(), DrillError> {
        let (drills, request) = (self.drills, self.request);
        let restorer: &'a Restorer = &drills.restorer;
        claims::held(restorer, request).await?;
        let (target, plan) = self.decide(drawn).await?;
        self.seen.target = Some(target);
        self.seen.plan = Some(plan.clone());
        let programs = restorer.programs(&plan).await?;
        let (free, room) = (
            restorer.compute.free_bytes().await,
            restorer.policy.room_bytes,
        );
        preflight::room_for_drill(&plan, free, room).map_err(RestoreError::from)?;
        let names = restorer.names(&request.instance, &request.branch).await?;
        let prepared = Prepared {
            plan,
            programs,
            names,
        };
        let voice = DrillVoice::begin(
            &restorer.bus,
            request,
            (&prepared.plan, target),
            self.token,
            &restorer.name,
            &*restorer.clock,
            progress.clone(),
        );
        let voice = voice.await.map_err(RestoreError::from)?;
        let voice = self.voice.insert(voice);
        let compute = &*restorer.compute;
        let site = compute.drill_site(&request.instance, &request.branch, request.drill_id);
        // An attempt that we have just fenced off may still be at it.
        self.lock = Some(compute.lock(&site).await.map_err(RestoreError::from)?);
        let _ = self.seen.phases.insert(PLAN.to_owned(), millis(self.begun));
        compute.remove(&site).await.map_err(RestoreError::from)?;
        compute.create(&site).await.map_err(RestoreError::from)?;
        let raise = Raise {
            restorer,
            by: CommandId(request.drill_id.0),
            instance: &request.instance,
            source: &request.branch,
            site: &site,
            prepared: &prepared,
            size: ClusterSize::Dev,
            parallelism: drills.rules.parallelism.max(1),
            purpose: Purpose::Sandbox {
                temp_bytes: drills.rules.temp_bytes,
            },
        };
        let raised = Box::pin(raise.run(voice, &mut self.seen.phases)).await?;
        self.seen.restore_ms = Some(millis(self.begun));
        let door = Door::Open {
            site: &site,
            uri: &raised.uri,
            major: prepared.programs.version.major(),
        };
        let sandbox = Sandbox {
            compute,
            site: &site,
            programs: &prepared.programs,
            door,
            superuser: &raised.superuser,
            database: &raised.database,
            port: raised.port,
        };
        self.amcheck(&sandbox).await?;
        self.statements(&sandbox, &raised).await
    }

    /// A moment of the window and its plan.
    async fn decide(&self, drawn: Option<Timestamp>) -> Result<(Timestamp, Plan), DrillError> {
        let (restorer, request) = (&*self.drills.restorer, self.request);
        let reader = restorer
            .repository
            .reader(&request.instance, &request.branch);
        let latest = RestoreTarget::Latest;
        let archive = restorer.archive(&request.instance, &request.branch, &latest);
        let archive = archive.await?;
        if let Some(at) = drawn {
            let target = RestoreTarget::Time { at };
            match restorer.decide(&reader, &archive, &target).await {
                Ok(plan) => return Ok((at, plan)),
                Err(RestoreError::Refused(refusal)) => {
                    tracing::warn!(%at, reason = refusal.message, "another moment is drawn");
                }
                Err(error) => return Err(error.into()),
            }
        }
        let mut draws = 1;
        loop {
            let at = self.draw(&archive).await?;
            let target = RestoreTarget::Time { at };
            match restorer.decide(&reader, &archive, &target).await {
                Ok(plan) => return Ok((at, plan)),
                Err(RestoreError::Refused(refusal)) if draws < DRAWS => {
                    tracing::warn!(
                        %at, reason = refusal.message,
                        "a moment of the window cannot be planned; another one is drawn"
                    );
                    draws += 1;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn draw(&self, archive: &Archive) -> Result<Timestamp, DrillError> {
        let (restorer, request) = (&*self.drills.restorer, self.request);
        let reader = restorer
            .repository
            .reader(&request.instance, &request.branch);
        let settings = IndexSettings::default();
        let window = reader.restorable_window(archive, settings).await;
        let window = window.map_err(RestoreError::from)?;
        let (now, age) = (restorer.clock.now(), restorer.policy.min_target_age);
        // The generator is this thread's, so it must be gone before anything is awaited.
        let drawn = draw(&window, now, age, &mut rand::rng());
        drawn.map_err(|unavailable| match unavailable {
            Unavailable::Nothing if archive.backups.is_empty() => {
                let message = format!("{} has no completed backup", request.branch);
                let hint = "take one with `zektor backup create`, and run the drill again";
                DrillError::Refused(Refusal::new(RefusalCode::OutsideWindow, message, hint))
            }
            Unavailable::Nothing => {
                let message = format!("nothing of {} can be restored", request.branch);
                let hint = "see `zektor window`, and take a backup with `zektor backup create`";
                // There are backups, and the WAL of none of them.
                let refusal = Refusal::new(RefusalCode::OutsideWindow, message, hint);
                DrillError::Restore(refusal.into())
            }
            Unavailable::TooYoung => {
                let message = format!(
                    "what can be restored of {} is younger than {} s",
                    request.branch,
                    age.as_secs()
                );
                let hint = "run the drill again when it is older; ZEKTOR_RESTORE_MIN_TARGET_AGE \
                            says how old";
                DrillError::Refused(Refusal::new(RefusalCode::OutsideWindow, message, hint))
            }
        })
    }

    async fn amcheck(&mut self, sandbox: &Sandbox<'_>) -> Result<(), DrillError> {
        let begun = Instant::now();
        let result = match (self.drills.rules.amcheck, &mut self.voice) {
            (true, Some(voice)) => {
                let looked = voice.during(sandbox.amcheck()).await;
                looked.map_err(RestoreError::from)??
            }
            _ => skipped(
                amcheck::NAME,
                "not run: the restorer's ZEKTOR_DRILL_AMCHECK says so".to_owned(),
            ),
        };
        let disproved = (!result.passed && !result.skipped).then(|| DrillError::Disproved {
            message: format!("{}: {}", result.name, result.detail),
            hint: "run pg_amcheck on the source: what is damaged there comes back damaged; restore a moment \
                   before the damage, or REINDEX where only indexes are",
        });
        self.seen.checks.push(result);
        match disproved {
            // The statements are not asked any more: what is damaged may answer anything.
            Some(error) => Err(error),
            None => {
                let _ = self.seen.phases.insert(AMCHECK.to_owned(), millis(begun));
                Ok(())
            }
        }
    }

    /// Asks all of them, so that one answer does not hide another.
    async fn statements(
        &mut self,
        sandbox: &Sandbox<'_>,
        raised: &Raised,
    ) -> Result<(), DrillError> {
        let begun = Instant::now();
        let (checks, timeout) = (&self.request.checks, self.drills.rules.check_timeout);
        let Some(voice) = &mut self.voice else {
            return Ok(());
        };
        if !checks.is_empty() {
            let reader =
                Reader::new((sandbox.site, raised), &sandbox.door, checks, timeout).await?;
            for check in checks {
                let asked = voice.during(reader.ask(check)).await;
                self.seen.checks.push(asked.map_err(RestoreError::from)?);
            }
        }
        let failed = |check: &&DrillCheckResult| !check.passed && !check.skipped;
        if let Some(failed) = self.seen.checks.iter().find(failed) {
            return Err(DrillError::Disproved {
                message: disproved(failed, checks),
                hint: "ask the same of the source; a check has to hold at every moment of the window",
            });
        }
        let _ = self.seen.phases.insert(CHECKS.to_owned(), millis(begun));
        Ok(())
    }
}

fn disproved(failed: &DrillCheckResult, checks: &[DrillCheck]) -> String {
    let number = checks.len();
    format!(
        "check {:?} (of {number}) failed: {}",
        failed.name, failed.detail
    )
}

#[cfg(test)]
mod tests {
    use events::event::DrillStep;

    use super::Seen;

    #[test]
    fn the_step_is_the_first_that_was_not_passed() {
        let mut seen = Seen::default();
        let mut check = |phase: &str, expected| {
            let _ = seen.phases.insert(phase.to_owned(), 1);
            assert_eq!(seen.step(), expected, "{phase}");
        };
        check("nothing", DrillStep::Plan);
        check("plan", DrillStep::Materialise);
        check("materialise", DrillStep::Recover);
        check("recover", DrillStep::Recover);
        check("open", DrillStep::Amcheck);
        check("amcheck", DrillStep::Checks);
        check("checks", DrillStep::TearDown);
    }
}
