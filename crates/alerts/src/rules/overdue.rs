//! No backup for longer than a schedule promises.
//!
//! Each schedule is looked at by itself: a backup of every day does not keep the promise of one that is kept for a year.
//! Whose backup it was does not matter, if it is kept for as long. A server that somebody stopped is nothing to back up.

use chrono::TimeDelta;
use events::Timestamp;
use events::event::AlertSeverity;

use super::words::{because, hint_for, inside, span};
use super::{Finding, Judgement};
use crate::Settings;
use crate::facts::Facts;
use crate::promises::Promise;

/// A promise that is broken.
struct Broken<'a> {
    promise: &'a Promise,
    /// When a backup that would have kept it was last completed.
    last: Option<Timestamp>,
    since: Timestamp,
    late: TimeDelta,
}

pub(super) fn overdue(facts: &Facts, now: Timestamp, settings: &Settings) -> Judgement {
    if facts.promises.iter().next().is_none() {
        return Judgement::Good("no schedule in force promises a backup");
    }
    if facts.is_stopped() {
        return Judgement::Good("the server was stopped, and cannot be backed up");
    }
    let broken = facts.promises.iter();
    let broken = broken.filter_map(|promise| broken_at(promise, facts, now, settings));
    let Some(worst) = broken.max_by_key(|broken| broken.late) else {
        return Judgement::Good("a backup was completed in time");
    };
    let severity = match facts.last_completed_at() {
        Some(_) => AlertSeverity::Warning,
        None => AlertSeverity::Critical,
    };
    Judgement::Bad(Finding {
        severity,
        message: format!(
            "{}, though {}{}",
            missing(&worst, facts, now),
            promised(&worst, now),
            why(&worst, facts)
        ),
        hint: facts.failed.last().map_or_else(
            || "Check that a backup worker runs and serves the pool of this instance, and see `zektor backup list`.".to_owned(),
            |failed| hint_for(failed.what.cause, &failed.what.hint),
        ),
        since: worst.since,
    })
}

fn broken_at<'a>(
    promise: &'a Promise,
    facts: &Facts,
    now: Timestamp,
    settings: &Settings,
) -> Option<Broken<'a>> {
    let took = facts.completed.last();
    let took = took.map_or(0, |last| last.what.took_secs.max(0));
    let patience = TimeDelta::seconds(promise.secs.saturating_mul(3) / 2 + took);
    let limit = settings.overdue.max(patience);
    let last = facts.last_kept_for(nearly(promise.kept_secs));
    if promise.is_once() && last.is_some() {
        return None;
    }
    let since = last.map_or(promise.since, |last| last.max(promise.since));
    let since = facts.runs_since().map_or(since, |runs| runs.max(since));
    let late = now - since - limit;
    (late > TimeDelta::zero()).then_some(Broken {
        promise,
        last,
        since,
        late,
    })
}

/// Months differ, and a backup ends later than it was asked for.
fn nearly(secs: i64) -> i64 {
    secs / 10 * 9
}

fn missing(broken: &Broken<'_>, facts: &Facts, now: Timestamp) -> String {
    let newest = facts.last_completed_at();
    let kept = span(TimeDelta::seconds(broken.promise.kept_secs));
    match broken.last {
        None if newest.is_none() => "no backup was ever completed".to_owned(),
        None => format!("no backup that is kept for {kept} was ever completed"),
        Some(last) if Some(last) == newest => {
            format!("no backup was completed for {}", span(now - last))
        }
        Some(last) => {
            let gone = span(now - last);
            format!("no backup that is kept for {kept} was completed for {gone}")
        }
    }
}

fn promised(broken: &Broken<'_>, now: Timestamp) -> String {
    let promise = broken.promise;
    if promise.is_once() {
        return format!("the branch has been open for {}", span(now - promise.since));
    }
    let every = span(TimeDelta::seconds(promise.secs));
    format!("schedule {:?} promises one every {every}", promise.name)
}

fn why(broken: &Broken<'_>, facts: &Facts) -> String {
    if let Some(failed) = facts.failed.last() {
        let (cause, message) = (because(failed.what.cause), inside(&failed.what.message));
        return format!("; the last one tried failed, probably because of {cause}: {message}");
    }
    let own = |one: &&crate::facts::At<crate::facts::Skipped>| {
        one.at > broken.since && one.what.schedule == broken.promise.schedule
    };
    let skipped = facts.skipped.as_ref().filter(own);
    skipped.map_or_else(String::new, |one| {
        format!("; it was due and skipped: {}", inside(&one.what.reason))
    })
}
