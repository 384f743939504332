//! Drills as people read them.

use std::time::Duration;

use events::event::{DrillCheckResult, DrillStep};
use events::query::{DrillStatus, DrillView};
use uuid::Uuid;

use crate::commands::named;
use crate::output::{exact, minute, or_dash, pairs, span, table};

/// What a drill has shown.
pub(super) fn text(view: &DrillView) -> String {
    let mut text = format!("{}\n\n", headline(view));
    text.push_str(&pairs(&[
        ("id", Some(view.id.to_string())),
        ("branch", Some(format!("{} {}", view.instance, view.branch))),
        ("moment", view.target.map(exact)),
        ("from backup", view.backup_id.map(|id| id.to_string())),
        ("last commit", view.last_commit_at.map(exact)),
        ("data readable after", view.restore_ms.map(spent)),
        ("everything took", view.duration_ms.map(spent)),
        ("why", view.error.clone()),
        (
            "what to do",
            view.hint.clone().filter(|hint| !hint.is_empty()),
        ),
    ]));
    if !view.checks.is_empty() {
        let rows = view.checks.iter().map(|check| {
            let took = spent(check.duration_ms);
            vec![
                check.name.clone(),
                outcome(check).to_owned(),
                took,
                check.detail.clone(),
            ]
        });
        text.push('\n');
        text.push_str(&table(
            &["check", "outcome", "took", "detail"],
            rows.collect(),
        ));
    }
    text
}

fn headline(view: &DrillView) -> String {
    let (instance, id) = (&view.instance, view.id);
    match view.status {
        DrillStatus::Requested => format!("Drill {id} waits for a restorer."),
        DrillStatus::InProgress => format!("Drill {id} is being done."),
        DrillStatus::Skipped => format!("Drill {id} was left out."),
        DrillStatus::Failed => {
            let step = view.failed_step.map_or("", step);
            // The replay came out as foretold before anything was asked.
            let proof = match view.failed_step {
                Some(DrillStep::Amcheck) => {
                    "The restore worked and came out as foretold, but what it brought back does not pass:"
                }
                Some(DrillStep::Checks) => {
                    "The restore worked and came out as foretold, but a check of yours does not hold:"
                }
                Some(DrillStep::TearDown) => {
                    "The restore worked and was checked, but is still there:"
                }
                _ => "",
            };
            match proof {
                "" => format!("{instance} is NOT proven restorable: the drill failed{step}."),
                proof => format!("{proof} the drill of {instance} failed{step}."),
            }
        }
        DrillStatus::Completed => {
            let at = view.target.map_or_else(String::new, exact);
            let took = view.restore_ms.map_or_else(String::new, spent);
            format!("{instance} is proven restorable: {at}, in {took}.")
        }
    }
}

fn step(step: DrillStep) -> &'static str {
    match step {
        DrillStep::Plan => " before anything was restored",
        DrillStep::Materialise => " when the files of the backup were written",
        DrillStep::Recover => " when WAL was replayed",
        DrillStep::Amcheck => " at pg_amcheck",
        DrillStep::Checks => " at the checks",
        DrillStep::TearDown => " when the sandbox was removed",
        DrillStep::Unknown => "",
    }
}

fn outcome(check: &DrillCheckResult) -> &'static str {
    match (check.skipped, check.passed) {
        (true, _) => "not run",
        (false, true) => "passed",
        (false, false) => "FAILED",
    }
}

fn spent(milliseconds: u64) -> String {
    span(Duration::from_millis(milliseconds))
}

/// The drills of an instance.
pub(super) fn table_of(drills: &[DrillView]) -> String {
    let header = [
        "id",
        "branch",
        "status",
        "asked (utc)",
        "moment (utc)",
        "restored in",
        "why",
    ];
    let ids: Vec<Uuid> = drills.iter().map(|drill| drill.id.0).collect();
    let rows = drills.iter().zip(named::short(&ids)).map(|(drill, id)| {
        let status = match drill.status {
            DrillStatus::Requested => "requested",
            DrillStatus::InProgress => "in_progress",
            DrillStatus::Completed => "completed",
            DrillStatus::Failed => "failed",
            DrillStatus::Skipped => "skipped",
        };
        vec![
            id,
            drill.branch.to_string(),
            status.to_owned(),
            or_dash(drill.requested_at.map(minute)),
            or_dash(drill.target.map(minute)),
            or_dash(drill.restore_ms.map(spent)),
            drill.error.clone().unwrap_or_default(),
        ]
    });
    table(&header, rows.collect())
}

#[cfg(test)]
mod tests {
    use events::event::{DrillCheckResult, DrillStep};
    use events::query::{DrillStatus, DrillView};
    use events::{BackupId, BranchName, DrillId, InstanceName};
    use uuid::Uuid;

    use super::{table_of, text};

    fn view() -> DrillView {
        let check = |name: &str, passed, skipped, detail: &str| DrillCheckResult {
            name: name.to_owned(),
            passed,
            skipped,
            detail: detail.to_owned(),
            duration_ms: 120,
        };
        DrillView {
            id: DrillId(Uuid::from_u128(7)),
            instance: InstanceName::new("orders").unwrap(),
            branch: BranchName::main(),
            status: DrillStatus::Completed,
            trigger: None,
            target: Some("2026-03-01T10:00:00.5Z".parse().unwrap()),
            backup_id: Some(BackupId(Uuid::from_u128(8))),
            last_commit_at: Some("2026-03-01T09:59:59Z".parse().unwrap()),
            checks: vec![
                check("pg_amcheck", false, true, "not run: there is none"),
                check("rows", true, false, "it holds"),
            ],
            restore_ms: Some(12_340),
            duration_ms: Some(15_000),
            failed_step: None,
            error: None,
            hint: None,
            requested_at: None,
            ended_at: None,
        }
    }

    #[test]
    fn a_drill_says_what_it_has_proven() {
        let text = text(&view());
        for part in [
            "orders is proven restorable: 2026-03-01T10:00:00.5",
            "in 12.3 s",
            "00000000-0000-0000-0000-000000000008",
            "not run",
            "passed",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }

    #[test]
    fn a_failed_one_says_where_and_why() {
        let failed = DrillView {
            status: DrillStatus::Failed,
            failed_step: Some(DrillStep::Checks),
            error: Some("check \"rows\" (of 1) failed".to_owned()),
            ..view()
        };
        let text = text(&failed);
        assert!(
            text.contains("The restore worked") && text.contains("failed at the checks."),
            "{text}"
        );
        let earlier = DrillView {
            failed_step: Some(DrillStep::Recover),
            ..failed.clone()
        };
        let earlier = super::text(&earlier);
        let said = "NOT proven restorable: the drill failed when WAL was replayed.";
        assert!(earlier.contains(said), "{earlier}");
        assert!(table_of(&[failed]).contains("check \"rows\""));
    }
}
