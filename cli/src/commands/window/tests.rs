use bytes::Bytes;
use events::window::WindowReport;
use events::{BranchName, InstanceName};
use pg_format::WalSegmentSize;
use repository::{BranchRecord, Repository, RetryPolicy};
use serde_json::json;

use super::{WindowDocument, damaged_text, from_repository, how_old, text};
use crate::arguments::OfBranch;
use crate::failure::Ending;

fn of() -> OfBranch {
    OfBranch {
        instance: InstanceName::new("orders").unwrap(),
        branch: BranchName::main(),
    }
}

fn window(gaps: serde_json::Value) -> WindowReport {
    let answer = json!({
        "earliest": "2026-03-01T10:10:00Z", "latest": "2026-03-01T11:00:00Z",
        "latest_lsn": "0/9000000", "complete": gaps.as_array().unwrap().is_empty(), "gaps": gaps,
        "earliest_backup_id": "0190a5d0-0000-7000-8000-000000000001", "timeline": 1
    });
    serde_json::from_value(answer).unwrap()
}

#[test]
fn without_a_backup_nothing_can_be_restored() {
    let text = text(&of(), &WindowReport::default());
    assert!(text.contains("zektor backup create orders"), "{text}");
}

#[test]
fn from_the_first_backup_to_what_is_proven() {
    insta::assert_snapshot!(text(&of(), &window(json!([]))), @r#"
    earliest    2026-03-01T10:10:00.000000Z
    latest      2026-03-01T11:00:00.000000Z
    latest LSN  0/9000000
    complete    yes, every moment in between can be restored

    --time takes a moment once it is old enough (2 minutes by default, ZEKTOR_RESTORE_MIN_TARGET_AGE of the restorer);
    --lsn 0/9000000 and --latest work at once.
    "#);
}

#[test]
fn the_age_of_a_moment_is_the_one_in_force() {
    let told = |secs| how_old(secs, pg_format::Lsn(0x900_0000));
    assert!(told(Some(0)).starts_with("--time takes every moment up to the latest;"));
    assert!(told(Some(90)).contains("once it is 1 min 30 s old ("));
    assert!(told(None).contains("2 minutes by default"));
}

#[test]
fn what_is_damaged_is_told() {
    let damaged_at = |id: &str, at: &[&str]| {
        let mut report = window(json!([]));
        let one = |at: &&str| json!({"backup_id": id, "backed_up_at": at, "found_at": "2026-03-01T11:30:00Z"});
        let damaged: serde_json::Value = at.iter().map(one).collect();
        report.damaged = serde_json::from_value(damaged).unwrap();
        damaged_text(&report)
    };
    let damaged = |id: &str| damaged_at(id, &["2026-03-01T10:00:00Z"]);
    insta::assert_snapshot!(damaged("0190a5d0-0000-7000-8000-000000000000"), @r#"

    The backup of 2026-03-01T10:00:00.000000Z is damaged (0190a5d0-0000-7000-8000-000000000000).
    The window does without it: it begins with the sound backup of 2026-03-01T10:10:00.000000Z. --time and --latest take a sound one by themselves.
    "#);
    // In the middle of the window they have nothing to do with where it begins.
    let within = damaged_at(
        "0190a5d0-0000-7000-8000-000000000000",
        &["2026-03-01T10:20:00Z", "2026-03-01T10:30:00Z"],
    );
    assert!(within.contains("does without them. --time"), "{within}");
    let only = damaged("0190a5d0-0000-7000-8000-000000000001");
    assert!(only.contains("There is no sound one"), "{only}");
}

#[test]
fn what_is_missing_is_told_with_where_it_goes_on() {
    let gaps = json!([
        {
            "timeline": 1, "from_lsn": "0/4000000", "to_lsn": "0/5000000",
            "from": "2026-03-01T10:20:00.000001Z", "restorable_again_at": "2026-03-01T10:30:00Z"
        },
        {
            "timeline": 1, "from_lsn": "0/9000000", "to_lsn": null,
            "from": "2026-03-01T11:00:00Z", "restorable_again_at": null
        }
    ]);
    insta::assert_snapshot!(text(&of(), &window(gaps)), @r#"
    earliest    2026-03-01T10:10:00.000000Z
    latest      2026-03-01T11:00:00.000000Z
    latest LSN  0/9000000
    complete    no, 2 gaps

    --time takes a moment once it is old enough (2 minutes by default, ZEKTOR_RESTORE_MIN_TARGET_AGE of the restorer);
    --lsn 0/9000000 and --latest work at once.

    TIMELINE  WAL MISSING FROM  TO         RESTORABLE UNTIL             AND AGAIN FROM
    1         0/4000000         0/5000000  2026-03-01T10:20:00.000001Z  2026-03-01T10:30:00.000000Z
    1         0/9000000         -          2026-03-01T11:00:00.000000Z  not yet

    Nothing later can be restored until there is a backup behind the missing WAL; one is taken by itself, or now:
      zektor backup create orders --branch main --wait
    "#);
}

#[test]
fn the_document_has_the_fields_of_the_contract() {
    let of = of();
    let document = WindowDocument {
        instance: &of.instance,
        branch: &of.branch,
        report: &window(json!([])),
        standstill: None,
    };
    let document = serde_json::to_value(&document).unwrap();
    for field in ["earliest", "latest", "latest_lsn", "gaps", "complete"] {
        assert!(document.get(field).is_some(), "{field}: {document}");
    }
}

#[tokio::test]
async fn the_repository_alone_tells_it() {
    let repository = Repository::open("memory://", RetryPolicy::default()).unwrap();
    let of = of();
    let failure = from_repository(&repository, &of).await.unwrap_err();
    assert_eq!(failure.ending, Ending::NotFound, "{failure}");

    let writer = repository.writer(&of.instance, &of.branch);
    let record = BranchRecord {
        instance: of.instance.clone(),
        branch: of.branch.clone(),
        system_identifier: pg_format::SystemIdentifier(7),
        server_version: 180_000,
        wal_segment_size: WalSegmentSize::new(1 << 20).unwrap(),
        parent: None,
        created_at: events::Timestamp::UNIX_EPOCH,
    };
    let _claimed = writer.claim_branch(&record).await.unwrap();
    assert_eq!(
        from_repository(&repository, &of).await.unwrap(),
        WindowReport::default()
    );
    let summary = stored(&repository, &of).await;
    let found = from_repository(&repository, &of).await.unwrap();
    assert_eq!(found.window.earliest, Some(summary.backed_up_at));
    assert_eq!(found.window.earliest_backup_id, Some(summary.backup_id));
    assert!(found.window.complete, "{found:?}");
}

/// A backup with its WAL.
async fn stored(repository: &Repository, of: &OfBranch) -> events::BackupSummary {
    let writer = repository.writer(&of.instance, &of.branch);
    let size = WalSegmentSize::new(1 << 20).unwrap();
    let mut summary = events::example::backup_summary();
    (summary.instance, summary.branch) = (of.instance.clone(), of.branch.clone());
    summary.wal_segment_size = size;
    summary.timeline = pg_format::TimelineId(1);
    summary.start_lsn = pg_format::Lsn((3 << 20) + 40);
    summary.stop_lsn = pg_format::Lsn((3 << 20) + 400);
    let options = repository::BackupOptions::default();
    let pieces = writer.begin_backup(summary.backup_id, &summary.attempt, options);
    let stored = pieces.unwrap().finish().await.unwrap();
    summary.files = stored.totals.files;
    summary.logical_bytes = stored.totals.logical_bytes;
    summary.stored_bytes = stored.totals.stored_bytes;
    let _committed = stored.commit(summary.clone()).await.unwrap();
    let name = pg_format::SegmentName::new(summary.timeline, 3, size);
    let raw = Bytes::from(vec![0; 1 << 20]);
    let _put = writer.put_segment(name, raw).await.unwrap();
    summary
}
