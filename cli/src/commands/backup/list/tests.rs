use clap::Parser;
use events::mark::{DeletedBy, Deletion, Hold};
use events::query::{BackupStatus, BackupView};

use super::super::show::tests::completed;
use super::{gone_schedule, text};
use crate::arguments::{Arguments, BackupCommand, Command};
use crate::output::Room;

fn at(text: &str) -> events::Timestamp {
    text.parse().unwrap()
}

#[test]
fn the_list_fits_a_terminal() {
    let running = BackupView {
        id: "0190a5d0-0001-7000-8000-000000000002".parse().unwrap(),
        status: BackupStatus::InProgress,
        backed_up_at: None,
        size_bytes: None,
        expires_at: None,
        damaged_pages: Vec::new(),
        name: "daily 2026-03-02T05:50:00.000000Z".to_owned(),
        ..completed()
    };
    let sound = BackupView {
        damaged_pages: Vec::new(),
        ..completed()
    };
    let hold = Hold {
        reason: None,
        since: at("2026-03-02T00:00:00Z"),
    };
    let held = BackupView {
        id: "0190a5d0-0002-7000-8000-000000000002".parse().unwrap(),
        hold: Some(hold),
        ..sound.clone()
    };
    let deletion = Deletion {
        by: DeletedBy::User,
        asked_at: at("2026-03-02T00:00:00Z"),
        delete_after: at("2026-03-03T00:00:00Z"),
    };
    let going = BackupView {
        id: "0190a5d0-0003-7000-8000-000000000002".parse().unwrap(),
        status: BackupStatus::Expired,
        deletion: Some(deletion),
        ..sound.clone()
    };
    let forever = BackupView {
        id: "0190a5d0-0004-7000-8000-000000000002".parse().unwrap(),
        expires_at: None,
        sound: Some(false),
        ..sound.clone()
    };
    let all = text(
        &[running, sound.clone(), held, going],
        at("2026-03-02T12:00:00Z"),
        Room::Terminal,
    );
    insta::assert_snapshot!(all, @r#"
    ID             NAME               BRANCH  STATUS       ENDED (UTC)          SIZE     KEPT UNTIL
    0190a5d0-0001  daily 2026-03-02…  main    in_progress  -                    -        -
    0190a5d0-0000  manual 2026-03-01  main    completed    2026-03-01 10:00:12  5.0 MiB  2026-03-08 10:00
    0190a5d0-0002  manual 2026-03-01  main    completed    2026-03-01 10:00:12  5.0 MiB  held
    0190a5d0-0003  manual 2026-03-01  main    marked       2026-03-01 10:00:12  5.0 MiB  goes 03-03 00:00
    "#);
    assert!(all.lines().all(|line| line.chars().count() <= 101));

    let failed = BackupView {
        id: "0190a5d0-0005-7000-8000-000000000002".parse().unwrap(),
        status: BackupStatus::Failed,
        backed_up_at: None,
        size_bytes: None,
        expires_at: None,
        error: Some(format!("the store refused: {}", "because ".repeat(20))),
        ..sound.clone()
    };
    let skipped = BackupView {
        id: "0190a5d0-0006-7000-8000-000000000002".parse().unwrap(),
        status: BackupStatus::Skipped,
        error: Some("another one was being taken".to_owned()),
        ..failed.clone()
    };
    let pages = BackupView {
        id: "0190a5d0-0007-7000-8000-000000000002".parse().unwrap(),
        ..completed()
    };
    let listed = [forever, failed, skipped, pages];
    insta::assert_snapshot!(text(&listed, at("2026-03-02T12:00:00Z"), Room::Terminal), @r#"
    ID             NAME               BRANCH  STATUS                ENDED (UTC)          SIZE     KEPT UNTIL
    0190a5d0-0004  manual 2026-03-01  main    completed, damaged    2026-03-01 10:00:12  5.0 MiB  no end
    0190a5d0-0005  manual 2026-03-01  main    failed                -                    -        -
    0190a5d0-0006  manual 2026-03-01  main    skipped               -                    -        -
    0190a5d0-0007  manual 2026-03-01  main    completed, bad pages  2026-03-01 10:00:12  5.0 MiB  2026-03-08 10:00

    0190a5d0-0004  damaged: it was read whole and cannot be relied on
    0190a5d0-0005  failed, asked for 2026-03-01 10:00: the store refused: because because because because because because because because because because because because because …
    0190a5d0-0006  skipped, asked for 2026-03-01 10:00: another one was being taken
    0190a5d0-0007  bad pages: 1 with wrong checksums on the server itself; the backup has them as they are
    all of it: zektor backup show orders ID
    "#);
}

#[test]
fn what_waits_for_its_deletion_is_not_said_to_go_in_the_past() {
    let deletion = Deletion {
        by: DeletedBy::User,
        asked_at: at("2026-03-02T00:00:00Z"),
        delete_after: at("2026-03-03T00:00:00Z"),
    };
    let going = BackupView {
        deletion: Some(deletion),
        ..completed()
    };
    let stays = |now| super::stays(&going, at(now));
    assert_eq!(stays("2026-03-02T23:59:59Z"), "goes 03-03 00:00");
    assert_eq!(stays("2026-03-03T00:00:00Z"), "goes when it may");
}

#[test]
fn the_damaged_ones_are_listed_by_hand() {
    let words = ["zektor", "backup", "list", "orders", "--status", "damaged"];
    let arguments = Arguments::try_parse_from(words).unwrap();
    let Command::Backup(BackupCommand::List(list)) = arguments.command else {
        unreachable!("it is a list");
    };
    let damaged = BackupView {
        sound: Some(false),
        damaged_pages: Vec::new(),
        ..completed()
    };
    let sound = BackupView {
        sound: Some(true),
        ..damaged.clone()
    };
    assert!(super::is_wanted(&damaged, &list) && super::is_wanted(&completed(), &list));
    assert!(!super::is_wanted(&sound, &list));
}

#[test]
fn off_a_terminal_nothing_is_cut_and_on_one_rows_can_be_told_apart() {
    let named = |number: u8, name: &str| BackupView {
        id: format!("0190a5d0-000{number}-7000-8000-000000000002")
            .parse()
            .unwrap(),
        name: name.to_owned(),
        damaged_pages: Vec::new(),
        ..completed()
    };
    let why = format!(
        "another one of this branch, {}",
        "which goes on ".repeat(20)
    );
    let skipped = BackupView {
        status: BackupStatus::Skipped,
        error: Some(why.clone()),
        requested_at: Some(at("2026-03-03T00:00:00Z")),
        ..named(3, "minutely 2026-03-03T00:00:00.000000Z")
    };
    let backups = [
        skipped,
        named(1, "first backup of rescue"),
        named(2, "first backup of other"),
    ];
    let now = at("2026-03-03T12:00:00Z");
    let whole = text(&backups, now, Room::Unlimited);
    for part in [
        &*why,
        "minutely 2026-03-03T00:00:00.000000Z",
        "first backup of rescue",
    ] {
        assert!(whole.contains(part), "{part}: {whole}");
    }
    let shown = text(&backups, now, Room::Terminal);
    assert!(
        shown.contains("f rescue") && shown.contains("of other"),
        "{shown}"
    );
    assert!(!shown.contains(&why));
}

#[test]
fn what_a_later_one_made_up_for_is_no_news() {
    let failed = BackupView {
        id: "0190a5d0-0001-7000-8000-000000000002".parse().unwrap(),
        status: BackupStatus::Failed,
        error: Some("the store refused".to_owned()),
        requested_at: Some(at("2026-03-01T00:00:00Z")),
        damaged_pages: Vec::new(),
        ..completed()
    };
    let later = BackupView {
        requested_at: Some(at("2026-03-02T00:00:00Z")),
        damaged_pages: Vec::new(),
        ..completed()
    };
    let told = |other: &BackupView| {
        let all = [other.clone(), failed.clone()];
        text(&all, at("2026-03-03T00:00:00Z"), Room::Terminal).contains("the store refused")
    };
    assert!(!told(&later));
    let earlier = BackupView {
        requested_at: Some(at("2026-02-01T00:00:00Z")),
        ..later.clone()
    };
    let damaged = BackupView {
        sound: Some(false),
        ..later.clone()
    };
    let elsewhere = BackupView {
        branch: "rescue".parse().unwrap(),
        ..later
    };
    assert!(told(&earlier) && told(&damaged) && told(&elsewhere));
}

#[test]
fn a_schedule_that_is_gone_is_found_by_its_backups() {
    let of = |id: &str, name: &str| BackupView {
        schedule_id: Some(id.parse().unwrap()),
        name: name.to_owned(),
        ..completed()
    };
    let (one, other) = (
        "0190a5d0-0000-7000-8000-00000000000a",
        "0190a5d0-0000-7000-8000-00000000000b",
    );
    let backups = [
        of(one, "nightly 2026-03-01T00:00:00Z"),
        of(one, "nightly 2026-03-02T00:00:00Z"),
        of(other, "nightlyish 2026-03-02T00:00:00Z"),
    ];
    assert_eq!(gone_schedule(&backups, "nightly"), one.parse().ok());
    assert_eq!(gone_schedule(&backups, "night"), None);
    let two = [
        backups[0].clone(),
        of(other, "nightly 2026-03-03T00:00:00Z"),
    ];
    assert_eq!(gone_schedule(&two, "nightly"), None);
}
