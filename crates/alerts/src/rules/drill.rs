//! A rehearsed restore failed, or what the user says of the restored data is not true.

use events::event::{AlertSeverity, DrillStep, FailureCause};

use super::words::{because, hint_for, inside};
use super::{Finding, Judgement};
use crate::fact::FailedDrill;
use crate::facts::{At, Facts};

/// More names than people read.
const NAMED: usize = 8;

pub(super) fn drill(facts: &Facts) -> Judgement {
    let Some(At {
        at,
        what: Some(failed),
    }) = &facts.drill
    else {
        return Judgement::Good("a drill came out as foretold");
    };
    let (severity, message, hint) = match failed.step {
        DrillStep::Checks if !failed.false_checks.is_empty() => (
            AlertSeverity::Warning,
            untrue(failed),
            hint_for(failed.cause, &failed.hint),
        ),
        _ => broken(failed),
    };
    Judgement::Bad(Finding {
        severity,
        message,
        hint,
        since: *at,
    })
}

/// The data is there, as it was: either it was not what the user thinks of it, or the check is not right.
fn untrue(failed: &FailedDrill) -> String {
    let checks = &failed.false_checks;
    let quoted = checks.iter().take(NAMED).map(|name| format!("{name:?}"));
    let mut names = quoted.collect::<Vec<_>>().join(", ");
    if checks.len() > NAMED {
        names = format!("{names} and {} more", checks.len() - NAMED);
    }
    let what = match checks.len() {
        1 => "a check of yours does not hold",
        _ => "checks of yours do not hold",
    };
    format!(
        "the restore itself worked and its data is as foretold, but {what} on it: {names}; {}",
        inside(&failed.message)
    )
}

/// Where the data itself is in doubt it is urgent; a machine that was too small is not.
fn broken(failed: &FailedDrill) -> (AlertSeverity, String, String) {
    let came_out_wrong = matches!(
        failed.step,
        DrillStep::Recover | DrillStep::Amcheck | DrillStep::Checks
    ) && !matches!(
        failed.cause,
        FailureCause::Compute | FailureCause::Connection | FailureCause::Storage
    );
    let of_the_data = failed.damaged || came_out_wrong;
    let severity = if of_the_data {
        AlertSeverity::Critical
    } else {
        AlertSeverity::Warning
    };
    let (cause, message) = (because(failed.cause), inside(&failed.message));
    let message = if failed.damaged {
        format!("a rehearsed restore came upon stored data that is damaged: {message}")
    } else if of_the_data && failed.step == DrillStep::Amcheck {
        format!("a rehearsed restore has relations that are damaged inside: {message}")
    } else {
        format!("a rehearsed restore failed, probably because of {cause}: {message}")
    };
    (severity, message, hint_for(failed.cause, &failed.hint))
}
