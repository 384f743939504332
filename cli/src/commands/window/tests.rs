use events::Timestamp;
use events::query::{BackupView, WalGap};
use serde_json::json;

use super::{Proven, Window, computed, text};

fn backup(minute: u32, start: &str, stop: &str) -> BackupView {
    let answer = json!({
        "id": format!("0190a5d0-0000-7000-8000-0000000000{minute:02}"),
        "name": "n", "instance": "orders", "branch": "main", "type": "full", "status": "completed",
        "backed_up_at": format!("2026-03-01T10:{minute:02}:00Z"),
        "size_bytes": 1, "logical_bytes": 1, "start_lsn": start, "stop_lsn": stop, "timeline": 1,
        "trigger": "manual", "schedule_id": null, "expires_at": null, "error": null, "hint": null,
        "damaged_pages": [], "requested_at": null, "started_at": null, "duration_ms": null,
        "files": null, "server_version": null, "worker": null, "done_bytes": null, "total_bytes": null
    });
    serde_json::from_value(answer).unwrap()
}

fn gap(from: &str, to: &str) -> WalGap {
    let answer = json!({
        "timeline": 1, "from_lsn": from, "to_lsn": to, "cause": null, "detected_at": null
    });
    serde_json::from_value(answer).unwrap()
}

fn window(backups: &[BackupView], gaps: &[WalGap]) -> Window {
    let (instance, branch) = ("orders".parse().unwrap(), "main".parse().unwrap());
    let proven = Proven {
        lsn: "0/9000000".parse().ok(),
        at: "2026-03-01T11:00:00Z".parse().ok(),
    };
    computed(instance, branch, backups, gaps, proven)
}

fn at(text: &str) -> Option<Timestamp> {
    text.parse().ok()
}

#[test]
fn without_a_backup_nothing_can_be_restored() {
    let window = window(&[], &[]);
    assert_eq!(
        (window.earliest, window.latest, window.complete),
        (None, None, false)
    );
    assert!(text(&window).contains("zektor backup create orders"));
}

#[test]
fn from_the_first_backup_to_what_is_proven() {
    let window = window(
        &[
            backup(30, "0/5000028", "0/5000158"),
            backup(10, "0/3000028", "0/3000158"),
        ],
        &[],
    );
    assert_eq!(window.earliest, at("2026-03-01T10:10:00Z"));
    assert_eq!(window.latest, at("2026-03-01T11:00:00Z"));
    assert!(window.complete && window.gaps.is_empty());
    insta::assert_snapshot!(text(&window), @r#"
    earliest    2026-03-01T10:10:00.000000Z
    latest      2026-03-01T11:00:00.000000Z
    latest LSN  0/9000000
    complete    yes, every moment in between can be restored
    "#);
}

#[test]
fn a_gap_before_the_first_backup_does_not_count() {
    let window = window(
        &[backup(10, "0/3000028", "0/3000158")],
        &[gap("0/1000000", "0/3000000")],
    );
    assert!(window.complete);
}

#[test]
fn a_gap_between_two_backups_ends_with_the_second() {
    let backups = [
        backup(10, "0/3000028", "0/3000158"),
        backup(30, "0/6000028", "0/6000158"),
    ];
    let window = window(&backups, &[gap("0/4000000", "0/5000000")]);
    assert_eq!(window.earliest, at("2026-03-01T10:10:00Z"));
    assert!(!window.complete);
    assert_eq!(
        window.gaps[0].restorable_again_at,
        at("2026-03-01T10:30:00Z")
    );
    insta::assert_snapshot!(text(&window), @r#"
    earliest    2026-03-01T10:10:00.000000Z
    latest      2026-03-01T11:00:00.000000Z
    latest LSN  0/9000000
    complete    no

    TIMELINE  MISSING FROM  TO         RESTORABLE AGAIN AT
    1         0/4000000     0/5000000  2026-03-01T10:30:00.000000Z
    "#);
}

#[test]
fn a_backup_without_its_own_wal_is_none() {
    let backups = [
        backup(10, "0/3000028", "0/5000158"),
        backup(30, "0/6000028", "0/6000158"),
    ];
    let window = window(&backups, &[gap("0/4000000", "0/5000000")]);
    assert_eq!(window.earliest, at("2026-03-01T10:30:00Z"));
    assert!(window.complete);
}

#[test]
fn behind_a_gap_without_a_backup_nothing_can_be_restored() {
    let backups = [backup(10, "0/3000028", "0/3000158")];
    let window = window(&backups, &[gap("0/4000000", "0/5000000")]);
    assert_eq!(window.latest, at("2026-03-01T10:10:00Z"));
    assert_eq!(window.latest_lsn, "0/4000000".parse().ok());
    assert!(!window.complete && window.open_gap().is_some());
}
