use super::*;

const MIB: u64 = 1 << 20;

fn size() -> WalSegmentSize {
    WalSegmentSize::new(MIB).unwrap()
}

fn segment(timeline: u32, number: u64) -> SegmentName {
    SegmentName::new(TimelineId(timeline), number, size())
}

fn object(timeline: u32, kind: WalObjectKind) -> WalObject {
    let last_modified = Timestamp::UNIX_EPOCH;
    WalObject {
        timeline: TimelineId(timeline),
        kind,
        stored_bytes: 7,
        last_modified,
    }
}

#[test]
fn what_is_in_order_and_complete_is_announced() {
    use WalObjectKind::{History, Partial, Segment};
    let objects = [
        object(1, Segment(segment(1, 3))),
        object(1, Segment(segment(1, 4))),
        object(1, Partial(segment(1, 5))),
        object(2, History),
        object(2, Segment(segment(2, 5))),
        object(2, Segment(segment(2, 7))),
        object(2, Partial(segment(2, 6))),
        object(3, History),
    ];
    let told = |last, timeline, number| -> Vec<usize> {
        let chain_end = ChainEnd {
            timeline: TimelineId(timeline),
            lsn: Lsn(number * MIB),
        };
        to_announce(&objects, last, chain_end, size())
            .map(|told| objects.iter().position(|object| object == told).unwrap())
            .collect()
    };
    assert_eq!(told(None, 1, 4), [0], "the later one waits for the earlier");
    assert_eq!(
        told(Some((TimelineId(1), Segment(segment(1, 3)))), 1, 5),
        [1]
    );
    assert_eq!(
        told(Some((TimelineId(1), Segment(segment(1, 4)))), 2, 6),
        [2, 3, 4]
    );
    assert_eq!(told(Some((TimelineId(2), History)), 2, 6), [4]);
}

#[test]
fn an_event_leads_back_to_its_place() {
    let key = BranchKey {
        instance: "shop".parse().unwrap(),
        branch: "main".parse().unwrap(),
    };
    use WalObjectKind::{History, Partial, Segment};
    for kind in [History, Segment(segment(2, 9)), Partial(segment(2, 9))] {
        let (event, id) = archived_event(&key, &object(2, kind), size());
        let Event::WalSegmentArchived(archived) = event else {
            panic!("another event")
        };
        assert_eq!(place_of(&archived, size()), Some((TimelineId(2), kind)));
        assert_eq!(
            id,
            format!("wal.segment.archived:shop:main:{}", archived.segment)
        );
    }
}
