//! The command as a process: exit codes, and stdout that carries the answer and nothing else.
#![allow(
    clippy::unwrap_used,
    reason = "a test that cannot go on is a test that fails"
)]

use std::process::{Command, Output};

use serde_json::Value;

/// Runs `zektor` with an empty home, in a time zone that is not UTC.
fn zektor(line: &str) -> Output {
    let home = tempfile::tempdir().unwrap();
    Command::new(env!("CARGO_BIN_EXE_zektor"))
        .args(line.split_whitespace())
        .env_clear()
        .env("ZEKTOR_HOME", home.path())
        .env("TZ", "Europe/Berlin")
        .output()
        .unwrap()
}

/// The command fails with this exit code, says why on stderr, and the same as JSON if it is asked to.
fn check(line: &str, exit_code: i32, code: &str) -> String {
    let output = zektor(line);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(exit_code), "{line}: {stderr}");
    assert!(stderr.starts_with("error: "), "{line}: {stderr}");
    assert!(output.stdout.is_empty(), "{line}: stdout is for answers");

    let output = zektor(&format!("{line} --output json"));
    assert_eq!(output.status.code(), Some(exit_code), "{line}");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["error"]["code"], code, "{line}");
    for field in ["message", "hint"] {
        assert!(document["error"][field].is_string(), "{line}: {document}");
    }
    stderr
}

#[test]
fn without_a_stack_it_says_how_to_start_one() {
    for line in [
        "status",
        "doctor",
        "instance list",
        "events",
        "window orders",
        "moments orders",
        "retention explain orders",
    ] {
        let stderr = check(line, 5, "not_running");
        assert!(stderr.contains("zektor up"), "{stderr}");
    }
    let down = zektor("down");
    assert_eq!(down.status.code(), Some(0));
}

#[test]
fn a_bus_that_is_not_there_is_exit_code_5() {
    let _ = check("--nats nats://127.0.0.1:1 instance list", 5, "unreachable");
    let up = zektor("--nats nats://127.0.0.1:1 up");
    assert_eq!(up.status.code(), Some(5));
}

#[test]
fn a_stack_is_not_started_with_what_cannot_be_used() {
    for (line, says) in [
        ("up --catalog mysql://u:secret@x/y", "sqlite:///"),
        ("up --repository ftp://x/y", "s3://"),
    ] {
        let stderr = check(line, 2, "usage");
        assert!(
            stderr.contains(says) && !stderr.contains("secret"),
            "{stderr}"
        );
    }
}

#[test]
fn what_cannot_be_understood_names_the_command_to_look_up() {
    for (line, command, said) in [
        (
            "backup list orders --status gone",
            "zektor backup list",
            "gone",
        ),
        (
            "backup keep orders one",
            "zektor backup keep",
            "--retention",
        ),
        ("instance update orders", "zektor instance update", "--pool"),
        ("--output table nonsense", "zektor", "nonsense"),
        (
            "backup list orders --from 2027-01-01T00:00:00Z --to",
            "zektor backup list",
            "--to",
        ),
    ] {
        let stderr = check(line, 2, "usage");
        let hint = format!(" hint: see `{command} --help`\n");
        assert!(
            stderr.ends_with(&hint) && stderr.contains(said),
            "{line}: {stderr}"
        );
        assert_eq!(stderr.lines().count(), 2, "{line}: {stderr}");
    }
    let stderr = check("backup lst orders", 2, "usage");
    assert!(
        stderr.contains(" hint: a similar subcommand exists: 'list'; see `zektor backup --help`"),
        "{stderr}"
    );
    let output = zektor("backup --output json");
    assert_eq!(output.status.code(), Some(2));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let message = "`zektor backup` is not a whole command";
    assert_eq!(document["error"]["message"], message);
    // People are shown what there is.
    let stderr = String::from_utf8(zektor("backup").stderr).unwrap();
    assert!(stderr.contains("Take a backup now"), "{stderr}");
}

#[test]
fn what_is_not_in_this_version_is_a_usage_error() {
    let stderr = check("recover --latest", 2, "not_in_this_version");
    assert!(stderr.contains("is not in this version yet"), "{stderr}");
}

#[test]
fn a_look_ahead_at_a_moment_with_two_readings_is_refused() {
    let line = "retention explain orders --at 2026-03-01T14:30";
    let stderr = check(line, 2, "usage");
    assert!(stderr.contains("has no offset"), "{stderr}");
}

#[test]
fn a_preview_asks_nobody() {
    let output = zektor("schedule preview orders --every daily --at 02:30 --output json");
    assert_eq!(output.status.code(), Some(0));
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(document["cron"], "30 2 * * *");
    assert_eq!(document["fires"].as_array().unwrap().len(), 5);
}

#[test]
fn usage_errors_are_exit_code_2() {
    let _ = check("backup create", 2, "usage");
    let _ = check("restore orders --latest --lsn 0/1 --as b", 2, "usage");
    let _ = check("events --type backup.done", 2, "usage");
    let _ = check("instance add orders --dsn mysql://u@h/", 2, "usage");
    let _ = check("up --repository ftp://host/", 2, "usage");
    let _ = check("schedule preview --cron 0", 2, "usage");
    let _ = check(
        "schedule preview --every daily --timezone Berln",
        2,
        "usage",
    );
    let backwards = "moments orders --from 2026-03-02T00:00:00Z --to 2026-03-01T00:00:00Z";
    let _ = check(backwards, 2, "usage");
}

#[test]
fn what_is_missing_is_named_in_json_too() {
    let output = zektor("restore orders --latest --output json");
    let document: Value = serde_json::from_slice(&output.stdout).unwrap();
    let message = document["error"]["message"].as_str().unwrap();
    assert!(message.contains("--as <"), "{message}");
}

#[test]
fn a_time_without_an_offset_is_shown_in_both_readings() {
    let stderr = check(
        "restore orders --time 2026-03-01T14:30:00 --as b",
        2,
        "usage",
    );
    assert!(stderr.contains("2026-03-01T14:30:00Z"), "{stderr}");
    let zones = std::path::Path::new("/usr/share/zoneinfo/Europe/Berlin");
    if zones.exists() {
        assert!(stderr.contains("2026-03-01T14:30:00+01:00"), "{stderr}");
    }
}

#[test]
fn help_and_version_are_answers() {
    for line in ["--help", "--version", "restore --help"] {
        let output = zektor(line);
        assert_eq!(output.status.code(), Some(0), "{line}");
        assert!(
            !output.stdout.is_empty() && output.stderr.is_empty(),
            "{line}"
        );
    }
}
