//! Rules about backups.

use chrono::TimeDelta;
use events::Timestamp;
use events::event::{AlertSeverity, FailureCause};

use super::words::{because, hint_for, inside};
use super::{Finding, Judgement};
use crate::Settings;
use crate::facts::{At, Facts};

/// Failures of a branch that nobody wants backups of any more are forgotten after this.
const FORGOTTEN: TimeDelta = TimeDelta::days(1);

pub(super) fn failing(facts: &Facts, now: Timestamp, settings: &Settings) -> Judgement {
    let (Some(first), Some(last)) = (facts.failed.first(), facts.failed.last()) else {
        return Judgement::Good("a backup was completed");
    };
    if facts.promises.is_empty() && now - last.at > FORGOTTEN {
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

pub(super) fn damaged(facts: &Facts) -> Judgement {
    let verdicts = facts.verdicts.iter();
    let unsound = verdicts.filter(|v| v.what.problem.is_some());
    let unsound: Vec<_> = unsound
        .filter(|v| !facts.is_to_go(v.what.backup_id))
        .collect();
    if let Some(At { at, what }) = unsound.iter().max_by_key(|verdict| verdict.at) {
        let problem = inside(what.problem.as_deref().unwrap_or_default());
        let others = match unsound.len() {
            1 => String::new(),
            several => format!(" ({several} damaged ones are known)"),
        };
        return Judgement::Bad(Finding {
            severity: AlertSeverity::Critical,
            message: format!("backup {} was read and cannot be restored as it is{others}: {problem}", what.backup_id),
            hint: "Take a new backup now, and see `zektor backup show` for all that is wrong. While the damaged one is there, the sound one before it is kept for the moments that both lead to; deleting it gives those up.".to_owned(),
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
