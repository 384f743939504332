//! Clocks that were wrong, and what may not follow from it.

use proptest::prelude::*;

use super::properties::facts;
use super::*;

/// In minutes.
const YEAR: i64 = 366 * 1440;

fn standing(state: &BranchState) -> Vec<AlertRule> {
    state.standing().keys().copied().collect()
}

#[test]
fn a_backup_of_next_year_hides_no_failure_and_no_missing_backup() {
    let settings = Settings::default();
    let mut state = BranchState::new(at(0));
    let cause = FailureCause::Storage;
    let _ = state.observe(at(0), promised(24), at(0), &settings);
    let _ = state.observe(at(YEAR), completed(1, 1), at(1), &settings);
    let _ = state.observe(at(60), failed(2, cause), at(60), &settings);
    // Heard again, by a replica whose clock is elsewhere.
    let _ = state.observe(at(60), failed(2, cause), at(50), &settings);
    assert_eq!(standing(&state), []);
    let _ = state.observe(at(120), failed(3, cause), at(120), &settings);
    assert_eq!(standing(&state), [AlertRule::BackupFailing]);
    let _ = state.look(at(2 * 1440), &settings);
    let both = [AlertRule::BackupFailing, AlertRule::BackupOverdue];
    assert_eq!(standing(&state), both);
}

#[test]
fn what_a_replica_from_next_year_has_written_down_is_taken_back() {
    let settings = Settings::default();
    let mut state = BranchState::new(at(YEAR));
    let ahead = |fact, state: &mut BranchState| {
        let _ = state.observe(at(YEAR + 1), fact, at(YEAR + 1), &settings);
    };
    ahead(completed(1, 1), &mut state);
    ahead(promised(24), &mut state);
    ahead(lag(0), &mut state);
    let again = lag(0);
    let _ = state.observe(at(YEAR + 2), again, at(YEAR + 2), &settings);
    // Now one whose clock is right looks after the branch.
    for minute in [10, 11] {
        let _ = state.observe(at(minute), lag(9), at(minute), &settings);
    }
    let _ = state.observe(at(12), gap(5, 6), at(12), &settings);
    assert_eq!(standing(&state), [AlertRule::ArchiveLag, AlertRule::WalGap]);
    let _ = state.look(at(2 * 1440), &settings);
    assert!(standing(&state).contains(&AlertRule::BackupOverdue));
}

#[test]
fn a_schedule_that_was_made_by_a_clock_that_was_ahead_is_in_force() {
    let settings = Settings::default();
    let made = |state: &mut BranchState, minute| {
        let promised = resumed(24, YEAR);
        state.observe(at(minute), promised, at(minute), &settings)
    };
    let mut state = BranchState::new(at(0));
    for minute in [0, 60, 1440] {
        assert_eq!(made(&mut state, minute), []);
    }
    assert_eq!(made(&mut state, 3 * 1440).len(), 1);
    assert_eq!(standing(&state), [AlertRule::BackupOverdue]);
}

#[test]
fn what_a_state_of_next_year_has_said_does_not_silence_its_successor() {
    let (instance, branch) = (InstanceName::new("orders").unwrap(), BranchName::main());
    let settings = Settings::default();
    let mut before = BranchState::new(at(YEAR));
    let old = before.observe(at(YEAR), gap(1, 2), at(YEAR), &settings);
    let old = before.message_id(&instance, &branch, &old[0]);
    let mut state = BranchState::new(at(5));
    let raised = state.observe(at(5), gap(1, 2), at(5), &settings).remove(0);
    assert!(!state.is_said(&raised, &old, at(5)));
    assert!(state.is_said(&raised, &old, at(YEAR)), "it was born later");
}

proptest! {
    /// Each is dated up to a year before or after it is heard.
    #[test]
    fn whatever_clocks_have_said_failures_and_lags_after_it_are_told(
        history in prop::collection::vec((-YEAR..YEAR, facts(), 0..300i64), 0..60),
    ) {
        let settings = Settings::default();
        let mut state = BranchState::new(at(0));
        let mut now = 0;
        for (off, fact, pause) in history {
            now += pause;
            let _ = state.observe(at(now + off), fact, at(now), &settings);
        }
        let mut hear = |fact, minutes| {
            now += minutes;
            let _ = state.observe(at(now), fact, at(now), &settings);
        };
        hear(Fact::ServerStarted, 6);
        hear(promised(24), 1);
        for number in [101, 102] {
            hear(failed(number, FailureCause::Storage), 10);
            hear(lag(9), 1);
        }
        prop_assert!(state.standing().contains_key(&AlertRule::BackupFailing));
        prop_assert!(state.standing().contains_key(&AlertRule::ArchiveLag));
        let _ = state.look(at(now + 3 * 1440), &settings);
        prop_assert!(state.standing().contains_key(&AlertRule::BackupOverdue));
    }
}
