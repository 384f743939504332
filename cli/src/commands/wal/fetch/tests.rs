use bytes::Bytes;
use events::InstanceName;
use pg_format::{Lsn, SystemIdentifier, TimelineId, WalSegmentSize};
use repository::{BranchRecord, ParentBranch, Repository, RetryPolicy};

use super::{ABSENT, Archive, Ending, Failure, WalFetch, WalFile, in_doubt};
use crate::arguments::ArchiveOf;

const MIB: u64 = 1 << 20;

/// `main`, and `b`, which left it in segment 4 of timeline 1 and goes on with timeline 2. Both have reached segment 6.
async fn repository() -> Repository {
    let repository = Repository::open("memory://", RetryPolicy::default()).unwrap();
    let instance = InstanceName::new("shop").unwrap();
    for branch in ["main", "b"] {
        let writer = repository.writer(&instance, &branch.parse().unwrap());
        let parent = (branch == "b").then(|| ParentBranch {
            branch: "main".parse().unwrap(),
            backup_id: "0192d6a0-0000-7000-8000-000000000003".parse().unwrap(),
            fork_timeline: TimelineId(1),
            fork_lsn: Lsn(4 * MIB + 100),
        });
        let record = BranchRecord {
            instance: instance.clone(),
            branch: branch.parse().unwrap(),
            system_identifier: SystemIdentifier(7),
            server_version: 180_000,
            wal_segment_size: WalSegmentSize::new(MIB).unwrap(),
            parent,
            created_at: events::Timestamp::UNIX_EPOCH,
        };
        let _ = writer.claim_branch(&record).await.unwrap();
        let names: &[&str] = match branch {
            // Promoted at some time, to a timeline 2 of its own.
            "main" => &["1 3", "1 4", "1 5", "2 5", "2 6"],
            _ => &["2 4"],
        };
        for name in names {
            let (timeline, number) = name.split_once(' ').unwrap();
            let raw = Bytes::from(vec![branch.as_bytes()[0]; 1 << 20]);
            let name = segment(timeline.parse().unwrap(), number.parse().unwrap());
            let name = super::SegmentName::parse(&name, record.wal_segment_size).unwrap();
            let _ = writer.put_segment(name, raw).await.unwrap();
        }
        let open = super::SegmentName::new(TimelineId(2), 7, record.wal_segment_size);
        let _ = writer
            .put_partial(open, Bytes::from_static(b"wal"))
            .await
            .unwrap();
    }
    repository
}

fn segment(timeline: u32, number: u64) -> String {
    format!("{timeline:08X}00000000{number:08X}")
}

async fn find(branch: &str, timeline: u32, number: u64, complete: bool) -> Option<(String, Bytes)> {
    let name = segment(timeline, number);
    let given = WalFetch {
        name: name.clone(),
        destination: "unused".into(),
        of: ArchiveOf {
            instance: "shop".parse().unwrap(),
            branch: branch.parse().unwrap(),
        },
        patience: 0,
        complete,
    };
    let archive = Archive {
        repository: repository().await,
        given: &given,
        file: WalFile::named(&name).unwrap(),
    };
    let found = archive.find().await.unwrap();
    found.map(|found| (found.branch.to_string(), found.content))
}

#[tokio::test]
async fn a_branch_has_its_parents_wal_up_to_the_fork_and_no_other() {
    let from = async |branch, timeline, number| {
        let found = find(branch, timeline, number, true).await;
        found.map(|(branch, _)| branch)
    };
    assert_eq!(from("b", 1, 3).await.as_deref(), Some("main"));
    assert_eq!(from("b", 1, 4).await.as_deref(), Some("main"));
    assert_eq!(from("b", 2, 4).await.as_deref(), Some("b"));
    assert_eq!(from("b", 1, 5).await, None, "behind the fork");
    assert_eq!(from("b", 2, 5).await, None, "another timeline 2");
    assert_eq!(from("main", 2, 5).await.as_deref(), Some("main"));
}

#[tokio::test]
async fn the_open_segment_has_its_full_size() {
    let (_, content) = find("b", 2, 7, false).await.unwrap();
    assert_eq!(content.len() as u64, MIB);
    assert!(content.starts_with(b"wal\0") && content[3..].iter().all(|byte| *byte == 0));
    assert_eq!(
        find("b", 2, 7, true).await,
        None,
        "unless it must be complete"
    );
}

#[tokio::test]
async fn an_unknown_branch_is_no_answer() {
    let given = WalFetch {
        name: segment(1, 3),
        destination: "unused".into(),
        of: ArchiveOf {
            instance: "other".parse().unwrap(),
            branch: "main".parse().unwrap(),
        },
        patience: 0,
        complete: false,
    };
    let archive = Archive {
        repository: repository().await,
        given: &given,
        file: WalFile::named(&given.name).unwrap(),
    };
    assert!(archive.find_surely().await.is_err());
}

#[test]
fn only_a_clear_no_is_1() {
    let check = |failure, code: i32| {
        let failure = in_doubt::<()>(Err(failure)).unwrap_err();
        assert_eq!(failure.ending as i32, code, "{failure}");
    };
    check(Failure::new(Ending::Failed, ABSENT, "no", ""), 1);
    check(Failure::new(Ending::Failed, "local", "no", ""), 126);
    check(Failure::usage("no", ""), 126);
    check(Failure::not_found("no", ""), 126);
}
