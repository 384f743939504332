//! Drills.

use super::*;

#[test]
fn the_last_drill_counts() {
    check(
        vec![
            (1, Some(drill(1, Some(DrillStep::Materialise)))),
            (2, Some(drill(2, Some(DrillStep::Recover)))),
            (3, Some(drill(3, None))),
            (2, Some(drill(2, Some(DrillStep::Recover)))),
        ],
        &[
            "1 +drill_failed warning",
            "2 -drill_failed",
            "2 +drill_failed critical",
            "3 -drill_failed",
        ],
    );
}

#[test]
fn a_drill_that_came_upon_damage_is_critical_and_one_that_could_not_ask_the_store_is_not() {
    let drill = |damaged| FailedDrill {
        step: DrillStep::Materialise,
        cause: FailureCause::Storage,
        damaged,
        message: "backup 1 is damaged in the repository: pack 3 has another digest".to_owned(),
        hint: "Take a new backup.".to_owned(),
        false_checks: Vec::new(),
    };
    let ended = |number, failed| {
        let drill_id = DrillId(backup(number).0);
        Some(Fact::DrillEnded { drill_id, failed })
    };
    let marked = Fact::BackupVerified {
        backup_id: backup(1),
        problem: Some("pack 3 has another digest".to_owned()),
    };
    check(
        vec![
            (1, ended(1, Some(drill(false)))),
            (2, Some(marked)),
            (3, ended(2, Some(drill(true)))),
            // A luckier one drew another backup; the damaged one is there as before.
            (4, ended(3, None)),
        ],
        &[
            "1 +drill_failed warning",
            "2 +backup_damaged critical",
            "3 -drill_failed",
            "3 +drill_failed critical",
            "4 -drill_failed",
        ],
    );
}

#[test]
fn a_check_of_the_user_that_is_false_is_no_broken_restore() {
    let drill = |false_checks: &[&str], step, cause| {
        let failed = FailedDrill {
            step,
            cause,
            damaged: false,
            message: "check \"never\" (of 4) failed: false".to_owned(),
            hint: "Ask the same of the source.".to_owned(),
            false_checks: false_checks.iter().map(|name| (*name).to_owned()).collect(),
        };
        let (drill_id, failed) = (DrillId(backup(1).0), Some(failed));
        let mut state = BranchState::new(at(0));
        let fact = Fact::DrillEnded { drill_id, failed };
        let said = state.observe(at(1), fact, at(1), &Settings::default());
        match said.into_iter().next().map(|said| said.change) {
            Some(Change::Raise {
                severity, message, ..
            }) => (severity, message),
            other => panic!("{other:?}"),
        }
    };
    let (checks, source) = (DrillStep::Checks, FailureCause::Source);
    let (severity, message) = drill(&["never", "empty", "old"], checks, source);
    assert_eq!(severity, AlertSeverity::Warning);
    assert_eq!(
        message,
        "the restore itself worked and its data is as foretold, but checks of yours do not hold on it: \"never\", \
         \"empty\", \"old\"; check \"never\" (of 4) failed: false"
    );
    let many: Vec<String> = (0..20).map(|number| format!("n{number}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let (_, message) = drill(&many, checks, source);
    assert!(message.contains("\"n7\" and 12 more;"), "{message}");
    // The checks could not be asked; and what amcheck finds is no check of the user.
    let (severity, message) = drill(&[], checks, FailureCause::Compute);
    assert_eq!(severity, AlertSeverity::Warning);
    assert!(
        message.starts_with("a rehearsed restore failed"),
        "{message}"
    );
    let (severity, message) = drill(&["amcheck"], DrillStep::Amcheck, source);
    assert_eq!(severity, AlertSeverity::Critical);
    assert!(message.contains("damaged inside"), "{message}");
}
