//! `zektor retention explain`: what stays, why, until when, what it costs, and what goes.

use std::fmt::Write as _;
use std::time::Duration;

use events::retention_plan::{
    BackupRetention, BranchRetention, Fate, LeftoverRetention, RetentionAnswer, RetentionClass,
    RetentionQuestion, WalRetention,
};
use events::{Timestamp, subject};

use crate::arguments::RetentionExplain;
use crate::failure::Failure;
use crate::output::{Reply, minute, size, table};
use crate::session::Session;

/// The repository of every branch is read.
const ANSWER_WITHIN: Duration = Duration::from_secs(120);

/// Explains.
pub(crate) async fn explain(
    session: &Session,
    given: RetentionExplain,
    at: Option<Timestamp>,
) -> Result<Reply, Failure> {
    let question = RetentionQuestion {
        instance: given.instance.clone(),
        at,
    };
    let subject = subject::scheduler_retention();
    let mut answer: RetentionAnswer = session.request(&subject, &question, ANSWER_WITHIN).await?;
    if let Some(branch) = &given.branch {
        answer.branches.retain(|one| one.branch == *branch);
        if answer.branches.is_empty() {
            return Err(Failure::not_found(
                format!("nothing is stored of branch {branch} of {}", given.instance),
                format!("see `zektor branch list {}`", given.instance),
            ));
        }
    }
    let text = text(&answer, at.is_some());
    Reply::new(&answer, text)
}

fn text(answer: &RetentionAnswer, ahead: bool) -> String {
    let mut text = match ahead {
        true => format!(
            "As it will be at {} if no backup is added and nobody asks for anything:\n",
            minute(answer.at)
        ),
        false => String::new(),
    };
    if answer.branches.is_empty() {
        text.push_str("Nothing is stored yet.");
    }
    let branches = answer.branches.iter();
    let told: Vec<String> = branches.map(|one| branch(one, &answer.instance)).collect();
    text.push_str(&told.join("\n"));
    text
}

fn branch(branch: &BranchRetention, instance: &events::InstanceName) -> String {
    let mut text = format!("{instance}/{}", branch.branch);
    if !branch.live {
        text.push_str(" (no longer there)");
    }
    text.push_str("\n\n");
    text.push_str(&restorable(branch));
    let _ = writeln!(
        text,
        "{} stay, {} go now or soon.",
        size(branch.kept_bytes),
        size(branch.going_bytes)
    );
    if !branch.live {
        text.push_str(&name_is_free(branch, instance));
    }
    if let Some(postponed) = &branch.postponed {
        let _ = writeln!(text, "At the moment: {postponed}.");
    }
    let mut part = |header: &[&str], rows: Vec<Vec<String>>| {
        if !rows.is_empty() {
            text.push('\n');
            text.push_str(&table(header, rows));
        }
    };
    let header = [
        "BACKUP", "NAME", "TAKEN", "CLASS", "FATE", "UNTIL", "SIZE", "OWN WAL", "WHY",
    ];
    part(&header, branch.backups.iter().map(backup).collect());
    let header = ["WAL FROM", "TO", "SEGMENTS", "FATE", "UNTIL", "SIZE", "WHY"];
    part(&header, branch.wal.iter().map(wal).collect());
    let header = [
        "WITHOUT A MANIFEST",
        "WRITTEN",
        "FATE",
        "GOES",
        "SIZE",
        "WHY",
    ];
    part(&header, branch.leftovers.iter().map(left_over).collect());
    text
}

fn restorable(branch: &BranchRetention) -> String {
    match (branch.earliest, branch.backups.is_empty()) {
        (Some(earliest), _) => format!(
            "Every moment since {} can be restored from what stays.\n",
            minute(earliest)
        ),
        (None, false) => "No stretch of moments can be restored from what stays.\n".to_owned(),
        (None, true) => "It has no backup; nothing of it can be restored.\n".to_owned(),
    }
}

/// Of a branch that is gone: when another one can have its name.
fn name_is_free(branch: &BranchRetention, instance: &events::InstanceName) -> String {
    let name = &branch.branch;
    let stays = |fate: Fate| matches!(fate, Fate::Keep | Fate::Postponed);
    let ends = branch.backups.iter().map(|one| (one.fate, one.until));
    let ends = ends.chain(branch.leftovers.iter().map(|one| (one.fate, one.until)));
    // Of a backup that stays the time of grace comes on top.
    let known = ends
        .clone()
        .all(|(fate, until)| until.is_some() || !stays(fate));
    let last = ends.clone().filter_map(|(_, until)| until).max();
    let grace = ends.clone().any(|(fate, _)| stays(fate));
    let when = match (last.filter(|_| known), grace) {
        (Some(last), true) => format!("a time of grace after {}", minute(last)),
        (Some(last), false) => format!("soon after {}", minute(last)),
        (None, _) if known => "soon, within two days".to_owned(),
        (None, _) => "when somebody lets go of what has no end".to_owned(),
    };
    format!(
        "All of it is gone, and the name {name} is free, {when}; at once with `zektor branch delete {instance} {name} \
         --purge`.\n"
    )
}

fn left_over(one: &LeftoverRetention) -> Vec<String> {
    let fate = match one.fate {
        Fate::Grace => "goes soon",
        other => fate(other),
    };
    vec![
        one.id.to_string(),
        minute(one.last_written),
        fate.to_owned(),
        until(one.until, one.fate),
        size(one.bytes),
        one.reason.clone(),
    ]
}

fn backup(backup: &BackupRetention) -> Vec<String> {
    let class = match (backup.class, backup.wal_until) {
        (RetentionClass::Pitr, None) => "every moment after it".to_owned(),
        // `backup show` tells the promise, which ends a time of grace before.
        (RetentionClass::Pitr, Some(until)) => {
            format!("every moment, until {} with grace", minute(until))
        }
        (RetentionClass::Standalone, _) => "it alone".to_owned(),
    };
    vec![
        backup.id.to_string(),
        backup.name.clone(),
        minute(backup.backed_up_at),
        class,
        fate(backup.fate).to_owned(),
        until(backup.until, backup.fate),
        size(backup.size_bytes),
        size(backup.wal_bytes),
        backup.reasons.join("\n"),
    ]
}

fn wal(wal: &WalRetention) -> Vec<String> {
    let needed: Vec<String> = wal
        .needed_by
        .iter()
        .take(1)
        .map(ToString::to_string)
        .collect();
    let why = match needed.first() {
        Some(first) => format!("{}: {first}", wal.reason),
        None => wal.reason.clone(),
    };
    vec![
        wal.first_segment.clone(),
        wal.last_segment.clone(),
        wal.segments.to_string(),
        fate(wal.fate).to_owned(),
        until(wal.until, wal.fate),
        size(wal.bytes),
        why,
    ]
}

fn until(until: Option<Timestamp>, fate: Fate) -> String {
    match (until, fate) {
        (Some(until), _) => minute(until),
        (None, Fate::Keep) => "not foreseen".to_owned(),
        (None, _) => "-".to_owned(),
    }
}

fn fate(fate: Fate) -> &'static str {
    match fate {
        Fate::Keep => "stays",
        Fate::Grace => "marked",
        Fate::Delete => "goes now",
        Fate::Postponed => "waits",
        Fate::Gone => "gone by then",
    }
}

#[cfg(test)]
mod tests {
    use events::retention_plan::{
        BackupRetention, BranchRetention, Fate, LeftoverRetention, RetentionAnswer, RetentionClass,
    };
    use events::{BackupId, BranchName, InstanceName};

    use super::text;

    #[test]
    fn says_what_stays_and_why() {
        let at = chrono::DateTime::UNIX_EPOCH;
        let answer = RetentionAnswer {
            instance: InstanceName::new("orders").unwrap(),
            at,
            branches: vec![BranchRetention {
                branch: BranchName::main(),
                live: false,
                earliest: Some(at),
                backups: vec![BackupRetention {
                    id: BackupId(uuid::Uuid::nil()),
                    name: "nightly".to_owned(),
                    backed_up_at: at,
                    class: RetentionClass::Standalone,
                    fate: Fate::Grace,
                    reasons: vec!["it is marked".to_owned()],
                    until: Some(at),
                    wal_until: Some(at),
                    size_bytes: 1,
                    wal_bytes: 0,
                }],
                wal: Vec::new(),
                leftovers: vec![LeftoverRetention {
                    id: BackupId(uuid::Uuid::nil()),
                    bytes: 7 << 30,
                    last_written: at,
                    fate: Fate::Grace,
                    reason: "left over".to_owned(),
                    until: Some(at),
                }],
                kept_bytes: 1 << 30,
                going_bytes: 0,
                postponed: Some("a restore reads it".to_owned()),
            }],
        };
        let told = text(&answer, true);
        for part in [
            "if no backup is added",
            "no longer there",
            "is free, soon after 1970-01-01 00:00",
            "it alone",
            "marked",
            "a restore reads it.",
            "goes soon",
            "7.0 GiB",
            "left over",
        ] {
            assert!(told.contains(part), "{part}: {told}");
        }
        assert!(!told.contains("WAL FROM"), "an empty table: {told}");
    }

    #[test]
    fn a_branch_that_is_gone_and_has_only_left_something_over_does_not_contradict_itself() {
        let at = chrono::DateTime::UNIX_EPOCH;
        let gone = BranchRetention {
            branch: BranchName::new("fin").unwrap(),
            live: false,
            earliest: None,
            backups: Vec::new(),
            wal: Vec::new(),
            leftovers: vec![LeftoverRetention {
                id: BackupId(uuid::Uuid::nil()),
                bytes: 7 << 20,
                last_written: at,
                fate: Fate::Grace,
                reason: "left over from a backup that failed or was let go".to_owned(),
                until: Some(at + chrono::TimeDelta::days(2)),
            }],
            kept_bytes: 0,
            going_bytes: 7 << 20,
            postponed: None,
        };
        let told = super::branch(&gone, &InstanceName::new("orders").unwrap());
        insta::assert_snapshot!(told, @r"
        orders/fin (no longer there)

        It has no backup; nothing of it can be restored.
        0 B stay, 7.0 MiB go now or soon.
        All of it is gone, and the name fin is free, soon after 1970-01-03 00:00; at once with `zektor branch delete orders fin --purge`.

        WITHOUT A MANIFEST                    WRITTEN           FATE       GOES              SIZE     WHY
        00000000-0000-0000-0000-000000000000  1970-01-01 00:00  goes soon  1970-01-03 00:00  7.0 MiB  left over from a backup that failed or was let go
        ");
    }
}
