//! Whatever is heard, in whatever order, and however often.

use std::collections::BTreeMap;

use proptest::prelude::*;

use events::SweepId;

use super::*;

pub(super) fn facts() -> impl Strategy<Value = Fact> {
    let cause = prop_oneof![
        Just(FailureCause::Storage),
        Just(FailureCause::Connection),
        Just(FailureCause::Internal)
    ];
    let level = prop_oneof![
        Just(SlotRiskLevel::Low),
        Just(SlotRiskLevel::Warning),
        Just(SlotRiskLevel::Alert),
        Just(SlotRiskLevel::Released)
    ];
    let step = prop_oneof![
        Just(None),
        Just(Some(DrillStep::Plan)),
        Just(Some(DrillStep::Checks))
    ];
    prop_oneof![
        (0..40u128, 0..9 * GIB, 0..900u64)
            .prop_map(|(n, size, start)| completed_at(n, size, start)),
        (40..60u128, cause).prop_map(|(n, cause)| failed(n, cause)),
        (0..40u128, any::<bool>()).prop_map(|(n, sound)| Fact::BackupVerified {
            backup_id: backup(n),
            problem: (!sound).then(|| "broken".to_owned()),
        }),
        (0..40u128).prop_map(|gone| Fact::LetGo {
            backup_id: backup(gone)
        }),
        (
            0..8u128,
            prop::collection::vec(0..40u128, 0..3),
            prop::option::of(0..900u64)
        )
            .prop_map(|(n, gone, wal)| Fact::SweepAsked {
                sweep_id: SweepId(backup(n).0),
                backups: gone.into_iter().map(backup).collect(),
                wal: wal
                    .map(|end| (TimelineId(1), Lsn(end)))
                    .into_iter()
                    .collect(),
            }),
        (0..8u128, 1..3u64).prop_map(|(n, objects)| Fact::Swept {
            sweep_id: SweepId(backup(n).0),
            objects,
        }),
        (prop::option::of(-9000..9000i64), 0..40u128).prop_map(|(earliest, n)| window(earliest, n)),
        (0..900u64, 1..99u64).prop_map(|(from, size)| gap(from, from + size)),
        level.prop_map(slot),
        (0..9u128, step).prop_map(|(n, step)| drill(n, step)),
        (0..90i64).prop_map(lag),
        prop::collection::vec((0..4u128, 1..99i64, 1..400i64), 0..4).prop_map(|all| {
            let mut all: Vec<_> = all;
            all.sort_unstable();
            all.dedup_by_key(|(number, ..)| *number);
            let promises = all
                .into_iter()
                .map(|(number, hours, days)| promise(number, hours, days));
            Fact::Promised(promises.collect())
        }),
        (0..4u128).prop_map(|n| Fact::FireSkipped {
            schedule: ScheduleId(backup(n).0),
            reason: "busy".to_owned(),
        }),
        prop::collection::vec((-9..9i64, 0..9 * GIB), 0..9).prop_map(|days| {
            let days = days.into_iter().map(|(day, size)| (at(day * 1440), size));
            Fact::WalStored(days.collect())
        }),
        Just(Fact::ServerStopped),
        Just(Fact::ServerStarted),
    ]
}

/// When it became true, what, and when it was heard.
fn histories() -> impl Strategy<Value = Vec<(i64, Option<Fact>, i64)>> {
    prop::collection::vec(
        (
            -3000..20_000i64,
            prop::option::weighted(0.9, facts()),
            0..300i64,
        ),
        1..120,
    )
}

/// A backup is completed or fails once, a gap is found once, and a sweep begins and ends once.
fn is_same(one: &Fact, other: &Fact) -> bool {
    match (one, other) {
        (
            Fact::SweepAsked { sweep_id: one, .. },
            Fact::SweepAsked {
                sweep_id: other, ..
            },
        )
        | (
            Fact::Swept { sweep_id: one, .. },
            Fact::Swept {
                sweep_id: other, ..
            },
        ) => one == other,
        (
            Fact::BackupFailed { backup_id: one, .. },
            Fact::BackupFailed {
                backup_id: other, ..
            },
        ) => one == other,
        (Fact::GapDetected(one), Fact::GapDetected(other)) => {
            (one.timeline, one.from_lsn) == (other.timeline, other.from_lsn)
        }
        (Fact::BackupCompleted(one), Fact::BackupCompleted(other)) => {
            one.backup_id == other.backup_id
        }
        _ => false,
    }
}

proptest! {
    #[test]
    fn raised_and_resolved_alternate(history in histories()) {
        let settings = Settings::default();
        let mut state = BranchState::new(at(0));
        let mut now = 0;
        let mut raised: BTreeMap<AlertRule, AlertSeverity> = BTreeMap::new();
        let mut serial = 0;
        for (when, fact, pause) in history {
            now += pause;
            let said = match fact {
                Some(fact) => state.observe(at(when), fact, at(now), &settings),
                None => state.look(at(now), &settings),
            };
            for said in said {
                serial += 1;
                prop_assert_eq!(said.serial, serial);
                match said.change {
                    Change::Raise { severity, message, hint, .. } => {
                        prop_assert!(raised.insert(said.rule, severity).is_none());
                        prop_assert!(!message.is_empty() && !hint.is_empty());
                        prop_assert!(!message.contains("geheim"));
                    }
                    Change::Remind { severity, since, .. } => {
                        prop_assert_eq!(raised.get(&said.rule), Some(&severity));
                        prop_assert_eq!(state.standing()[&said.rule].since, since);
                    }
                    Change::Resolve { .. } => prop_assert!(raised.remove(&said.rule).is_some()),
                }
            }
            let standing: Vec<_> = state.standing().keys().collect();
            prop_assert_eq!(standing, raised.keys().collect::<Vec<_>>());
            prop_assert_eq!(state.look(at(now), &settings), vec![], "nothing has changed");
        }
        let closing = state.close(at(now)).len();
        prop_assert_eq!(closing, raised.len());
    }

    #[test]
    fn what_is_heard_again_changes_nothing(history in histories(), again in prop::collection::vec(any::<prop::sample::Index>(), 0..40)) {
        let settings = Settings::default();
        let mut state = BranchState::new(at(0));
        // The days of WAL go up to the ninth; servers date nothing into the future.
        let mut now = 9 * 1440;
        // What was told of one moment and kind is one fact.
        let mut heard: Vec<(i64, Fact)> = Vec::new();
        for (when, fact, pause) in history {
            now += pause;
            let when = when.min(now);
            if let Some(fact) = fact
                && !matches!(fact, Fact::Promised(_))
                && !heard.iter().any(|(at, other)| *at == when || is_same(other, &fact))
            {
                let _ = state.observe(at(when), fact.clone(), at(now), &settings);
                heard.push((when, fact));
            }
        }
        let _ = state.look(at(now), &settings);
        let settled = state.clone();
        if !heard.is_empty() {
            for index in again {
                let (when, fact) = index.get(&heard).clone();
                let _ = state.observe(at(when), fact, at(now), &settings);
                prop_assert_eq!(&state, &settled, "{:?}", index.get(&heard));
            }
        }
    }

    #[test]
    fn a_state_is_bounded_and_survives_being_written_down(history in histories()) {
        let settings = Settings::default();
        let mut state = BranchState::new(at(0));
        for (when, fact, _) in history.into_iter().cycle().take(500) {
            if let Some(fact) = fact {
                let said = state.observe(at(when), fact, at(when), &settings);
                if let Some(last) = said.last() {
                    state.announced(last.serial);
                }
            }
        }
        let json = serde_json::to_string(&state).unwrap();
        prop_assert!(json.len() < 64 << 10, "{} bytes", json.len());
        prop_assert_eq!(serde_json::from_str::<BranchState>(&json).unwrap(), state);
    }
}
