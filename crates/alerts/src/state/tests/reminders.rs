//! What stands is told again.

use super::*;

const HOUR: i64 = 60;

#[test]
fn what_stands_is_told_again_each_day_with_how_long_it_lasts() {
    let settings = Settings::default();
    let looks = (1..=60).map(|hour| (hour * HOUR, None));
    let mut steps = vec![(1, Some(gap(100, 200)))];
    steps.extend(looks);
    steps.push((61 * HOUR, Some(completed_at(1, 1, 200))));
    steps.push((100 * HOUR, None));
    assert_eq!(
        tell_with(&settings, steps.clone()),
        [
            "1 +wal_gap critical",
            "1500 1xwal_gap",
            "2940 2xwal_gap",
            "3660 -wal_gap"
        ]
    );
    // Never, and after six hours.
    check(steps.clone(), &["1 +wal_gap critical", "3660 -wal_gap"]);
    let often = Settings {
        remind: Some(TimeDelta::hours(6)),
        ..settings
    };
    assert_eq!(tell_with(&often, steps).len(), 2 + 9);
}

#[test]
fn a_long_silence_is_one_reminder_and_worse_is_news() {
    let settings = Settings::default();
    let week = 7 * 24 * HOUR;
    assert_eq!(
        tell_with(
            &settings,
            vec![
                (1, Some(slot(SlotRiskLevel::Warning))),
                (week, None),
                (week + 1, None),
                (week + 23 * HOUR, Some(slot(SlotRiskLevel::Alert))),
                (week + 25 * HOUR, None),
                (week + 47 * HOUR, None),
            ]
        ),
        [
            "1 +slot_disk_risk warning",
            "10080 1xslot_disk_risk",
            "11460 -slot_disk_risk",
            "11460 +slot_disk_risk critical",
            "12900 1xslot_disk_risk"
        ]
    );
}

#[test]
fn a_reminder_carries_what_is_true_now_and_the_beginning_of_the_alert() {
    let (settings, mut state) = (Settings::default(), BranchState::new(at(0)));
    let _ = state.observe(at(0), promised(24), at(0), &settings);
    let raised = state.look(at(40 * HOUR), &settings).remove(0);
    let reminded = state.look(at(64 * HOUR), &settings).remove(0);
    let (instance, branch) = (InstanceName::new("orders").unwrap(), BranchName::main());
    let event = |said: &Announcement| match said.event(&instance, &branch) {
        Event::AlertRaised(raised) => raised,
        other => panic!("{other:?}"),
    };
    let (first, second) = (event(&raised), event(&reminded));
    assert_eq!((first.reminder, second.reminder), (0, 1));
    assert_eq!(first.since, second.since);
    assert_eq!(first.severity, second.severity);
    let id = |said| state.message_id(&instance, &branch, said);
    assert!(!state.is_said(&reminded, &id(&raised), at(3)));
    assert!(state.is_said(&reminded, &id(&reminded), at(3)));
}

#[test]
fn what_becomes_worse_has_a_beginning_of_its_own() {
    // The catalog knows an alert by its beginning, and what is over stays over.
    let (settings, mut state) = (Settings::default(), BranchState::new(at(0)));
    for (minute, fact) in [(1, window(Some(-9000), 1)), (2, window(Some(-10), 2))] {
        let _ = state.observe(at(minute), fact, at(minute), &settings);
    }
    let mut since = Vec::new();
    let mut said = state.look(at(20), &settings);
    said.extend(state.observe(at(30), window(None, 2), at(30), &settings));
    for said in said {
        if let Change::Raise { since: begun, .. } = said.change {
            since.push(begun);
        }
    }
    assert_eq!(since, [at(2), at(30)]);
}
