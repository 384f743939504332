//! Rules about backups and drills.

use chrono::TimeDelta;
use events::Timestamp;
use events::event::{AlertSeverity, DrillStep, FailureCause};

use super::words::{because, hint_for, inside, size, span};
use super::{Finding, Judgement};
use crate::Settings;
use crate::facts::{At, Facts};

/// Failures of a branch that nobody wants backups of any more are forgotten after this.
const FORGOTTEN: TimeDelta = TimeDelta::days(1);
/// A median of fewer says nothing.
const FEWEST_SIZES: usize = 3;

pub(super) fn failing(facts: &Facts, now: Timestamp, settings: &Settings) -> Judgement {
    let (Some(first), Some(last)) = (facts.failed.first(), facts.failed.last()) else {
        return Judgement::Good("a backup was completed");
    };
    if facts.promise.is_none() && now - last.at > FORGOTTEN {
        return Judgement::Good(
            "no schedule asks for backups any more, and none was tried for a day",
        );
    }
    let count = facts.failed.len();
    if count < usize::try_from(settings.failures.max(1)).unwrap_or(usize::MAX) {
        return Judgement::Unsettled;
    }
    let failure = &last.what;
    let others: Vec<FailureCause> = facts
        .failed
        .iter()
        .map(|failed| failed.what.cause)
        .collect();
    let mixed = others.iter().any(|cause| *cause != failure.cause);
    let last_word = if mixed {
        "the last one probably"
    } else {
        "probably"
    };
    Judgement::Bad(Finding {
        severity: AlertSeverity::Warning,
        message: format!(
            "{count} backups in a row failed, {last_word} because of {}: {}",
            because(failure.cause),
            inside(&failure.message)
        ),
        hint: hint_for(failure.cause, &failure.hint),
        since: first.at,
    })
}

pub(super) fn overdue(facts: &Facts, now: Timestamp, settings: &Settings) -> Judgement {
    let Some(promise) = facts.promise else {
        return Judgement::Good("no schedule in force promises a backup");
    };
    let took = facts
        .completed
        .last()
        .map_or(0, |last| last.what.took_secs.max(0));
    let patience = TimeDelta::seconds(promise.secs.saturating_mul(3) / 2 + took);
    let limit = settings.overdue.max(patience);
    let last = facts.last_completed_at();
    let since = last.map_or(promise.since, |last| last.max(promise.since));
    if now - since <= limit {
        return Judgement::Good("a backup was completed in time");
    }
    let why = facts.failed.last().map(|failed| &failed.what);
    let cause = why.map_or_else(String::new, |failure| {
        format!(
            "; the last one tried failed, probably because of {}: {}",
            because(failure.cause),
            inside(&failure.message)
        )
    });
    let (severity, what) = match last {
        Some(last) => (
            AlertSeverity::Warning,
            format!("no backup was completed for {}", span(now - last)),
        ),
        None => (
            AlertSeverity::Critical,
            "no backup was ever completed".to_owned(),
        ),
    };
    Judgement::Bad(Finding {
        severity,
        message: format!("{what}, though the schedules promise one every {}{cause}", span(TimeDelta::seconds(promise.secs))),
        hint: why.map_or_else(
            || "Check that a backup worker runs and serves the pool of this instance, and see `zektor backup list`.".to_owned(),
            |failure| hint_for(failure.cause, &failure.hint),
        ),
        since,
    })
}

pub(super) fn growth(facts: &Facts, settings: &Settings) -> Judgement {
    let Some((newest, mut before)) = facts.sizes() else {
        return Judgement::Unsettled;
    };
    if before.len() < FEWEST_SIZES || newest.at < facts.floor {
        return Judgement::Good("there is nothing to compare the newest backup with");
    }
    before.sort_unstable();
    let median = before[before.len() / 2];
    let stored = newest.what.stored_bytes;
    if stored <= settings.growth_bytes
        || stored <= median.saturating_mul(u64::from(settings.growth_factor))
    {
        return Judgement::Good("the newest backup stored no more than usual");
    }
    Judgement::Bad(Finding {
        severity: AlertSeverity::Warning,
        message: format!("the newest backup stored {}; the ones before it {} each", size(stored), size(median)),
        hint: "See what has grown or was rewritten on the server, and whether the repository has room for it.".to_owned(),
        since: newest.at,
    })
}

pub(super) fn damaged(facts: &Facts) -> Judgement {
    let unsound = facts
        .verdicts
        .iter()
        .find(|verdict| verdict.what.problem.is_some());
    if let Some(At { at, what }) = unsound {
        let problem = what.problem.as_deref().unwrap_or_default();
        return Judgement::Bad(Finding {
            severity: AlertSeverity::Critical,
            message: format!("backup {} was read and cannot be restored as it is: {}", what.backup_id, inside(problem)),
            hint: "Take a new backup now, and see `zektor backup show` for all that is wrong; delete the damaged one then.".to_owned(),
            since: *at,
        });
    }
    let newest = facts
        .completed
        .last()
        .filter(|newest| newest.what.damaged_pages > 0);
    if let Some(At { at, what }) = newest {
        return Judgement::Bad(Finding {
            severity: AlertSeverity::Critical,
            message: format!("{} pages have a wrong checksum on the server; backup {} holds them as they are", what.damaged_pages, what.backup_id),
            hint: "Check the server's disk, and restore the relations that `zektor backup show` names from an older backup.".to_owned(),
            since: *at,
        });
    }
    Judgement::Good("no damaged backup is known any more")
}

pub(super) fn drill(facts: &Facts) -> Judgement {
    let Some(At {
        at,
        what: Some(failed),
    }) = &facts.drill
    else {
        return Judgement::Good("a drill came out as foretold");
    };
    // Where the data itself is in doubt it is urgent; a machine that was too small is not.
    let of_the_data = matches!(
        failed.step,
        DrillStep::Recover | DrillStep::Amcheck | DrillStep::Checks
    ) && !matches!(
        failed.cause,
        FailureCause::Compute | FailureCause::Connection | FailureCause::Storage
    );
    let severity = if of_the_data {
        AlertSeverity::Critical
    } else {
        AlertSeverity::Warning
    };
    Judgement::Bad(Finding {
        severity,
        message: format!(
            "a rehearsed restore failed, probably because of {}: {}",
            because(failed.cause),
            inside(&failed.message)
        ),
        hint: hint_for(failed.cause, &failed.hint),
        since: *at,
    })
}
