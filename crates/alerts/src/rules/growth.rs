//! The repository grows much faster than before: by a backup, or by a day of WAL.

use events::event::AlertSeverity;

use super::words::{size, span};
use super::{Finding, Judgement};
use crate::Settings;
use crate::facts::{At, Facts};

/// Fewer to compare with say nothing.
const FEWEST: usize = 3;
/// Days that a day is compared with.
const WEEK: usize = 7;
const HINT: &str = "See what has grown or was rewritten on the server, and whether the repository has room for it.";

pub(super) fn growth(facts: &Facts, settings: &Settings) -> Judgement {
    let found = of_backup(facts, settings).or_else(|| of_wal(facts, settings));
    match found {
        Some(finding) => Judgement::Bad(finding),
        None if facts.completed.is_empty() && facts.wal_days.is_empty() => Judgement::Unsettled,
        None => Judgement::Good("the newest backup and the WAL of a day store no more than usual"),
    }
}

fn is_too_much(bytes: u64, usual: u64, settings: &Settings) -> bool {
    bytes > settings.growth_bytes && bytes > usual.saturating_mul(u64::from(settings.growth_factor))
}

fn of_backup(facts: &Facts, settings: &Settings) -> Option<Finding> {
    let (newest, mut before) = facts.sizes()?;
    if before.len() < FEWEST || newest.at < facts.floor {
        return None;
    }
    before.sort_unstable();
    let median = before[before.len() / 2];
    let stored = newest.what.stored_bytes;
    is_too_much(stored, median, settings).then(|| Finding {
        severity: AlertSeverity::Warning,
        message: format!(
            "the newest backup stored {}; the ones before it {} each",
            size(stored),
            size(median)
        ),
        hint: HINT.to_owned(),
        since: newest.at,
    })
}

/// The newest day is not over yet, so the one before it counts too. They are compared with the busiest day of the week
/// before: what a database does every week is no growth.
fn of_wal(facts: &Facts, settings: &Settings) -> Option<Finding> {
    let days = &facts.wal_days;
    let judged = (days.len().saturating_sub(2)..days.len()).rev();
    judged
        .map(|index| (&days[index], &days[index.saturating_sub(WEEK)..index]))
        .find_map(|(day, before)| of_day(day, before, facts, settings))
}

fn of_day(
    day: &At<u64>,
    before: &[At<u64>],
    facts: &Facts,
    settings: &Settings,
) -> Option<Finding> {
    let busiest = before.iter().map(|day| day.what).max()?;
    if before.len() < FEWEST || day.at < facts.floor || !is_too_much(day.what, busiest, settings) {
        return None;
    }
    Some(Finding {
        severity: AlertSeverity::Warning,
        message: format!(
            "the WAL of {} takes {} in the repository; that of the busiest day of the {} before it {}",
            day.at.format("%Y-%m-%d"),
            size(day.what),
            span(day.at - before[0].at),
            size(busiest)
        ),
        hint: HINT.to_owned(),
        since: day.at,
    })
}
