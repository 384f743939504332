use events::query::{BackupStatus, BackupView};
use events::{PoolName, Timestamp};

use super::{BackupDocument, Last, text, text_of};
use crate::commands::pool::{Served, Waits};

fn now() -> Timestamp {
    "2026-03-02T12:00:00Z".parse().unwrap()
}

/// As the catalog answers, in the names of the contract.
pub(crate) fn completed() -> BackupView {
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
    insta::assert_snapshot!(text(&completed(), now()), @r#"
    id          0190a5d0-0000-7000-8000-000000000001
    name        manual 2026-03-01
    of          orders, branch main
    type        full
    status      completed, bad pages
    backed up   2026-03-01 10:00:12 UTC
    took        11.5 s
    database    32.0 MiB
    stored      5.0 MiB
    files       970
    WAL         0/3000028 to 0/3000158
    timeline    1
    postgresql  18.1
    trigger     manual
    kept        until 2026-03-08 10:00:12 UTC
    pitr        every moment from it on, as long as it is kept
    bad pages   base/5/16384 block 7
    what to do  repair the relation on the server, then take a new one, `zektor backup create orders --branch main --wait`
    "#);
}

#[test]
fn what_is_wanted_of_it() {
    let kept = |change: serde_json::Value| {
        let mut view = serde_json::to_value(completed()).unwrap();
        let fields = view.as_object_mut().unwrap();
        fields.extend(change.as_object().unwrap().clone());
        let text = text(&serde_json::from_value(view).unwrap(), now());
        let lines = text.lines().filter(|line| {
            let name = line.split(' ').next().unwrap();
            ["kept", "pitr", "verified"].contains(&name)
        });
        lines.collect::<Vec<_>>().join("\n")
    };
    let held = serde_json::json!({
        "hold": { "reason": "audit", "since": "2026-03-02T00:00:00Z" },
        "wal_until": "2026-03-05T00:00:00Z",
        "verified_at": "2026-03-02T00:00:00Z",
        "sound": true,
    });
    insta::assert_snapshot!(kept(held), @r"
    kept        held since 2026-03-02 00:00:00 UTC: audit
    pitr        every moment from it on until 2026-03-05 00:00:00 UTC; its WAL goes a time of grace later
    verified    2026-03-02 00:00:00 UTC: it is sound
    ");
    let deleted = serde_json::json!({
        "status": "expired",
        "deletion": { "by": "user", "asked_at": "2026-03-02T00:00:00Z", "delete_after": "2026-03-03T00:00:00Z" },
        "wal_until": "2026-03-01T10:00:12.5Z",
        "verified_at": "2026-03-02T00:00:00Z",
        "sound": false,
    });
    insta::assert_snapshot!(kept(deleted), @r"
    kept        until 2026-03-03 00:00:00 UTC: it was deleted, and it goes then if it is not the newest of its branch (that one waits for a newer one); keep it with `zektor backup undelete orders 0190a5d0-0000-7000-8000-000000000001`
    pitr        only the backup itself; no WAL is kept because of it
    verified    2026-03-02 00:00:00 UTC: it is damaged
    ");
    let due = serde_json::json!({
        "status": "expired",
        "deletion": { "by": "retention", "asked_at": "2026-03-02T00:00:00Z", "delete_after": "2026-03-02T11:00:00Z" },
    });
    assert!(
        kept(due).contains("its retention is over, and it may go since 2026-03-02 11:00:00 UTC")
    );
    let gone = serde_json::json!({ "status": "expired", "deleted_at": "2026-03-09T00:00:00Z" });
    insta::assert_snapshot!(kept(gone), @"kept        it is gone since 2026-03-09 00:00:00 UTC");
    insta::assert_snapshot!(kept(serde_json::json!({ "expires_at": null })), @r"
    kept        until it is deleted
    pitr        every moment from it on, as long as it is kept
    ");
}

#[test]
fn one_that_failed() {
    let failed = BackupView {
        status: BackupStatus::Failed,
        error: Some("the store refused".to_owned()),
        hint: Some("check its credentials".to_owned()),
        backed_up_at: None,
        damaged_pages: Vec::new(),
        ..completed()
    };
    let last = Last {
        failed_at: "2026-03-01T10:01:00Z".parse().ok(),
        ..Last::default()
    };
    let text = text_of(&failed, &last, now());
    let line = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.unwrap_or_default().to_owned()
    };
    assert_eq!(
        line("hint"),
        "hint        check its credentials; then take it once more: `zektor backup retry orders \
         0190a5d0-0000-7000-8000-000000000001`"
    );
    assert_eq!(line("requested"), "requested   2026-03-01 10:00:00 UTC");
    assert_eq!(line("failed"), "failed      2026-03-01 10:01:00 UTC");
    for name in ["kept", "pitr", "what to do"] {
        assert_eq!(line(name), "");
    }
    // Of a branch that was deleted nothing is to be taken again.
    let gone = Last {
        branch_is_gone: true,
        ..last
    };
    let text = text_of(&failed, &gone, now());
    assert!(!text.contains("backup retry"), "{text}");
    assert!(
        text.contains("zektor branch delete orders main --purge"),
        "{text}"
    );
}

#[test]
fn what_is_damaged_is_named_with_the_next_step() {
    let damaged = BackupView {
        sound: Some(false),
        verified_at: "2026-03-02T00:00:00Z".parse().ok(),
        damaged_pages: Vec::new(),
        ..completed()
    };
    let problems = (1..=7).map(|number| format!("pack {number} is missing"));
    let last = Last {
        problems: problems.collect(),
        ..Last::default()
    };
    let text = text_of(&damaged, &last, now());
    for part in [
        "completed, damaged",
        "pack 1 is missing; ",
        "pack 5 is missing; and 2 more",
        "zektor backup create orders --branch main",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let forgotten = text_of(&damaged, &Last::default(), now());
    assert!(
        forgotten.contains("zektor backup verify orders"),
        "{forgotten}"
    );
    let document = BackupDocument {
        backup: &damaged,
        last: &last,
    };
    let document = serde_json::to_value(&document).unwrap();
    assert_eq!(document["status"], "completed");
    assert_eq!(document["problems"].as_array().unwrap().len(), 7);
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

#[test]
fn what_no_worker_has_begun_says_what_it_waits_for() {
    let requested = BackupView {
        status: BackupStatus::Requested,
        backed_up_at: None,
        damaged_pages: Vec::new(),
        ..completed()
    };
    let waits = Waits::Worker {
        pool: PoolName::new("eu").ok(),
        served: Some(Served::Nobody),
    };
    let last = Last {
        waiting: Some(waits.into()),
        ..Last::default()
    };
    let text = text_of(&requested, &last, now());
    let line = text.lines().find(|line| line.starts_with("waiting"));
    assert_eq!(
        line,
        Some(
            "waiting     for a worker of the pool eu; none serves it now: start one with ZEKTOR_WORKER_POOLS=eu \
             (docs/workers.md); or cancel it: zektor backup delete orders 0190a5d0-0000-7000-8000-000000000001"
        )
    );
    let document = BackupDocument {
        backup: &requested,
        last: &last,
    };
    let document = serde_json::to_value(&document).unwrap();
    assert_eq!(
        document["waiting"],
        serde_json::json!({ "pool": "eu", "served": false, "behind": null })
    );
}
