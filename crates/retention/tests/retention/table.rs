//! A plan as a table.
//!
//! A line for each backup, `name class decision +WAL that only it needs`, newest first; a line for each stretch of WAL,
//! `timeline/first-last fate`; the history files that go; the beginning of the window. Days are since the world began.

use retention::{Class, Decision, Plan, Purpose, Reason, Stored, WalFate, plan};

use crate::world::{World, hour};

pub(crate) const DAY: u64 = 24;

/// Days go by; 16 quarters of WAL each.
pub(crate) fn days(world: &mut World, count: u64) {
    for _ in 0..count {
        world.hour += DAY;
        world.write(16);
    }
}

/// `5d`, `5d6h`.
fn time(time: events::Timestamp) -> String {
    match (hour(time) / DAY, hour(time) % DAY) {
        (days, 0) => format!("{days}d"),
        (days, hours) => format!("{days}d{hours}h"),
    }
}

fn or_dash(until: Option<events::Timestamp>) -> String {
    until.map_or_else(|| "-".to_owned(), time)
}

fn reasons(reasons: &[Reason]) -> String {
    let word = |reason: &Reason| match reason {
        Reason::RetentionNotOver { .. } => "retention".to_owned(),
        Reason::NoRetention => "for ever".to_owned(),
        Reason::Held { .. } => "held".to_owned(),
        Reason::NewestRestorable => "newest".to_owned(),
        Reason::NewestThatLeadsHere { timeline } => format!("leads to {timeline}"),
        Reason::StandsIn { .. } => "stands in".to_owned(),
        Reason::NothingRestorable => "nothing restorable".to_owned(),
        Reason::NamedByOthers { count, .. } => format!("named by {count}"),
        Reason::Reading { .. } => "read".to_owned(),
        Reason::BackupRunning { .. } | Reason::MayBeNamed { .. } => "running".to_owned(),
        Reason::NoBackupLeadsHere { timeline } => format!("no way to {timeline}"),
        Reason::NewerThanArchived { timeline } => format!("newer than {timeline}"),
    };
    let words: Vec<_> = reasons.iter().map(word).collect();
    words.join(", ")
}

/// A line for each backup, newest first, and each stretch of WAL.
pub(crate) fn text(stored: &Stored, plan: &Plan) -> String {
    let mut text = String::new();
    let name = |id| {
        let found = stored.backups.iter().find(|backup| backup.id == id);
        found.map_or("?", |backup| backup.name.as_str())
    };
    for verdict in &plan.backups {
        let class = match verdict.class {
            Class::Pitr { until } => format!("pitr<{}", or_dash(until)),
            Class::Standalone => "alone".to_owned(),
        };
        let decision = match &verdict.decision {
            Decision::Keep {
                reasons: why,
                until,
            } => {
                format!("keep<{} ({})", or_dash(*until), reasons(why))
            }
            Decision::Mark { delete_after, .. } => format!("mark<{}", time(*delete_after)),
            Decision::Grace { until } => format!("grace<{}", time(*until)),
            Decision::Delete => "delete".to_owned(),
            Decision::Postponed { why, .. } => format!("postponed ({})", reasons(why)),
        };
        text += &format!(
            "{} {class} {decision} +{}\n",
            verdict.name, verdict.wal_bytes
        );
    }
    for verdict in &plan.wal {
        let size = crate::world::size();
        let fate = match &verdict.fate {
            WalFate::Keep(needs) => {
                let word = |need: &retention::Need| match need.purpose {
                    Purpose::Consistency => format!("of {}", name(need.backup_id)),
                    Purpose::Onward => format!("after {}", name(need.backup_id)),
                    Purpose::Running => "of a running one".to_owned(),
                };
                let needs_in_words: Vec<_> = needs.longest.iter().map(word).collect();
                format!(
                    "keep<{} {}",
                    or_dash(needs.until()),
                    needs_in_words.join(", ")
                )
            }
            WalFate::Prune => "prune".to_owned(),
            WalFate::Postponed { why } => format!("postponed ({})", reasons(why)),
        };
        let (first, last) = (verdict.first.number(size), verdict.last.number(size));
        text += &format!("{}/{first}-{last} {fate}\n", verdict.timeline);
    }
    for verdict in plan.histories.iter().filter(|verdict| verdict.goes) {
        text += &format!("history {} goes\n", verdict.timeline);
    }
    let earliest = plan.earliest.map(|earliest| earliest.at);
    text + &format!("from {}\n", or_dash(earliest))
}

pub(crate) fn check_stored(stored: &Stored, expected: &[&str]) {
    let found = text(stored, &plan(stored));
    let found: Vec<_> = found.lines().collect();
    assert_eq!(found, expected, "{found:#?}");
}

pub(crate) fn check(world: &World, expected: &[&str]) {
    check_stored(&world.stored(), expected);
}
