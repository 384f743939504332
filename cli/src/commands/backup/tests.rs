use events::query::BackupView;

use super::{list_text, show_text};

/// As the catalog answers, in the names of the contract.
fn completed() -> BackupView {
    let answer = serde_json::json!({
        "id": "0190a5d0-0000-7000-8000-000000000001",
        "name": "manual 2026-03-01",
        "instance": "orders",
        "branch": "main",
        "type": "full",
        "status": "completed",
        "backed_up_at": "2026-03-01T10:00:12.5Z",
        "size_bytes": 5_242_880,
        "logical_bytes": 33_554_432,
        "start_lsn": "0/3000028",
        "stop_lsn": "0/3000158",
        "timeline": 1,
        "trigger": "manual",
        "schedule_id": null,
        "expires_at": "2026-03-08T10:00:12.5Z",
        "error": null,
        "hint": null,
        "damaged_pages": [{ "file": "base/5/16384", "block": 7 }],
        "requested_at": "2026-03-01T10:00:00Z",
        "started_at": "2026-03-01T10:00:01Z",
        "duration_ms": 11_500,
        "files": 970,
        "server_version": 180_001,
        "worker": null,
        "done_bytes": null,
        "total_bytes": null
    });
    serde_json::from_value(answer).unwrap()
}

#[test]
fn a_completed_backup() {
    insta::assert_snapshot!(show_text(&completed()), @r#"
    id          0190a5d0-0000-7000-8000-000000000001
    name        manual 2026-03-01
    of          orders, branch main
    type        full
    status      completed
    backed up   2026-03-01 10:00:12 UTC
    took        11.5 s
    database    32.0 MiB
    stored      5.0 MiB
    files       970
    WAL         0/3000028 to 0/3000158
    timeline    1
    postgresql  18.1
    trigger     manual
    expires     2026-03-08 10:00:12 UTC
    damaged     base/5/16384 block 7
    "#);
}

#[test]
fn the_list() {
    let running = BackupView {
        status: events::query::BackupStatus::InProgress,
        backed_up_at: None,
        size_bytes: None,
        expires_at: None,
        damaged_pages: Vec::new(),
        ..completed()
    };
    insta::assert_snapshot!(list_text(&[running, completed()]), @r#"
    ID                                    NAME               BRANCH  TYPE  STATUS                      BACKED UP                SIZE     EXPIRES
    0190a5d0-0000-7000-8000-000000000001  manual 2026-03-01  main    full  in_progress                 -                        -        -
    0190a5d0-0000-7000-8000-000000000001  manual 2026-03-01  main    full  completed, 1 damaged pages  2026-03-01 10:00:12 UTC  5.0 MiB  2026-03-08 10:00:12 UTC
    "#);
}

#[test]
fn the_fields_of_the_contract() {
    let document = serde_json::to_value(completed()).unwrap();
    for field in [
        "id",
        "name",
        "instance",
        "branch",
        "type",
        "status",
        "backed_up_at",
        "size_bytes",
        "logical_bytes",
        "start_lsn",
        "stop_lsn",
        "timeline",
        "trigger",
        "schedule_id",
        "expires_at",
        "error",
        "damaged_pages",
    ] {
        assert!(document.get(field).is_some(), "{field}");
    }
}
