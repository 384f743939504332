//! What an event means to the rules.

use ::alerts::{Completed, Fact, FailedDrill, Gap};
use bus::Delivery;
use events::event::DrillCheckResult;
use events::{BackupSummary, BranchName, Event, InstanceName, Timestamp};

/// A fact, of whom, and when it became true: when the server stored that it is so, because the clocks of those who say it
/// differ. The same event, delivered again, gives the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Heard {
    pub(crate) instance: InstanceName,
    pub(crate) branch: BranchName,
    pub(crate) at: Timestamp,
    pub(crate) fact: Fact,
}

/// The fact in an event, if there is one.
pub(crate) fn of(delivery: &Delivery<Event>) -> Option<Heard> {
    let (instance, branch, fact) = match &delivery.envelope.message {
        Event::BackupCompleted(e) => {
            let fact = Fact::BackupCompleted(completed(&e.summary));
            (&e.instance, &e.branch, fact)
        }
        Event::BackupFailed(e) => {
            let fact = Fact::BackupFailed {
                backup_id: e.backup_id,
                cause: e.cause,
                message: e.message.clone(),
                hint: e.hint.clone(),
            };
            (&e.instance, &e.branch, fact)
        }
        Event::BackupSkipped(e) => {
            let (schedule, reason) = (e.schedule_id, e.reason.clone());
            let fact = Fact::FireSkipped { schedule, reason };
            (&e.instance, &e.branch, fact)
        }
        Event::BranchStopped(e) => (&e.instance, &e.branch, Fact::ServerStopped),
        Event::BranchStarted(e) => (&e.instance, &e.branch, Fact::ServerStarted),
        Event::BackupVerified(e) => {
            let unknown = || "it is not said what is wrong".to_owned();
            let problem = (!e.sound).then(|| e.problems.first().cloned().unwrap_or_else(unknown));
            let backup_id = e.backup_id;
            (
                &e.instance,
                &e.branch,
                Fact::BackupVerified { backup_id, problem },
            )
        }
        Event::BackupUpdated(e) => {
            let (backup_id, to_go) = (e.backup_id, e.mark.deletion.is_some());
            let fact = Fact::BackupMarked { backup_id, to_go };
            (&e.instance, &e.branch, fact)
        }
        Event::BackupExpired(e) => {
            let backup_id = e.backup_id;
            (&e.instance, &e.branch, Fact::LetGo { backup_id })
        }
        Event::BranchSweepRequested(e) => {
            let wal = e.sweep.wal.iter();
            let fact = Fact::SweepAsked {
                sweep_id: e.sweep_id,
                backups: e.sweep.backups.clone(),
                wal: wal.map(|wal| (wal.timeline, wal.to_lsn)).collect(),
            };
            (&e.instance, &e.branch, fact)
        }
        Event::BranchSwept(e) => {
            let (sweep_id, objects) = (e.sweep_id, e.objects);
            (&e.instance, &e.branch, Fact::Swept { sweep_id, objects })
        }
        Event::BranchWindowChanged(e) => {
            let fact = Fact::WindowChanged {
                earliest: e.window.earliest,
                backup: e.window.earliest_backup_id,
            };
            (&e.instance, &e.branch, fact)
        }
        Event::WalGapDetected(e) => {
            let fact = Fact::GapDetected(Gap {
                timeline: e.timeline,
                from_lsn: e.from_lsn,
                to_lsn: e.to_lsn,
                cause: e.cause,
            });
            (&e.instance, &e.branch, fact)
        }
        Event::SlotRiskChanged(e) => {
            let (level, message) = (e.level, e.message.clone());
            (&e.instance, &e.branch, Fact::SlotRisk { level, message })
        }
        Event::DrillCompleted(e) => {
            let fact = Fact::DrillEnded {
                drill_id: e.drill_id,
                failed: None,
            };
            (&e.instance, &e.branch, fact)
        }
        Event::DrillFailed(e) => {
            let is_false = |check: &&DrillCheckResult| !check.passed && !check.skipped;
            let false_checks = e.checks.iter().filter(is_false);
            let failed = FailedDrill {
                false_checks: false_checks.map(|check| check.name.clone()).collect(),
                step: e.step,
                cause: e.cause,
                damaged: e.damaged,
                message: e.message.clone(),
                hint: e.hint.clone(),
            };
            let fact = Fact::DrillEnded {
                drill_id: e.drill_id,
                failed: Some(failed),
            };
            (&e.instance, &e.branch, fact)
        }
        _ => return None,
    };
    let (instance, branch) = (instance.clone(), branch.clone());
    Some(Heard {
        instance,
        branch,
        at: delivery.stored_at,
        fact,
    })
}

pub(crate) fn completed(summary: &BackupSummary) -> Completed {
    let took = summary.backed_up_at - summary.started_at;
    Completed {
        backup_id: summary.backup_id,
        backup_type: summary.backup_type,
        stored_bytes: summary.stored_bytes,
        start_lsn: summary.start_lsn,
        timeline: summary.timeline,
        // Two clocks.
        took_secs: took.num_seconds().max(0),
        // From the earliest moment it can be counted from: it must not seem to be kept shorter than was wanted.
        kept_secs: summary
            .expires_at
            .map(|end| (end - summary.requested_at.min(summary.backed_up_at)).num_seconds()),
        damaged_pages: summary.damaged_pages.len().try_into().unwrap_or(u64::MAX),
    }
}
