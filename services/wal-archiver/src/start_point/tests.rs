use super::*;

const MIB: u64 = 1 << 20;

fn size() -> WalSegmentSize {
    WalSegmentSize::new(MIB).unwrap()
}

fn segment(timeline: u32, number: u64) -> SegmentName {
    SegmentName::new(TimelineId(timeline), number, size())
}

fn lsn(segment: u64, offset: u64) -> Lsn {
    Lsn(segment * MIB + offset)
}

/// Timeline 2 left timeline 1 in segment 5.
fn promoted() -> TimelineHistory {
    TimelineHistory::root(TimelineId(1))
        .fork(TimelineId(2), lsn(5, 100), "test")
        .unwrap()
}

struct Case {
    history: TimelineHistory,
    archived: Vec<SegmentName>,
    partials: Vec<SegmentName>,
    position: Option<(u32, Lsn, SegmentName)>,
    fork: Option<Fork>,
    slot: Option<Lsn>,
    unpushed: Option<Vec<SegmentName>>,
}

impl Default for Case {
    fn default() -> Self {
        Case {
            history: TimelineHistory::root(TimelineId(1)),
            archived: Vec::new(),
            partials: Vec::new(),
            position: None,
            fork: None,
            slot: Some(lsn(3, 77)),
            unpushed: None,
        }
    }
}

impl Case {
    fn with<T>(&self, decide: impl FnOnce(&Evidence<'_>) -> T) -> T {
        let archived = self.archived.iter().copied().collect();
        let partials = self.partials.iter().copied().collect();
        let unpushed = self.unpushed.clone();
        let unpushed = unpushed.map(BTreeSet::from_iter);
        let position = self
            .position
            .map(|(timeline, lsn, first_segment)| ArchivePosition {
                timeline: TimelineId(timeline),
                lsn,
                first_segment,
            });
        decide(&Evidence {
            segment_size: size(),
            history: &self.history,
            archived: &archived,
            partials: &partials,
            position,
            fork: self.fork,
            slot_restart: self.slot,
            unpushed: unpushed.as_ref(),
            server_flush: lsn(9, 9),
        })
    }

    fn check(&self, timeline: u32, start: Lsn, first: SegmentName, reason: StartReason) {
        let expected = StartPoint {
            timeline: TimelineId(timeline),
            lsn: start,
            chain_first: first,
            reason,
        };
        assert_eq!(self.with(start_point), expected);
    }
}

#[test]
fn a_new_branch_begins_at_its_slot_or_now() {
    Case::default().check(1, lsn(3, 0), segment(1, 3), StartReason::Slot);
    let unheld = Case {
        slot: None,
        ..Case::default()
    };
    unheld.check(1, lsn(9, 0), segment(1, 9), StartReason::Now);
}

#[test]
fn the_archive_goes_on_at_the_first_segment_that_is_missing() {
    let archived = vec![segment(1, 3), segment(1, 4), segment(1, 6)];
    let case = Case {
        archived,
        ..Case::default()
    };
    case.check(1, lsn(5, 0), segment(1, 3), StartReason::Archive);
    // The first upload of all was lost by a crash, the second was not.
    let position = Some((1, lsn(3, 0), segment(1, 3)));
    let case = Case {
        archived: vec![segment(1, 4)],
        position,
        ..Case::default()
    };
    case.check(1, lsn(3, 0), segment(1, 3), StartReason::Archive);
}

#[test]
fn what_was_expired_is_not_asked_for_again() {
    let position = Some((1, lsn(7, 12), segment(1, 1)));
    let archived = vec![segment(1, 5), segment(1, 6)];
    Case {
        archived,
        position,
        ..Case::default()
    }
    .check(1, lsn(7, 0), segment(1, 5), StartReason::Archive);
}

#[test]
fn the_chain_begins_behind_what_was_expired_between_two_backups() {
    let archived = || [2, 3, 6, 7].map(|number| segment(1, number)).to_vec();
    let case = |position, slot| Case {
        archived: archived(),
        position,
        slot: Some(slot),
        ..Case::default()
    };
    let position = Some((1, lsn(8, 12), segment(1, 1)));
    let archive = StartReason::Archive;
    case(position, lsn(8, 0)).check(1, lsn(8, 0), segment(1, 6), archive);
    // The position was lost: the slot knows what is complete, and one that was made anew does not.
    case(None, lsn(7, 9)).check(1, lsn(8, 0), segment(1, 6), archive);
    case(None, lsn(8, 0)).check(1, lsn(8, 0), segment(1, 6), archive);
    case(None, lsn(4, 0)).check(1, lsn(4, 0), segment(1, 2), archive);
    case(None, lsn(9, 0)).check(1, lsn(4, 0), segment(1, 2), archive);
    // Of a timeline that the server has not followed, and the chain's beginning was expired.
    let followed = Some((3, lsn(8, 12), segment(1, 1)));
    case(followed, lsn(8, 0)).check(1, lsn(4, 0), segment(1, 2), archive);
    // All of it was.
    let case = Case {
        position,
        ..Case::default()
    };
    case.check(1, lsn(8, 0), segment(1, 1), archive);
}

#[test]
fn of_a_server_that_pushes_the_last_chain_goes_on_when_the_position_was_lost() {
    let check =
        |history: TimelineHistory, archived: &[SegmentName], unpushed: &[u64], start, first| {
            let case = Case {
                history,
                archived: archived.to_vec(),
                slot: None,
                unpushed: Some(unpushed.iter().map(|number| segment(1, *number)).collect()),
                ..Case::default()
            };
            let timeline = case.history.timeline_at(start).0;
            case.check(timeline, start, first, StartReason::Archive);
        };
    let root = || TimelineHistory::root(TimelineId(1));
    let whole = [2, 3, 4].map(|number| segment(1, number));
    check(root(), &whole, &[], lsn(5, 0), segment(1, 2));
    check(root(), &whole, &[5, 6], lsn(5, 0), segment(1, 2));
    // Retention took 4 and 5.
    let pruned = [2, 3, 6, 7].map(|number| segment(1, number));
    check(root(), &pruned, &[8], lsn(8, 0), segment(1, 6));
    // 9 came before 8, which is waited for.
    let ahead = [2, 3, 6, 7, 9].map(|number| segment(1, number));
    check(root(), &ahead, &[8], lsn(8, 0), segment(1, 6));
    check(root(), &ahead, &[], lsn(10, 0), segment(1, 9));
    let alone = [2, 9].map(|number| segment(1, number));
    check(root(), &alone, &[8], lsn(8, 0), segment(1, 8));
    // What an old primary wrote beyond the switch is of no chain.
    let old = [segment(1, 3), segment(1, 4), segment(1, 8)];
    check(promoted(), &old, &[], lsn(5, 0), segment(1, 3));
    let new = [segment(1, 2), segment(1, 4), segment(2, 5), segment(2, 6)];
    check(promoted(), &new, &[], lsn(7, 0), segment(1, 4));
}

#[test]
fn a_full_partial_before_the_position_is_asked_for_again() {
    let check = |position_at, first, start| {
        let case = Case {
            archived: vec![segment(1, 5)],
            partials: vec![segment(1, 6)],
            position: Some((1, position_at, segment(1, first))),
            ..Case::default()
        };
        case.check(1, start, segment(1, first), StartReason::Archive);
    };
    check(lsn(7, 0), 5, lsn(6, 0));
    check(lsn(7, 0), 7, lsn(7, 0)); // before a gap
    check(lsn(8, 0), 5, lsn(8, 0)); // expired
}

#[test]
fn a_recorded_gap_is_not_filled() {
    let archived = vec![segment(1, 1), segment(1, 2), segment(1, 7)];
    let position = Some((1, lsn(7, 0), segment(1, 7)));
    Case {
        archived,
        position,
        ..Case::default()
    }
    .check(1, lsn(8, 0), segment(1, 7), StartReason::Archive);
}

#[test]
fn after_a_promotion_the_old_timeline_is_finished_first() {
    let history = promoted();
    let archived = vec![segment(1, 3), segment(1, 4)];
    let case = Case {
        history: history.clone(),
        archived,
        ..Case::default()
    };
    case.check(1, lsn(5, 0), segment(1, 3), StartReason::Archive);
    // Its part of the shared segment is in the new timeline's one too.
    let archived = vec![segment(1, 3), segment(1, 4), segment(2, 5)];
    let case = Case {
        history,
        archived,
        ..Case::default()
    };
    case.check(2, lsn(6, 0), segment(1, 3), StartReason::Archive);
}

#[test]
fn what_an_old_primary_wrote_beyond_the_switch_is_not_taken_for_the_new_timeline() {
    let archived = (3..8).map(|number| segment(1, number)).collect();
    let position = Some((1, lsn(8, 5), segment(1, 3)));
    let case = Case {
        history: promoted(),
        archived,
        position,
        ..Case::default()
    };
    case.check(1, lsn(5, 0), segment(1, 3), StartReason::Archive);
}

#[test]
fn a_restored_branch_begins_at_its_fork_on_its_own_timeline() {
    let fork = Some(Fork {
        lsn: lsn(5, 100),
        timeline: TimelineId(2),
    });
    let case = Case {
        history: promoted(),
        fork,
        ..Case::default()
    };
    case.check(2, lsn(5, 0), segment(2, 5), StartReason::Fork);
    let position = Some((2, lsn(5, 0), segment(2, 5)));
    let case = Case {
        history: promoted(),
        fork,
        position,
        ..Case::default()
    };
    case.check(2, lsn(5, 0), segment(2, 5), StartReason::Archive);
}

#[test]
fn after_a_gap_the_slot_or_the_present_decides_and_never_the_past() {
    let resume = |slot, missing| {
        Case {
            slot,
            ..Case::default()
        }
        .with(|evidence| after_gap(evidence, missing))
        .map(|start| (start.lsn, start.chain_first, start.reason))
    };
    let slot = Some(lsn(7, 3));
    assert_eq!(
        resume(slot, lsn(4, 0)),
        Some((lsn(7, 0), segment(1, 7), StartReason::Slot))
    );
    assert_eq!(
        resume(None, lsn(4, 0)),
        Some((lsn(9, 0), segment(1, 9), StartReason::Now))
    );
    assert_eq!(
        resume(slot, lsn(8, 0)),
        Some((lsn(9, 0), segment(1, 9), StartReason::Now))
    );
    assert_eq!(resume(slot, lsn(9, 0)), None);
}

#[test]
fn an_ancestors_history_is_a_part_of_its_descendants() {
    let third = promoted().fork(TimelineId(4), lsn(8, 1), "again").unwrap();
    assert_eq!(history_of(&third, TimelineId(2)), Some(promoted()));
    assert_eq!(
        history_of(&third, TimelineId(1)),
        Some(TimelineHistory::root(TimelineId(1)))
    );
    assert_eq!(history_of(&third, TimelineId(4)), Some(third.clone()));
    assert_eq!(history_of(&third, TimelineId(3)), None);
}
